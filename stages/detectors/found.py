"""Hands that a detector finds in a few images: columns, one row a hand. The protocol of the ensemble's members.

Frame of reference as in `tables`: boxes xyxy and keypoints in pixels of the whole picture, never clipped; unknown numbers NaN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from stages.detectors.pictures import AnyPicture
from stages.tables import People, Text


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FoundHands:
    """Hands of several pictures, in columns."""

    picture: Int64[np.ndarray, "n"]
    """Which of the pictures, from 0."""
    route: Text
    """The crop it came from: frame, person, wrist."""
    person: Int64[np.ndarray, "n"]
    """Whose crop, or -1."""
    crop: Float32[np.ndarray, "n 4"]
    box: Float32[np.ndarray, "n 4"]
    score: Float32[np.ndarray, "n"]
    """P(b|d) as the detector says it, in [0, 1]."""
    p_right: Float32[np.ndarray, "n"]
    keypoints: Float32[np.ndarray, "n 21 3"]

    def take(self, rows: Bool[np.ndarray, "n"] | Int64[np.ndarray, "k"]) -> "FoundHands":
        """The rows of a mask or an index array."""
        return FoundHands(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


FindHands = Callable[[Sequence[AnyPicture], Sequence[People]], FoundHands]
"""Pictures, and the people in each, to the hands on them."""

Extent = tuple[float, float]
"""Width and height of a hand's box over those of the hull of its keypoints."""
HAND_EXTENT: Extent = (1.24, 1.21)
"""For MediaPipe's landmarks: medians of 53 hands boxed by eye. Fusion's calibration corrects a source's boxes from there. Ours."""


def hull_boxes(keypoints: Float[np.ndarray, "n k 3"], *, min_score: float, extent: Extent) -> Float32[np.ndarray, "n 4"]:
    """Boxes of the keypoints of more than `min_score` (of all, where none has it), width and height times `extent`."""
    seen = keypoints[..., 2] > min_score
    seen |= ~seen.any(-1, keepdims=True)
    low = np.where(seen[..., None], keypoints[..., :2], np.inf).min(1)
    high = np.where(seen[..., None], keypoints[..., :2], -np.inf).max(1)
    centre, half = (low + high) / 2, (high - low) / 2 * np.array(extent)
    return np.concatenate([centre - half, centre + half], 1).astype(np.float32)
