"""How far a hand's landmarks can be trusted, by how far second looks put them apart; learned on hands judged by eye.

`python -m pipeline.evaluate.landmarks` learns it. Both are logistic: a hand's landmarks are grossly wrong or not, a landmark is where
it should be or not.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from stages.fusion.calibration import WeighedHands

LEARNED = Path(__file__).parent / "landmark_score.json"
FLOOR = 0.003
"""Lengths of the hand below which a spread means nothing: the network's own pixels."""
PALM_SOURCES = ("mediapipe",)
"""Detectors whose palm score is that of the palm network, which the score was learned with."""
TYPICAL_PALM = 2.77
"""Log-odds of the palm score that a hand of another detector is judged by: the mean of the judged hands."""
MIN_INSIDE = 5
"""A hand with fewer landmarks in the frame is judged by all of them."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LandmarkScore:
    """Weights of the two logistic models: a constant, then one for each feature."""

    hand: Float64[np.ndarray, "3"]  # of log mean spread inside the frame, log-odds of the palm score
    keypoint: Float64[np.ndarray, "4"]  # of the keypoint's log spread, then the hand's two

    def of_hands(self, features: Float64[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n"]:
        """Probability that a hand's landmarks are not grossly wrong; NaN where nobody looked twice."""
        return _logistic(self.hand[0] + features @ self.hand[1:]).astype(np.float32)

    def of_keypoints(self, spread: Float[np.ndarray, "n 21"], features: Float64[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 21"]:
        """Probability that each landmark is right; NaN where nobody looked twice."""
        own = self.keypoint[1] * np.log(spread.astype(np.float64) + FLOOR)
        return _logistic(self.keypoint[0] + own + (features @ self.keypoint[2:])[:, None]).astype(np.float32)


def load_landmark_score(path: Path = LEARNED) -> LandmarkScore:
    """The learned weights. Raises ValueError that says what is wrong when the file is none."""
    try:
        content = json.loads(path.read_text())
        hand, keypoint = (np.array(content[name]["weights"], np.float64) for name in ("hand", "keypoint"))
        if hand.shape != (3,) or keypoint.shape != (4,) or not np.isfinite([*hand, *keypoint]).all():
            raise ValueError("a hand has 3 weights, a keypoint 4")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no score of landmarks: {error!r}; python -m pipeline.evaluate.landmarks writes one") from error
    return LandmarkScore(hand=hand, keypoint=keypoint)


def is_inside(points: Float[np.ndarray, "*n 21 2"], width: int, height: int) -> Bool[np.ndarray, "*n 21"]:
    """Which landmarks lie in the frame; all of them where fewer than five do."""
    inside = ((points >= 0) & (points < (width, height))).all(-1)
    return np.asarray(inside | (inside.sum(-1, keepdims=True) < MIN_INSIDE), np.bool_)


def features_of(
    keypoints: Float[np.ndarray, "n 21 _"],
    spread: Float[np.ndarray, "n 21"],
    palm_score: Float[np.ndarray, "n"],
    width: int,
    height: int,
) -> Float64[np.ndarray, "n 2"]:
    """What a hand is judged by: log mean spread of its landmarks inside the frame, log-odds of the palm that it was found by (NaN:
    by none)."""
    inside = is_inside(keypoints[..., :2], width, height)
    mean = np.where(inside, spread, 0).sum(1, dtype=np.float64) / np.maximum(inside.sum(1), 1)
    sure = np.clip(palm_score.astype(np.float64), 1e-4, 1 - 1e-4)
    palm = np.where(np.isfinite(sure), np.log(sure / (1 - sure)), TYPICAL_PALM)
    return np.stack([np.log(mean + FLOOR), palm], 1)


def judged(detections: WeighedHands, score: LandmarkScore, width: int, height: int) -> WeighedHands:
    """Detections with the score of their landmarks, each landmark's confidence the probability that it is right.

    What nobody looked at twice keeps the detector's own confidences, and no score.
    """
    palm_score = np.where(np.isin(detections.source, PALM_SOURCES), detections.palm_score, np.nan)
    features = features_of(detections.keypoints, detections.spread, palm_score, width, height)
    of_keypoint = score.of_keypoints(detections.spread, features)
    keypoints = detections.keypoints.copy()
    keypoints[..., 2] = np.where(np.isfinite(of_keypoint), of_keypoint, keypoints[..., 2])
    return replace(detections, keypoints=keypoints, landmark_score=score.of_hands(features))


def _logistic(x: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)
