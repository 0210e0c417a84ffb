"""Hands where somebody else's boxes say they are: the landmark network looks at each box, then once more where its landmarks lie.

A box tells neither where the wrist is nor which way the fingers point. The proposer's own keypoints may say so, roughly; where they do
not, or the network doubts that it is a hand that way, it is shown the square about the box turned by eighths of a circle.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from stages.detectors.mediapipe.crops import Look, region_of_box, upright_angle
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, Landmarks, tracked_region
from stages.detectors.mediapipe.hand_search import HOPELESS
from stages.tables import HAND_KEYPOINTS

SCALE = 1.5
"""The square that the network is shown over the longer side of the box. Ours."""
TURNS = 8
"""Turns of the square. Ours."""
LIKELY = 0.5
"""Presence at which the first turn is taken for the right one; MediaPipe's own gate."""
UNLIKELY = 0.02
"""Presence at the turn that the proposer's keypoints tell below which no other is tried. Ours: on clips one such box of 46 held a hand."""
_WRIST, _KNUCKLE = HAND_KEYPOINTS.index("wrist"), HAND_KEYPOINTS.index("middle1")


def look_at_boxes(
    image: UInt8[np.ndarray, "height width 3"],
    box: Float[np.ndarray, "n 4"],
    find_landmarks: FindLandmarks,
    *,
    keypoints: Float[np.ndarray, "n 21 _"] | None = None,
    turns: int = TURNS,
) -> list[Landmarks | None]:
    """Landmarks that the network sees in each box at its second look, None where the first saw nothing at any turn."""
    return [
        _one(image, row.astype(np.float64), _turn(None if keypoints is None else keypoints[k]), find_landmarks, turns)
        for k, row in enumerate(box)
    ]


def _turn(keypoints: Float[np.ndarray, "21 _"] | None) -> float | None:
    """The turn in which the fingers point up, where keypoints are known."""
    if keypoints is None or not np.isfinite(keypoints[[_WRIST, _KNUCKLE], :2]).all():
        return None
    return upright_angle(keypoints[_WRIST, :2], keypoints[_KNUCKLE, :2])


def _one(
    image: UInt8[np.ndarray, "height width 3"],
    box: Float[np.ndarray, "4"],
    guess: float | None,
    find_landmarks: FindLandmarks,
    turns: int,
) -> Landmarks | None:
    square = region_of_box(box, scale=SCALE)
    first = guess or 0.0
    looks: Sequence[Look] = [(image, square + np.array([0, 0, 0, first + 2 * np.pi * turn / turns])) for turn in range(turns)]
    seen = find_landmarks(looks[:1])
    if guess is None or UNLIKELY <= seen[0].presence < LIKELY:
        seen += find_landmarks(looks[1:])
    best = max(seen, key=lambda one: one.presence)
    if best.presence < HOPELESS:
        return None
    (second,) = find_landmarks([(image, tracked_region(best.points))])
    return second
