"""Looking again in the next and the last frame, where a hand was: what the palm detector missed there, the landmark network may see."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from stages.detectors.hand_landmarks import FindLandmarks, tracked_region
from stages.detectors.hand_search import Hand, Start, confirm, each_once, same_hand


def fill_gaps(
    images: Sequence[UInt8[np.ndarray, "height width 3"]],
    hands: Sequence[list[Hand]],
    find_landmarks: FindLandmarks,
    *,
    min_parent: float,
    min_presence: float,
    decay: float,
) -> list[list[Hand]]:
    """Each frame's hands, with those that a neighbour's hand leads to; a found one leads on, its palm score fading by `decay` a frame."""
    filled = [list(found) for found in hands]
    for order in (range(1, len(images)), range(len(images) - 2, -1, -1)):
        step = 1 if order.step > 0 else -1
        for t in order:
            lost = [h for h in filled[t - step] if h.score >= min_parent and not any(_continues(h, other) for other in filled[t])]
            starts = [_look_again(hand, decay) for hand in lost]
            found = confirm(images[t], starts, find_landmarks, min_presence=min_presence)
            filled[t] += [h for h in each_once(found) if not any(same_hand(h, other) for other in filled[t])]
    return [sorted(found, key=lambda hand: -hand.score) for found in filled]


def _continues(before: Hand, after: Hand) -> bool:
    """Whether `after` may be where `before` went: centres within half a hand, sizes within a factor of two."""
    apart = np.linalg.norm(before.landmarks.points.mean(axis=0) - after.landmarks.points.mean(axis=0))
    return bool(apart < 0.5 * max(before.size, after.size) and 0.5 < before.size / after.size < 2)


def _look_again(hand: Hand, decay: float) -> Start:
    region = tracked_region(hand.landmarks.points, scale=2.6)
    low, high = region[:2] - region[2] / 2, region[:2] + region[2] / 2
    return replace(hand.start, route="track", crop=np.concatenate([low, high]), region=region, score=hand.start.score * decay)
