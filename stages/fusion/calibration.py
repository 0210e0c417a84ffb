"""Calibration of each detector: extents of boxes, shares of hits.

`whim learn calibration` learns it on labelled frames.

A box is an xyxy box in pixels; its extent is scaled about its centre. A score is the detector's own P(b|d), mapped to the share of
such detections that are hands.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


SEEN = 0.1
"""A landmark less sure than this is no part of a hand's hull."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Calibration:
    """One detector's."""

    extent: Float64[np.ndarray, "2"]
    """A labelled hand's width and height over those of the detector's box, medians."""
    knots: Float64[np.ndarray, "k 2"]
    """Own score, and the share of such detections that are hands: straight lines between, both never fall."""

    def score(self, raw: Float[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
        """The share of detections of this score that are hands."""
        return np.interp(raw, self.knots[:, 0], self.knots[:, 1]).astype(np.float32)

    def box(self, box: Float[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
        """Boxes of a labelled hand's extent."""
        centre, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * self.extent
        return np.concatenate([centre - half, centre + half], 1).astype(np.float32)


def load_calibrations(path: Path = EMBEDDED) -> dict[str, Calibration]:
    """Calibrations by detector. Raises ValueError that says what is wrong when the file is none."""
    try:
        sources: Mapping[str, Mapping[str, object]] = json.loads(path.read_text())["sources"]
        found = {
            name: Calibration(extent=np.array(of["extent"], np.float64), knots=np.array(of["knots"], np.float64))
            for name, of in sources.items()
        }
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no calibration: {error!r}; whim learn calibration writes one") from error
    for name, one in found.items():
        if one.extent.shape != (2,) or one.knots.ndim != 2 or one.knots.shape[1:] != (2,) or not len(one.knots):
            raise ValueError(f"{path}: {name} needs an extent of 2 numbers and knots of 2 each")
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
        score[rows] = calibrations[name].score(detections.score[rows])
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
