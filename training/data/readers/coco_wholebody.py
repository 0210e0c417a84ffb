"""COCO-WholeBody's hands (Jin et al., ECCV 2020), official files: `annotations/coco_wholebody_val_v1.0.json` and `val2017/*.jpg`,
or those of `train`.

Boxes are the hulls of 21 drawn keypoints. A hand counts when it is marked valid; one that has a box and is not, and a crowd of people, is
ignored. A hand that nobody drew a box around is unknown to the set: a detector that finds it is charged with it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fitting.files import below
from stages.tables import LEFT, RIGHT
from training.data.readers.labelled_image import LabelledImage, read_json

_HANDS = {"lefthand": LEFT, "righthand": RIGHT}


def coco_wholebody(folder: Path, split: Literal["val", "train"] = "val") -> Iterator[LabelledImage]:
    """Every image of a split, those without people too, and the keypoints of its hands.

    Raises FileNotFoundError where the labels or the images are not in the folder, ValueError when the labels are others.
    """
    file, place = f"coco_wholebody_{split}_v1.0.json", f"{split}2017"
    labels = next((path for path in (folder / "annotations" / file, folder / file) if path.is_file()), None)
    images = next((path for path in (folder / place, folder / "images" / place) if path.is_dir()), None)
    if labels is None or images is None:
        lacking = f"annotations/{file}" if labels is None else f"{place}/"
        raise FileNotFoundError(f"{folder} has no {lacking}: take the labels from github.com/jin-s13/COCO-WholeBody, the images from COCO")
    told = read_json(labels)
    people = defaultdict(list)
    for person in told["annotations"]:
        if "lefthand_box" not in person:
            raise ValueError(f"{labels} is not COCO-WholeBody's: annotation {person.get('id')} has no lefthand_box")
        people[person["image_id"]].append(person)
    for image in told["images"]:
        hands = [hand for person in people[image["id"]] for hand in _hands(person)]
        counted = [hand for hand in hands if hand.valid]
        crowds = [_xyxy(person["bbox"]) for person in people[image["id"]] if person.get("iscrowd")]
        yield LabelledImage(
            name=str(image["id"]),
            source=below(images, image["file_name"]),
            box=np.array([hand.box for hand in counted], np.float64).reshape(-1, 4),
            side=np.array([hand.side for hand in counted], np.int64),
            ignore=np.array([*(hand.box for hand in hands if not hand.valid), *crowds], np.float64).reshape(-1, 4),
            keypoints=np.array([hand.keypoints for hand in counted], np.float64).reshape(-1, 21, 3),
        )


class _Hand(NamedTuple):
    box: list[float]
    side: int
    valid: bool
    keypoints: np.ndarray
    """Pixels, and 1 where somebody saw it."""


def _hands(person: Mapping[str, Any]) -> Iterator[_Hand]:
    """The hands of a person that have a box."""
    for name, side in _HANDS.items():
        box = _xyxy(person[f"{name}_box"])
        if box[2] > box[0] and box[3] > box[1]:
            keypoints = np.array(person.get(f"{name}_kpts", np.zeros(63)), np.float64).reshape(21, 3)
            keypoints[:, 2] = keypoints[:, 2] > 0
            yield _Hand(box, side, bool(person[f"{name}_valid"]), keypoints)


def _xyxy(box: list[float]) -> list[float]:
    left, top, width, height = box
    return [left, top, left + width, top + height]
