"""COCO's figures beside a slow reference, and precision, recall and side by hand."""

import numpy as np
import pytest

from hands.metrics.detections import (
    IOUS,
    RECALLS,
    ImageBoxes,
    at_threshold,
    average_precision,
    average_precision_by_size,
    coco_curves,
    matched,
)
from hands.metrics.labels import SIZES
from stages.boxes import area, intersection, iou, long_side

LEFT, RIGHT = 0, 1


def found(*rows: tuple, ignore: bool = False) -> list[tuple]:
    """Rows of (image, box, side, score) as parts of `ImageBoxes.of`."""
    return [(image, np.array([box]), np.array([side]), np.array([score]), ignore) for image, box, side, score in rows]


def slow_average_precision(
    targets: ImageBoxes, predictions: ImageBoxes, sides: list[int | None], between: tuple[float, float] = (0, np.inf)
) -> dict[str, float]:
    """COCO's evaluation as its paper and code describe it: greedy matching by score, 101 recalls, the mean over ten overlaps.

    Hands whose size does not lie `between` are matched last and count neither way; nor do unmatched detections of such a size.
    """

    def outside(box: np.ndarray) -> bool:
        return not between[0] <= max(box[2] - box[0], box[3] - box[1]) <= between[1]

    def covered(box: np.ndarray, crowd: np.ndarray) -> float:
        return float(intersection(box, crowd)[0, 0] / area(box)[0])

    table = {}
    for threshold in np.arange(10) * 0.05 + 0.5:
        values = []
        for side in sides:
            hands = [k for k in range(len(targets.image)) if side is None or targets.ignore[k] or targets.side[k] in (side, -1)]
            uncounted = {k for k in hands if targets.ignore[k] or outside(targets.box[k]) or (side is not None and targets.side[k] < 0)}
            real = len(hands) - len(uncounted)
            if not real:
                continue
            scores, hits = [], []
            for image in np.unique(predictions.image):
                mine = [
                    k
                    for k in range(len(predictions.image))
                    if predictions.image[k] == image and (side is None or predictions.side[k] == side)
                ]
                free = {k for k in hands if targets.image[k] == image and k not in uncounted}
                crowd = [
                    k for k in hands if targets.image[k] == image and (targets.ignore[k] or (side is not None and targets.side[k] < 0))
                ]
                other = {k for k in hands if targets.image[k] == image and k in uncounted and k not in crowd}
                for k in sorted(mine, key=lambda k: -predictions.score[k])[:100]:
                    best = max(free, key=lambda j: iou(predictions.box[[k]], targets.box[[j]])[0, 0], default=None)
                    if best is not None and iou(predictions.box[[k]], targets.box[[best]])[0, 0] >= threshold:
                        free.remove(best)
                        scores.append(predictions.score[k])
                        hits.append(1.0)
                        continue
                    odd = max(other, key=lambda j: iou(predictions.box[[k]], targets.box[[j]])[0, 0], default=None)
                    if odd is not None and iou(predictions.box[[k]], targets.box[[odd]])[0, 0] >= threshold:
                        other.remove(odd)
                    elif not any(covered(predictions.box[[k]], targets.box[[j]]) >= threshold for j in crowd) and not outside(
                        predictions.box[k]
                    ):
                        scores.append(predictions.score[k])
                        hits.append(0.0)
            order = np.argsort(-np.array(scores), kind="stable")
            hit = np.cumsum(np.array(hits)[order])
            recall, precision = hit / real, hit / np.arange(1, len(hit) + 1)
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            place = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
            values.append(np.mean([precision[p] if p < len(precision) else 0 for p in place]))
        table[round(threshold, 2)] = float(np.mean(values))
    return {"ap": float(np.mean(list(table.values()))), "ap50": table[0.5], "ap75": table[0.75]}


