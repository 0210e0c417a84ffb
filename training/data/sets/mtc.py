"""Monocular Total Capture's hands (Xiang, Joo and Sheikh, CVPR 2019), official files of `mtc_dataset.tar.gz`: `annotation.pkl`,
`camera_data.pkl` and `hdImgs/SEQUENCE/FRAME/00_CAMERA_FRAME.jpg`.

Joints are in OpenPose's order, centimetres in the dome's axes; a camera takes them by R x + t, its lens bends them (`distCoef`, OpenCV's).
Views in which a joint is hidden or beyond the image, or the hands overlap, are left out, as its authors do. The pickles are read without
running code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fitting.hand.mano import LEFT, RIGHT
from fitting.hand.restricted_pickle import ARRAYS, as_array, read_pickle
from training.data.sets.hand_crops import PIXEL_MIDDLE, HandCrops, training_crops

_SIDES = {"left_hand": LEFT, "right_hand": RIGHT}
WHERE = "get mtc_dataset.tar.gz from domedb.perception.cs.cmu.edu/mtc.html, and unpack it"


def mtc(folder: Path) -> HandCrops:
    """The hands of its training data, in every camera that sees them whole. Raises as the other readers."""
    annotation, cameras = (_read(folder / name) for name in ("annotation.pkl", "camera_data.pkl"))
    images, side, joints, points = [], [], [], []
    try:
        for told in annotation["training_data"]:
            for name, of in _SIDES.items():
                for camera, seen in told.get(name, {}).get("2D", {}).items():
                    if any(seen["occluded"]) or not all(seen["insideImg"]) or seen.get("overlap"):
                        continue
                    space, image = _seen(as_array(told[name]["landmarks"]).reshape(21, 3), cameras[told["seqName"]][camera])
                    joints.append(space / 100)
                    points.append(np.concatenate([image, np.ones((21, 1))], 1))
                    side.append(of)
                    frame = told["frame_str"]
                    images.append(f"{folder}/hdImgs/{told['seqName']}/{frame}/00_{int(camera):02d}_{frame}.jpg")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}/annotation.pkl and camera_data.pkl are not MTC's ({error!r}): {WHERE}") from error
    return training_crops(
        "mtc", images, np.array(side), points=np.array(points).reshape(-1, 21, 3), joints=np.array(joints).reshape(-1, 21, 3)
    )


def _seen(points: np.ndarray, camera: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Points before a camera, in their unit, and its pixels."""
    matrix, turn, shift, lens = (as_array(camera[name]).astype(np.float64) for name in ("K", "R", "t", "distCoef"))
    space = points @ turn.reshape(3, 3).T + shift.reshape(1, 3)
    image, _ = cv2.projectPoints(space, np.zeros(3), np.zeros(3), matrix.reshape(3, 3), lens.ravel())
    return space, image[:, 0] + PIXEL_MIDDLE


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {WHERE}")
    try:
        return read_pickle(path.read_bytes(), ARRAYS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {WHERE}") from error
