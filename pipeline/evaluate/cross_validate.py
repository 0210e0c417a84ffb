"""Cross-validation over videos: what fusion learns on some is scored on the others, so that no frame is judged by what it taught."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float64

from hands.metrics.labelled_frames import score_hands
from hands.metrics.labels import MIRRORED, LabelledFrame, mirrored
from pipeline.evaluate.calibrate import learn
from pipeline.evaluate.observe import Seen
from stages.fuse_hands import FuseHands
from stages.fusion.calibration import calibration_of
from stages.tables import HandDetections, Hands, People

NUM_FOLDS = 8
LEAST_PRECISION = 0.95
"""Precision that a threshold must keep to be chosen on a fold; of those that do, the one of most recall is."""
THRESHOLDS = np.round(np.arange(0.1, 0.71, 0.05), 2)


def cross_validated(frames: Sequence[Seen], fuse: FuseHands) -> dict[str, Any]:
    """Recall, precision and side accuracy of hands whose calibration and threshold were chosen on the frames of other videos."""
    names = sorted({_video(seen.label) for seen in frames})
    if len(names) < 2:
        return {}
    fold = {name: i % min(NUM_FOLDS, len(names)) for i, name in enumerate(names)}
    labels, found, chosen = [], [], []
    for number in sorted(set(fold.values())):
        teachers = [seen for seen in frames if fold[_video(seen.label)] != number]
        held_out = [seen for seen in frames if fold[_video(seen.label)] == number]
        learned = {name: calibration_of(one) for name, one in _learn(teachers).items()}
        lowest = fuse.fusion({**fuse.calibrations(), **learned}, min_score=float(THRESHOLDS[0]))
        threshold = _threshold([seen.label for seen in teachers], [seen.fused(lowest) for seen in teachers])
        chosen.append(threshold)
        labels += [seen.label for seen in held_out]
        found += [_above(seen.fused(lowest), threshold) for seen in held_out]
    score = score_hands(labels, found)
    figures = ("recall", "precision", "side_accuracy", "num_hands", "num_found", "num_false", "by_size", "multi_person")
    return {name: value for name, value in asdict(score).items() if name in figures} | {"thresholds": chosen}


def _video(label: LabelledFrame) -> str:
    return (label.video or label.name).removeprefix(MIRRORED)


def _learn(teachers: Sequence[Seen]) -> Mapping[str, Mapping[str, Any]]:
    labels = [seen.label for seen in teachers]
    people = People.concat([seen.people for seen in teachers])
    return learn([*labels, *map(mirrored, labels)], HandDetections.concat([seen.here for seen in teachers]), people)


def _above(hands: Hands, threshold: float) -> Hands:
    """Hands that one source alone saw need the threshold; others have their own rules."""
    return hands.take((hands.score >= threshold) | (hands.num_run > 1))


def _threshold(labels: Sequence[LabelledFrame], found: Sequence[Hands]) -> float:
    """The one of most recall that keeps the precision, else the one of most precision."""

    def worth(threshold: float) -> tuple[bool, Float64[np.ndarray, ""] | float, float]:
        score = score_hands(labels, [_above(hands, threshold) for hands in found])
        precision = 0.0 if np.isnan(score.precision) else score.precision
        holds = precision >= LEAST_PRECISION
        return holds, score.recall if holds else precision, precision

    return float(max(THRESHOLDS, key=worth))