def crowded(seed: int) -> tuple[ImageBoxes, ImageBoxes, int]:
    """Images with hands, ignored areas, near misses, doubles, swapped sides and false alarms."""
    rng = np.random.default_rng(seed)
    targets, predictions = [], []
    for image in range(12):
        for _ in range(rng.integers(0, 4)):
            low = rng.uniform(0, 300, 2)
            box, side = np.concatenate([low, low + rng.uniform(20, 120, 2)]), int(rng.integers(2))
            targets += found((image, box, side, 1.0))
            for _ in range(rng.integers(0, 3)):
                other = side if rng.random() < 0.8 else 1 - side
                predictions += found((image, box + rng.normal(0, 6, 4), other, float(rng.random())))
        if rng.random() < 0.5:
            area = np.array([200.0, 200, 420, 420])
            targets += found((image, area, 0, 1.0), ignore=True)
            predictions += found((image, [250.0, 250, 300, 300], int(rng.integers(2)), float(rng.random())))
        predictions += found((image, rng.uniform(0, 150, 4).cumsum(), int(rng.integers(2)), float(rng.random() * 0.5)))
    return ImageBoxes.of(targets), ImageBoxes.of(predictions), 12


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("by_side", [False, True])
def test_average_precision_is_that_of_a_slow_reference(seed: int, by_side: bool) -> None:
    targets, predictions, count = crowded(seed)
    got = average_precision(targets, predictions, count, by_side=by_side)
    wanted = slow_average_precision(targets, predictions, [LEFT, RIGHT] if by_side else [None])
    assert 0.05 < wanted["ap50"] < 0.99
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_by_size_is_that_of_a_slow_reference(seed: int) -> None:
    targets, predictions, count = crowded(seed)
    got = average_precision_by_size(targets, predictions, np.full(count, 640.0))
    low = 0.0
    for name, high in SIZES.items():
        sizes = long_side(targets.box[targets.ignore == 0]) / 640
        if not ((sizes >= low) & (sizes < high)).any():
            assert np.isnan(got[name])
        else:
            wanted = slow_average_precision(targets, predictions, [None], (low * 640, high * 640))
            assert got[name] == pytest.approx(wanted["ap"], abs=1e-6), name
        low = high
    assert sum(not np.isnan(value) for value in got.values()) >= 2


def test_a_hand_of_unknown_side_is_no_mistake_on_either_side() -> None:
    box, other = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
    targets = ImageBoxes.of(found((0, box, LEFT, 1.0), (0, other, -1, 1.0)))
    predictions = ImageBoxes.of(found((0, other, RIGHT, 0.9), (0, box, LEFT, 0.8)))
    assert average_precision(targets, predictions, 1, by_side=True)["ap"] == 1
    assert average_precision(targets, predictions, 1, by_side=False)["ap"] == 1


def test_the_surest_detection_takes_the_hand_it_overlaps_most() -> None:
    hands = np.array([[0.0, 0, 10, 10], [4.0, 0, 14, 10]])
    box = np.array([[1.0, 0, 11, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 10], [70.0, 70, 80, 80]])
    match, false = matched(box, np.array([0.5, 0.9, 0.1, 0.8]), hands, np.array([[60.0, 60, 90, 90]]), 0.5)
    assert match.tolist() == [1, 0, -1, -1]  # the first finds its best hand taken
    assert false.tolist() == [False, False, True, False]


def test_average_precision_by_hand() -> None:
    box, other = [0.0, 0, 10, 10], [50.0, 50, 60, 60]
    targets = ImageBoxes.of(found((0, box, LEFT, 1.0), (0, other, RIGHT, 1.0)))
    assert average_precision(targets, targets, 1, by_side=True) == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0, "ar": 1.0}
    half = ImageBoxes.of(found((0, box, LEFT, 0.9)))
    assert average_precision(targets, half, 1, by_side=False)["ap50"] == pytest.approx(51 / 101)
    swapped = ImageBoxes.of(found((0, box, RIGHT, 0.9), (0, other, LEFT, 0.8)))
    assert average_precision(targets, swapped, 1, by_side=False)["ap"] == 1
    assert average_precision(targets, swapped, 1, by_side=True)["ap"] == 0
    seven = ImageBoxes.of(
        found((0, [0.0, 0, 10, 7], LEFT, 0.9), (0, [50.0, 50, 60, 57], RIGHT, 0.8))
    )  # overlap .70: five of ten thresholds
    assert average_precision(targets, seven, 1, by_side=False)["ap"] == pytest.approx(0.5)


