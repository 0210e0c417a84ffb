"""Labelled frames of real video, files of the format handmedia-bench/1, the annotators' own test set; images that COCO or YOLO label."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fitting.files import below
from hands.metrics.labels import load_labels
from stages.tables import LEFT, RIGHT
from training.data.readers.labelled_image import UNKNOWN, LabelledImage, read_json

FORMAT = "handmedia-bench/1"
MIN_IOU = 0.3
"""The labels are drawn by eye: higher overlaps would measure the drawing."""
_SIDES = {"left": LEFT, "right": RIGHT, None: UNKNOWN}


def labelled_frames(labels: Path, media: Path | None = None) -> Iterator[LabelledImage]:
    """The images that a label file names, in `media` (default: the folder above the file's own), or a YOLO folder holds.

    Raises ValueError for a file of another format, FileNotFoundError for an image that is not there.
    """
    told = {} if labels.is_dir() else read_json(labels)
    if labels.is_dir() or ("format" not in told and "annotations" in told):
        yield from _foreign(labels, media)
        return
    if told.get("format") != FORMAT:
        raise ValueError(f"{labels} has format {told.get('format')!r}, this code reads {FORMAT!r}")
    media = media or labels.resolve().parents[1]
    for entry in told["images"]:
        path = below(media, entry["jpeg"])
        if not path.is_file():
            raise FileNotFoundError(f"label {entry['id']}: no image {path}: name the folder of the images with --media")
        yield LabelledImage(
            name=entry["id"],
            source=path,
            box=np.array([hand["box"] for hand in entry["hands"]], np.float64).reshape(-1, 4),
            side=np.array([_SIDES[hand["side"]] for hand in entry["hands"]], np.int64),
            ignore=np.array(entry["ignore"], np.float64).reshape(-1, 4),
        )


def _foreign(labels: Path, media: Path | None) -> Iterator[LabelledImage]:
    """Images in `media`, by default beside or above the labels, in `images` there."""
    around = [media] if media else [labels] if labels.is_dir() else [labels.parent, labels.parent / "images"]
    around += [] if media or labels.is_dir() else [labels.resolve().parents[1], labels.resolve().parents[1] / "images"]
    for frame in load_labels(labels):
        path = next((path for folder in around if (path := below(folder, frame.image)).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{labels}: no image {frame.image}: name the folder of the images with --media")
        yield LabelledImage(name=frame.name, source=path, box=frame.box, side=frame.side, ignore=frame.ignore)
