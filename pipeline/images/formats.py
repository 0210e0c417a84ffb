"""Folders of labelled images, read: `images.jsonl` (or `pictures.jsonl`) of a line an image, COCO, YOLO, or images without labels.

Convention. Boxes are xyxy in pixels of the image as it is stored, x right, y down; a side is the person's own. What nobody labelled has
`hands` None; an image without hands has an empty list.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from hands.metrics.foreign_labels import (
    ENDINGS,
    ForeignImage,
    YoloClasses,
    coco_images,
    foreign_image,
    has_yolo_labels,
    stored_size,
    yolo_classes,
    yolo_file,
    yolo_hands,
)
from hands.metrics.labels import UNKNOWN
from pipeline.exports.formats import ABOUT
from stages.shards import SPLITS, split_of
from stages.tables import LEFT, RIGHT

JSONL = ("images.jsonl", "pictures.jsonl")
_PARTS = {**{split: split for split in SPLITS}, "valid": "val"}  # Roboflow's word
"""Splits by the folders that are called so."""
_SIDES = {"left": LEFT, "right": RIGHT, None: UNKNOWN}


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LabelledImage:
    """One image, and what people drew on it."""

    path: Path
    name: str
    """Its path within the folder."""
    group: str
    """A scene, person or video; a split holds all of it or nothing."""
    split: str
    box: Float64[np.ndarray, "n 4"]
    side: Int64[np.ndarray, "n"]  # 0 left, 1 right, -1 nobody knows
    keypoints: Float64[np.ndarray, "n 21 3"] | None = None
    """Marked by people, NaN where nobody did; None: nobody marked any."""
    ignore: Float64[np.ndarray, "m 4"]
    """Drawn around something that is no single hand."""
    labelled: bool
    """Somebody drew the boxes, be it none."""
    exhaustive: bool
    """All hands of the image are boxed."""
    about: Mapping[str, str] = field(default_factory=dict)
    """source, origin, licence, tier."""
    size: tuple[float, float] | None = None
    """Width and height, pixels, that its labels say it has; None: they say none."""


def read_images(folder: Path, tiers: Sequence[str] = ()) -> list[LabelledImage]:
    """The images of a folder by whichever labels it holds, `tiers` alone where any are named.

    Raises FileNotFoundError where there is no such folder or no image, ValueError for labels that cannot be read, boxes outside their
    image, images outside the folder or listed twice, and groups that lie in two splits.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: name one of images")
    listed = next((folder / name for name in JSONL if (folder / name).is_file()), None)
    coco = sorted(path for path in [*folder.glob("*.json"), *folder.glob("annotations/*.json")] if path.is_file() and path.name != ABOUT)
    if listed:
        found: Iterable[LabelledImage] = _of_jsonl(listed)
    elif coco:
        found = (image for path in coco for image in _of_coco(path, folder))
    elif by_split := sorted(path for part in _PARTS for path in (folder / part).glob("*.coco.json")):  # Roboflow's
        found = (_in_part(image, path.parent.name) for path in by_split for image in _of_coco(path, path.parent))
    else:
        found = _of_folder(folder, is_yolo=has_yolo_labels(folder))
    images = sorted((image for image in found if not tiers or image.about.get("tier") in tiers), key=lambda image: image.name)
    if not images:
        wanted = f" of tier {' or '.join(tiers)}" if tiers else ""
        raise FileNotFoundError(f"{folder} has no image{wanted}: {', '.join(JSONL)}, COCO, YOLO or plain images are read")
    _refuse_torn_groups(images, folder)
    _refuse_strays(images, folder)
    return images


