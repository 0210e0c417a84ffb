"""Labelled frames of real video, files of the format handmedia-bench/1: the annotators' own test set."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fitting.files import below
from stages.tables import LEFT, RIGHT
from training.data.readers.labelled_image import UNKNOWN, LabelledImage, read_json

FORMAT = "handmedia-bench/1"
MIN_IOU = 0.3
"""The labels are drawn by eye: higher overlaps would measure the drawing."""
_SIDES = {"left": LEFT, "right": RIGHT, None: UNKNOWN}


def labelled_frames(labels: Path, media: Path | None = None) -> Iterator[LabelledImage]:
    """The images that a label file names, in `media` (default: the folder above the file's own).

    Raises ValueError for a file of another format, FileNotFoundError for an image that is not there.
    """
    told = read_json(labels)
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
