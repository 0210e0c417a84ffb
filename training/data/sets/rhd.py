"""Rendered Handpose Dataset (Zimmermann and Brox, ICCV 2017), official files: `training/anno_training.pickle`, `training/color/00000.png`.

Its README: 42 keypoints, those of the left hand first; of each hand the wrist, then thumb to little finger, each from its tip to the
palm. `uv_vis` are pixels and whether they are seen, `xyz` metres before the camera `K`. The pickle is read without running code.
"""

from pathlib import Path

import numpy as np

from fitting.hand.mano import LEFT, RIGHT
from fitting.hand.restricted_pickle import ARRAYS, as_array, read_pickle
from training.data.sets.hand_crops import FEWEST_POINTS, HandCrops, training_crops

ORDER = (0, *(1 + 4 * finger + 3 - joint for finger in range(5) for joint in range(4)))
"""For each of OpenPose's keypoints, its row of a hand's 21."""
WHERE = "get RHD_v1-1.zip from lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html, and unzip it"


def rhd(folder: Path) -> HandCrops:
    """The hands of the training split of which some points are seen. Raises as the other readers."""
    folder = folder / "RHD_published_v2" if (folder / "RHD_published_v2").is_dir() else folder
    path = folder / "training" / "anno_training.pickle"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {WHERE}")
    images, side, joints, matrix = [], [], [], []
    try:
        for number, told in sorted(read_pickle(path.read_bytes(), ARRAYS).items()):
            seen, space = (as_array(told[name]).astype(np.float64).reshape(2, 21, 3) for name in ("uv_vis", "xyz"))
            for of in (LEFT, RIGHT):
                if (seen[of, :, 2] > 0).sum() >= FEWEST_POINTS:
                    images.append(f"{folder}/training/color/{number:05d}.png")
                    side.append(of)
                    joints.append(space[of, list(ORDER)])
                    matrix.append(as_array(told["K"]).astype(np.float64).reshape(3, 3))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no annotation of RHD ({error}): {WHERE}") from error
    return training_crops(
        "rhd training", images, np.array(side), joints=np.array(joints).reshape(-1, 21, 3), matrix=np.array(matrix).reshape(-1, 3, 3)
    )
