"""HOT3D-Clips' hands (Banerjee et al., CVPR 2025), official files: `train_aria/clip-000000.tar` and `train_quest3/`; of each frame
`000000.image_214-1.jpg`, `000000.cameras.json` and `000000.hands.json`, of each clip `__hand_shapes.json__`.

A hand is told by MANO's parameters alone: `thetas`, 15 components of its pose PCA about the mean pose, and `wrist_xform`, its turn and
shift in world axes; `mano` of the shapes are its betas. The components of left hands are MANO_LEFT's, which is not read: right hands are
taken. Lenses are fisheyes (Project Aria's FISHEYE624): points are where the lens puts them, and the turn is that before the camera.
"""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64

from fitting.hand.mano import RIGHT, load_hand_model
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from training.data.readers.labelled_image import parsed_json
from training.data.sets.hand_crops import PIXEL_MIDDLE, HandCrops, Packed, posed, training_crops

WHERE = "get HOT3D-Clips' train_aria and train_quest3 from huggingface.co/datasets/bop-benchmark/hot3d"
_WIDEST = np.deg2rad(80)
"""From the axis: farther out the lens' polynomial is not to be trusted."""


def hot3d(folder: Path, *, every: int = 1) -> HandCrops:
    """The right hands of the training clips in every camera that sees them, or of every n-th frame.

    Raises as the other readers, and ValueError without MANO's own file.
    """
    model = load_hand_model()
    if model.source != "mano":
        raise ValueError("hot3d is labelled with MANO's parameters alone: put MANO_RIGHT.pkl among the weights, or set WHIM_MANO")
    clips = sorted(folder.glob("train_*/clip-*.tar")) or sorted(folder.glob("clip-*.tar"))
    if not clips:
        raise FileNotFoundError(f"{folder} has no train_aria/clip-*.tar: {WHERE}")
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "points", "joints", "betas", "global_orient", "hand_pose")}
    for clip in clips:
        try:
            _add_clip(rows, clip, model.hands_components[:15].numpy(), model.hands_mean.numpy(), every)
        except (KeyError, TypeError, ValueError, tarfile.TarError) as error:
            raise ValueError(f"{clip} is no clip of HOT3D ({error!r}): {WHERE}") from error
    if not rows["image"]:
        raise ValueError(f"{folder} has no right hand in any camera: {WHERE}")
    columns = {name: np.array(values, np.float64) for name, values in rows.items() if name != "image"}
    return training_crops("hot3d train", rows["image"], np.full(len(rows["image"]), RIGHT), **columns)


def _add_clip(rows: dict[str, list[Any]], clip: Path, components: np.ndarray, mean: np.ndarray, every: int) -> None:
    with tarfile.open(clip) as tar:
        members = {member.name: member for member in tar.getmembers()}

        def read(name: str) -> Any:
            file = tar.extractfile(members[name])
            assert file is not None
            return parsed_json(file.read(), f"{clip}/{name}")

        betas = np.array(read("__hand_shapes.json__")["mano"], np.float64) if "__hand_shapes.json__" in members else None
        for name in sorted(name for name in members if name.endswith(".hands.json"))[::every]:
            frame = name.removesuffix(".hands.json")
            told = (read(name).get("right") or {}).get("mano_pose")
            if told is None or betas is None:
                continue
            turn, shift = np.array(told["wrist_xform"], np.float64).reshape(2, 3)
            parameters = {"betas": betas, "global_orient": turn, "hand_pose": np.array(told["thetas"], np.float64) @ components + mean}
            about_wrist, wrist = posed(np.array([RIGHT]), **{key: value[None] for key, value in parameters.items()})
            world = about_wrist[0] + wrist + shift
            for stream, camera in read(f"{frame}.cameras.json").items():
                to_camera, at = _inverse(camera["T_world_from_camera"])
                joints = world @ to_camera.T + at
                points = seen(joints, camera["calibration"])
                image = members.get(f"{frame}.image_{stream}.jpg")
                if image is None or np.isfinite(points).all(1).sum() < 21:
                    continue
                orient = torch.as_tensor(to_camera) @ matrix_from_axis_angle(torch.as_tensor(turn))
                rows["image"].append(Packed(clip, image.offset_data, image.size))
                rows["points"].append(np.concatenate([points, np.ones((21, 1))], 1))
                rows["joints"].append(joints)
                for key, value in (parameters | {"global_orient": axis_angle_from_matrix(orient).numpy()}).items():
                    rows[key].append(value)


def seen(points: Float[np.ndarray, "n 3"], calibration: Mapping[str, Any]) -> Float64[np.ndarray, "n 2"]:
    """Points before a camera in its image, NaN where it does not see them.

    Project Aria's FISHEYE624: focal length and middle, then 6 radial, 2 tangential and 4 thin-prism numbers. Raises ValueError for
    another lens.
    """
    if "FISHEYE624" not in str(calibration["model_name"]) and "FisheyeRadTanThinPrism" not in str(calibration["model_name"]):
        raise ValueError(f"a camera of the model {calibration['model_name']!r}, which is not known")
    numbers = np.array(calibration["projection_params"], np.float64)
    focal, (cx, cy), radial, tangential, prism = numbers[:-14], numbers[-14:-12], numbers[-12:-6], numbers[-6:-4], numbers[-4:]
    flat = points[:, :2] / np.where(points[:, 2:] > 1e-6, points[:, 2:], np.nan)
    radius = np.linalg.norm(flat, axis=1)
    angle = np.arctan(radius)
    bent = angle * (1 + sum(k * angle ** (2 * (i + 1)) for i, k in enumerate(radial)))
    at = flat * (bent / np.maximum(radius, 1e-12))[:, None]
    squared = (at**2).sum(1, keepdims=True)
    at = at + 2 * (at @ tangential)[:, None] * at + squared * tangential
    at = at + np.concatenate([squared * prism[0] + squared**2 * prism[1], squared * prism[2] + squared**2 * prism[3]], 1)
    pixels = focal * at + [cx, cy] + PIXEL_MIDDLE
    size = np.array([calibration["image_width"], calibration["image_height"]])
    return np.where(((angle < _WIDEST) & ((pixels >= 0) & (pixels < size)).all(1))[:, None], pixels, np.nan)


def _inverse(place: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Turn and shift from world axes to a camera whose place is told the other way round."""
    w, *axis = np.array(place["quaternion_wxyz"], np.float64)
    length = float(np.linalg.norm(axis))
    angle = 2 * np.arctan2(length, w)
    turn = matrix_from_axis_angle(torch.as_tensor(np.array(axis) / max(length, 1e-12) * angle)).numpy().T
    return turn, -turn @ np.array(place["translation_xyz"], np.float64)
