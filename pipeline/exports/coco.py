"""COCO keypoints: `annotations/SPLIT.json` beside `images/SPLIT/VIDEO/FRAME.jpg`; a category a side, 21 keypoints, MANO besides.

Boxes are COCO's left, top, width, height. A hand that was dropped, or not taken, is a crowd: it counts neither way.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.exports.source import Frame, Source, json_of, plain, seen, side_name
from stages.tables import HAND_KEYPOINTS, UNKNOWN_SIDE

CATEGORIES: Mapping[str, int] = {"left": 1, "right": 2, "unknown": 3}
NAMES: Mapping[str, str] = {"left": "left_hand", "right": "right_hand", "unknown": "hand"}
SKELETON = [[1 if k % 4 == 1 else k, k + 1] for k in range(1, 21)]
"""Bones, counted from 1 as COCO does: from the wrist to each finger's first joint, then along it."""
MANO = ("betas", "global_orient", "hand_pose", "transl", "camera", "joints_3d", "joints_2d")
PLACE = ("camera_from", "focal_px", "principal", "transl_world", "global_orient_world")
MORE = (
    "hand",
    "track",
    "person",
    "score",
    "quality",
    "side_log_odds",
    "error_px",
    "error_share",
    "landmark_score",
    "num_agree",
    "box_mesh",
)


def write(source: Source, folder: Path, _: Mapping[str, object]) -> None:
    """Write all splits; the parts of a file of annotations grow side by side, and are put together at its end."""
    (folder / "annotations").mkdir()
    for split in source.splits:
        _write_split(source, split, folder)


def _write_split(source: Source, split: str, folder: Path) -> None:
    licences: dict[str, int] = {}
    number, note = 0, 0
    parts = {name: folder / "annotations" / f".{split}.{name}" for name in ("images", "annotations")}
    with parts["images"].open("w") as images, parts["annotations"].open("w") as notes:
        for number, frame in enumerate(source.frames(split), 1):
            path = folder / "images" / split / f"{frame.name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(frame.image)
            licence = licences.setdefault(frame.about["licence"] or "not stated", len(licences) + 1)
            told = {"id": number, "file_name": f"{split}/{frame.name}.jpg", "width": frame.width, "height": frame.height}
            _add(images, told | {"license": licence, "whim": frame.about_it()}, first=number == 1)
            for hand in _hands(frame):
                note += 1
                _add(notes, {"id": note, "image_id": number, **hand}, first=note == 1)
    with (folder / "annotations" / f"{split}.json").open("w") as file:
        info = {"description": f"hands in video, split {split}", "hand_model": source.hand_model, "pose_prior": source.pose_prior}
        known = [{"id": k, "name": name, "url": ""} for name, k in licences.items()]
        head = json_of({"info": info, "licenses": known, "categories": _categories()})
        file.write(head[:-1])
        for name, part in parts.items():
            file.write(f',"{name}":[')
            with part.open() as lines:
                file.writelines(lines)
            file.write("]")
            part.unlink()
        file.write("}\n")


def _add(file: IO[str], value: Any, *, first: bool) -> None:
    file.write(("\n" if first else ",\n") + json_of(value))


def _categories() -> list[dict[str, Any]]:
    facts = {"supercategory": "hand", "keypoints": list(HAND_KEYPOINTS), "skeleton": SKELETON}
    return [{"id": number, "name": NAMES[side], **facts} for side, number in CATEGORIES.items()]


def _hands(frame: Frame) -> Iterator[dict[str, Any]]:
    hands, known = frame.hands, seen(frame.hands["keypoints"])
    points = np.where(known[..., None], hands["keypoints"][..., :2], 0)
    confidence = np.where(known, np.nan_to_num(hands["keypoints"][..., 2]), 0)
    marked = np.concatenate([points, 2 * known[..., None]], 2).reshape(len(frame), 63).astype(np.float32)
    box = hands["box"].astype(np.float64)
    sizes = box[:, 2:] - box[:, :2]
    columns = {
        "bbox": plain(np.concatenate([box[:, :2], sizes], 1).astype(np.float32)),
        "area": plain(sizes.prod(1).astype(np.float32)),
        "keypoints": plain(marked),
        "keypoint_confidence": plain(confidence.astype(np.float32)),
        "num_keypoints": known.sum(1).tolist(),
        **{name: plain(hands[name]) for name in (*MORE, *MANO, *PLACE)},
    }
    for row in range(len(frame)):
        side = side_name(hands["side"][row])
        yield {"category_id": CATEGORIES[side], "iscrowd": 0, "side": side, **{name: values[row] for name, values in columns.items()}}
    for crowd in frame.ignore.astype(np.float64):
        around = plain(np.concatenate([crowd[:2], crowd[2:] - crowd[:2]]).astype(np.float32))
        nothing = {"keypoints": [0.0] * 63, "num_keypoints": 0, "area": around[2] * around[3]}
        yield {"category_id": CATEGORIES[side_name(UNKNOWN_SIDE)], "iscrowd": 1, "bbox": around, **nothing}
