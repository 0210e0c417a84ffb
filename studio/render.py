"""A picture of a few meshes: vectorised or compiled throughout, no display and no graphics card needed.

Frame of reference: camera axes x right, y down, z forward, metres; pixels = focal_px * (x, y) / z + centre, and the picture spans
(0, 0) to (width, height), so that the first pixel's centre is (0.5, 0.5). Colours are sRGB shares in [0, 1]; light is added up in
them directly, which is enough here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8

from studio.raster import GRAIN_CELLS, fill, shade

SUPERSAMPLE = 2
"""Samples a pixel side: four samples a pixel smooth the outlines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole that looks along z."""

    width: int = 640
    """Pixels."""
    height: int = 480
    """Pixels."""
    focal_px: float = 900.0
    """A horizontal view of 39 degrees: a phone held upright, or a webcam zoomed in."""

    @property
    def centre(self) -> tuple[float, float]:
        """Pixel of the optical axis."""
        return self.width / 2, self.height / 2

    def project(self, points: Float64[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch 2"]:
        """Pixels of points in camera axes, metres; the depth must be positive."""
        return self.focal_px * points[..., :2] / points[..., 2:] + np.array(self.centre)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Mesh:
    """Triangles with what their surface needs. `part` tells whose sample a pixel shows."""

    vertices: Float64[np.ndarray, "n 3"]  # metres, camera axes
    faces: Int64[np.ndarray, "f 3"]
    albedo: Float64[np.ndarray, "n 3"]  # in [0, 1]
    texture: Float64[np.ndarray, "n 3"]  # metres in the resting pose: the grain sticks to the surface
    detail: Float64[np.ndarray, "n 2"]  # place along the finger, share that faces the back of the hand
    material: Float64[np.ndarray, "n 3"]  # grain, gloss, softness, each in [0, 1]
    part: Int32[np.ndarray, "f"]


def tube_faces(rings: int, around: int) -> Int64[np.ndarray, "f 3"]:
    """Two triangles between neighbouring corners of neighbouring rings of `around` vertices each, numbered ring by ring."""
    row, column = (index.reshape(-1) for index in np.mgrid[0 : rings - 1, 0:around])
    a, b = row * around + column, row * around + (column + 1) % around
    return np.concatenate([np.stack([a, b, a + around], 1), np.stack([b, b + around, a + around], 1)])


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of several: vertices are renumbered, parts are kept."""
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes])
    columns = {name: np.concatenate([getattr(m, name) for m in meshes]) for name in Mesh.__slots__ if name != "faces"}
    return Mesh(faces=np.concatenate([m.faces + start for m, start in zip(meshes, starts, strict=False)]), **columns)


def normals(vertices: Float64[np.ndarray, "n 3"], faces: Int64[np.ndarray, "f 3"]) -> Float64[np.ndarray, "n 3"]:
    """Unit vertex normals: the faces' normals summed by area, so smooth wherever faces share a vertex."""
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    index = faces.reshape(-1)
    weights = np.repeat(across, 3, axis=0)
    summed = np.stack([np.bincount(index, weights[:, c], minlength=len(vertices)) for c in range(3)], axis=1)
    return summed / (np.linalg.norm(summed, axis=1, keepdims=True) + 1e-12)


def grain_volume(rng: np.random.Generator) -> Float32[np.ndarray, "64 64 64"]:
    """Periodic noise with mean 0 and deviation 1, a little smoothed so that it has no pixel edges."""
    volume = rng.normal(size=(GRAIN_CELLS,) * 3)
    for axis in range(3):
        volume = 0.5 * volume + 0.25 * (np.roll(volume, 1, axis) + np.roll(volume, -1, axis))
    return (volume / volume.std()).astype(np.float32)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Picture:
    """What a camera saw."""

    image: UInt8[np.ndarray, "height width 3"]  # RGB
    part_at: Int32[np.ndarray, "samples_y samples_x"]  # part of the nearest face on the supersampled grid, -1 where background


class Renderer:
    """Draws meshes over a background. Holds the noise of the surfaces and the direction of the lamp."""

    def __init__(self, camera: Camera, rng: np.random.Generator, lamp: Sequence[float] = (-0.45, -0.62, -0.64)) -> None:
        self.camera = camera
        self._volume = grain_volume(rng)
        self._light = np.array(lamp) / np.linalg.norm(lamp)
        size = (camera.height * SUPERSAMPLE, camera.width * SUPERSAMPLE)
        self._face_at, self._depth_at = np.empty(size, np.int32), np.empty(size, np.float32)

    def draw(
        self, mesh: Mesh, background: Float32[np.ndarray, "height width 3"], noise: Float32[np.ndarray, "height width 3"] | None = None
    ) -> Picture:
        """The mesh before the background (RGB in [0, 255]): z-buffer, light, occlusion, a slight blur, then the sensor's noise."""
        import cv2

        face_at, depth_at = self._face_at, self._depth_at
        face_at.fill(-1)
        depth_at.fill(np.inf)
        points = self.camera.project(mesh.vertices) * SUPERSAMPLE - 0.5
        fill(points, mesh.vertices[:, 2], mesh.faces, face_at, depth_at)
        openness, shadow = _openness(depth_at)
        columns = [normals(mesh.vertices, mesh.faces), mesh.albedo, mesh.texture, mesh.detail, mesh.material]
        attributes = np.concatenate(columns, axis=1)
        image = background * shadow[..., None]
        shade(face_at, depth_at, points, mesh.faces, attributes, self._volume, openness, self._light, SUPERSAMPLE, image)
        image = cv2.GaussianBlur(image, (3, 3), 0.6)
        if noise is not None:
            image += noise
        image = np.clip(image, 0, 255, out=image).astype(np.uint8)
        return Picture(image=image, part_at=np.take(np.append(mesh.part, np.int32(-1)), face_at, mode="wrap"))


def _openness(depth_at: Float32[np.ndarray, "h w"]) -> tuple[Float32[np.ndarray, "height width"], Float32[np.ndarray, "height width"]]:
    """How much light reaches each pixel, and the soft shadow on the background, both from the depth picture alone.

    Screen-space occlusion: a pixel that lies behind its blurred neighbourhood is in a hollow, or beside something nearer.
    """
    import cv2

    depth = depth_at[::SUPERSAMPLE, ::SUPERSAMPLE]
    height, width = depth.shape
    covered = np.isfinite(depth)
    if not covered.any():
        return np.ones_like(depth), np.ones_like(depth)
    filled = np.where(covered, depth, np.float32(depth[covered].max() + 0.10))
    small = cv2.resize(filled, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    dark = np.zeros_like(filled)
    for radius, reach, weight in ((2.0, 0.010, 0.40), (5.5, 0.030, 0.35)):
        around = cv2.resize(cv2.GaussianBlur(small, (0, 0), radius), (width, height), interpolation=cv2.INTER_LINEAR)
        behind = (filled - around) * np.float32(1 / reach)
        dark += np.float32(weight) * np.clip(behind, 0, 1) / (1 + np.maximum(behind - 1, 0))  # what is far in front hides little
    cover = cv2.resize(covered.astype(np.float32), (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    shift = np.array([[1, 0, 2.25], [0, 1, 3.25]], np.float32)
    shadow = cv2.warpAffine(cv2.GaussianBlur(cover, (0, 0), 3.5), shift, (width // 4, height // 4), borderMode=cv2.BORDER_REPLICATE)
    return 1 - dark, 1 - 0.30 * cv2.resize(shadow, (width, height), interpolation=cv2.INTER_LINEAR)
