"""Who the hands belong to: a plain clothed figure with a head, so that a body detector has somebody to find.

Frame of reference: camera axes x right, y down, z forward, metres. The figure faces the camera; its right shoulder is
`studio.scene.SHOULDER`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from fitting.hand.mano import LEFT
from studio.render import Mesh, join, tube_faces
from studio.scene import MIRROR, SHOULDER, Shot

BODY_PART = 200
HAIR = np.array([0.13, 0.09, 0.07])
AROUND = 32

TORSO: Sequence[tuple[float, float, float]] = (
    (0.015, 0.060, 0.055), (0.030, 0.085, 0.065), (0.045, 0.130, 0.075), (0.065, 0.172, 0.085), (0.100, 0.196, 0.095),
    (0.160, 0.190, 0.105), (0.260, 0.172, 0.108), (0.420, 0.160, 0.105), (0.660, 0.185, 0.115),
)  # fmt: skip
"""Height (y), half width and half depth of the trunk, from the neck's base to below the picture, metres."""

NECK: Sequence[tuple[float, float, float]] = ((-0.110, 0.046, 0.048), (-0.03, 0.046, 0.048), (0.01, 0.056, 0.052), (0.05, 0.085, 0.062))


class Person:
    """Trunk, neck and head of a shot's person, built once; the head sways, the upper arms follow the elbows."""

    def __init__(self, shot: Shot) -> None:
        self._shot, self._cloth = shot, np.array(shot.cloth)
        skin, depth = np.array(shot.skin), SHOULDER[2] + 0.02
        self._trunk = join([_column(TORSO, depth, self._cloth, soft=0.3), _column(NECK, depth - 0.005, 0.92 * skin, soft=1.0)])
        self._head = _head(skin, np.array([0, -0.18, depth - 0.02]))

    def mesh(self, frame: int, time_s: float) -> Mesh:
        """The figure at one frame of the shot."""
        sway = np.array([0.012 * np.sin(2 * np.pi * 0.31 * time_s), 0, 0])
        parts = [self._trunk, replace(self._head, vertices=self._head.vertices + sway)]
        for track in self._shot.tracks:
            shoulder = SHOULDER * (MIRROR if track.side == LEFT else 1) + np.array([0, 0.01, 0])
            parts.append(_capsule(shoulder, track.elbow[frame], 0.058, 0.047, self._cloth))
        return join(parts)


def _surface(
    grid: Float64[np.ndarray, "rows around 3"], albedo: Float64[np.ndarray, "rows around 3"], soft: float, texture: float = 1.0
) -> Mesh:
    """A closed tube of rings of points, with one colour a point."""
    rows, around = grid.shape[:2]
    vertices = grid.reshape(-1, 3)
    count = len(vertices)
    faces = tube_faces(rows, around)
    return Mesh(
        vertices=vertices,
        faces=faces,
        albedo=albedo.reshape(-1, 3),
        texture=0.5 * texture * (vertices - vertices[0]),
        detail=np.zeros((count, 2)),
        material=np.tile([0.5 if soft > 0.5 else 0.9, 0.5 if soft > 0.5 else 0.0, soft], (count, 1)),
        part=np.full(len(faces), BODY_PART, np.int32),
    )


def _column(sections: Sequence[tuple[float, float, float]], depth: float, colour: Float64[np.ndarray, "3"], soft: float) -> Mesh:
    """A trunk: ellipses stacked along y, rounded between the given heights."""
    table = np.array(sections)
    height = np.linspace(table[0, 0], table[-1, 0], 40)
    width, thick = (np.interp(height, table[:, 0], table[:, k]) for k in (1, 2))
    angle = 2 * np.pi * np.arange(AROUND) / AROUND
    x, z = width[:, None] * np.cos(angle), depth + thick[:, None] * np.sin(angle)
    grid = np.stack([x, np.broadcast_to(height[:, None], x.shape), z], axis=2)
    return _surface(grid, np.broadcast_to(colour, grid.shape).copy(), soft)


