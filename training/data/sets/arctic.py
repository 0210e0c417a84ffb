"""ARCTIC's hands on images (Fan et al., CVPR 2023), official files: `splits/p1_train.npy`, `meta/misc.json` and either `images/` or
`cropped_images/`, `s01/box_grab_01/1/00001.jpg`.

Of each sequence the split tells joints before each camera (MANO's 16 and five tips, metres), their pixels, MANO's turn in each camera's
axes and its pose about the mean pose. Left hands' betas are MANO_LEFT's with its wrong `shapedirs` and stay unknown. The first view is the
head camera's, whose lens bends what the labels do not: it is left out. The file is read without running code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fitting.hand.mano import LEFT, OPENPOSE_ORDER, RIGHT
from fitting.hand.restricted_pickle import as_array, objects_of_npy
from training.data.readers.labelled_image import read_json
from training.data.sets.hand_crops import PIXEL_MIDDLE, HandCrops, training_crops, with_mean_pose

CROPPED_PX, AROUND = 1000, 1.5
"""Side of a cropped image, and of what it shows over the box's 200 `scale` pixels (its `transform_kp2d`)."""
_SIDES = {RIGHT: ("right", "r"), LEFT: ("left", "l")}
WHERE = "get the splits, meta and cropped images from arctic.is.tue.mpg.de, and unzip them"


def arctic(folder: Path, *, every: int = 1) -> HandCrops:
    """The valid hands of protocol 1's training split in its eight outer cameras, or of every n-th image. Raises as the other readers."""
    folder = next((path for path in (folder, folder / "data", folder / "arctic_data" / "data") if (path / "splits").is_dir()), folder)
    split, misc = folder / "splits" / "p1_train.npy", folder / "meta" / "misc.json"
    images = next((folder / name for name in ("images", "cropped_images") if (folder / name).is_dir()), None)
    if missing := next((str(path) for path in (split, misc) if not path.is_file()), None if images else f"{folder}/cropped_images/"):
        raise FileNotFoundError(f"{missing} is missing: {WHERE}")
    assert images is not None
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "side", "points", "joints", *_PARAMETERS)}
    try:
        (content,) = objects_of_npy(split.read_bytes())
        first = {subject: int(of["ioi_offset"]) for subject, of in read_json(misc).items()}
        sequences = {name: _arrays(of) for name, of in content["data_dict"].items()}
        for name in _names(content["imgnames"])[::every]:
            subject, sequence, view, frame = str(name).split("/")[-4:]
            if view != "0":
                of = sequences[f"{subject}/{sequence}"]
                row = int(frame.split(".")[0]) - first[subject], int(view)
                _add(rows, f"{images}/{subject}/{sequence}/{view}/{frame}", of, row, cropped=images.name == "cropped_images")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{split} is no split of ARCTIC ({error!r}): {WHERE}") from error
    if not rows["image"]:
        raise ValueError(f"{split} has no valid hand: {WHERE}")
    side = np.array(rows["side"])
    columns = {name: np.array(values, np.float64) for name, values in rows.items() if name not in ("image", "side")}
    pose = with_mean_pose(columns["hand_pose"], side)
    return training_crops("arctic p1 train", rows["image"], side, **columns | {"hand_pose": pose})


_PARAMETERS = ("betas", "global_orient", "hand_pose")


def _add(rows: dict[str, list[Any]], image: str, of: Mapping[str, np.ndarray], row: tuple[int, int], *, cropped: bool) -> None:
    """The hands of one image."""
    frame, _ = row
    for side, (name, letter) in _SIDES.items():
        if not (of["is_valid"][row] and of[f"{name}_valid"][row]):
            continue
        points = of[f"2d {name}"][row]
        if cropped:
            x, y, scale = of["bbox"][row]
            shown = AROUND * 200 * scale
            points = (points - [x - shown / 2, y - shown / 2]) * CROPPED_PX / shown
        rows["image"].append(image)
        rows["side"].append(side)
        rows["points"].append(np.concatenate([points + PIXEL_MIDDLE, np.ones((21, 1))], 1)[list(OPENPOSE_ORDER)])
        rows["joints"].append(of[f"3d {name}"][row][list(OPENPOSE_ORDER)])
        rows["global_orient"].append(of[f"rot_{letter}_cam"][row])
        rows["hand_pose"].append(of[f"pose_{letter}"][frame])
        shape = of[f"shape_{letter}"]
        rows["betas"].append(shape[frame] if side == RIGHT and shape.ndim == 2 else shape if side == RIGHT else np.full(10, np.nan))


def _arrays(sequence: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What is wanted of one sequence."""
    camera, flat, told = sequence["cam_coord"], sequence["2d"], sequence["params"]
    found = {"bbox": sequence["bbox"], "is_valid": camera["is_valid"]}
    for name, letter in _SIDES.values():
        found |= {f"3d {name}": camera[f"joints.{name}"], f"2d {name}": flat[f"joints.{name}"], f"{name}_valid": camera[f"{name}_valid"]}
        found |= {f"rot_{letter}_cam": camera[f"rot_{letter}_cam"]}
        found |= {key: told[key] for key in (f"pose_{letter}", f"shape_{letter}")}
    return {key: as_array(value).astype(np.float64) for key, value in found.items()}


def _names(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else as_array(value).ravel().tolist()
