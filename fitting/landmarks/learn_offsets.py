"""Learn a detector's landmark offsets from hands it found beside the model's true joints.

`whim learn offsets LABELLED.npz` writes them to the table that the fit reads.

The table comes from studio renders (`python -m benchmarks.fit.end_to_end --labelled FILE`) or from any set whose true joints are the hand
model's. Landmarks and joints share one frame: pixels of the image, and metres in camera axes. Either side, as it is in the image.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from fitting.files import read_arrays, sha256_of
from fitting.landmarks.offsets import PARTS, Offsets, corrected

MIN_HANDS = 200
"""Of a detector, with landmarks near the truth: 21 weights a joint want ten times as many hands."""
GROSS_SHARE = 0.15
"""Landmarks that are off by more than this share of the hand on average are another hand, or none: nothing to learn from."""
RIDGE = 1e-5
"""Of the squared weights, in squared hand sizes."""
ROUNDS = 12
"""Of reweighted least squares, towards the least sum of distances: a few wild landmarks should not move a joint."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LabelledHands:
    """Hands that detectors found and where their joints truly are; unknown numbers are NaN."""

    detector: Shaped[np.ndarray, "n"]
    keypoints: Float64[np.ndarray, "n 21 3"]  # pixels and confidence
    world: Float64[np.ndarray, "n 21 3"]  # the detector's own, metres, camera axes
    joints_2d: Float64[np.ndarray, "n 21 2"]  # true, pixels
    joints_3d: Float64[np.ndarray, "n 21 3"]  # true, metres, camera axes

    def take(self, rows: Any) -> "LabelledHands":
        """The rows of a mask or an index array."""
        return LabelledHands(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def size(self) -> Float64[np.ndarray, "n"]:
        """Longer side of the true joints' box, pixels."""
        return np.ptp(self.joints_2d, axis=1).max(1)

    def error(self, keypoints: Float64[np.ndarray, "n 21 k"]) -> Float64[np.ndarray, "n 21"]:
        """Distance of landmarks to the true joints, shares of the hand's size."""
        return np.linalg.norm(keypoints[..., :2] - self.joints_2d, axis=2) / self.size[:, None]


def read_labelled(path: Path) -> tuple[LabelledHands, str]:
    """An npz with the columns of `LabelledHands`, and its `note` on where the hands come from. ValueError when it is none."""
    names = [f.name for f in fields(LabelledHands)]
    arrays = read_arrays(path, [*names, "note"])
    missing = {*names, "note"} - set(arrays)
    if missing:
        raise ValueError(f"{path} holds no labelled hands: {', '.join(sorted(missing))} missing")
    note = str(arrays.pop("note"))
    count = len(arrays["detector"])
    shapes = {"keypoints": (21, 3), "world": (21, 3), "joints_2d": (21, 2), "joints_3d": (21, 3)}
    for name, shape in shapes.items():
        if arrays[name].shape != (count, *shape):
            raise ValueError(f"{path}: {name} must be {(count, *shape)}, one row a hand, got {arrays[name].shape}")
        arrays[name] = arrays[name].astype(np.float64)
    return LabelledHands(**arrays), note


def write_labelled(path: Path, hands: LabelledHands, note: str) -> None:
    """What `read_labelled` reads; written aside and renamed."""
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        np.savez_compressed(file, note=np.array(note), **{f.name: getattr(hands, f.name) for f in fields(hands)})
    aside.replace(path)


def learn(hands: LabelledHands) -> Offsets:
    """Offsets of one detector's hands. ValueError when too few of them are near the truth."""
    near = hands.take(hands.error(hands.keypoints).mean(1) < GROSS_SHARE)  # NaN is not near
    if len(near.keypoints) < MIN_HANDS:
        raise ValueError(f"{len(near.keypoints)} of {len(hands.keypoints)} hands have landmarks near the truth, {MIN_HANDS} are needed")
    size = near.size[:, None, None]
    image = offset_weights(near.keypoints[..., :2] / size, near.joints_2d / size)
    world, depth = _world_weights(near)
    return Offsets(image=image, world=world, depth=depth)


def _world_weights(hands: LabelledHands) -> tuple[Float64[np.ndarray, "21 21"], Float64[np.ndarray, "21 21"]]:
    """Weights of the image's plane and of depth, from hands brought to unit size; zeros where the detector or the truth has no depth.

    The true hand takes the scale at which the landmarks agree with it best, and is not turned: both are in camera axes.
    """
    known = np.isfinite(hands.world).all((1, 2)) & np.isfinite(hands.joints_3d).all((1, 2))
    if known.sum() < MIN_HANDS:
        return np.zeros((21, 21)), np.zeros((21, 21))
    found, true = (points[known] - points[known].mean(1, keepdims=True) for points in (hands.world, hands.joints_3d))
    size = np.sqrt((found**2).sum((1, 2), keepdims=True))
    scale = (found * true).sum((1, 2), keepdims=True) / (true**2).sum((1, 2), keepdims=True)
    found, true = found / size, true * scale / size
    return offset_weights(found[..., :2], true[..., :2]), offset_weights(found[..., 2:], true[..., 2:])


def offset_weights(found: Float64[np.ndarray, "n 21 k"], true: Float64[np.ndarray, "n 21 k"]) -> Float64[np.ndarray, "21 21"]:
    """Weights of the landmarks about their centre in each joint's offset, by least distances with a ridge."""
    rows = np.moveaxis(found - found.mean(1, keepdims=True), 1, 2)  # n k 21
    offset = true - found
    weights = np.zeros((21, 21))
    for joint in range(21):
        share = np.ones(len(found))
        for _ in range(ROUNDS):
            heavy = (rows * share[:, None, None]).reshape(-1, 21)
            normal = heavy.T @ rows.reshape(-1, 21) + RIDGE * len(found) * np.eye(21)
            weights[joint] = np.linalg.solve(normal, heavy.T @ offset[:, joint].reshape(-1))
            gap = np.linalg.norm(offset[:, joint] - rows @ weights[joint], axis=1)
            share = 1 / np.maximum(gap, 0.5 * np.median(gap))
            share /= share.mean()
    return weights


def to_json(hands: LabelledHands, offsets: Offsets, data_sha256: str, note: str) -> dict[str, Any]:
    """One detector's entry: where it was learned, the median error of each joint before and after (shares of the hand), the offsets."""
    before, after = (np.nanmedian(hands.error(k), axis=0) for k in (hands.keypoints, corrected(hands.keypoints, hands.world, offsets)[0]))
    numbers = {"error_before": before, "error_after": after, **{part: getattr(offsets, part) for part in PARTS}}
    known = {"data": note, "data_sha256": data_sha256, "num_hands": len(hands.keypoints)}
    return known | {name: np.round(values, 5).tolist() for name, values in numbers.items()}


def update(labelled: Path, out: Path) -> None:
    """Learn, and replace the entries of the detectors that the table holds."""
    hands, note = read_labelled(labelled)
    content = json.loads(out.read_text()) if out.exists() else {"detectors": {}}
    for detector in sorted(set(hands.detector)):
        own = hands.take(hands.detector == detector)
        entry = to_json(own, learn(own), sha256_of(labelled), note)
        content["detectors"][str(detector)] = entry
        shares = " to ".join(f"{np.mean(entry[name]):.2%}" for name in ("error_before", "error_after"))
        print(f"{detector}: {entry['num_hands']} hands, landmarks off by {shares} of the hand")
    aside = out.with_name(out.name + ".part")
    aside.write_text(json.dumps(content, separators=(",", ":")).replace("],[", "],\n[") + "\n")
    aside.replace(out)
