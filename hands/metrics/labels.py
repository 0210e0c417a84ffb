"""Labelled frames: reading a label file, and which hands found in a frame are its labelled ones.

Boxes are xyxy in pixels of the full frame; a labelled hand is found when a hand overlaps it by IoU >= 0.3.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from fitting.files import below
from hands.metrics.foreign_labels import ForeignImage, coco_images, yolo_images
from stages import boxes
from stages.tables import LEFT, RIGHT

FORMAT = "handmedia-bench/1"
MATCH_IOU = 0.3
"""The labels are drawn by eye: higher overlaps would measure the drawing."""
SIZES: Mapping[str, float] = {"<4%": 0.04, "4-10%": 0.1, "10-25%": 0.25, ">25%": math.inf}
"""Classes of a hand's longer side as a share of the frame's longer side, by their upper ends."""
UNKNOWN = -1
"""A label without a side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrame:
    """One frame and all the hands in it."""

    name: str
    video: str  # path relative to the media folder, or ''
    frame: int  # index in decode order
    image: str  # path relative to the media folder, or ''
    width: int
    height: int
    box: Float[np.ndarray, "n 4"]
    side: Int64[np.ndarray, "n"]  # 0 left, 1 right, -1 not decidable
    ignore: Float[np.ndarray, "m 4"]  # detections in here count neither way
    num_persons: int = 0  # labelled, 0 where nobody counted


MIRRORED = "mirrored/"
"""Before the name of a frame that is shown mirrored, left for right, and of its video."""


def mirrored(label: LabelledFrame) -> LabelledFrame:
    """The labels of the mirrored frame: as good a frame as the one that was labelled, on which nobody has tuned anything."""

    def flipped(box: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        return np.column_stack([label.width - box[:, 2], box[:, 1], label.width - box[:, 0], box[:, 3]])

    return replace(
        label,
        name=MIRRORED + label.name,
        video=label.video and MIRRORED + label.video,
        box=flipped(label.box),
        side=np.where(label.side == UNKNOWN, UNKNOWN, LEFT + RIGHT - label.side),
        ignore=flipped(label.ignore),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Found and false hands of one labelled frame."""

    found: Int64[np.ndarray, "n"]  # of each label: the row of the hand that matches it, or -1
    false: Bool[np.ndarray, "m"]  # of each hand: matches no label and lies in no ignored region


def load_labels(path: Path) -> list[LabelledFrame]:
    """Frames of a label file: this project's, COCO's or COCO-WholeBody's; or of a folder of YOLO's labels.

    Raises ValueError that says what is wrong when it is of none of these formats.
    """
    if path.is_dir():
        return [_foreign(image) for image in yolo_images(path)]
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if isinstance(content, dict) and "format" not in content and "annotations" in content:
        return [_foreign(image) for image in coco_images(path)]
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}, wanted {FORMAT!r}: a JSON object with 'format' and a list 'images'")
    frames = []
    images = content.get("images", [])
    if not isinstance(images, list):
        raise ValueError(f"{path}: its 'images' is no list")
    for i, item in enumerate(images):
        try:
            frames.append(_labelled(item))
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            name = str(item.get("id") if isinstance(item, dict) else item)[:100]
            raise ValueError(f"{path}: image {i} ({name}): {error!r:.300}") from error
    return frames


def _foreign(image: ForeignImage) -> LabelledFrame:
    """An image as others label it; its name is its path below the media folder."""
    below(Path(), image.name)
    return LabelledFrame(
        name=image.name,
        video="",
        frame=0,
        image=image.name,
        width=int(image.width),
        height=int(image.height),
        box=image.box,
        side=image.side,
        ignore=image.ignore,
    )


def _labelled(item: Mapping[str, Any]) -> LabelledFrame:
    sides = {"left": LEFT, "right": RIGHT, None: UNKNOWN}
    video, image = item.get("video") or "", item.get("jpeg") or item.get("image") or ""
    for path in filter(None, (video, image)):
        below(Path(), path)
    frame = int(item.get("frame") or 0)
    if frame < 0:
        raise ValueError(f"frames count from 0, got {frame}")
    return LabelledFrame(
        name=str(item["id"]),
        video=video,
        frame=frame,
        image=image,
        width=int(item["width"]),
        height=int(item["height"]),
        box=_boxes([h["box"] for h in item["hands"]], "hands"),
        side=np.array([sides[h["side"]] for h in item["hands"]], np.int64),
        ignore=_boxes(item.get("ignore", []), "ignore"),
        num_persons=len(item.get("persons") or []),
    )


def _boxes(given: Sequence[Any], where: str) -> Float[np.ndarray, "n 4"]:
    """Boxes of a label. Raises ValueError for what is none: it would be found by nobody, and ignore nothing."""
    box = np.array(given, np.float64).reshape(len(given), 4)
    good = np.isfinite(box).all(1) & (box[:, 2:] >= box[:, :2]).all(1)
    if not good.all():
        raise ValueError(f"{where}: {box[~good][0].tolist()} is no box x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
    return box


def match(
    box: Float[np.ndarray, "n 4"], score: Float[np.ndarray, "n"], target: Float[np.ndarray, "m 4"], min_iou: float = MATCH_IOU
) -> Int64[np.ndarray, "n"]:
    """For each hand of an image the target that it finds, or -1: the surest hand first takes the free target that it overlaps most."""
    overlap = boxes.iou(box.astype(np.float64), target.astype(np.float64))
    found, free = np.full(len(box), -1, np.int64), np.ones(len(target), bool)
    for row in np.argsort(-score, kind="stable").tolist():
        left = np.where(free, overlap[row], -1.0)
        if left.max(initial=-1.0) >= min_iou:
            found[row] = left.argmax()
            free[found[row]] = False
    return found


def match_hands(label: LabelledFrame, box: Float[np.ndarray, "m 4"], score: Float[np.ndarray, "m"]) -> Match:
    """Which labels of a frame are found, by `match`, and which hands are false.

    A hand without a label whose centre lies in an ignored region is not false.
    """
    target = match(box, score, label.box)
    found = np.full(len(label.box), -1, np.int64)
    found[target[target >= 0]] = np.flatnonzero(target >= 0)
    false = ~in_ignored(label, box)
    false[found[found >= 0]] = False
    return Match(found=found, false=false)


def in_ignored(label: LabelledFrame, box: Float[np.ndarray, "m 4"]) -> Bool[np.ndarray, "m"]:
    """Boxes whose centre lies in an ignored region, as it does wherever the greater part does."""
    middle = boxes.centre(box)[:, None]
    inside = ((middle >= label.ignore[None, :, :2]) & (middle <= label.ignore[None, :, 2:])).all(-1)
    return np.asarray(inside.any(-1).reshape(len(box)), np.bool_)
