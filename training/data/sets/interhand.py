"""InterHand2.6M (Moon et al., ECCV 2020) and Re:InterHand (Moon et al., NeurIPS 2023), official files.

InterHand2.6M: `annotations/train/InterHand2.6M_train_{data,camera,joint_3d,MANO_NeuralAnnot}.json`, `images/train/...`. 42 joints, those of
the right hand first; of each hand thumb to little finger, each from its tip to the palm, then the wrist; millimetres in world axes, which
a camera takes by R (x - position). Re:InterHand: a folder a capture with `Mugsy_cameras/cam_params.json`,
`Mugsy_cameras/envmap_per_frame/images/CAMERA/000000.png` and `mano_fits/params/0_{left,right}.json`; it knows MANO's parameters alone,
and a camera takes metres by R x + t / 1000.

Both tell MANO's pose about its mean pose, in world axes, and left hands of MANO_LEFT with its `shapedirs` set right, which is the mirrored
right hand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fitting.hand.mano import LEFT, RIGHT, load_hand_model
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from training.data.readers.labelled_image import read_json
from training.data.sets.hand_crops import HandCrops, posed, training_crops, with_mean_pose

ORDER = (20, *(4 * finger + 3 - joint for finger in range(5) for joint in range(4)))
"""For each of OpenPose's keypoints, its row of a hand's 21."""
_SIDES = {"right": RIGHT, "left": LEFT}
HELD_OUT = ("m--20221215--0949--RNS217", "m--20221216--0953--NKC880", "m--20230317--1130--QZX685")
"""Beginnings of the names of Re:InterHand's three captures that its authors test on."""
INTERHAND = "get InterHand2.6M's images and annotations from mks0601.github.io/InterHand2.6M"
REINTERHAND = "get Re:InterHand from mks0601.github.io/ReInterHand"


def interhand26m(folder: Path) -> HandCrops:
    """The hands of the training split whose wrist is known. Raises as the other readers."""
    data, camera, joint_3d = (_json(folder, name) for name in ("data", "camera", "joint_3d"))
    fits: Mapping[str, Any] = _json(folder, "MANO_NeuralAnnot")
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "side", "joints", "matrix", *_PARAMETERS)}
    images = {image["id"]: image for image in data["images"]}
    try:
        for told in data["annotations"]:
            image = images[told["image_id"]]
            capture, frame = str(image["capture"]), str(image["frame_idx"])
            of, name = camera[capture], str(image["camera"])
            turn, place = np.array(of["camrot"][name], np.float64), np.array(of["campos"][name], np.float64)
            world = np.array(joint_3d[capture][frame]["world_coord"], np.float64).reshape(42, 3)
            space = (world - place) @ turn.T / 1000
            valid = np.array(told["joint_valid"], np.float64).ravel() > 0
            for of_hand, first in (("right", 0), ("left", 21)):
                known = valid[first : first + 21]
                if not known[20]:
                    continue
                rows["image"].append(f"{folder}/images/train/{image['file_name']}")
                rows["side"].append(_SIDES[of_hand])
                rows["joints"].append(np.where(known[:, None], space[first : first + 21], np.nan)[list(ORDER)])
                rows["matrix"].append(_matrix(of["focal"][name], of["princpt"][name]))
                for key, value in _turned(fits.get(capture, {}).get(frame, {}).get(of_hand), turn).items():
                    rows[key].append(value)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}/annotations are not InterHand2.6M's ({error!r}): {INTERHAND}") from error
    return training_crops(
        "interhand2.6m train",
        rows["image"],
        np.array(rows["side"]),
        joints=np.array(rows["joints"]).reshape(-1, 21, 3),
        matrix=np.array(rows["matrix"]).reshape(-1, 3, 3),
        **_parameters(rows),
    )


def reinterhand(folder: Path) -> HandCrops:
    """Both hands of every image of the training captures. Raises as the other readers, and ValueError without MANO's own file."""
    if load_hand_model().source != "mano":
        raise ValueError("reinterhand is labelled with MANO's parameters alone: put MANO_RIGHT.pkl among the weights, or set WHIM_MANO")
    captures = sorted(path for path in folder.glob("*/Mugsy_cameras/cam_params.json") if not path.parts[-3].startswith(HELD_OUT))
    if not captures:
        raise FileNotFoundError(f"{folder} has no */Mugsy_cameras/cam_params.json: {REINTERHAND}")
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "side", "matrix", "transl", "shift", "turn", *_PARAMETERS)}
    for path in captures:
        for name, camera in read_json(path).items():
            turn, shift = np.array(camera["R"], np.float64), np.array(camera["t"], np.float64) / 1000
            for image in sorted((path.parent / "envmap_per_frame" / "images" / name).glob("*.png")):
                for of, number in _SIDES.items():
                    fit = path.parents[1] / "mano_fits" / "params" / f"{int(image.stem)}_{of}.json"
                    if not fit.is_file():
                        continue
                    told = read_json(fit)
                    rows["image"].append(str(image))
                    rows["side"].append(number)
                    rows["matrix"].append(_matrix(camera["focal"], camera["princpt"]))
                    rows["transl"].append(told["trans"])
                    rows["turn"].append(turn)
                    rows["shift"].append(shift)
                    for key, value in _turned(told, turn).items():
                        rows[key].append(value)
    side, transl, turn, shift = (np.array(rows[name]) for name in ("side", "transl", "turn", "shift"))
    if not len(side):
        raise ValueError(f"{folder} has no image with a fit of MANO: {REINTERHAND}")
    parameters = _parameters(rows)
    about_wrist, wrist = posed(side, **parameters)
    place = np.einsum("nij,nj->ni", turn, wrist + transl) + shift
    return training_crops(
        "reinterhand", rows["image"], side, joints=about_wrist + place[:, None], matrix=np.array(rows["matrix"]), **parameters
    )


_PARAMETERS = ("betas", "global_orient", "hand_pose")


def _turned(fit: Mapping[str, Any] | None, turn: np.ndarray) -> dict[str, np.ndarray]:
    """MANO's parameters in the camera's axes, the pose about its mean; unknown where there is no fit."""
    if fit is None:
        return {name: np.full(count, np.nan) for name, count in zip(_PARAMETERS, (10, 3, 45), strict=True)}
    pose = np.array(fit["pose"], np.float64).reshape(48)
    orient = torch.as_tensor(turn) @ matrix_from_axis_angle(torch.as_tensor(pose[:3]))
    return {
        "betas": np.array(fit["shape"], np.float64).reshape(10),
        "global_orient": axis_angle_from_matrix(orient).numpy(),
        "hand_pose": pose[3:],
    }


def _parameters(rows: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """Columns of the parameters, the mean pose added."""
    told = {name: np.array(rows[name]) for name in _PARAMETERS}
    return told | {"hand_pose": with_mean_pose(told["hand_pose"], np.array(rows["side"]))}


def _matrix(focal: Any, centre: Any) -> np.ndarray:
    return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]], np.float64)


def _json(folder: Path, kind: str) -> Any:
    """One file of annotations, in the folder of the split or in that of everything."""
    name = f"InterHand2.6M_train_{kind}.json"
    path = next((path for path in (folder / "annotations" / of / name for of in ("train", "all", ".")) if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}/annotations/train/{name} is missing: {INTERHAND}")
    return read_json(path)
