"""How good a detector is on labelled pictures of any source: what is true and what it says of them, and COCO's figures of the two."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float64, UInt8

from hands.metrics.detections import Found, Part, at_threshold, average_precision, average_precision_by_size
from training.data.readers.labelled_picture import LabelledPicture
from training.detector.inference import DetectedHands, HandDetector

LEAST_SCORE = 0.01
"""Detections below are not worth their time: their part of the precision is 0.01 at best."""

Onlooker = Callable[[LabelledPicture, UInt8[np.ndarray, "h w 3"], DetectedHands], None]
"""Is shown every picture with what was found on it."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Judged:
    """A set of pictures, in their pixels."""

    truth: Found
    said: Found
    long_side: Float64[np.ndarray, "images"]

    @property
    def num_images(self) -> int:
        return len(self.long_side)

    @property
    def has_sides(self) -> bool:
        """Whether the labels tell any hand's side."""
        return bool((self.truth.side[self.truth.ignore == 0] >= 0).any())


def judge(detector: HandDetector, pictures: Iterable[LabelledPicture], *, batch_size: int = 16, onlooker: Onlooker | None = None) -> Judged:
    """Run a detector over labelled pictures, a batch at a time; they need not fit in memory together."""
    truth: list[Part] = []
    said: list[Part] = []
    long_side: list[float] = []
    remaining = iter(pictures)
    while batch := list(islice(remaining, batch_size)):
        images = [picture.image() for picture in batch]
        for picture, image, hands in zip(batch, images, detector(images), strict=True):
            number = len(long_side)
            truth.append((number, picture.box, picture.side, np.ones(len(picture.box)), False))
            truth.append((number, picture.ignore, np.zeros(len(picture.ignore)), np.ones(len(picture.ignore)), True))
            said.append((number, hands.box, hands.side, hands.score, False))
            long_side.append(float(max(image.shape)))
            if onlooker:
                onlooker(picture, image, hands)
    return Judged(truth=Found.of(truth), said=Found.of(said), long_side=np.array(long_side))


def figures(judged: Judged, *, threshold: float = 0.3, min_iou: float = 0.5) -> Mapping[str, float]:
    """Average precision without regard to sides and, where sides are known, by side; precision, recall and side at a score."""
    found = average_precision(judged.truth, judged.said, judged.num_images, by_side=False)
    if judged.has_sides:
        by_side = average_precision(judged.truth, judged.said, judged.num_images, by_side=True)
        found |= {f"side_{name}": value for name, value in by_side.items()}
    at = dict(at_threshold(judged.truth, judged.said, threshold, min_iou))
    return found | (at if judged.has_sides else {name: at[name] for name in ("precision", "recall")})


def figures_by_size(judged: Judged) -> Mapping[str, float]:
    """Average precision of each class of sizes."""
    return average_precision_by_size(judged.truth, judged.said, judged.long_side)
