"""HO3D v2 and v3 (Hampali et al., CVPR 2020), official files: `train.txt`, `train/SEQ/meta/0000.pkl`, `train/SEQ/rgb/0000.png` or `.jpg`,
and `evaluation`'s with `evaluation_xyz.json` and `evaluation_verts.json`.

Its hands are right ones in OpenGL's axes (y up, z backward) and its joints are MANO's 16 and five tips; both are turned into ours here.
The pickles are read without running code. H2O-3D (Hampali et al., CVPR 2022) is its sister with both hands in an image: the same files,
`rightHandPose`, `leftHandPose` and so on, one `handBeta` for both; left hands were fitted with MANO_LEFT, whose betas mean another
shape than ours, so that of them betas stay unknown.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from fitting.hand.mano import LEFT, OPENPOSE_ORDER, RIGHT, load_hand_model
from fitting.hand.restricted_pickle import ARRAYS, as_array, read_pickle
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from hands.metrics.hands import Hands3D
from training.data.sets.hand_crops import HandCrops, box_of, columns_of, projected, training_crops, with_our_tips

TO_CAMERA = np.array([1.0, -1.0, -1.0])
"""OpenGL's axes to ours, and back."""
TO_HO3D = tuple(int(k) for k in np.argsort(OPENPOSE_ORDER))
"""For each of HO3D's joints, its row in OpenPose's order."""
TIPS = (744, 333, 444, 555, 672)
"""Those that its `setup_mano.py` writes into MANO's code."""
NUM_EVALUATION_V3 = 20_137
"""Images of version 3's evaluation split; version 2 has 11,524, in the same layout."""
WHERE_H2O3D = "get H2O-3D from tugraz.at/index.php?id=57823, and unzip it"
WHERE = "get HO3D v2 or v3 from tugraz.at/index.php?id=40231, with evaluation_xyz.json and evaluation_verts.json, and unzip it"


def ho3d(folder: Path, split: Literal["train", "evaluation"], *, every: int = 1) -> HandCrops:
    """The crops of a split, or of every n-th of its images. Training crops are around the projected joints, evaluation crops around
    the box that the set tells.

    Images that have no annotation are left out. MANO's parameters are NaN where the stand-in hand is in use. Raises
    FileNotFoundError for a file that is missing, ValueError for one that is damaged or holds more than data.
    """
    training = split == "train"
    names = _listed(folder, split)
    metas = [_meta(folder / split / name.split("/")[0] / "meta" / f"{name.split('/')[1]}.pkl") for name in names[::every]]
    rows = [row for row, meta in enumerate(metas) if "camMat" in meta and ("handPose" if training else "handBoundingBox") in meta]
    if not rows:
        raise ValueError(f"{folder}/{split}: none of {len(metas)} images is annotated: {WHERE}")
    names, metas = [names[::every][row] for row in rows], [metas[row] for row in rows]
    matrix = _stacked(metas, "camMat", (3, 3))
    truth = None if training else _published(folder, len(_listed(folder, split)), every, rows)
    joints = truth.joints if truth else (TO_CAMERA * _stacked(metas, "handJoints3D", (21, 3)))[:, list(OPENPOSE_ORDER)]
    parameters = _parameters(metas) if training else {}
    sequence, numbers = zip(*(name.split("/") for name in names), strict=True)
    return HandCrops(
        name=f"ho3d {split}",
        images=[_image(folder / split / of / "rgb" / number) for of, number in zip(sequence, numbers, strict=True)],
        box=box_of(projected(joints, matrix)) if training else _stacked(metas, "handBoundingBox", (4,)),
        columns=columns_of(with_our_tips(joints, parameters), matrix, **parameters),
        matrix=matrix,
        truth=truth,
        tips=TIPS,
        sequence=sequence,
        frame=np.array(numbers).astype(np.int64),
    )


