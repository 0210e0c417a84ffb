"""A detector on labelled frames of real video, counted as the annotators are: recall, precision and side at an overlap of 0.3."""

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from training.detector.inference import HandDetector
from training.metrics import Found, Part, at_threshold, average_precision

MIN_IOU = 0.3
_SIDES = {"left": 0, "right": 1, None: -1}


def evaluate_labelled(detector: HandDetector, labels: Path, media: Path | None = None, *, threshold: float = 0.3) -> Mapping[str, float]:
    """Figures on the pictures that a label file names, in `media` (default: the folder above the file's own).

    Raises ValueError for a file of another format, FileNotFoundError for a picture that is not there.
    """
    told = json.loads(labels.read_text())
    if told.get("format") != "handmedia-bench/1":
        raise ValueError(f"{labels} has format {told.get('format')!r}, this code reads 'handmedia-bench/1'")
    media = media or labels.resolve().parents[1]
    truth: list[Part] = []
    said: list[Part] = []
    for number, entry in enumerate(told["images"]):
        path = media / entry["jpeg"]
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise FileNotFoundError(f"label {entry['id']}: no picture {path}: name the folder of the pictures with --media")
        (found,) = detector([np.asarray(picture)])
        box = np.array([hand["box"] for hand in entry["hands"]], np.float64).reshape(-1, 4)
        side = np.array([_SIDES[hand["side"]] for hand in entry["hands"]], np.int64)
        ignored = np.array(entry["ignore"], np.float64).reshape(-1, 4)
        truth.append((number, box, side, np.ones(len(box)), False))
        truth.append((number, ignored, np.zeros(len(ignored)), np.ones(len(ignored)), True))
        said.append((number, found.box, found.side, found.score, False))
    known, answers = Found.of(truth), Found.of(said)
    figures = at_threshold(known, answers, threshold, MIN_IOU)
    return dict(figures) | {"ap50": average_precision(known, answers, len(told["images"]), by_side=False)["ap50"]}
