"""Labelled hands of published images as crops: a source to train the regressor on, and what it is judged by.

Frames of reference. Pixels of the image, (0, 0) the corner of the first one; camera axes x right, y down, z forward, metres. Joints
in OpenPose's order, each hand of its own side, MANO's parameters too (`fitting.hand.mano`). Unknown numbers are NaN: a set may know
2D points alone, joints in space, MANO's parameters or all of them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64, UInt8

from fitting.hand.anatomy import TIP_VERTICES
from fitting.hand.mano import LEFT, RIGHT, load_hand_model, pose_either_hand
from hands.metrics.hands import FINGERTIPS, WRIST, Hands3D
from training.data.order import key_of
from training.data.readers.labelled_image import read_image
from training.data.samples import cut, squared
from training.data.shard import CorruptSampleError

PIXEL_MIDDLE = 0.5
"""Camera matrices of published sets count pixels from their middles."""


FEWEST_POINTS = 5
"""A hand of which less is known is left out (HaMeR: more than four)."""
LEAST_BOX_PX = 4.0
"""Longer side of the smallest hand that is worth a crop. Ours."""


class Packed(NamedTuple):
    """An image within an archive."""

    archive: Path
    offset: int
    size: int


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class HandCrops:
    """Squares around single hands, left ones mirrored, and what is known of them: `training.data.samples.Crops` for published sets."""

    name: str
    images: Sequence[Path | str | Packed]
    box: Float[np.ndarray, "n 4"]
    columns: Mapping[str, np.ndarray]
    """Columns of all hands, named as in `Crops`."""
    matrix: Float64[np.ndarray, "n 3 3"] | None = None
    """The camera's, pixels, where it is known and wanted."""
    truth: Hands3D | None = None
    """In space before the camera, of an evaluation split."""
    tips: tuple[int, ...] = TIP_VERTICES
    """The vertices that this set takes for the tips of thumb, index, middle, ring and little finger."""
    sequence: Sequence[str] = ()
    """Which video each image of an evaluation split is of; each its own where there is none."""
    frame: Int64[np.ndarray, "_"] = field(default_factory=lambda: np.zeros(0, np.int64))
    frames_per_second: float = 30.0
    size: int = 256
    """Side of the square, pixels."""
    factor: float = 3.0
    """Side of the square over the box's longer side."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        names = "\n".join(map(_name, self.images))
        content = hashlib.sha256(names.encode() + np.ascontiguousarray(self.box).tobytes()).hexdigest()
        return f"{self.name} {key_of(content):016x} {self.factor}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    def decode(self, sample: int, out: UInt8[np.ndarray, "size size 3"]) -> None:
        image, left = read_crop_image(self.images[sample]), bool(self.columns["side"][sample] == LEFT)
        cut(image, (image.shape[1], image.shape[0]), squared(self.box[sample], self.size, self.factor), out, mirrored=left)

    def labels(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """The columns of each hand, pixels of its image, with `image` and `to_input`."""
        rows = np.asarray(samples, np.int64)
        to_input = np.array([squared(self.box[row], self.size, self.factor) for row in rows], np.float32).reshape(-1, 3)
        return {"image": np.arange(len(rows)), **{name: values[rows] for name, values in self.columns.items()}, "to_input": to_input}


def _name(image: Path | str | Packed) -> str:
    """Says which image of a set it is, wherever the set lies."""
    if isinstance(image, Packed):
        return f"{image.archive.parent.name}/{image.archive.name}:{image.offset}"
    path = Path(image)
    return f"{path.parent.parent.name}/{path.stem}"


def read_crop_image(image: Path | str | Packed) -> UInt8[np.ndarray, "h w 3"]:
    """RGB. Raises CorruptSampleError for an image that is not there, or none."""
    if not isinstance(image, Packed):
        try:
            return read_image(Path(image))
        except FileNotFoundError as error:
            raise CorruptSampleError(str(error)) from error
    with image.archive.open("rb") as file:
        file.seek(image.offset)
        data = np.frombuffer(file.read(image.size), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if decoded is None:
        raise CorruptSampleError(f"{image.archive}: no image at byte {image.offset:,}")
    return np.asarray(decoded)


def training_crops(
    name: str,
    images: Sequence[Path | str | Packed],
    side: Int[np.ndarray, "n"],
    *,
    points: Float[np.ndarray, "n 21 3"] | None = None,  # pixels and confidence
    joints: Float[np.ndarray, "n 21 3"] | None = None,  # before the camera
    matrix: Float[np.ndarray, "n 3 3"] | None = None,
    box: Float[np.ndarray, "n 4"] | None = None,
    **parameters: Float[np.ndarray, "n _"],  # betas, global_orient, hand_pose: of the hand's own side, the mean pose added
) -> HandCrops:
    """Crops around the boxes given, else around what is known of each hand: points, else joints in space as `matrix` sees them.

    Hands of which fewer than `FEWEST_POINTS` are known, and those too small to be seen, are left out. MANO's parameters stay unknown
    where the stand-in hand is in use, to which they mean nothing. Raises ValueError when no hand is left.
    """
    if load_hand_model().source != "mano":
        parameters = {}
    if points is None:
        assert joints is not None
        assert matrix is not None
        seen = projected(joints, matrix)
        points = np.concatenate([seen, np.isfinite(seen).all(2)[..., None]], 2)
    known = np.isfinite(points).all(2) & (points[..., 2] > 0)
    points = np.where(known[..., None], points, [np.nan, np.nan, 0.0])
    few = known.sum(1) < FEWEST_POINTS
    place = np.where(few[:, None, None], 0.0, points[..., :2])
    box = np.concatenate([np.nanmin(place, 1), np.nanmax(place, 1)], 1) if box is None else box
    rows = np.flatnonzero(~few & ((box[:, 2:] - box[:, :2]).max(1) >= LEAST_BOX_PX)) if len(box) else np.zeros(0, np.int64)
    if not len(rows):
        raise ValueError(f"{name}: none of {len(points)} hands is labelled with {FEWEST_POINTS} points or more: unpack the set again")
    told = {key: values[rows] for key, values in parameters.items()}
    side = side[rows].astype(np.int8)
    space = np.full((len(rows), 21, 3), np.nan) if joints is None else with_our_tips(joints[rows], told, side)
    n = len(rows)
    columns = {
        "keypoints": points[rows],
        "joints_2d": np.full((n, 21, 2), np.nan),
        "joints_3d": space - space[:, [WRIST]],
        **{key: told.get(key, np.full((n, count), np.nan)) for key, count in (("betas", 10), ("global_orient", 3), ("hand_pose", 45))},
        "camera": np.full((n, 3), np.nan),
        "quality": np.ones(n),
    }
    return HandCrops(
        name=name,
        images=[images[row] for row in rows.tolist()],
        box=box[rows],
        columns={"side": side, **{key: values.astype(np.float32) for key, values in columns.items()}},
    )


def posed(
    side: Int[np.ndarray, "n"], *, betas: np.ndarray, global_orient: np.ndarray, hand_pose: np.ndarray
) -> tuple[Float64[np.ndarray, "n 21 3"], Float64[np.ndarray, "n 3"]]:
    """Joints about the wrist of MANO hands of their own side, and where smplx puts the wrist of each, to which it adds `transl`."""
    model, joints, wrists = load_hand_model(), [], []
    for start in range(0, len(side), 4096):
        rows = slice(start, start + 4096)
        told = [torch.as_tensor(values[rows].astype(np.float32)) for values in (betas, global_orient, hand_pose)]
        joints.append(pose_either_hand(model, torch.as_tensor(side[rows].astype(np.int64)), *told).joints.numpy())
        shaped = model.v_template + torch.einsum("vcb,nb->nvc", model.shapedirs, told[0])
        wrists.append((model.J_regressor[0] @ shaped).numpy())
    wrist = np.concatenate(wrists).astype(np.float64) * np.where(side[:, None] == LEFT, [-1.0, 1, 1], 1.0)
    return np.concatenate(joints).astype(np.float64), wrist


def with_mean_pose(hand_pose: Float[np.ndarray, "n 45"], side: Int[np.ndarray, "n"]) -> Float64[np.ndarray, "n 45"]:
    """Poses that a set tells about MANO's mean pose as such; MANO_LEFT's mean is MANO_RIGHT's in the mirror."""
    mean = load_hand_model().hands_mean.numpy().astype(np.float64)
    return hand_pose + np.where(side[:, None] == LEFT, mean * np.tile([1.0, -1, -1], 15), mean)


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