def test_nothing_said_and_nothing_there_are_no_error() -> None:
    targets = ImageBoxes.of(found((0, [0.0, 0, 10, 10], LEFT, 1.0)))
    nothing = ImageBoxes.of([])
    assert set(average_precision(targets, nothing, 1, by_side=False).values()) == {0.0}
    assert set(average_precision(nothing, targets, 1, by_side=True).values()) == {0.0}
    assert at_threshold(targets, nothing, 0.3) == {"precision": 0, "recall": 0, "side": 0}
    assert at_threshold(nothing, nothing, 0.3) == {"precision": 0, "recall": 0, "side": 0}


def test_precision_recall_and_side_by_hand() -> None:
    targets = ImageBoxes.of(
        found((0, [0.0, 0, 10, 10], LEFT, 1.0), (0, [20.0, 0, 30, 10], RIGHT, 1.0), (1, [0.0, 0, 10, 10], LEFT, 1.0))
        + found((1, [100.0, 100, 200, 200], LEFT, 1.0), ignore=True)
    )
    predictions = ImageBoxes.of(
        found(
            (0, [0.0, 0, 10, 9], LEFT, 0.9),  # found
            (0, [0.0, 0, 10, 10], LEFT, 0.8),  # a double: wrong
            (0, [20.0, 0, 30, 8], LEFT, 0.7),  # found, wrong side
            (1, [110.0, 110, 120, 120], RIGHT, 0.9),  # small within the ignored area: counts neither way
            (1, [190.0, 190, 230, 230], RIGHT, 0.9),  # mostly outside of it: wrong
            (1, [0.0, 0, 10, 10], LEFT, 0.2),  # below the threshold
        )
    )
    assert at_threshold(targets, predictions, 0.3) == pytest.approx({"precision": 2 / 4, "recall": 2 / 3, "side": 1 / 2})


def test_a_side_that_nobody_knows_is_not_counted() -> None:
    box, other = [0.0, 0, 10, 10], [20.0, 0, 30, 10]
    one = ImageBoxes.of(found((0, box, RIGHT, 1.0)))
    assert at_threshold(one, one, 1.0) == {"precision": 1, "recall": 1, "side": 1}
    two = ImageBoxes.of(found((0, box, LEFT, 1.0), (0, other, RIGHT, 1.0)))
    assert at_threshold(two, two, 0.3) == {"precision": 1, "recall": 1, "side": 1}
    unknown = ImageBoxes.of(found((0, box, LEFT, 1.0), (0, other, -1, 1.0)))
    for said, share in (((LEFT, -1), 1), ((LEFT, RIGHT), 1), ((RIGHT, -1), 0)):
        predictions = ImageBoxes.of(found((0, box, said[0], 0.9), (0, other, said[1], 0.8)))
        assert at_threshold(unknown, predictions, 0.3)["side"] == share


def test_boxes_in_shares_of_an_image_and_of_no_size_are_ignored_or_not() -> None:
    ignored = np.array([[0.0, 0, 0.5, 0.5]])
    box = np.array([[0.1, 0.1, 0.2, 0.2], [0.6, 0.6, 0.7, 0.7], [0.3, 0.3, 0.3, 0.3]])
    match, false = matched(box, np.ones(3), np.zeros((0, 4)), ignored, 0.5)
    assert match.tolist() == [-1, -1, -1]
    assert false.tolist() == [False, True, True]
    half = np.array([[0.25, 0.0, 0.75, 0.5]])
    assert not matched(half, np.ones(1), np.zeros((0, 4)), ignored, 0.5)[1].any(), "half of it is enough"


def test_overlaps_and_recalls_are_cocos() -> None:
    np.testing.assert_allclose(IOUS, [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    np.testing.assert_allclose(RECALLS[[0, 1, 99, 100]], [0, 0.01, 0.99, 1])
    assert len(RECALLS) == 101


def test_a_crowd_of_hands_counts_whole_and_curves_keep_their_shape_where_nothing_is_said() -> None:
    crowd = ImageBoxes.of(found(*[(0, [20.0 * k, 0, 20.0 * k + 10, 10], LEFT, 1.0) for k in range(12)]))
    assert average_precision(crowd, crowd, 1, by_side=False) == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1, "ar": 1})
    precision, recall = coco_curves(crowd, ImageBoxes.of([]), 1, by_side=True)
    assert (precision.shape, recall.shape) == ((10, 101, 2, 1), (10, 2, 1))
