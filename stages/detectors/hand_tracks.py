"""Looking again in the next and the last frame, where a hand was: what the palm detector missed there, the landmark network may see."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from stages.detectors.hand_landmarks import FindLandmarks, tracked_region
from stages.detectors.hand_search import Hand, Start, confirm, each_once, overlap


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
            lost = [h for h in filled[t - step] if h.score >= min_parent and not any(_continues(h, other) for other in sure)]
            for before in lost:
                found = confirm(images[t], [_look_again(before, decay)], find_landmarks, min_presence=min_presence)
                free = [h for h in found if _is_same_still(before, h) and not any(overlap(h, other) > 0.1 for other in sure)]
                filled[t] = each_once(filled[t] + free)
    return filled


def _continues(before: Hand, after: Hand) -> bool:
    """Whether `after` may be where `before` went: centres within half a hand, sizes within a factor of two."""
    apart = np.linalg.norm(before.landmarks.points.mean(axis=0) - after.landmarks.points.mean(axis=0))
    return bool(apart < 0.5 * max(before.size, after.size) and 0.5 < before.size / after.size < 2)


def _is_same_still(before: Hand, after: Hand) -> bool:
    """Whether what was found looks like the hand it was found from: near, of like size, of the same side."""
    same_side = (before.landmarks.p_right > 0.5) == (after.landmarks.p_right > 0.5)
    return same_side and _continues(before, after) and 0.7 < after.size / before.size < 1.4


def _look_again(hand: Hand, decay: float) -> Start:
    region = tracked_region(hand.landmarks.points, scale=2.6)
    low, high = region[:2] - region[2] / 2, region[:2] + region[2] / 2
    return replace(hand.start, route="track", crop=np.concatenate([low, high]), region=region, score=hand.start.score * decay)
