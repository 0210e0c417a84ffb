"""COCO-WholeBody's hands (Jin et al., ECCV 2020), official files: `annotations/coco_wholebody_val_v1.0.json` and `val2017/*.jpg`.

Boxes are the hulls of 21 drawn keypoints. A hand counts when it is marked valid; one that has a box and is not, and a crowd of people, is
ignored. A hand that nobody drew a box around is unknown to the set: a detector that finds it is charged with it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fitting.files import below
from stages.tables import LEFT, RIGHT
from training.data.readers.labelled_image import LabelledImage, read_json

LABELS = "coco_wholebody_val_v1.0.json"
IMAGES = "val2017"
_HANDS = {"lefthand": LEFT, "righthand": RIGHT}


def coco_wholebody(folder: Path) -> Iterator[LabelledImage]:
    """Every image of the validation set, those without people too.

    Raises FileNotFoundError where the labels or the images are not in the folder, ValueError when the labels are others.
    """
    labels = next((path for path in (folder / "annotations" / LABELS, folder / LABELS) if path.is_file()), None)
    images = next((path for path in (folder / IMAGES, folder / "images" / IMAGES) if path.is_dir()), None)
    if labels is None or images is None:
        lacking = f"annotations/{LABELS}" if labels is None else f"{IMAGES}/"
        raise FileNotFoundError(f"{folder} has no {lacking}: take the labels from github.com/jin-s13/COCO-WholeBody, the images from COCO")
    told = read_json(labels)
    people = defaultdict(list)
    for person in told["annotations"]:
        if "lefthand_box" not in person:
            raise ValueError(f"{labels} is not COCO-WholeBody's: annotation {person.get('id')} has no lefthand_box")
        people[person["image_id"]].append(person)
    for image in told["images"]:
        hands = [hand for person in people[image["id"]] for hand in _hands(person)]
        counted = [(box, side) for box, side, valid in hands if valid]
        crowds = [_xyxy(person["bbox"]) for person in people[image["id"]] if person.get("iscrowd")]
        yield LabelledImage(
            name=str(image["id"]),
            source=below(images, image["file_name"]),
            box=np.array([box for box, _ in counted], np.float64).reshape(-1, 4),
            side=np.array([side for _, side in counted], np.int64),
            ignore=np.array([*(box for box, _, valid in hands if not valid), *crowds], np.float64).reshape(-1, 4),
        )


def _hands(person: Mapping[str, Any]) -> Iterator[tuple[list[float], int, bool]]:
    """Box, side and validity of each hand that has a box."""
    for name, side in _HANDS.items():
        box = _xyxy(person[f"{name}_box"])
        if box[2] > box[0] and box[3] > box[1]:
            yield box, side, bool(person[f"{name}_valid"])


def _xyxy(box: list[float]) -> list[float]:
    left, top, width, height = box
    return [left, top, left + width, top + height]
