"""Square, possibly turned regions of a frame, cut and mapped back by MediaPipe's convention.

A region is [centre x, centre y, side, angle]: pixels of the frame with (0, 0) the top left corner of the first pixel's cell,
and radians clockwise as seen on the screen. Crop pixel (u, v) of a crop of n pixels shows the frame at
centre + side / n * R(angle) (u - n / 2, v - n / 2). MediaPipe samples without half-pixel shift; so does `cut`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

Region = Float64[np.ndarray, "4"]
Look = tuple[UInt8[np.ndarray, "_ _ 3"], Region]
"""A picture, and what of it is looked at."""


def region_of_box(box: Float[np.ndarray, "4"], *, scale: float = 1.0) -> Region:
    """The upright square about an xyxy box's centre that holds the box, scaled."""
    width, height = box[2] - box[0], box[3] - box[1]
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, max(width, height) * scale, 0.0], np.float64)


def upright_angle(start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"]) -> float:
    """The turn of a crop in which the vector from `start` to `end` points up, in [-pi, pi)."""
    angle = np.pi / 2 - np.arctan2(-(end[1] - start[1]), end[0] - start[0])
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def to_frame(points: Float[np.ndarray, "n 2"], region: Region) -> Float64[np.ndarray, "n 2"]:
    """Points of the unit crop, (0, 0) to (1, 1), in pixels of the frame."""
    return np.asarray(region[:2] + region[2] * (points - 0.5) @ _rotation(region[3]).T, np.float64)


def to_crop(points: Float[np.ndarray, "n 2"], region: Region) -> Float64[np.ndarray, "n 2"]:
    """Inverse of `to_frame`."""
    return np.asarray((points - region[:2]) @ _rotation(region[3]) / region[2] + 0.5, np.float64)


def alike(one: Region, other: Region, *, shift: float, growth: float, turn: float = np.pi) -> bool:
    """Whether two regions show nearly the same: centres within `shift` of the smaller side, sides within a factor of `growth`, angles
    within `turn` radians."""
    near = np.hypot(*(one[:2] - other[:2])) < shift * min(one[2], other[2])
    turned = abs((one[3] - other[3] + np.pi) % (2 * np.pi) - np.pi)
    return bool(near and 1 / growth < one[2] / other[2] < growth and turned <= turn)


def _rotation(angle: float) -> Float64[np.ndarray, "2 2"]:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]], np.float64)


MOST_PX = 32_000
"""Pixels along a side of an image that OpenCV can warp; it counts them in 16 bits."""


def _readable(image: UInt8[np.ndarray, "height width 3"], region: Region) -> Look:
    """A look at an image that OpenCV can warp: the part of a larger one that is looked at, if need be every so many-th pixel."""
    if max(image.shape[:2]) <= MOST_PX:
        return image, region
    reach = region[2] * np.sqrt(0.5) + 2
    size = np.array(image.shape[1::-1])
    low = np.clip(np.floor(region[:2] - reach), 0, size - 1).astype(np.int64)
    high = np.clip(np.ceil(region[:2] + reach), low + 1, size).astype(np.int64)
    step = -(-int((high - low).max()) // MOST_PX)
    part = np.ascontiguousarray(image[low[1] : high[1] : step, low[0] : high[0] : step])
    return part, np.array([*(region[:2] - low) / step, region[2] / step, region[3]])


def cut(
    image: UInt8[np.ndarray, "height width 3"],
    region: Region,
    size: int,
    *,
    border: Literal["zero", "repeat"],
) -> Float32[np.ndarray, "{size} {size} 3"]:
    """The region resampled to size x size pixels in [0, 1], bilinear; what lies outside the frame is black or the nearest edge pixel."""
    return cut_all([(image, region)], size, border=border)[0]


def cut_all(looks: Sequence[Look], size: int, *, border: Literal["zero", "repeat"]) -> Float32[np.ndarray, "n {size} {size} 3"]:
    """`cut` of each look, in one array."""
    import cv2

    mode = cv2.BORDER_CONSTANT if border == "zero" else cv2.BORDER_REPLICATE
    crops = np.empty((len(looks), size, size, 3), np.float32)
    for crop, look in zip(crops, looks, strict=True):
        image, region = _readable(*look)
        turn = region[2] / size * _rotation(region[3])
        matrix = np.column_stack([turn, region[:2] - turn @ np.full(2, size / 2)])
        cells = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=mode)
        np.divide(cells, np.float32(255), out=crop)
    return crops
