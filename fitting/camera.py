"""Cameras: which ray of light a pixel is, and which pixel a point falls on; OpenCV's rectilinear and fisheye models, and full spheres.

Frame: camera axes x right, y down, z forward, metres; an image spans (0, 0) to (width, height), the first pixel's centre is (0.5, 0.5).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Float64

Projection = Literal["rectilinear", "fisheye", "equirectangular"]
PROJECTIONS: tuple[str, ...] = get_args(Projection)

_ITERATIONS = 50
"""Of Newton's method, which ends at 1e-12 after five to ten."""
_LONGEST = 1e3
"""Of an ideal point's distance from the axis, focal lengths: 89.94 degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera of one size of image."""

    projection: Projection
    width: int
    height: int
    focal_px: tuple[float, float] = (0.0, 0.0)
    """Along x and y; of a full sphere, pixels a radian."""
    principal: tuple[float, float] = (0.0, 0.0)
    """Where the axis meets the image, pixels."""
    distortion: tuple[float, ...] = ()
    """Rectilinear: OpenCV's k1, k2, p1, p2, k3, k4, k5, k6, as many as are known. Fisheye: Kannala and Brandt's k1 to k4, as OpenCV."""

    @classmethod
    def pinhole(cls, width: int, height: int, focal_px: float) -> "Camera":
        """A camera without distortion whose axis is at the middle of its image."""
        return cls(projection="rectilinear", width=width, height=height, focal_px=(focal_px, focal_px), principal=(width / 2, height / 2))

    @classmethod
    def sphere(cls, width: int, height: int) -> "Camera":
        """A full sphere: longitude along x, latitude along y, straight ahead in the middle."""
        a_radian = width / (2 * np.pi)
        middle = (width / 2, height / 2)
        return cls(projection="equirectangular", width=width, height=height, focal_px=(a_radian, a_radian), principal=middle)

    def rays(self, pixels: Float[np.ndarray, "*batch 2"]) -> Float64[np.ndarray, "*batch 3"]:
        """Unit vectors along the light that falls on pixels; NaN where the model shows nothing."""
        flat = (pixels.astype(np.float64) - self.principal) / self.focal_px
        if self.projection == "equirectangular":
            longitude, latitude = flat[..., 0], flat[..., 1]
            level = np.cos(latitude)
            return np.stack([level * np.sin(longitude), np.sin(latitude), level * np.cos(longitude)], -1)
        if self.projection == "fisheye":
            radius = np.linalg.norm(flat, axis=-1)
            angle = self._angle_of(radius)
            across = np.sin(angle) / np.maximum(radius, 1e-12)
            return np.concatenate([flat * across[..., None], np.cos(angle)[..., None]], -1)
        ideal = self._ideal(flat)
        ray = np.concatenate([ideal, np.ones_like(ideal[..., :1])], -1)
        return ray / np.linalg.norm(ray, axis=-1, keepdims=True)

    def project(self, points: Float[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch 2"]:
        """Pixels of points in camera axes; NaN where the camera does not see that way (behind a rectilinear one)."""
        points = points.astype(np.float64)
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        across = np.hypot(x, y)
        if self.projection == "equirectangular":
            flat = np.stack([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))], -1)
        elif self.projection == "fisheye":
            bent = self._bent(np.arctan2(across, z))
            flat = points[..., :2] * (bent / np.maximum(across, 1e-12))[..., None]
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                ideal = np.where((z > 0)[..., None], points[..., :2] / z[..., None], np.nan)
            flat = self._distorted(ideal) if any(self.distortion) else ideal
        return flat * self.focal_px + self.principal

    def shows(self, pixels: Float[np.ndarray, "*batch 2"]) -> Bool[np.ndarray, "*batch"]:
        """Whether pixels lie within the image."""
        with np.errstate(invalid="ignore"):
            return np.asarray(((pixels >= 0) & (pixels <= (self.width, self.height))).all(-1))

    @property
    def is_bent(self) -> bool:
        """Whether straight lines are no straight lines in its image."""
        return self.projection != "rectilinear" or any(self.distortion)

    def _bent(self, angle: Float64[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch"]:
        """Distance from the axis of light at an angle to it, focal lengths (Kannala and Brandt, 2006)."""
        squared, value = angle**2, np.ones_like(angle)
        for power, k in enumerate(self.distortion, 1):
            value = value + k * squared**power
        return angle * value

    def _angle_of(self, radius: Float64[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch"]:
        """The angle that is shown at a distance from the axis; NaN beyond the farthest."""
        angle = np.minimum(radius, np.pi)
        for _ in range(_ITERATIONS):
            slope = np.ones_like(angle)
            for power, k in enumerate(self.distortion, 1):
                slope = slope + (2 * power + 1) * k * angle ** (2 * power)
            step = (self._bent(angle) - radius) / np.where(np.abs(slope) > 1e-6, slope, 1e-6)
            angle = np.clip(angle - np.clip(step, -0.5, 0.5), 0, np.pi)
            if np.max(np.abs(step), initial=0) < 1e-12:
                break
        return np.where(np.abs(self._bent(angle) - radius) < 1e-6, angle, np.nan)

    def _distorted(self, ideal: Float64[np.ndarray, "*batch 2"]) -> Float64[np.ndarray, "*batch 2"]:
        """Where an ideal lens' points fall (OpenCV, calib3d)."""
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.distortion, *[0.0] * 8)[:8]
        x, y = ideal[..., 0], ideal[..., 1]
        squared = x * x + y * y
        radial = (1 + squared * (k1 + squared * (k2 + squared * k3))) / (1 + squared * (k4 + squared * (k5 + squared * k6)))
        dx = 2 * p1 * x * y + p2 * (squared + 2 * x * x)
        dy = p1 * (squared + 2 * y * y) + 2 * p2 * x * y
        return np.stack([x * radial + dx, y * radial + dy], -1)

    def _ideal(self, flat: Float64[np.ndarray, "*batch 2"]) -> Float64[np.ndarray, "*batch 2"]:
        """The inverse of `_distorted`, by Newton's method with differences; NaN where there is none."""
        if not any(self.distortion):
            return flat
        ideal, small = flat.copy(), 1e-6
        for _ in range(_ITERATIONS):
            gap = self._distorted(ideal) - flat
            columns = [(self._distorted(ideal + np.array(way)) - self._distorted(ideal - np.array(way))) / (2 * small)
                       for way in ((small, 0), (0, small))]  # fmt: skip
            (a, c), (b, d) = ((column[..., 0], column[..., 1]) for column in columns)
            determinant = a * d - b * c
            determinant = np.where(np.abs(determinant) > 1e-9, determinant, 1e-9)
            step = np.stack([d * gap[..., 0] - b * gap[..., 1], a * gap[..., 1] - c * gap[..., 0]], -1) / determinant[..., None]
            ideal = np.clip(ideal - np.clip(step, -0.5, 0.5), -_LONGEST, _LONGEST)
            if np.max(np.abs(step), initial=0) < 1e-12:
                break
        far = np.linalg.norm(self._distorted(ideal) - flat, axis=-1) > 1e-6
        return np.where(far[..., None], np.nan, ideal)


def looking_at(rays: Float[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch 3 3"]:
    """The smallest rotations that turn rays onto the z axis: R @ ray = (0, 0, |ray|). Of the ray straight back, half a turn about x."""
    unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    x, y, z = unit[..., 0], unit[..., 1], unit[..., 2]
    behind = z < -1 + 1e-12
    share = 1 / np.where(behind, 1.0, 1 + z)
    rows = [
        np.stack([1 - share * x * x, -share * x * y, -x], -1),
        np.stack([-share * x * y, 1 - share * y * y, -y], -1),
        np.stack([x, y, z], -1),
    ]
    turned = np.stack(rows, -2)
    return np.where(behind[..., None, None], np.diag([1.0, -1.0, -1.0]), turned)
