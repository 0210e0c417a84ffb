"""Where a detector's landmarks lie beside the hand model's joints: learned, stored as data, taken off before the fit.

`whim learn offsets` learns them.

A joint's offset is a weighted sum of the hand's own landmarks about their centre, so it moves, turns, grows and mirrors with the hand:
one set of weights serves both sides and all sizes. Chosen on 796 held-out renders by the fit's PA-MPJPE: 6.7 mm, against 7.0 with
offsets along palm and bone in the image, 7.0 in bone frames turned by the detector's 3D landmarks, 7.5 along the palm, 7.8 with none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from fitting.files import weights_folder

LANDMARK_OFFSETS = Path(__file__).parents[1] / "assets" / "landmark_offsets.json"
OFFSETS_NAME = "landmark_offsets.json"
"""Among the weights: what `whim learn all` learned, which is taken in place of what ships."""
PARTS = ("image", "world", "depth")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Offsets:
    """Offsets of one detector's landmarks, as weights of every landmark (column) in the offset of every joint (row).

    OpenPose's order, about their centre.
    """

    image: Float64[np.ndarray, "21 21"]  # of keypoints
    world: Float64[np.ndarray, "21 21"]  # of x and y of the 3D landmarks
    depth: Float64[np.ndarray, "21 21"]  # of their z: networks flatten fingers, so depths need weights of their own


def offsets_file() -> Path:
    """The offsets in use: those among the weights, else those that come with the project."""
    learned = weights_folder() / OFFSETS_NAME
    return learned if learned.exists() else LANDMARK_OFFSETS


def load_offsets(path: Path | None = None) -> Mapping[str, Offsets]:
    """Offsets by detector (default: `offsets_file()`); one that is not there has no offsets. ValueError when the file holds something
    else."""
    path = path or offsets_file()
    try:
        entries = json.loads(path.read_text())["detectors"]
        found = {name: Offsets(**{part: np.array(entry[part], np.float64) for part in PARTS}) for name, entry in entries.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} holds no landmark offsets ({error!r}): make it anew by whim learn offsets") from error
    for name, offsets in found.items():
        for part in PARTS:
            weights = getattr(offsets, part)
            if weights.shape != (21, 21) or not np.isfinite(weights).all():
                raise ValueError(f"{path}: {part} of {name!r} must be 21 x 21 finite weights: make it anew by whim learn offsets")
    return found


def corrected(
    keypoints: Float[np.ndarray, "n 21 3"],  # pixels and confidence
    world: Float[np.ndarray, "n 21 3"],  # metres, camera axes
    offsets: Offsets,
) -> tuple[Float[np.ndarray, "n 21 3"], Float[np.ndarray, "n 21 3"]]:
    """Landmarks of one detector moved onto the model's joints; confidences stay.

    A hand with a missing point (not finite, or without confidence) keeps its places: the offsets need them all.
    """
    points = keypoints[..., :2]
    whole = (np.isfinite(points).all(-1) & (keypoints[..., 2] > 0)).all(-1)[:, None, None]
    moved = points + np.where(whole, offsets.image @ _centred(points), 0)
    across = world[..., :2] + offsets.world @ _centred(world[..., :2])
    deep = world[..., 2:] + offsets.depth @ _centred(world[..., 2:])
    return (
        np.concatenate([moved, keypoints[..., 2:]], -1).astype(keypoints.dtype),
        np.concatenate([across, deep], -1).astype(world.dtype),
    )


def _centred(points: Float[np.ndarray, "n 21 k"]) -> Float[np.ndarray, "n 21 k"]:
    return points - points.mean(1, keepdims=True)
