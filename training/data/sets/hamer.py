"""HaMeR's own training data (Pavlakos et al., CVPR 2024), ten of the sets in one format, official files: `freihand-train/000000.tar` and so
on, WebDataset archives of `KEY.jpg` and `KEY.data.pyd`, a pickled list of hands.

A hand has `keypoints_2d` [21, 3] pixels, `keypoints_3d` [21, 4] metres, `hand_pose` [48] the mean pose added, `betas`, `right`, and whether
the last two are known; each of its own side, in OpenPose's order. The pickles are read without running code.
"""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from fitting.hand.mano import LEFT, RIGHT
from fitting.hand.restricted_pickle import ARRAYS, as_array, read_pickle
from training.data.sets.hand_crops import HandCrops, Packed, training_crops

FOLDERS = (
    *("freihand-train", "ho3d-train", "mtc-train", "rhd-train", "interhand26m-train", "h2o3d-train", "dex-train"),
    *("cocow-train", "halpe-train", "mpiinzsl-train"),
)
IMAGES = (".jpg", ".jpeg", ".png")
LARGEST_BETA = 3.0
"""A shape beyond it is not believed (HaMeR: SUPPRESS_BETAS_THRESH)."""
LEAST_CONFIDENCE = 0.3
"""A point below it is not known (HaMeR: SUPPRESS_KP_CONF_THRESH)."""
WHERE = "get hamer_training_data from the links of github.com/geopavlakos/hamer, and unpack it"


def hamer(folder: Path) -> HandCrops:
    """The hands of every archive below a folder: of all ten sets, or of one. Raises as the other readers."""
    archives = sorted(folder.rglob("*.tar"))
    if not archives:
        raise FileNotFoundError(f"{folder} has no *.tar: {WHERE}")
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "side", "points", "joints", "betas", "global_orient", "hand_pose")}
    for archive in archives:
        try:
            _add_archive(rows, archive)
        except (KeyError, TypeError, ValueError, AttributeError, tarfile.TarError) as error:
            raise ValueError(f"{archive} is no archive of HaMeR's training data ({error!r}): {WHERE}") from error
    columns = {name: np.array(values, np.float64) for name, values in rows.items() if name not in ("image", "side")}
    if not rows["image"]:
        raise ValueError(f"{folder}: no archive has a hand: {WHERE}")
    return training_crops(f"hamer {folder.resolve().name}", rows["image"], np.array(rows["side"]), **columns)


def _add_archive(rows: dict[str, list[Any]], archive: Path) -> None:
    images: dict[str, Packed] = {}
    hands: dict[str, list[Any]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            stem, dot, ending = name.partition(".")
            key = f"{folder}/{stem}"
            if dot + ending in IMAGES:
                images[key] = Packed(archive, member.offset_data, member.size)
            elif ending == "data.pyd":
                file = tar.extractfile(member)
                assert file is not None
                hands[key] = read_pickle(file.read(), ARRAYS)
    for key, told in hands.items():
        for hand in told:
            _add_hand(rows, images[key], hand)


def _add_hand(rows: dict[str, list[Any]], image: Packed, told: Any) -> None:
    points, joints, pose, betas = (
        as_array(told[name]).astype(np.float64).reshape(shape)
        for name, shape in (("keypoints_2d", (21, 3)), ("keypoints_3d", (21, 4)), ("hand_pose", (48,)), ("betas", (10,)))
    )
    has_pose, has_betas = (bool(as_array(told[name]).astype(np.float64).item() > 0) for name in ("has_hand_pose", "has_betas"))
    points[points[:, 2] < LEAST_CONFIDENCE, 2] = 0
    rows["image"].append(image)
    rows["side"].append(RIGHT if as_array(told["right"]).astype(np.float64).item() > 0 else LEFT)
    rows["points"].append(np.clip(points, None, [np.inf, np.inf, 1.0]))
    rows["joints"].append(np.where(joints[:, 3:] > 0, joints[:, :3], np.nan))
    rows["global_orient"].append(pose[:3] if has_pose else np.full(3, np.nan))
    rows["hand_pose"].append(pose[3:] if has_pose else np.full(45, np.nan))
    rows["betas"].append(betas if has_betas and np.abs(betas).max() <= LARGEST_BETA else np.full(10, np.nan))
