"""Looking again in the next and the last frame, where a hand's track leads: what the palm detector missed, the landmark network may see."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, UInt8

from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, tracked_region
from stages.detectors.mediapipe.hand_search import Hand, Start, confirm, each_once, overlap


def fill_gaps(
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    hands: Sequence[list[Hand]],
    find_landmarks: FindLandmarks,
    *,
    min_parent: float,
    min_presence: float,
    decay: float,
) -> list[list[Hand]]:
    """Each frame's hands, with those that a neighbour's hand leads to; a found one leads on, its palm score fading by `decay` a frame.

    A hand above `min_parent` leads to a frame where none so sure continues it; it may replace a doubtful view of the same hand,
    and never lies on a sure one.
    """
    filled = [list(found) for found in hands]
    for order in (range(1, len(images)), range(len(images) - 2, -1, -1)):
        step = 1 if order.step > 0 else -1
        for t in order:
            sure = [hand for hand in filled[t] if hand.score >= min_parent]
            earlier = filled[t - 2 * step] if 0 <= t - 2 * step < len(images) else []
            guesses = [_guess(h, earlier) for h in filled[t - step] if h.score >= min_parent]
            for guess in [g for g in guesses if not any(_continues(g, other) for other in sure)]:
                found = confirm(images[t], [_look_again(guess, decay)], find_landmarks, min_presence=min_presence)
                free = [h for h in found if _is_same_still(guess, h) and not any(overlap(h, other) > 0.1 for other in sure)]
                filled[t] = each_once(filled[t] + free)
    return filled


def _guess(hand: Hand, earlier: Sequence[Hand]) -> Hand:
    """The hand where the step it made from the frame before would take it again; where it was when that frame lacks it."""
    steps = [_step(h, hand) for h in earlier if _is_same_still(h, hand, reach=1.5)]
    if not steps:
        return hand
    step = min(steps, key=np.linalg.norm)
    return replace(hand, landmarks=replace(hand.landmarks, points=hand.landmarks.points + step))


def _step(before: Hand, after: Hand) -> Float64[np.ndarray, "2"]:
    return np.asarray(after.landmarks.points.mean(axis=0) - before.landmarks.points.mean(axis=0), np.float64)


def _continues(before: Hand, after: Hand, reach: float = 0.5) -> bool:
    """Whether `after` may be where `before` went: centres within `reach` hands, sizes within a factor of two."""
    apart = np.linalg.norm(_step(before, after))
    return bool(apart < reach * max(before.size, after.size) and 0.5 < before.size / after.size < 2)


def _is_same_still(before: Hand, after: Hand, reach: float = 0.5) -> bool:
    """Whether what was found looks like the hand it was found from: near, of like size, of the same side."""
    same_side = (before.landmarks.p_right > 0.5) == (after.landmarks.p_right > 0.5)
    return same_side and _continues(before, after, reach) and 0.7 < after.size / before.size < 1.4


def _look_again(hand: Hand, decay: float) -> Start:
    region = tracked_region(hand.landmarks.points, scale=2.6)
    low, high = region[:2] - region[2] / 2, region[:2] + region[2] / 2
    return replace(hand.start, route="track", crop=np.concatenate([low, high]), region=region, score=hand.start.score * decay)
