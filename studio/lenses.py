"""A rendered image as another camera at the same place would have taken it: fisheye, full sphere, or turned."""

import numpy as np
from jaxtyping import Float, UInt8

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

    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.rays(np.stack([columns, rows], -1)) @ rotation
    with np.errstate(invalid="ignore"):
        pixels = np.nan_to_num(pinhole.project(rays) - 0.5, nan=-10.0).astype(np.float32)
    return np.asarray(cv2.remap(image, pixels, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(AROUND,) * 3), np.uint8)
