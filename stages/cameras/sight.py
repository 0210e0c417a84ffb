"""Hands before known cameras: bent rays straightened for the fit, and what it found bent back."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64

from fitting.camera import Camera
from stages.cameras.said import camera_in
from stages.tables import Cameras, Hands


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sight:
    """The known camera that each hand is seen by, as a pinhole of square pixels without distortion at the same place."""

    cameras: tuple[Camera, ...]
    which: Int64[np.ndarray, "n"]  # of `cameras`
    camera_from: str
    keypoints: Float32[np.ndarray, "n 21 3"]  # pixels of the pinhole

    @classmethod
    def of(cls, hands: Hands, cameras: Cameras | None) -> "Sight | None":
        """The cameras of hands; None where nobody knows."""
        if cameras is None or not len(cameras) or not np.isfinite(cameras.focal_px).all():
            return None
        rows = np.flatnonzero(cameras.view >= 0)
        known = tuple(camera_in(cameras, row) for row in rows.tolist())
        which = np.searchsorted(cameras.view[rows], hands.view)
        keypoints = hands.keypoints.copy()
        for number, camera in enumerate(known):
            here = which == number
            if camera != _straight(camera):
                keypoints[here, :, :2] = _straight(camera).project(camera.rays(hands.keypoints[here, :, :2]))
        return cls(cameras=known, which=which, camera_from=str(cameras.camera_from[0]), keypoints=keypoints)

    def take(self, rows: Int64[np.ndarray, "m"]) -> "Sight":
        return replace(self, which=self.which[rows], keypoints=self.keypoints[rows])

    @property
    def focal_px(self) -> Float64[np.ndarray, "n"]:
        return np.array([camera.focal_px[0] for camera in self.cameras])[self.which]

    @property
    def principal(self) -> Float64[np.ndarray, "n 2"]:
        return np.array([camera.principal for camera in self.cameras])[self.which]

    def project(self, rows: Int64[np.ndarray, "m"], points: Float64[np.ndarray, "m points 3"]) -> Float64[np.ndarray, "m points 2"]:
        """Pixels, in the images, of points in the axes of the cameras of some hands."""
        pixels = np.full((*points.shape[:2], 2), np.nan)
        for number, camera in enumerate(self.cameras):
            here = self.which[rows] == number
            pixels[here] = camera.project(points[here])
        return pixels

    def bent(self, columns: dict[str, np.ndarray]) -> None:
        """Bring what was found in pixels of the pinhole into those of the image."""
        for number, camera in enumerate(self.cameras):
            here = np.flatnonzero(self.which == number)
            straight = _straight(camera)
            if camera != straight and len(here):
                for name in ("joints_2d", "box"):
                    points = columns[name][here].reshape(len(here), -1, 2)
                    columns[name][here] = camera.project(straight.rays(points)).reshape(columns[name][here].shape)
                columns["camera"][here, 1:] = camera.project(straight.rays(columns["camera"][here, 1:]))


def _straight(camera: Camera) -> Camera:
    """The camera without distortion, its pixels square."""
    return replace(camera, distortion=(), focal_px=(camera.focal_px[0],) * 2)
