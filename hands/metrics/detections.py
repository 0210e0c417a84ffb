"""How good detections are: COCO's average precision, and precision, recall and side at one threshold.

Frame of reference: pixels of the image. A box to be ignored costs a detection that covers it nothing, as COCO's crowds do.
"""

import contextlib
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64

from hands.metrics.labels import SIZES, match
from stages import boxes

Part = tuple[int, np.ndarray, np.ndarray, np.ndarray, bool]
"""Image, boxes, sides, scores, ignored."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ImageBoxes:
    """Boxes of a set of images: truth, or detections with their scores."""

    image: Int64[np.ndarray, "n"]
    box: Float[np.ndarray, "n 4"]
    side: Int64[np.ndarray, "n"]
    score: Float[np.ndarray, "n"]  # 1 of the truth
    ignore: Float[np.ndarray, "n"]  # 1 where the truth is not known; 0 of detections

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "ImageBoxes":
        """The boxes of all images as columns, from the parts of each image."""
        image = [np.full(len(box), number, np.int64) for number, box, *_ in parts]
        ignore = [np.full(len(box), float(ignored)) for _, box, _, _, ignored in parts]
        empty = np.zeros(0)
        return cls(
            image=np.concatenate([*image, empty.astype(np.int64)]),
            box=np.concatenate([*(np.asarray(box, np.float64).reshape(-1, 4) for _, box, *_ in parts), empty.reshape(0, 4)]),
            side=np.concatenate([*(np.asarray(side, np.int64) for _, _, side, *_ in parts), empty.astype(np.int64)]),
            score=np.concatenate([*(np.asarray(score, np.float64) for _, _, _, score, _ in parts), empty]),
            ignore=np.concatenate([*ignore, empty]),
        )


IOUS = np.arange(10) * 0.05 + 0.5
RECALLS = np.linspace(0, 1, 101)
"""COCO's."""


def average_precision(targets: ImageBoxes, predictions: ImageBoxes, num_images: int, *, by_side: bool) -> dict[str, float]:
    """COCO's `ap` (.5:.95), `ap50`, `ap75` and `ar`, by faster-coco-eval; `by_side` counts a hand of the wrong side as wrong."""
    precision, recall = coco_curves(targets, predictions, num_images, by_side=by_side)
    values = {"ap": precision, "ap50": precision[0], "ap75": precision[5], "ar": recall}
    return {name: _mean(of[..., 0]) for name, of in values.items()}


def average_precision_by_size(targets: ImageBoxes, predictions: ImageBoxes, long_side: Float[np.ndarray, "images"]) -> dict[str, float]:
    """`ap` of the hands of each class of `SIZES`; those of other classes count neither way. NaN of a class without hands."""
    targets, predictions = (replace(found, box=found.box / long_side[found.image, None]) for found in (targets, predictions))
    ends = np.array([0, *SIZES.values()])
    precision, _ = coco_curves(targets, predictions, len(long_side), by_side=False, sizes=ends)
    classes = np.digitize(boxes.long_side(targets.box[targets.ignore == 0]), ends[1:-1])
    return {name: _mean(precision[..., 1 + k]) if (classes == k).any() else math.nan for k, name in enumerate(SIZES)}


def coco_curves(
    targets: ImageBoxes, predictions: ImageBoxes, num_images: int, *, by_side: bool, sizes: Float[np.ndarray, "ends"] | None = None
) -> tuple[Float[np.ndarray, "10 101 categories classes"], Float[np.ndarray, "10 categories classes"]]:
    """Precision at `RECALLS`, and the recall reached, at each overlap of `IOUS`, of each side (or of hands); -1 where there is no hand.

    The first class is of all sizes; with `sizes` those whose longer side lies between two ends follow.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    edges = [0.0, *(sizes[1:-1] ** 2 if sizes is not None else ()), 1e10]
    ranges = list(itertools.pairwise(edges)) if sizes is not None else []
    num_sides = 2 if by_side else 1
    if not len(predictions.image):
        return np.zeros((10, 101, num_sides, 1 + len(ranges))), np.zeros((10, num_sides, 1 + len(ranges)))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(_coco(targets, num_images, by_side))
        found = known.loadRes(_results(predictions, by_side))
        for annotation in found.dataset["annotations"]:
            annotation["area"] = float(max(annotation["bbox"][2:]) ** 2)
        evaluation = COCOeval_faster(known, found, "bbox")
        evaluation.params.areaRng = [[0.0, 1e10], *map(list, ranges)]
        evaluation.params.areaRngLbl = [str(k) for k in range(1 + len(ranges))]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1], np.asarray(evaluation.eval["recall"])[..., -1]


def _mean(values: np.ndarray) -> float:
    """Over what is known, as COCO takes it; 0 where nothing is."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else 0.0


