"""Pictures as detectors take them: RGB, upright, square pixels, whatever the file had."""

import numpy as np
from jaxtyping import UInt8

Picture = UInt8[np.ndarray, "_ _ 3"]
"""RGB, upright, square pixels: a frame as `stages.media.frames` reads it."""
AnyPicture = UInt8[np.ndarray, "_ _ ..."]
"""The same in grey or with transparency."""


def rgb(image: AnyPicture) -> Picture:
    """A picture with three channels: grey is repeated, transparency is dropped. Raises ValueError for anything else."""
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(f"a picture has 1, 3 or 4 channels, got an array of shape {image.shape}")
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image[..., :3]
