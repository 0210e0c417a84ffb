"""A rendered image as another camera at the same place would have taken it: fisheye, full sphere, or turned."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, UInt8

from fitting.camera import Camera

AROUND = 96
"""What the other camera sees beyond the rendered image, grey of 255."""


def taken_by(
    camera: Camera,
    rotation: Float[np.ndarray, "3 3"],  # from the axes of the pinhole to those of the camera
    image: UInt8[np.ndarray, "height width 3"],
    pinhole: Camera,
) -> UInt8[np.ndarray, "other_height other_width 3"]:
    """The image of a camera that sees what a pinhole at its place saw, and grey around it."""
    import cv2

    pixels = _sampled(camera, rotation.astype(np.float64).tobytes(), pinhole)
    return np.asarray(cv2.remap(image, pixels, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(AROUND,) * 3), np.uint8)


@lru_cache(maxsize=2)
def _sampled(camera: Camera, rotation: bytes, pinhole: Camera) -> Float32[np.ndarray, "other_height other_width 2"]:
    """Where each pixel of the camera lies in the pinhole's image, as cv2 counts: the images of a film share it."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.rays(np.stack([columns, rows], -1)) @ np.frombuffer(rotation).reshape(3, 3)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(pinhole.project(rays) - 0.5, nan=-10.0).astype(np.float32)
