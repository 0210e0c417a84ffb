"""How good detections are: COCO's average precision, and precision, recall and side at one threshold.

Frame of reference: pixels of the picture. A box to be ignored costs a detection that covers it nothing, as COCO's crowds do.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

Part = tuple[int, np.ndarray, np.ndarray, np.ndarray, bool]
"""Picture, boxes, sides, scores, ignored."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Found:
    """Boxes of a set of pictures: truth, or detections with their scores."""

    image: Int64[np.ndarray, "n"]
    box: Float[np.ndarray, "n 4"]
    side: Int64[np.ndarray, "n"]
    score: Float[np.ndarray, "n"]  # 1 of the truth
    ignore: Float[np.ndarray, "n"]  # 1 where the truth is not known; 0 of detections

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "Found":
        """From the parts of each picture."""
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


def average_precision(truth: Found, said: Found, num_images: int, *, by_side: bool) -> dict[str, float]:
    """COCO's `ap` (.5:.95), `ap50`, `ap75` and `ar`, by faster-coco-eval; `by_side` counts a hand of the wrong side as wrong."""
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(_coco(truth, num_images, by_side))
        if not len(said.image):
            return dict.fromkeys(("ap", "ap50", "ap75", "ar"), 0.0)
        evaluation = COCOeval_faster(known, known.loadRes(_results(said, by_side)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.maximum(np.asarray(evaluation.stats[:9], np.float64), 0)
    return {"ap": float(stats[0]), "ap50": float(stats[1]), "ap75": float(stats[2]), "ar": float(stats[8])}


def _coco(truth: Found, num_images: int, by_side: bool) -> dict[str, object]:
    """Truth in COCO's format; a box to be ignored is a crowd of every category."""
    sizes = truth.box[:, 2:] - truth.box[:, :2]
    names = ("left", "right") if by_side else ("hand",)
    annotations = [
        {
            "image_id": int(truth.image[k]),
            "category_id": 1 + category,
            "bbox": [*truth.box[k, :2].tolist(), *sizes[k].tolist()],
            "area": float(sizes[k].prod()),
            "iscrowd": int(truth.ignore[k]),
        }
        for k in range(len(truth.image))
        for category in range(len(names))
        if truth.ignore[k] or not by_side or category == truth.side[k]
    ]
    annotations = [{"id": 1 + number} | annotation for number, annotation in enumerate(annotations)]
    categories = [{"id": 1 + k, "name": name} for k, name in enumerate(names)]
    images = [{"id": k, "width": 1, "height": 1, "file_name": str(k)} for k in range(num_images)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _results(said: Found, by_side: bool) -> list[dict[str, object]]:
    sizes = said.box[:, 2:] - said.box[:, :2]
    return [
        {
            "image_id": int(said.image[k]),
            "category_id": 1 + (int(said.side[k]) if by_side else 0),
            "bbox": [*said.box[k, :2].tolist(), *sizes[k].tolist()],
            "score": float(said.score[k]),
        }
        for k in range(len(said.image))
    ]


def at_threshold(truth: Found, said: Found, threshold: float, min_iou: float = 0.5) -> Mapping[str, float]:
    """`precision`, `recall` and, of the hands found, the share of right `side`s, of detections with at least this score.

    A true side below 0 is not known, and not counted.
    """
    found = sided = correct = wrong = 0
    for number in np.unique(np.concatenate([truth.image, said.image])):
        mine = np.flatnonzero((said.image == number) & (said.score >= threshold))
        mine = mine[np.argsort(-said.score[mine], kind="stable")]
        hands = np.flatnonzero((truth.image == number) & (truth.ignore == 0))
        ignored = np.flatnonzero((truth.image == number) & (truth.ignore > 0))
        overlap, covered = iou(said.box[mine], truth.box[hands]), iou(said.box[mine], truth.box[ignored], crowd=True)
        free = np.ones(len(hands), bool)
        for row, detection in enumerate(mine):
            match = np.where(free, overlap[row], 0)
            best = int(match.argmax()) if len(match) else -1
            if best >= 0 and match[best] >= min_iou:
                free[best] = False
                found += 1
                sided += int(truth.side[hands[best]] >= 0)
                correct += int(truth.side[hands[best]] == said.side[detection])
            elif not (covered[row] >= min_iou).any():
                wrong += 1
    num_hands = int((truth.ignore == 0).sum())
    return {"precision": found / max(found + wrong, 1), "recall": found / max(num_hands, 1), "side": correct / max(sided, 1)}


def iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"], *, crowd: bool = False) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every pair; of a `crowd` b over a alone, as COCO has it."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    areas = [np.prod(np.maximum(box[:, 2:] - box[:, :2], 0), -1) for box in (a, b)]
    whole = areas[0][:, None] + (0 if crowd else areas[1][None] - shared)
    return shared / np.maximum(whole, 1e-9)