def _capsule(
    start: Float64[np.ndarray, "3"], end: Float64[np.ndarray, "3"], radius0: float, radius1: float, colour: Float64[np.ndarray, "3"]
) -> Mesh:
    """A limb with round ends and a radius that changes along it."""
    axis = (end - start) / np.linalg.norm(end - start)
    side = np.cross(axis, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    turn = np.linspace(0, np.pi / 2, 7)
    place = np.concatenate([start - axis * radius0 * np.cos(turn)[:, None], end + axis * radius1 * np.sin(turn)[:, None]])
    radius = np.concatenate([radius0 * np.sin(turn), radius1 * np.cos(turn)])
    angle = 2 * np.pi * np.arange(AROUND) / AROUND
    ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.cross(axis, side)
    grid = place[:, None] + radius[:, None, None] * ring
    return _surface(grid, np.broadcast_to(colour, grid.shape).copy(), soft=0.3)


def _head(skin: Float64[np.ndarray, "3"], centre: Float64[np.ndarray, "3"]) -> Mesh:
    """An egg with a nose, painted with a face and hair. Row 0 is the crown; column 0 looks to the camera."""
    up, turn = np.meshgrid(np.linspace(0, np.pi, 110), 2 * np.pi * np.arange(150) / 150, indexing="ij")
    x, y, z = np.sin(up) * np.sin(turn), -np.cos(up), -np.sin(up) * np.cos(turn)
    narrow = 1 - 0.30 * np.clip(y, 0, 1) ** 2
    nose = 0.020 * np.exp(-((x / 0.14) ** 2)) * np.clip((y + 0.18) / 0.45, 0, 1) * (y < 0.27) * (z < 0)
    brow = 0.004 * np.exp(-(((y + 0.22) / 0.07) ** 2)) * (np.abs(x) < 0.6) * (z < 0)
    socket = 0.007 * np.exp(-(((np.abs(x) - 0.42) / 0.17) ** 2) - ((y + 0.06) / 0.10) ** 2) * (z < 0)
    grid = np.stack([0.076 * x * narrow, 0.115 * y, 0.095 * z * (1 - 0.1 * np.clip(y, 0, 1)) - nose - brow + socket], axis=2)
    albedo = np.broadcast_to(skin, grid.shape).copy()
    ahead = z < 0

    def paint(where: np.ndarray, colour: Float64[np.ndarray, "3"], share: float = 1.0) -> None:
        albedo[where] += share * (colour - albedo[where])

    cheek = np.exp(-(((np.abs(x) - 0.5) / 0.2) ** 2) - ((y - 0.22) / 0.18) ** 2) * ahead
    albedo *= 1 - cheek[..., None] * np.array([0.0, 0.10, 0.09])

    def eye(wide: float, high: float) -> np.ndarray:
        return ahead & (((np.abs(x) - 0.42) / wide) ** 2 + ((y + 0.06) / high) ** 2 < 1)

    paint(eye(0.17, 0.062), 0.45 * skin)
    paint(eye(0.145, 0.046), np.array([0.93, 0.92, 0.90]))
    paint(eye(0.058, 0.050) & eye(0.145, 0.046), np.array([0.12, 0.08, 0.06]))
    paint(ahead & (np.abs(np.abs(x) - 0.42) < 0.20) & (np.abs(y + 0.22 - 0.12 * (np.abs(x) - 0.42) ** 2) < 0.026), HAIR, 0.85)
    paint(ahead & ((x / 0.09) ** 2 + ((y - 0.265) / 0.018) ** 2 < 1) & (np.abs(x) > 0.03), 0.35 * skin, 0.8)
    mouth = y - 0.47 + 0.05 * (1 - (x / 0.30) ** 2)
    paint(ahead & (np.abs(x) < 0.30) & (np.abs(mouth) < 0.065 * (1 - (x / 0.30) ** 2)), np.array([0.62, 0.30, 0.29]), 0.75)
    paint(ahead & (np.abs(x) < 0.29) & (np.abs(mouth) < 0.010), 0.3 * skin)
    hair = (y < -0.55 - 0.10 * np.cos(3 * x)) | ((z > -0.10) & (y < 0.30 - 0.25 * (z < 0.2)))
    grid[hair] *= 1.09
    paint(hair, HAIR)
    return _surface(grid + centre, albedo, soft=1.0)
