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
        """From the parts of each image."""
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

SIZES = {"<4%": 0.04, "4-10%": 0.1, "10-25%": 0.25, ">25%": math.inf}
"""Classes of a hand's size, the square root of its box over the longer side of its image, by their upper ends."""


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
    classes = np.digitize(np.sqrt(area(targets.box[targets.ignore == 0])), ends[1:-1])
    return {name: _mean(precision[..., 1 + k]) if (classes == k).any() else math.nan for k, name in enumerate(SIZES)}


def coco_curves(
    targets: ImageBoxes, predictions: ImageBoxes, num_images: int, *, by_side: bool, sizes: Float[np.ndarray, "ends"] | None = None
) -> tuple[Float[np.ndarray, "10 101 categories classes"], Float[np.ndarray, "10 categories classes"]]:
    """Precision at `RECALLS`, and the recall reached, at each overlap of `IOUS`, of each side (or of hands); -1 where there is no hand.

    The first class is of all sizes; with `sizes` those between two ends follow, sizes being square roots of areas.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    edges = [0.0, *(sizes[1:-1] ** 2 if sizes is not None else ()), 1e10]
    ranges = list(itertools.pairwise(edges)) if sizes is not None else []
    num_sides = 2 if by_side else 1
    if not len(predictions.image):
        return np.zeros((10, 101, num_sides, 1 + len(ranges))), np.zeros((10, num_sides, 1 + len(ranges)))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(_coco(targets, num_images, by_side))
        evaluation = COCOeval_faster(known, known.loadRes(_results(predictions, by_side)), "bbox")
        evaluation.params.areaRng = [[0.0, 1e10], *map(list, ranges)]
        evaluation.params.areaRngLbl = [str(k) for k in range(1 + len(ranges))]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1], np.asarray(evaluation.eval["recall"])[..., -1]


def _mean(values: np.ndarray) -> float:
    """Over what is known, as COCO takes it; 0 where nothing is."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else 0.0


def area(box: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    """Square pixels."""
    return np.asarray(np.prod(np.maximum(box[:, 2:] - box[:, :2], 0), -1))


def _coco(targets: ImageBoxes, num_images: int, by_side: bool) -> dict[str, object]:
    """Truth in COCO's format; a box to be ignored is a crowd of every category, and so is, by side, a hand of unknown side."""
    sizes = targets.box[:, 2:] - targets.box[:, :2]
    names = ("left", "right") if by_side else ("hand",)
    crowd = (targets.ignore > 0) | (by_side & (targets.side < 0))
    annotations = [
        {
            "image_id": int(targets.image[k]),
            "category_id": 1 + category,
            "bbox": [*targets.box[k, :2].tolist(), *sizes[k].tolist()],
            "area": float(sizes[k].prod()),
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
        match, false = matched(predictions.box[mine], predictions.score[mine], targets.box[hands], ignored, min_iou)
        side, told = targets.side[hands[match[match >= 0]]], predictions.side[mine[match >= 0]]
        found, wrong = found + len(side), wrong + int(false.sum())
        sided, correct = sided + int((side >= 0).sum()), correct + int((side == told).sum())
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
    overlap, covered = iou(box, hands), (iou(box, ignored, crowd=True) >= min_iou).any(1)
    match, free = np.full(len(box), -1), np.ones(len(hands), bool)
    for row in np.argsort(-score, kind="stable"):
        best = int(np.where(free, overlap[row], -1).argmax()) if len(hands) else -1
        if best >= 0 and free[best] and overlap[row, best] >= min_iou:
            match[row], free[best] = best, False
    return match, (match < 0) & ~covered


def iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"], *, crowd: bool = False) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every pair; of a `crowd` b over a alone, as COCO has it."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    whole = area(a)[:, None] + (0 if crowd else area(b)[None] - shared)
    return shared / np.maximum(whole, 1e-9)
