"""Reading frames: upright RGB by presentation time, decoded once, a bounded stretch at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from stages.tables import Clips


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Frames:
    """Consecutive sampled frames of one clip, in memory: never a whole video, never in Ray's object store."""

    video: str
    frame: Int64[np.ndarray, "n"]  # decode index within the video
    time_s: Float64[np.ndarray, "n"]  # presentation time after the video's first frame
    images: list[UInt8[np.ndarray, "height width 3"]]  # RGB, upright, square pixels


def read_frames(path: Path, clip: Clips, *, max_frames: int = 32, max_bytes: int = 256 << 20) -> Iterator[Frames]:
    """Sampled frames of one clip (a one-row table), in stretches of at most `max_frames` frames and `max_bytes` bytes."""
    raise NotImplementedError
