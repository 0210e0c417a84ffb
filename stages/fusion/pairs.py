"""Two hands of one person, each fitted alone: by how much what was found of them contradicts itself."""

import numpy as np
from jaxtyping import Float32, Int64

from stages.tables import HAND_KEYPOINTS, Fits, Hands

WRIST_M = 0.025
"""Radius of the ball that a wrist fills at least: half of a narrow one's width."""
_WRIST, _MIDDLE = HAND_KEYPOINTS.index("wrist"), HAND_KEYPOINTS.index("middle1")


def palm_m(fits: Fits) -> Float32[np.ndarray, "n"]:
    """Lengths of palms, metres."""
    return np.asarray(np.linalg.norm(fits.joints_3d[:, _MIDDLE] - fits.joints_3d[:, _WRIST], axis=1))


def pairs_of(hands: Hands, fits: Fits) -> Int64[np.ndarray, "k 2"]:
    """Rows of the two fitted hands of one person on one frame and view, where the camera is known."""
    known = np.isfinite(fits.focal_px) & np.isfinite(fits.transl).all(1) & (hands.person >= 0)
    key = np.stack([hands.frame, hands.view, hands.person], 1)
    _, group = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    order = order[known[order]]
    count = np.bincount(group[order], minlength=len(hands)) if len(order) else np.zeros(len(hands), np.int64)
    return order[count[group[order]] == 2].reshape(-1, 2)


def contradiction_m(hands: Hands, fits: Fits) -> Float32[np.ndarray, "n"]:
    """Metres by which a hand and its person's other one on the frame cannot both be so: how far their wrists are within each other, and
    the difference of their palms' lengths. NaN without just one other fitted hand, and where the camera is assumed: there are no metres.
    """
    found = np.full(len(hands), np.nan, np.float32)
    pairs, palm = pairs_of(hands, fits), palm_m(fits)
    first, second = pairs.T
    apart = np.linalg.norm(fits.transl[first] - fits.transl[second], axis=1)
    found[pairs] = (np.maximum(2 * WRIST_M - apart, 0) + np.abs(palm[first] - palm[second]))[:, None]
    return found