def h2o3d(folder: Path) -> HandCrops:
    """H2O-3D's training hands, both of an image; one whose joints are not all valid is left out. Raises as the other readers."""
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "side", "joints", "matrix", "global_orient", "hand_pose", "betas")}
    for name in _listed(folder, "train"):
        sequence, number = name.split("/")
        meta = _meta(folder / "train" / sequence / "meta" / f"{number}.pkl")
        for side, prefix in ((RIGHT, "right"), (LEFT, "left")):
            if f"{prefix}HandJoints3D" not in meta or not _valid(meta, f"jointValid{prefix.title()}"):
                continue
            (joints,), (pose,), (betas,), (matrix,) = (
                _stacked([meta], entry, shape)
                for entry, shape in (
                    (f"{prefix}HandJoints3D", (21, 3)),
                    (f"{prefix}HandPose", (48,)),
                    ("handBeta", (10,)),
                    ("camMat", (3, 3)),
                )
            )
            rows["image"].append(str(_image(folder / "train" / sequence / "rgb" / number)))
            rows["side"].append(side)
            rows["joints"].append((TO_CAMERA * joints)[list(OPENPOSE_ORDER)])
            rows["matrix"].append(matrix)
            rows["global_orient"].append(pose[:3])
            rows["hand_pose"].append(pose[3:])
            rows["betas"].append(betas if side == RIGHT else np.full(10, np.nan))
    columns = {name: np.array(values, np.float64) for name, values in rows.items() if name not in ("image", "side")}
    if not rows["image"]:
        raise ValueError(f"{folder}/train: none of its images has a hand whose joints are valid: {WHERE_H2O3D}")
    return training_crops(
        "h2o3d train", rows["image"], np.array(rows["side"]), **columns | {"global_orient": _in_our_axes(columns["global_orient"])}
    )


def _valid(meta: Mapping[str, Any], name: str) -> bool:
    """Whether all joints of a hand are; where the set does not say, they are."""
    return name not in meta or bool(as_array(meta[name]).astype(np.float64).all())


def as_ho3d(hands: Hands3D) -> Hands3D:
    """Our hands before the camera in its axes and its order of joints: what its script takes."""
    return Hands3D(hands.joints[:, list(TO_HO3D)] * TO_CAMERA, hands.vertices * TO_CAMERA)


def _published(folder: Path, count: int, every: int, rows: Sequence[int]) -> Hands3D:
    """The truth of the evaluation split, which was published apart from it."""
    arrays = []
    for kind, shape in (("xyz", (21, 3)), ("verts", (778, 3))):
        path = folder / f"evaluation_{kind}.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {WHERE}")
        try:
            arrays.append(TO_CAMERA * np.array(json.loads(path.read_text()), np.float64).reshape(count, *shape)[::every][list(rows)])
        except ValueError as error:
            raise ValueError(f"{path} does not hold {count} times {shape} numbers, one for each line of evaluation.txt: {error}") from error
    return Hands3D(arrays[0][:, list(OPENPOSE_ORDER)], arrays[1])


def _listed(folder: Path, split: str) -> list[str]:
    """The images of a split, SEQ/0000."""
    path = folder / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {WHERE}")
    names = path.read_text().split()
    if not names or any(len(name.split("/")) != 2 for name in names):
        raise ValueError(f"{path} is no list of SEQUENCE/FRAME: {WHERE}")
    return names


def _meta(path: Path) -> Mapping[str, Any]:
    """The annotation of one image: its entries that are not None."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {WHERE}")
    try:
        content = read_pickle(path.read_bytes(), ARRAYS)
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
    except ValueError as error:
        raise ValueError(f"{path}: {error}: unzip HO3D again") from error
    return {name: value for name, value in content.items() if value is not None}


def _stacked(metas: Sequence[Mapping[str, Any]], name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "n *shape"]:
    try:
        return np.stack([as_array(meta[name]).astype(np.float64).reshape(shape) for meta in metas])
    except (KeyError, ValueError) as error:
        raise ValueError(f"an annotation of HO3D has no {name} of shape {shape} ({error}): unzip HO3D again") from error


def _parameters(metas: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """MANO's, in our axes; none where the stand-in hand is in use."""
    if load_hand_model().source != "mano":
        return {}
    pose = _stacked(metas, "handPose", (48,))
    return {
        "global_orient": _in_our_axes(pose[:, :3]),
        "hand_pose": pose[:, 3:],
        "betas": _stacked(metas, "handBeta", (10,)),
    }


def _in_our_axes(global_orient: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    turned = torch.as_tensor(TO_CAMERA)[:, None] * matrix_from_axis_angle(torch.as_tensor(global_orient))
    return axis_angle_from_matrix(turned).numpy()


def _image(stem: Path) -> Path:
    """Version 2 has PNG, version 3 JPEG."""
    return next((path for path in (stem.with_suffix(".jpg"), stem.with_suffix(".png")) if path.is_file()), stem.with_suffix(".png"))