def _of_jsonl(path: Path) -> Iterator[LabelledImage]:
    lines = path.read_bytes().split(b"\n")
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path} is empty: a line an image is wanted, or no such file for images without labels")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            told = json.loads(line)
            name = str(told["path"])
            hands = told.get("hands")
            if not isinstance(hands, list | None):
                raise TypeError(f"hands is a list or null, got {hands!r:.40}")
            box = np.array([hand["box"] for hand in hands or ()], np.float64).reshape(len(hands or ()), 4)
            side = np.array([_SIDES[hand.get("side")] for hand in hands or ()], np.int64)
            regions = [one["box"] if isinstance(one, dict) else one for one in told.get("region_boxes") or ()]
            region = np.array(regions, np.float64).reshape(len(regions), 4)
            if not np.isfinite(region).all():
                raise ValueError("region_boxes are finite numbers")
            size = (float(told["width"]), float(told["height"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{where} is no label of an image ({error!r:.200}): path, width, height and hands are wanted") from error
        _refuse_outside(box, size, f"{where}, {name}")
        group = str(told.get("group") or name)
        yield LabelledImage(
            path=path.parent / name,
            name=name,
            group=group,
            split=_split(group, told.get("split") or "", where),
            box=box,
            side=side,
            ignore=region,
            labelled=hands is not None,
            exhaustive=bool(told.get("exhaustive")),
            about={
                "source": str(told.get("source") or path.parent.name),
                "origin": " ".join(str(told[key]) for key in ("repo", "commit", "path_there") if told.get(key)),
                "licence": str(told.get("licence") or ""),
                "tier": str(told.get("tier") or ""),
            },
            size=size,
        )


def _of_coco(path: Path, folder: Path) -> Iterator[LabelledImage]:
    """COCO's own format and COCO-WholeBody's; a crowd is ignored. The file's name says the split, else the image's hash."""
    words = re.findall(r"[a-z]+", path.stem.lower())
    named = next((split for split in SPLITS if any(word.startswith(split) for word in words)), "")
    for image in coco_images(path):
        _refuse_outside(image.box, (image.width, image.height), f"{path}, image {image.name}")
        yield _foreign(
            image,
            path=next((p for p in _places(folder, path, image.name) if p.exists()), folder / image.name),
            split=split_of(image.name, named),
            source=path.stem,
            size=(image.width, image.height),
        )


def _in_part(image: LabelledImage, part: str) -> LabelledImage:
    """An image by its path in the folder of all splits."""
    name = f"{part}/{image.name}"
    return replace(image, name=name, group=name, split=_PARTS[part])


def _places(folder: Path, labels: Path, name: str) -> Sequence[Path]:
    """Where COCO's images may lie."""
    return (folder / name, folder / "images" / name, folder / labels.stem / name)


def _of_folder(folder: Path, *, is_yolo: bool) -> Iterator[LabelledImage]:
    """Images below a folder, with YOLO's files of labels where there are such; a folder of their path says the split, else their hash."""
    classes = yolo_classes(folder) if is_yolo else YoloClasses()
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()):
        name = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")  # bytes that are no text, as text
        hands, labelled, size = [], False, (1.0, 1.0)
        if is_yolo:
            file = yolo_file(folder, path)
            labelled = file.is_file()
            found = stored_size(path) if labelled else None
            if found:
                hands, size = yolo_hands(file, found, classes), found
        image = foreign_image(name, size, hands, [])
        _refuse_outside(image.box, size, str(path))
        split = split_of(name, next((_PARTS[part] for part in Path(name).parts if part in _PARTS), ""))
        yield _foreign(image, path=path, split=split, source=folder.name, labelled=labelled)


def _foreign(
    image: ForeignImage, *, path: Path, split: str, source: str, labelled: bool = True, size: tuple[float, float] | None = None
) -> LabelledImage:
    """An image whose labels are complete, or that has none."""
    return LabelledImage(
        path=path,
        name=image.name,
        group=image.name,
        split=split,
        box=image.box,
        side=image.side,
        keypoints=image.keypoints,
        ignore=image.ignore,
        labelled=labelled,
        exhaustive=labelled,
        about={"source": source, "origin": image.name, "licence": image.licence, "tier": ""},
        size=size,
    )


def _refuse_outside(box: Float64[np.ndarray, "n 4"], size: tuple[float, float], where: str) -> None:
    """A box may reach beyond its image, as hands do, by the image's own side at most; what lies wholly outside, or is none, is a slip."""
    if not all(0 < side < np.inf for side in size):
        raise ValueError(f"{where}: an image of {size[0]:g}x{size[1]:g} pixels is none: mend width and height")
    sides = np.array(size)
    inside = (box[:, :2] < sides).all(1) & (box[:, 2:] > 0).all(1) & (box[:, 2:] > box[:, :2]).all(1)
    inside &= (box[:, :2] > -sides).all(1) & (box[:, 2:] < 2 * sides).all(1)
    for number in np.flatnonzero(~inside)[:1]:
        sides_said = ", ".join(f"{side:.6g}" for side in box[number])
        raise ValueError(f"{where}: box {number} [{sides_said}] is not in an image of {size[0]:.0f}x{size[1]:.0f}: mend it")


def _split(group: str, split: str, where: str) -> str:
    try:
        return split_of(group, split)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _refuse_torn_groups(images: Sequence[LabelledImage], folder: Path) -> None:
    splits: dict[str, str] = {}
    for image in images:
        if splits.setdefault(image.group, image.split) != image.split:
            raise ValueError(
                f"{folder}: group {image.group} lies in {splits[image.group]} and, by {image.name}, in {image.split}: deal it to one split"
            )


def _refuse_strays(images: Sequence[LabelledImage], folder: Path) -> None:
    """Label files come from anywhere: what they name must lie in their folder, once."""
    for one, other in pairwise(images):
        if one.name == other.name:
            raise ValueError(f"{folder}: {one.name} is labelled twice: keep one of the two")
    for image in images:
        if Path(image.name).is_absolute() or ".." in Path(image.name).parts:
            raise ValueError(f"{folder}: image {image.name} lies outside of the folder: copy it in, and name it by its path there")
