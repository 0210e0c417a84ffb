"""HInt (Pavlakos et al., CVPR 2024), official files: `TEST_newdays_img/NAME_r.jpg` with `NAME_r.json`, and so on for `epick` and `ego4d`.

A file tells one hand, `bbox` [[x0, y0, x1, y1]], 21 `keypoints` in OpenPose's order, pixels, and the `occlusion` of each; its name ends
with the hand's side. There is no truth in space: what can be measured is where joints fall in the image.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from fitting.hand.mano import LEFT, RIGHT
from training.data.readers.labelled_image import read_json
from training.data.sets.hand_crops import HandCrops, training_crops

SUBSETS = ("newdays", "epick", "ego4d")
_SIDES = {"l": LEFT, "r": RIGHT}
WHERE = "get HInt_annotation_partial.zip as github.com/ddshan/hint says, and unzip it"


class HintHands(NamedTuple):
    """Hands of one subset."""

    crops: HandCrops
    """Around the set's boxes."""
    occluded: Bool[np.ndarray, "n 21"]


def hint(folder: Path, subset: str) -> HintHands | None:
    """The test images of a subset; None where the folder has none of it. Raises ValueError for a damaged file."""
    images = sorted((folder / f"TEST_{subset}_img").glob("*.jpg"))
    images = [path for path in images if path.with_suffix(".json").is_file()]
    side, points, box, occluded = [], [], [], []
    for path in images:
        try:
            (told,) = read_json(path.with_suffix(".json"))
            points.append(np.array(told["keypoints"], np.float64).reshape(21, -1)[:, :2])
            occluded.append(np.array(told["occlusion"], np.float64).reshape(21) > 0.5)
            box.append(np.array(told["bbox"][0], np.float64).reshape(4))
            side.append(_SIDES[path.stem[-1]])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{path.with_suffix('.json')} is no label of HInt ({error!r}): {WHERE}") from error
    if not images:
        return None
    with_confidence = np.concatenate([np.array(points), np.ones((len(images), 21, 1))], 2)
    crops = training_crops(f"hint {subset}", images, np.array(side), points=with_confidence, box=np.array(box))
    return HintHands(crops, np.array(occluded))
