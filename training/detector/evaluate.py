"""How good a detector is on labelled images of any source: targets and predictions, and COCO's metrics of the two."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float64, UInt8

from hands.metrics.detections import ImageBoxes, Part, at_threshold, average_precision, average_precision_by_size
from training.data.readers.labelled_image import LabelledImage
from training.detector.inference import DetectedHands, HandDetector

LEAST_SCORE = 0.01
"""Detections below are not worth their time: their part of the precision is 0.01 at best."""

Onlooker = Callable[[LabelledImage, UInt8[np.ndarray, "h w 3"], DetectedHands], None]
"""Is shown every image with what was found on it."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class DetectorEvaluation:
    """Targets and predictions of a set of images, in their pixels."""

    targets: ImageBoxes
    predictions: ImageBoxes
    long_side: Float64[np.ndarray, "images"]

    @property
    def num_images(self) -> int:
        return len(self.long_side)

    @property
    def has_sides(self) -> bool:
        """Whether the labels tell any hand's side."""
        return bool((self.targets.side[self.targets.ignore == 0] >= 0).any())


def evaluate(
    detector: HandDetector, labelled_images: Iterable[LabelledImage], *, batch_size: int = 16, onlooker: Onlooker | None = None
) -> DetectorEvaluation:
    """Run a detector over labelled images, a batch at a time; they need not fit in memory together."""
    targets: list[Part] = []
    predictions: list[Part] = []
    long_side: list[float] = []
    remaining = iter(labelled_images)
    while batch := list(islice(remaining, batch_size)):
        images = [labelled.image() for labelled in batch]
        for labelled, image, hands in zip(batch, images, detector(images), strict=True):
            number = len(long_side)
            targets.append((number, labelled.box, labelled.side, np.ones(len(labelled.box)), False))
            targets.append((number, labelled.ignore, np.zeros(len(labelled.ignore)), np.ones(len(labelled.ignore)), True))
            predictions.append((number, hands.box, hands.side, hands.score, False))
            long_side.append(float(max(image.shape)))
            if onlooker:
                onlooker(labelled, image, hands)
    return DetectorEvaluation(targets=ImageBoxes.of(targets), predictions=ImageBoxes.of(predictions), long_side=np.array(long_side))


def metrics(evaluation: DetectorEvaluation, *, threshold: float = 0.3, min_iou: float = 0.5) -> Mapping[str, float]:
    """Average precision without regard to sides and, where sides are known, by side; precision, recall and side at a score."""
    found = average_precision(evaluation.targets, evaluation.predictions, evaluation.num_images, by_side=False)
    if evaluation.has_sides:
        by_side = average_precision(evaluation.targets, evaluation.predictions, evaluation.num_images, by_side=True)
        found |= {f"side_{name}": value for name, value in by_side.items()}
    at = dict(at_threshold(evaluation.targets, evaluation.predictions, threshold, min_iou))
    return found | (at if evaluation.has_sides else {name: at[name] for name in ("precision", "recall")})


def metrics_by_size(evaluation: DetectorEvaluation) -> Mapping[str, float]:
    """Average precision of each class of sizes."""
    return average_precision_by_size(evaluation.targets, evaluation.predictions, evaluation.long_side)