def with_our_tips(
    joints: Float[np.ndarray, "n 21 3"], parameters: Mapping[str, np.ndarray], side: Int[np.ndarray, "n"] | None = None
) -> Float[np.ndarray, "n 21 3"]:
    """Joints whose fingertips are the vertices that our hand model takes: a set that takes others would teach millimetres that are none.

    Hands of which a parameter is unknown keep theirs.
    """
    if not {"betas", "global_orient", "hand_pose"} <= parameters.keys():
        return joints
    joints, side = joints.copy(), np.full(len(joints), RIGHT) if side is None else side
    rows = np.flatnonzero(np.all([np.isfinite(values).all(1) for values in parameters.values()], 0))
    about_wrist, _ = posed(side[rows], **{name: values[rows] for name, values in parameters.items()})
    joints[rows[:, None], FINGERTIPS] = about_wrist[:, FINGERTIPS] + joints[rows][:, [WRIST]]
    return joints


def box_of(points: Float[np.ndarray, "n points 2"]) -> Float64[np.ndarray, "n 4"]:
    """Around all points of each hand."""
    return np.concatenate([points.min(1), points.max(1)], 1).astype(np.float64)


def write_predictions(path: Path, hands: Hands3D) -> None:
    """The file that both official scripts and their servers take: all joints, then all vertices, metres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        json.dump([np.round(points, 6).tolist() for points in hands], file)
