"""Labels of hands in formats of others: COCO's, COCO-WholeBody's, and YOLO's with or without keypoints; boxes, sides, 21 keypoints.

Boxes are xyxy in pixels of the image as it is stored. The side is that of a category's or class's name, an annotation's own `side`, or that
of a whole body's hand; else nobody knows it. Where categories or classes name hands, others are no hands; where none does, all are, unless
one is people.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from hands.images import read_image
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_WHOLE_BODY = {"lefthand": LEFT, "righthand": RIGHT}
_A_HAND = re.compile(r"hand(?!bag|basket|book|cart|cuff|gun|kerchief|le(?!ft)|rail|saw|set|truck|wheel)")
_NO_HANDS = {"person", "persons", "people", "pedestrian", "body", "face", "head"}
_K = TypeVar("_K", int, str)
Hand = tuple[list[float], int, list[list[float]]]
"""Box, side, keypoints: x, y and how sure; NaN for what nobody marked."""


class YoloClasses(NamedTuple):
    """Classes of a YOLO folder by its `data.yaml`: which are hands, of which side, and whether lines may be outlines."""

    side: Mapping[int, int] = {}
    """The side of each class; of others nobody knows it."""
    hands: frozenset[int] | None = None
    """Classes that are hands; None: all."""
    has_outlines: bool = False
    """A line that goes on after four numbers is an outline, as no `kpt_shape` is stated."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ForeignImage:
    """An image and the hands that a file says are on it."""

    name: str
    width: float
    height: float
    box: Float64[np.ndarray, "n 4"]
    side: Int64[np.ndarray, "n"]  # 0 left, 1 right, -1 nobody knows
    keypoints: Float64[np.ndarray, "n 21 3"]  # NaN where nobody marked any
    ignore: Float64[np.ndarray, "m 4"]
    licence: str = ""