def _coco(targets: ImageBoxes, num_images: int, by_side: bool) -> dict[str, object]:
    """Targets in COCO's format; a box to be ignored is a crowd of every category, and so is, by side, a hand of unknown side.

    A size is told as the square of the longer side, where COCO has the area.
    """
    sizes = targets.box[:, 2:] - targets.box[:, :2]
    names = ("left", "right") if by_side else ("hand",)
    crowd = (targets.ignore > 0) | (by_side & (targets.side < 0))
    annotations = [
        {
            "image_id": int(targets.image[k]),
            "category_id": 1 + category,
            "bbox": [*targets.box[k, :2].tolist(), *sizes[k].tolist()],
            "area": float(sizes[k].max() ** 2),
            "iscrowd": int(crowd[k]),
        }
        for k in range(len(targets.image))
        for category in range(len(names))
        if crowd[k] or not by_side or category == targets.side[k]
    ]
    annotations = [{"id": 1 + number} | annotation for number, annotation in enumerate(annotations)]
    categories = [{"id": 1 + k, "name": name} for k, name in enumerate(names)]
    images = [{"id": k, "width": 1, "height": 1, "file_name": str(k)} for k in range(num_images)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _results(predictions: ImageBoxes, by_side: bool) -> list[dict[str, object]]:
    sizes = predictions.box[:, 2:] - predictions.box[:, :2]
    return [
        {
            "image_id": int(predictions.image[k]),
            "category_id": 1 + (int(predictions.side[k]) if by_side else 0),
            "bbox": [*predictions.box[k, :2].tolist(), *sizes[k].tolist()],
            "score": float(predictions.score[k]),
        }
        for k in range(len(predictions.image))
    ]


def at_threshold(targets: ImageBoxes, predictions: ImageBoxes, threshold: float, min_iou: float = 0.5) -> Mapping[str, float]:
    """`precision`, `recall` and, of the hands found, the share of right `side`s, of detections with at least this score.

    A true side below 0 is not known, and not counted.
    """
    found = sided = correct = wrong = 0
    for number in np.unique(np.concatenate([targets.image, predictions.image])):
        mine = np.flatnonzero((predictions.image == number) & (predictions.score >= threshold))
        hands = np.flatnonzero((targets.image == number) & (targets.ignore == 0))
        ignored = targets.box[(targets.image == number) & (targets.ignore > 0)]
        found_of, false = matched(predictions.box[mine], predictions.score[mine], targets.box[hands], ignored, min_iou)
        side, told = targets.side[hands[found_of[found_of >= 0]]], predictions.side[mine[found_of >= 0]]
        found, wrong = found + len(side), wrong + int(false.sum())
        sided, correct = sided + int((side >= 0).sum()), correct + int(((side >= 0) & (side == told)).sum())
    num_hands = int((targets.ignore == 0).sum())
    return {"precision": found / max(found + wrong, 1), "recall": found / max(num_hands, 1), "side": correct / max(sided, 1)}


def matched(
    box: Float[np.ndarray, "n 4"],
    score: Float[np.ndarray, "n"],
    hands: Float[np.ndarray, "m 4"],
    ignored: Float[np.ndarray, "k 4"],
    min_iou: float,
) -> tuple[Int64[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """The hand that each detection of an image finds, or -1, and whether it is false: the surest takes the free hand it overlaps most."""
    found = match(box, score, hands, min_iou)
    share = boxes.intersection(box.astype(np.float64), ignored) / np.maximum(boxes.area(box)[:, None], 1e-9)
    return found, (found < 0) & ~(share >= min_iou).any(1)
