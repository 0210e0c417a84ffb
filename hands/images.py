"""Image files that anybody made, decoded within bounds: what cannot be decoded, or declares more pixels than OpenCV may take, is none."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8


def decoded(data: bytes | memoryview, flags: int) -> UInt8[np.ndarray, "height width *channels"] | None:
    """An image by OpenCV's flags; None for what is no image, or one that is too large (`OPENCV_IO_MAX_IMAGE_PIXELS`)."""
    import cv2

    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # of a header that declares too much, where others give None
        return None


def read_image(path: Path, flags: int) -> UInt8[np.ndarray, "height width *channels"] | None:
    """An image file; None where there is none. What is no file of the disk is not waited for."""
    return decoded(path.read_bytes(), flags) if path.is_file() else None