def coco_images(path: Path) -> list[ForeignImage]:
    """The images of a file of COCO's or COCO-WholeBody's format, in its order. Raises ValueError that names a file that is none."""
    try:
        told = json.loads(path.read_bytes())
        hands, ignored = _hands_of_coco(told)
        licences = {one.get("id"): str(one.get("name", "")) for one in told.get("licenses", ())}
        return [
            foreign_image(
                str(image["file_name"]),
                (float(image["width"]), float(image["height"])),
                hands[image["id"]],
                ignored[image["id"]],
                licences.get(image.get("license"), ""),
            )
            for image in told["images"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is no COCO file ({error!r:.200}): images and annotations are wanted") from error


def _hands_of_coco(told: Mapping[str, Any]) -> tuple[Mapping[Any, list[Hand]], Mapping[Any, list[list[float]]]]:
    """Hands and ignored boxes by image."""
    names = {one["id"]: str(one.get("name", "")) for one in told.get("categories", ())}
    of_bodies = all("lefthand_box" in note for note in told["annotations"])
    are_hands = None if of_bodies else hand_classes(names)
    hands: defaultdict[Any, list[Hand]] = defaultdict(list)
    ignored: defaultdict[Any, list[list[float]]] = defaultdict(list)
    for note in told["annotations"]:
        image = note["image_id"]
        if "lefthand_box" in note:
            for name, side in _WHOLE_BODY.items():
                box = _xyxy(note[f"{name}_box"])
                if box[2] > box[0] and box[3] > box[1]:
                    if note.get(f"{name}_valid"):
                        hands[image].append((box, side, marked(note.get(f"{name}_kpts"))))
                    else:
                        ignored[image].append(box)
            if note.get("iscrowd"):
                ignored[image].append(_xyxy(note["bbox"]))
        elif note.get("iscrowd"):
            ignored[image].append(_xyxy(note["bbox"]))
        elif are_hands is None or note.get("category_id") in are_hands:
            side = side_of(str(note.get("side") or names.get(note.get("category_id"), "")))
            hands[image].append((_xyxy(note["bbox"]), side, marked(note.get("keypoints"))))
    return hands, ignored


def foreign_image(
    name: str, size: tuple[float, float], hands: Sequence[Hand], ignored: Sequence[list[float]], licence: str = ""
) -> ForeignImage:
    """An image from its hands, one after the other."""
    return ForeignImage(
        name=name,
        width=size[0],
        height=size[1],
        box=np.array([box for box, _, _ in hands], np.float64).reshape(-1, 4),
        side=np.array([side for _, side, _ in hands], np.int64),
        keypoints=np.array([points for _, _, points in hands], np.float64).reshape(-1, 21, 3),
        ignore=np.array(ignored, np.float64).reshape(-1, 4),
        licence=licence,
    )


def yolo_images(folder: Path) -> Iterator[ForeignImage]:
    """The images of a YOLO folder that have a file of labels, by `yolo_file`, and `data.yaml` with the names of its classes.

    Raises ValueError that names a file of labels that is none, FileNotFoundError for a folder without labels.
    """
    if not has_yolo_labels(folder):
        raise FileNotFoundError(f"{folder} has no labels/: a YOLO folder has images/ and labels/")
    classes = yolo_classes(folder)
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()):
        file = yolo_file(folder, path)
        size = stored_size(path)
        if file.is_file() and size:
            yield foreign_image(str(path.relative_to(folder)), size, yolo_hands(file, size, classes), [])


def has_yolo_labels(folder: Path) -> bool:
    """Whether a folder is YOLO's: it, or one in it (`train`, `valid`), has `labels/`."""
    return any(labels.is_dir() for labels in (folder / "labels", *folder.glob("*/labels")))


def yolo_file(folder: Path, image: Path) -> Path:
    """An image's file of labels: `labels/` where its path in the folder has `images/` last, else the same path below `labels/`."""
    *parents, name = image.relative_to(folder).with_suffix(".txt").parts
    if "images" not in parents:
        return folder.joinpath("labels", *parents, name)
    last = len(parents) - 1 - parents[::-1].index("images")
    return folder.joinpath(*parents[:last], "labels", *parents[last + 1 :], name)


def yolo_classes(folder: Path) -> YoloClasses:
    """Classes of a YOLO folder, read from its `data.yaml`. Raises ValueError where that names none, or people and no hands."""
    import yaml

    file = next((path for path in (folder / "data.yaml", folder / "dataset.yaml") if path.is_file()), None)
    if file is None:
        return YoloClasses()
    try:
        told = yaml.safe_load(file.read_text())
        if not isinstance(told, dict):
            raise ValueError(f"it holds {'nothing' if told is None else f'a {type(told).__name__}'}, and no name: value")
        names = {int(k): str(n) for k, n in (told["names"].items() if isinstance(told["names"], dict) else enumerate(told["names"]))}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(f"{file} names no classes ({why}): names: {{0: left_hand, 1: right_hand}} is wanted") from error
    try:
        hands = hand_classes(names)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return YoloClasses({k: side_of(name) for k, name in names.items()}, hands, "kpt_shape" not in told)


def hand_classes(names: Mapping[_K, str]) -> frozenset[_K] | None:
    """Which of some classes are hands by their names; None where no name says so: all of them. Raises ValueError where people are among
    those."""
    named = frozenset(number for number, name in names.items() if _A_HAND.search(name.lower()))
    others = [name for name in names.values() if _NO_HANDS & set(re.findall(r"[a-z]+", name.lower()))]
    if others and not named:
        raise ValueError(f"{others[0]} is no hand, and no class is called one: call those that are hand, left_hand or right_hand")
    return named or None


def yolo_hands(file: Path, size: tuple[float, float], classes: YoloClasses) -> list[Hand]:
    """The hands of a file of labels: class, centre and size, then x, y (and visibility) of 21 keypoints, as shares of the image; or class
    and an outline, of which the box is taken."""
    hands: list[Hand] = []
    try:
        for line in filter(str.strip, file.read_text().splitlines()):
            kind, *rest = line.split()
            number, values = int(float(kind)), np.array(list(map(float, rest)), np.float64)
            if classes.hands is not None and number not in classes.hands:
                if number not in classes.side:
                    raise ValueError(f"no class {number} is named")
                continue
            points = np.empty(0)
            if classes.has_outlines and len(values) > 4 and len(values) % 2 == 0:
                low, high = (reach(values.reshape(-1, 2), axis=0) for reach in (np.min, np.max))
            else:
                x, y, width, height, *more = values.tolist()
                low, high = np.array([x - width / 2, y - height / 2]), np.array([x + width / 2, y + height / 2])
                points = np.array(more, np.float64)
            box = np.concatenate([low * size, high * size]).tolist()
            rows = points.reshape(21, -1).tolist() if points.size in (42, 63) else []  # others are keypoints of something else
            scaled = [[row[0] * size[0], row[1] * size[1], *(row[2:] or [2.0])] for row in rows]
            hands.append((box, classes.side.get(number, UNKNOWN_SIDE), marked([v for row in scaled for v in row])))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{file} is no file of YOLO's boxes ({error}): class, centre and size a line are wanted") from error
    return hands


def stored_size(path: Path) -> tuple[float, float] | None:
    """Width and height of an image as it is stored, of a JPEG without decoding it; None where it is none."""
    import cv2
    import simplejpeg

    if path.suffix.lower() in (".jpg", ".jpeg"):
        with suppress(ValueError):  # it may be a PNG by another name
            height, width, *_ = simplejpeg.decode_jpeg_header(path.read_bytes())
            return float(width), float(height)
    image = read_image(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if image is None else (float(image.shape[1]), float(image.shape[0]))


def side_of(name: str) -> int:
    """The side that a name says."""
    words = re.findall(r"[a-z]+", name.lower())
    is_left, is_right = (any(word.startswith(side) for word in words) for side in ("left", "right"))
    return UNKNOWN_SIDE if is_left == is_right else LEFT if is_left else RIGHT


def marked(values: Any) -> list[list[float]]:
    """21 keypoints from x, y and visibility (0: nobody marked it) or confidence, one after the other; NaN where there are no 21."""
    nobody = [[float("nan")] * 3 for _ in range(21)]
    if not isinstance(values, list) or len(values) != 63:
        return nobody
    points = np.array(values, np.float64).reshape(21, 3)
    points[:, 2] = np.minimum(points[:, 2], 1.0)
    points[points[:, 2] <= 0] = np.nan
    rows: list[list[float]] = points.tolist()
    return rows


def _xyxy(box: Sequence[float]) -> list[float]:
    left, top, width, height = map(float, box)
    return [left, top, left + width, top + height]
