"""ARCTIC's hand poses, `raw_seqs/sNN/*.mano.npy` (Fan et al., CVPR 2023), as poses of right hands; read without running code.

A file is a pickled dictionary of `right` and `left`, each with `rot` [t, 3], `pose` [t, 45] (axis-angle radians, relative to MANO's
`hands_mean`), `trans`, `shape` and `fitting_err` [t]. The data are for non-commercial use and may not be passed on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fitting.hand.restricted_pickle import as_array, objects_of_npy

LARGEST_ANGLE = 2 * np.pi
"""Radians: a joint turned further is in another unit, or damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Poses:
    """Poses of right hands from many sequences."""

    hand_pose: Float[np.ndarray, "n 45"]  # axis-angle radians, the mean pose added
    sequences: tuple[str, ...]
    skipped: Mapping[str, str]
    """Why, for each sequence that could not be read."""


def read_poses(folder: Path, hands_mean: Float[np.ndarray, "45"], *, every: int = 4, worst: float = 0.02) -> Poses:
    """Every `every`th frame of all sequences under a folder, both hands, left ones mirrored.

    `worst` is the share of each hand's frames that is left out for the largest `fitting_err` (ARCTIC states no unit for it). A sequence
    that is damaged is skipped. FileNotFoundError when there is none, ValueError when none can be read.
    """
    paths = sorted(folder.rglob("*.mano.npy"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no *.mano.npy: get raw_seqs.zip from arctic.is.tue.mpg.de, unzip it and name its folder")
    poses, skipped = {}, {}
    for path in paths:
        name = f"{path.parent.name}/{path.name.removesuffix('.mano.npy')}"
        try:
            poses[name] = read_sequence(path, hands_mean, every=every, worst=worst)
        except (ValueError, OSError) as error:
            skipped[name] = str(error)
    if not poses:
        raise ValueError(f"none of the {len(paths)} sequences in {folder} can be read: {next(iter(skipped.values()))}")
    return Poses(hand_pose=np.concatenate(list(poses.values())), sequences=tuple(poses), skipped=skipped)


def read_sequence(path: Path, hands_mean: Float[np.ndarray, "45"], *, every: int, worst: float) -> Float[np.ndarray, "n 45"]:
    """Poses of one file as right hands, float32. ValueError that names the file and what is wrong with it."""
    try:
        content = _dictionary(path.read_bytes())
        hands = {side: _hand(content, side) for side in ("right", "left")}
    except ValueError as error:
        raise ValueError(f"{path}: {error}; unzip raw_seqs.zip again") from error
    mirror = np.tile([1, -1, -1], 15)  # MANO's left mean pose is the mirrored right one
    kept = {side: pose[_frames(error, len(pose), every, worst)] for side, (pose, error) in hands.items()}
    return (np.concatenate([kept["right"], kept["left"] * mirror]) + hands_mean).astype(np.float32)


def _dictionary(data: bytes) -> dict[str, Any]:
    """What `numpy.save` keeps of a dictionary: an array of one object."""
    content = objects_of_npy(data)
    if len(content) != 1 or not isinstance(content[0], dict):
        raise ValueError("it holds no dictionary")
    return content[0]


def _hand(content: Mapping[str, Any], side: str) -> tuple[Float[np.ndarray, "t 45"], Float[np.ndarray, "t"] | None]:
    """Pose and fitting error of one hand, checked."""
    hand = content.get(side)
    if not isinstance(hand, dict) or not {"rot", "pose"} <= hand.keys():
        raise ValueError(f"it lacks the {side} hand's rot and pose")
    rot, pose = (_checked(hand[name], f"{side} {name}") for name in ("rot", "pose"))
    num_frames = len(np.atleast_1d(rot))
    if rot.shape != (num_frames, 3) or pose.shape != (num_frames, 45):
        raise ValueError(f"the {side} hand's rot and pose have shapes {rot.shape} and {pose.shape}, not (t, 3) and (t, 45)")
    largest = np.linalg.norm(pose.reshape(-1, 15, 3), axis=2).max(initial=0)
    if largest > LARGEST_ANGLE:
        raise ValueError(f"a joint of the {side} hand turns by {largest:.3g} radians")
    if "fitting_err" not in hand:
        return pose, None
    error = _checked(hand["fitting_err"], f"{side} fitting_err")
    if error.shape != (num_frames,):
        raise ValueError(f"the {side} hand's fitting_err has shape {error.shape} for {num_frames} frames")
    return pose, error


def _checked(value: Any, name: str) -> Float[np.ndarray, "..."]:
    try:
        array = as_array(value)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from error
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite, or no number")
    return array.astype(np.float64)


def _frames(error: Float[np.ndarray, "t"] | None, num_frames: int, every: int, worst: float) -> np.ndarray:
    """Indices of the frames to keep."""
    frames = np.arange(0, num_frames, every)
    if error is None or not num_frames:
        return frames
    return frames[error[frames] <= np.quantile(error, 1 - worst)]
