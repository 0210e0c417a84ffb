"""Calibration of each detector: extents of boxes, shares of hits.

`whim learn calibration` learns it on labelled frames.

A box is an xyxy box in pixels; its extent is scaled about its centre. A score is the share of detections that are hands: of those with
the detector's own P(b|d), or, where palm and presence are known, by a sum of log-odds of these two.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from fitting.files import weights_folder
from stages.detectors.found import hull_boxes
from stages.tables import HandDetections

EMBEDDED = Path(__file__).parents[1] / "detectors" / "calibration.json"
"""Of the detectors that come with the project."""


def calibration_file() -> Path:
    """The calibration in use: the one that `whim learn calibration` put among the weights, else the embedded one."""
    learned = weights_folder() / "calibration.json"
    return learned if learned.exists() else EMBEDDED


LEAST_THICKNESS = 0.4
"""Least side of a hand's box over the other: landmarks of a hand seen from its edge lie on a line, the hand does not. Ours; of the hands
boxed by eye on frames 2 in 100 are thinner, on photographs 7."""
SEEN = 0.1
"""A landmark less sure than this is no part of a hand's hull."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Calibration:
    """One detector's."""

    extent: Float64[np.ndarray, "2"]
    """A labelled hand's width and height over those of the detector's box, medians."""
    knots: Float64[np.ndarray, "k 2"]
    """Own score, and the share of such detections that are hands: straight lines between, both never fall."""
    log_odds: Mapping[str, float] | None = None
    """Weights of `TERMS`, where a palm score and a presence say more than their product."""

    def score(self, detections: HandDetections) -> Float32[np.ndarray, "n"]:
        """The share of such detections that are hands."""
        share = np.interp(detections.score, self.knots[:, 0], self.knots[:, 1])
        if self.log_odds:
            known = np.isfinite([detections.palm_score, detections.presence]).all(0)
            odds = terms(detections) @ [self.log_odds[name] for name in TERMS]
            share = np.where(known, 1 / (1 + np.exp(-odds)), share)
        return share.astype(np.float32)

    def box(self, box: Float[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
        """Boxes of a labelled hand's extent, none of them thinner than a hand is."""
        centre, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * self.extent
        half = np.maximum(half, LEAST_THICKNESS * half.max(1, keepdims=True))
        return np.concatenate([centre - half, centre + half], 1).astype(np.float32)


TERMS = ("one", "palm", "presence")
"""What the log-odds of a hand are a sum of: a constant and the log-odds of palm and presence."""
LEAST = 0.005
"""No palm and no presence is taken to be less likely than this, or less likely to be wrong."""


def terms(detections: HandDetections) -> Float64[np.ndarray, "n 3"]:
    """`TERMS` of each detection; NaN where palm or presence is unknown."""
    palm, presence = (np.clip(p.astype(np.float64), LEAST, 1 - LEAST) for p in (detections.palm_score, detections.presence))
    return np.stack([np.ones(len(palm)), np.log(palm / (1 - palm)), np.log(presence / (1 - presence))], 1)


def calibration_of(entry: Mapping[str, Any]) -> Calibration:
    """One detector's calibration, of its entry in a file. Raises KeyError, TypeError or ValueError when it is none."""
    extent, knots = np.array(entry["extent"], np.float64), np.array(entry["knots"], np.float64)
    if extent.shape != (2,) or knots.shape[1:] != (2,):
        raise ValueError(f"an extent has 2 numbers and a knot 2, got {entry['extent']} and {entry['knots']}")
    weights: Mapping[str, float] | None = entry.get("log_odds")
    if weights and set(weights) != set(TERMS):
        raise ValueError(f"log_odds has weights of {', '.join(TERMS)}, got {', '.join(weights)}")
    log_odds = weights and {term: float(weights[term]) for term in TERMS}
    if log_odds and not np.isfinite([*log_odds.values()]).all():  # no hand's score would be a number, and fusion would refuse them all
        raise ValueError(f"weights of log_odds are finite numbers, got {weights}")
    return Calibration(extent=extent, knots=knots, log_odds=log_odds)


def load_calibrations(path: Path = EMBEDDED) -> dict[str, Calibration]:
    """Calibrations by detector. Raises ValueError that says what is wrong when the file is none."""
    try:
        sources: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text())["sources"]
        found = {name: calibration_of(of) for name, of in sources.items()}
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path} is no calibration: {error!r}; whim learn calibration writes one") from error
    for name, one in found.items():
        rising = (np.diff(one.knots, axis=0) >= 0).all()
        if not (rising and (one.extent > 0).all() and (one.knots >= 0).all() and (one.knots <= 1).all()):
            raise ValueError(f"{path}: extents of {name} must be positive, knots must rise within [0, 1]")
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class WeighedHands(HandDetections):
    """Detections as fusion weighs them: `box` and `score` are what they are worth, the detector's own score stands beside."""

    score_raw: Float32[np.ndarray, "n"]
    landmark_score: Float32[np.ndarray, "n"]  # probability that the landmarks are not grossly wrong; NaN where nobody looked twice


def calibrated(detections: HandDetections, calibrations: Mapping[str, Calibration]) -> WeighedHands:
    """Detections with box and score calibrated by their source; a source that nobody calibrated is taken at its word."""
    box, score = detections.box.copy(), detections.score.copy()
    for name in set(detections.source) & set(calibrations):
        rows = detections.source == name
        box[rows] = calibrations[name].box(detections.box[rows])
        score[rows] = calibrations[name].score(detections.take(rows))
    return _weighed(detections, box, score)


def uncalibrated(detections: HandDetections) -> WeighedHands:
    """Detections as WiLoR, sec. 3, averages them: the hull of the landmarks where a detector has any, and its own score."""
    known = np.isfinite(detections.keypoints).all((1, 2))
    box = detections.box.copy()
    box[known] = hull_boxes(detections.keypoints[known], min_score=SEEN, extent=(1.0, 1.0))
    return _weighed(detections, box, detections.score)


def _weighed(detections: HandDetections, box: Float32[np.ndarray, "n 4"], score: Float32[np.ndarray, "n"]) -> WeighedHands:
    unknown = np.full(len(detections), np.nan, np.float32)
    return WeighedHands(**vars(detections) | {"box": box, "score": score, "score_raw": detections.score, "landmark_score": unknown})
