"""Hands drawn on people in the wild, 21 keypoints in the image in OpenPose's order: COCO-WholeBody (Jin et al., ECCV 2020) and Halpe
(Fang et al., TPAMI 2022), both in COCO's format.

COCO-WholeBody: `annotations/coco_wholebody_train_v1.0.json`, `train2017/`; `lefthand_kpts` and `lefthand_valid` and so on. Halpe:
`annotations/halpe_train_v1.json` on HICO-DET's `train2015/`; of its 136 keypoints 94 to 114 are the left hand's and 115 to 135 the right's.
Keypoints that nobody saw have a third number of 0.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fitting.files import below
from fitting.hand.mano import LEFT, RIGHT
from training.data.readers.labelled_image import read_json
from training.data.sets.hand_crops import FEWEST_POINTS, HandCrops, training_crops

HALPE_FIRST = {LEFT: 94, RIGHT: 115}
_COCO = "take the labels from github.com/jin-s13/COCO-WholeBody and train2017 from cocodataset.org"
_HALPE = "take the labels from github.com/Fang-Haoshu/Halpe-FullBody and hico_20160224_det from HICO-DET"


def coco_wholebody_hands(folder: Path) -> HandCrops:
    """The hands of the training set that are marked valid. Raises as the other readers."""
    path, images = _found(folder, "coco_wholebody_train_v1.0.json", ("train2017", "images/train2017"), _COCO)

    def hands(person: Any) -> list[tuple[int, np.ndarray]]:
        sides = {LEFT: "lefthand", RIGHT: "righthand"}
        return [(side, np.array(person[f"{name}_kpts"], np.float64)) for side, name in sides.items() if person[f"{name}_valid"]]

    return _crops("coco-wholebody train", path, images, hands, _COCO)


def halpe_hands(folder: Path) -> HandCrops:
    """The hands of the training set with some keypoints. Raises as the other readers."""
    places = ("hico_20160224_det/images/train2015", "images/train2015", "train2015")
    path, images = _found(folder, "halpe_train_v1.json", places, _HALPE)

    def hands(person: Any) -> list[tuple[int, np.ndarray]]:
        points = np.array(person["keypoints"], np.float64).reshape(-1, 3)
        return [(side, points[first : first + 21]) for side, first in HALPE_FIRST.items()] if len(points) == 136 else []

    return _crops("halpe train", path, images, hands, _HALPE)


def _found(folder: Path, labels: str, places: tuple[str, ...], where: str) -> tuple[Path, Path]:
    path = next((path for path in (folder / "annotations" / labels, folder / labels) if path.is_file()), None)
    images = next((folder / place for place in places if (folder / place).is_dir()), None)
    if path is None or images is None:
        raise FileNotFoundError(f"{folder} has no {f'annotations/{labels}' if path is None else f'{places[0]}/'}: {where}")
    return path, images


def _crops(name: str, path: Path, folder: Path, hands: Any, where: str) -> HandCrops:
    told = read_json(path)
    images, side, points = [], [], []
    try:
        names = {image["id"]: str(below(folder, image["file_name"])) for image in told["images"]}
        for person in told["annotations"]:
            for of, keypoints in hands(person):
                keypoints = keypoints.reshape(21, 3)
                seen = keypoints[:, 2] > 0
                if seen.sum() >= FEWEST_POINTS:
                    images.append(names[person["image_id"]])
                    side.append(of)
                    points.append(np.concatenate([keypoints[:, :2], seen[:, None]], 1))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not what {name} is labelled with ({error!r}): {where}") from error
    return training_crops(name, images, np.array(side), points=np.array(points).reshape(-1, 21, 3))
