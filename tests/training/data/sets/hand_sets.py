"""Tiny FreiHAND and HO3D folders, made to their official layouts from hands whose parameters, joints and images are known."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from fitting.files import STANDIN
from fitting.hand.mano import OPENPOSE_ORDER, HandModel, load_hand_model, pose_hand
from training.data.sets.freihand import TIPS as FREIHAND_TIPS
from training.data.sets.ho3d import TIPS as HO3D_TIPS


class Posed(NamedTuple):
    """Hands before a camera, in our axes."""

    betas: np.ndarray
    global_orient: np.ndarray
    hand_pose: np.ndarray
    joints: np.ndarray
    vertices: np.ndarray


def mano_file(folder: Path) -> Path:
    """A MANO_RIGHT.pkl that is the stand-in's arrays: the licensed file is not for tests."""
    with np.load(STANDIN) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["kintree_table"] = np.array([[2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], list(range(16))], np.uint32)
    path = folder / "MANO_RIGHT.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=2))
    return path


def posed(count: int, model: HandModel, seed: int = 0) -> Posed:
    """Hands a metre away; a hand is its parameters and the place of MANO's origin, as smplx has it."""
    rng = np.random.default_rng(seed)
    betas, orient, pose = rng.normal(size=(count, 10)) / 2, rng.normal(size=(count, 3)), rng.normal(size=(count, 45)) / 5
    hand = pose_hand(model, *(torch.as_tensor(values).to(model.v_template) for values in (betas, orient, pose)))
    place = np.concatenate([rng.normal(size=(count, 1, 2)) / 100, rng.uniform(0.8, 1.2, (count, 1, 1))], 2)
    return Posed(betas, orient, pose, hand.joints.numpy() + place, hand.vertices.numpy() + place)


def published(hands: Posed, tips: tuple[int, ...]) -> np.ndarray:
    """The joints as a set has them, whose fingertips are vertices of its own choice."""
    joints = hands.joints.copy()
    joints[:, 4::4] = hands.vertices[:, list(tips)]
    return joints


def spotted(pixel: np.ndarray, width: int, height: int) -> np.ndarray:
    """Grey, with a bright spot centred where `pixel`, counted from pixels' middles, says."""
    y, x = np.mgrid[:height, :width]
    near = np.exp(-((x - pixel[0]) ** 2 + (y - pixel[1]) ** 2) / 18)
    return np.repeat((60 + 190 * near[..., None]).astype(np.uint8), 3, 2)


def seen(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points before a camera in pixels counted from pixels' middles, as both toolboxes project."""
    image = points @ matrix.T
    return image[..., :2] / image[..., 2:]


FREIHAND_MATRIX = np.array([[480.0, 0, 112], [0, 480, 110], [0, 0, 1]])


def freihand_folder(folder: Path, training: Posed, evaluation: Posed, hands_mean: np.ndarray) -> Path:
    """Both splits; each image has a spot on the wrist, those of the four versions alike."""
    for split, hands in (("training", training), ("evaluation", evaluation)):
        (folder / split / "rgb").mkdir(parents=True)
        count = len(hands.joints)
        told = {"K": np.tile(FREIHAND_MATRIX, (count, 1, 1)), "xyz": published(hands, FREIHAND_TIPS), "scale": np.full(count, 0.03)}
        if split == "training":
            pose = np.concatenate([hands.global_orient, hands.hand_pose - hands_mean, hands.betas, np.zeros((count, 3))], 1)
            told["mano"] = pose[:, None]
        else:
            told["verts"] = hands.vertices
        for kind, values in told.items():
            (folder / f"{split}_{kind}.json").write_text(json.dumps(values.tolist()))
        for number in range(count * (4 if split == "training" else 1)):
            picture = spotted(seen(hands.joints[number % count, 0], FREIHAND_MATRIX), 224, 224)
            cv2.imwrite(str(folder / split / "rgb" / f"{number:08d}.jpg"), picture)
    return folder


HO3D_MATRIX = np.array([[610.0, 0, 315], [0, 608, 242], [0, 0, 1]])
TO_OPENGL = np.array([1.0, -1.0, -1.0])


def ho3d_folder(folder: Path, training: Posed, evaluation: Posed, *, suffix: str = ".png") -> Path:
    """Both splits, two sequences each, in OpenGL's axes and MANO's order of joints; the first training image is not annotated."""
    back = np.argsort(OPENPOSE_ORDER)
    for split, hands in (("train", training), ("evaluation", evaluation)):
        names = [f"{'AB'[k % 2]}{split[0]}10/{k:04d}" for k in range(len(hands.joints))]
        for k, name in enumerate(names):
            sequence, number = name.split("/")
            pixels = seen(hands.joints[k], HO3D_MATRIX)
            meta: dict[str, object] = {"camMat": HO3D_MATRIX, "objName": "004_sugar_box", "objLabel": 3}
            joints = (published(hands, HO3D_TIPS)[k] * TO_OPENGL)[back]
            if split == "train":
                turned = cv2.Rodrigues(np.diag(TO_OPENGL) @ cv2.Rodrigues(hands.global_orient[k])[0])[0][:, 0]
                meta |= {"handPose": np.concatenate([turned, hands.hand_pose[k]]), "handBeta": hands.betas[k], "handJoints3D": joints}
                meta |= {"handTrans": np.zeros(3)}
            else:
                meta |= {"handJoints3D": joints[0], "handBoundingBox": [*pixels.min(0).tolist(), *pixels.max(0).tolist()]}
            if split == "train" and k == 0:
                meta = dict.fromkeys(meta)
            write_meta(folder / split / sequence / "meta" / f"{number}.pkl", meta)
            picture = folder / split / sequence / "rgb" / f"{number}{suffix}"
            picture.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(picture), spotted(pixels[0], 640, 480))
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    for kind, values in (("xyz", published(evaluation, HO3D_TIPS)[:, back]), ("verts", evaluation.vertices)):
        (folder / f"evaluation_{kind}.json").write_text(json.dumps((values * TO_OPENGL).tolist()))
    return folder


def write_meta(path: Path, meta: Mapping[str, object]) -> None:
    """Pickle as Python 2 with numpy 1 would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(dict(meta), protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def exact_model(path: Path) -> HandModel:
    return load_hand_model(path, dtype=torch.float64)


def spot(picture: np.ndarray) -> np.ndarray:
    """Where the spot is, pixels counted from the image's corner."""
    light = np.clip(picture[..., 0].astype(float) - 130, 0, None)
    y, x = np.mgrid[: len(light), : light.shape[1]]
    return np.array([(light * x).sum(), (light * y).sum()]) / light.sum() + 0.5
