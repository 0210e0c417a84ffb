"""An image and the hands that somebody says are in it: what every reader here gives.

Convention. Boxes are xyxy in pixels of the image as it is read, x right, y down; the first pixel reaches from 0 to 1.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, Int64, UInt8

from hands import images

UNKNOWN = -1
"""The side of a hand whose labels tell none; else LEFT or RIGHT of the tables, the person's own."""


def no_boxes() -> Float64[np.ndarray, "0 4"]:
    return np.zeros((0, 4))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LabelledImage:
    """One image and all its hands."""

    name: str
    source: Path | UInt8[np.ndarray, "h w 3"]
    """A file, read when it is wanted, or RGB."""
    box: Float64[np.ndarray, "n 4"]
    side: Int64[np.ndarray, "n"]  # 0 left, 1 right, or UNKNOWN
    ignore: Float64[np.ndarray, "m 4"] = field(default_factory=no_boxes)  # detections in here count neither way
    keypoints: Float64[np.ndarray, "n 21 3"] | None = None  # and their confidence, where the set has any

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """RGB. Raises FileNotFoundError as `read_image`."""
        return read_image(self.source) if isinstance(self.source, Path) else self.source


def read_json(path: Path) -> Any:
    """Contents of a file of labels. Raises ValueError that names one that is no JSON."""
    return parsed_json(path.read_bytes(), str(path))


def parsed_json(data: bytes, name: str) -> Any:
    """What the bytes of a file of labels say. Raises ValueError that names one that is no JSON."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as JSON ({error}): is it cut short?") from error


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """RGB, turned as it is stored, which is what labels are of. Raises FileNotFoundError for an image that is not there, or none."""
    image = images.read_image(path, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise FileNotFoundError(f"{path} is no image, or not there")
    return np.asarray(image)
