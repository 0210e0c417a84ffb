"""Images with one labelled right hand each as crops: a source to train the regressor on, and what it is judged by.

Frames of reference. Pixels of the image, (0, 0) the corner of the first one; camera axes x right, y down, z forward, metres. Joints
in OpenPose's order. Unknown numbers are NaN.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8

from fitting.hand.mano import RIGHT, load_hand_model, pose_hand
from hands.metrics.hands import FINGERTIPS, WRIST, Hands3D
from training.data.order import key_of
from training.data.readers.labelled_image import read_image
from training.data.samples import cut, squared
from training.data.shard import CorruptSampleError

PIXEL_MIDDLE = 0.5
"""Camera matrices of published sets count pixels from their middles."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class HandCrops:
    """Squares around single right hands, and what is known of them: `training.data.samples.Crops` for published sets."""

    name: str
    images: Sequence[Path]
    box: Float[np.ndarray, "n 4"]
    columns: Mapping[str, np.ndarray]
    """Columns of all hands, named as in `Crops`."""
    matrix: Float64[np.ndarray, "n 3 3"]
    """The camera's, pixels."""
    truth: Hands3D | None = None
    """In space before the camera, of an evaluation split."""
    tips: tuple[int, ...]
    """The vertices that this set takes for the tips of thumb, index, middle, ring and little finger."""
    sequence: Sequence[str]
    """Which video each image is of; each its own where there is none."""
    frame: Int64[np.ndarray, "n"]
    frames_per_second: float = 30.0
    size: int = 256
    """Side of the square, pixels."""
    factor: float = 3.0
    """Side of the square over the box's longer side."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        names = "\n".join(f"{path.parent.parent.name}/{path.stem}" for path in self.images)
        content = hashlib.sha256(names.encode() + np.ascontiguousarray(self.box).tobytes()).hexdigest()
        return f"{self.name} {key_of(content):016x} {self.factor}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    def decode(self, sample: int, out: UInt8[np.ndarray, "size size 3"]) -> None:
        try:
            image = read_image(self.images[sample])
        except FileNotFoundError as error:
            raise CorruptSampleError(str(error)) from error
        cut(image, (image.shape[1], image.shape[0]), squared(self.box[sample], self.size, self.factor), out)

    def labels(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """The columns of each hand, pixels of its image, with `image` and `to_input`."""
        rows = np.asarray(samples, np.int64)
        to_input = np.array([squared(self.box[row], self.size, self.factor) for row in rows], np.float32).reshape(-1, 3)
        return {"image": np.arange(len(rows)), **{name: values[rows] for name, values in self.columns.items()}, "to_input": to_input}


def projected(points: Float[np.ndarray, "n points 3"], matrix: Float[np.ndarray, "n 3 3"]) -> Float64[np.ndarray, "n points 2"]:
    """Points before the camera in pixels of the image.

    Summed term by term: a product of matrices rounds otherwise on another processor, and boxes made of these points name the
    data of a training (`HandCrops.fingerprint`), whose ranks must agree on the order of samples.
    """
    exact, rows = points.astype(np.float64), matrix.astype(np.float64)[:, None]
    seen = exact[..., :1] * rows[..., 0] + exact[..., 1:2] * rows[..., 1] + exact[..., 2:] * rows[..., 2]
    return seen[..., :2] / seen[..., 2:] + PIXEL_MIDDLE


def columns_of(
    joints: Float[np.ndarray, "n 21 3"],
    matrix: Float[np.ndarray, "n 3 3"],
    *,
    betas: Float[np.ndarray, "n 10"] | None = None,
    global_orient: Float[np.ndarray, "n 3"] | None = None,
    hand_pose: Float[np.ndarray, "n 45"] | None = None,
) -> dict[str, np.ndarray]:
    """The columns of a shard for hands whose joints before a camera are known; the parameters of MANO are NaN where they are not given."""
    points = projected(joints, matrix)
    wrist, n = joints[:, WRIST], len(joints)
    per_metre = (matrix[:, 0, 0] + matrix[:, 1, 1]) / 2 / wrist[:, 2]
    columns = {
        "keypoints": np.concatenate([points, np.isfinite(points[..., :1])], 2),
        "joints_2d": points,
        "joints_3d": joints - wrist[:, None],
        "betas": np.full((n, 10), np.nan) if betas is None else betas,
        "global_orient": np.full((n, 3), np.nan) if global_orient is None else global_orient,
        "hand_pose": np.full((n, 45), np.nan) if hand_pose is None else hand_pose,
        "camera": np.concatenate([per_metre[:, None], points[:, WRIST]], 1),
        "quality": np.ones(n),
    }
    return {"side": np.full(n, RIGHT, np.int8), **{name: values.astype(np.float32) for name, values in columns.items()}}


def with_our_tips(joints: Float[np.ndarray, "n 21 3"], parameters: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n 21 3"]:
    """Joints whose fingertips are the vertices that our hand model takes: a set that takes others would teach millimetres that are none."""
    if not parameters:
        return joints
    joints, model = joints.copy(), load_hand_model()
    for start in range(0, len(joints), 4096):
        rows = slice(start, start + 4096)
        told = {name: torch.as_tensor(values[rows].astype(np.float32)) for name, values in parameters.items()}
        posed = pose_hand(model, **told).joints.numpy()
        joints[rows, FINGERTIPS] = posed[:, FINGERTIPS] - posed[:, [WRIST]] + joints[rows, [WRIST]]
    return joints


def box_of(points: Float[np.ndarray, "n points 2"]) -> Float64[np.ndarray, "n 4"]:
    """Around all points of each hand."""
    return np.concatenate([points.min(1), points.max(1)], 1).astype(np.float64)


def write_predictions(path: Path, hands: Hands3D) -> None:
    """The file that both official scripts and their servers take: all joints, then all vertices, metres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        json.dump([np.round(points, 6).tolist() for points in hands], file)
