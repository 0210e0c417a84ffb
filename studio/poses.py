"""A small vocabulary of hand shapes as joint angles, and smooth movement between them.

Angles are `fitting.hand.anatomy`'s twist, bend and splay of the 15 finger joints in MANO's order (index, middle, little, ring, thumb,
three joints each); positive bend closes the finger, positive splay leans it towards the thumb.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from fitting.hand.anatomy import FINGERS, limits

STRAIGHT, SOFT, CURLED, HOOKED = (4, 6, 4), (22, 28, 16), (78, 96, 60), (15, 85, 55)
THUMB_OUT, THUMB_SOFT, THUMB_IN, THUMB_UP = (-8, -4, -2), (4, 10, 10), (20, 34, 40), (-14, -6, -8)

SHAPES: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float], Sequence[float]]] = {
    "open": (STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT, THUMB_OUT),
    "flat": (STRAIGHT, STRAIGHT, STRAIGHT, STRAIGHT, THUMB_SOFT),
    "relaxed": (SOFT, SOFT, SOFT, SOFT, THUMB_SOFT),
    "fist": (CURLED, CURLED, CURLED, CURLED, THUMB_IN),
    "point": (STRAIGHT, CURLED, CURLED, CURLED, THUMB_IN),
    "victory": (STRAIGHT, STRAIGHT, CURLED, CURLED, THUMB_IN),
    "three": (STRAIGHT, STRAIGHT, CURLED, CURLED, THUMB_OUT),
    "pinch": ((48, 52, 24), SOFT, SOFT, SOFT, (12, 22, 24)),
    "cup": ((35, 40, 22), (37, 42, 24), (40, 46, 26), (38, 44, 25), THUMB_SOFT),
    "thumb_up": (CURLED, CURLED, CURLED, CURLED, THUMB_UP),
    "ell": (STRAIGHT, CURLED, CURLED, CURLED, THUMB_UP),
    "claw": (HOOKED, HOOKED, HOOKED, HOOKED, THUMB_SOFT),
}
"""Bend in degrees of the three joints of each finger, in `fitting.hand.anatomy.FINGERS`' order."""

SPREAD: Mapping[str, float] = {"open": 1.0, "victory": 0.8, "three": 0.8, "flat": -0.1, "claw": 0.8, "relaxed": 0.3}
"""How far straight fingers fan out, as a share of a full spread; 0.2 where nothing is said."""

FAN_DEG: Mapping[str, float] = {"index": 11, "middle": 2, "ring": -6, "little": -15, "thumb": 0}


def shape_angles(name: str) -> Float64[np.ndarray, "15 3"]:
    """Twist, bend, splay in radians of one named shape."""
    angles = np.zeros((5, 3, 3))
    angles[:, :, 1] = np.array(SHAPES[name])
    angles[:, 0, 2] = [SPREAD.get(name, 0.2) * FAN_DEG[finger] for finger in FINGERS]
    return np.radians(angles.reshape(15, 3))


def key_angles(names: Sequence[str], rng: np.random.Generator) -> Float64[np.ndarray, "keys 15 3"]:
    """Each named shape as a person would make it this time: a few degrees off, within the joints' limits."""
    exact = np.stack([shape_angles(name) for name in names])
    wobble = rng.normal(0, 1, exact.shape) * np.radians([1.0, 5.0, 1.0])
    wobble[:, ::3, 2] *= 2.5
    low, high = limits()[..., 0], limits()[..., 1]
    return np.clip(exact + wobble, 0.95 * low, 0.95 * high)


def glide(
    keys: Float64[np.ndarray, "keys *shape"],
    key_times: Float64[np.ndarray, "keys"],
    times: Float64[np.ndarray, "times"],
    move_share: float = 0.6,
) -> Float64[np.ndarray, "times *shape"]:
    """Values at `times` (s): rest at each key, then the minimum-jerk step to the next (Flash and Hogan, 1985).

    The movement fills `move_share` of each interval; before the first and after the last key the value rests.
    """
    span = np.clip(np.searchsorted(key_times, times, side="right") - 1, 0, len(keys) - 2)
    share = (times - key_times[span]) / (key_times[span + 1] - key_times[span])
    share = np.clip((share - (1 - move_share)) / move_share, 0, 1)
    step = (share**3 * (10 - 15 * share + 6 * share**2)).reshape(-1, *([1] * (keys.ndim - 1)))
    return keys[span] * (1 - step) + keys[span + 1] * step


def key_times(duration_s: float, pause_s: tuple[float, float], rng: np.random.Generator) -> Float64[np.ndarray, "keys"]:
    """Moments of the keys: from 0, `pause_s` (low, high) apart at random, the last one at or beyond the end."""
    times = [0.0]
    while times[-1] < duration_s or len(times) < 2:
        times.append(times[-1] + rng.uniform(*pause_s))
    return np.array(times)
