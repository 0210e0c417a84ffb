"""HaMeR's training tars, which WiLoR's are too: pairs `VIDEO/FRAME.jpg` and `.data.pyd`, a pickle of a list with a dictionary a hand.

As `hamer/datasets/image_dataset.py: load_tars_as_webdataset` reads them: keypoints in pixels, `center` and `scale` of the box (its size
over 200), MANO as axis-angle (`hand_pose` of 48 begins with the wrist's), of a left hand its own. Frames without a hand are left out, and
hands whose side nobody knows.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exports.source import Frame, Source, seen
from pipeline.exports.webdataset import Tars
from stages.tables import RIGHT, UNKNOWN_SIDE


def write(source: Source, folder: Path, _: Mapping[str, object]) -> None:
    """Write the tars of all splits."""
    for split in source.splits:
        with Tars(folder / split, split) as tars:
            for frame in source.frames(split):
                if hands := _hands(frame):
                    tars.add(frame.name, {"jpg": frame.image, "data.pyd": pickle.dumps(hands, protocol=4)})


def _hands(frame: Frame) -> list[dict[str, Any]]:
    hands, known = frame.hands, seen(frame.hands["keypoints"])
    points = np.where(known[..., None], np.nan_to_num(hands["keypoints"]), 0).astype(np.float32)
    told = []
    for row in np.flatnonzero(hands["side"] != UNKNOWN_SIDE).tolist():
        fitted = bool(np.isfinite(hands["hand_pose"][row]).all() and np.isfinite(hands["betas"][row]).all())
        joints = np.nan_to_num(hands["joints_3d"][row]).astype(np.float32)
        low, high = hands["box"][row].astype(np.float32).reshape(2, 2)
        pose = np.concatenate([hands["global_orient"][row], hands["hand_pose"][row]])
        told.append(
            {
                "keypoints_2d": points[row].copy(),
                "keypoints_3d": np.concatenate([joints, np.full((21, 1), np.float32(fitted))], 1),
                "center": (low + high) / 2,
                "scale": (high - low) / 200,
                "hand_pose": np.nan_to_num(pose).astype(np.float32),
                "has_hand_pose": np.float32(fitted),
                "betas": np.nan_to_num(hands["betas"][row]).astype(np.float32),
                "has_betas": np.float32(fitted),
                "right": np.float32(hands["side"][row] == RIGHT),
                "extra_info": _extra(frame, row),
            }
        )
    return told


def _extra(frame: Frame, row: int) -> dict[str, Any]:
    """Whose it is, and how good; `fitting_loss` is a 0-d array of a dictionary, as their filter of reprojection errors takes it."""
    about = {**frame.about_it(), "hand": int(frame.hands["hand"][row]), "track": int(frame.hands["track"][row])}
    return about | {"quality": float(frame.hands["quality"][row]), "fitting_loss": np.array({})}
