"""Evidence of a body's wrists about hands: whose they are, which side, and that they are there. One frame, pixels."""

import numpy as np
from jaxtyping import Float, Float64, Int64

from stages.fusion.tracks import assign
from stages.tables import BODY_KEYPOINTS, People

WRISTS = [BODY_KEYPOINTS.index("left_wrist"), BODY_KEYPOINTS.index("right_wrist")]  # in the order of `side`

SIDE_AND_PERSON = 3.0
"""Weight of a wrist where person and side of a hand are chosen together, over its weight for a side alone. Ours."""


def wrist_witness(
    wrist: Float[np.ndarray, "n 2"], size: Float[np.ndarray, "n"], people: People, *, reach: float
) -> Float64[np.ndarray, "n m 2"]:
    """How much each person's left and right wrist speak for each hand, in [0, 1].

    `wrist` is the hand's own wrist and `size` its box side, pixels. The body's wrist speaks with its confidence where the two
    coincide, and less and less up to `reach` hand sizes away.
    """
    theirs = people.keypoints[:, WRISTS].astype(np.float64)
    distance = np.linalg.norm(wrist[:, None, None] - theirs[None, ..., :2], axis=-1) / (reach * size[:, None, None])
    return np.nan_to_num(np.maximum(1 - distance, 0) * np.clip(theirs[None, ..., 2], 0, 1))


def share_out(
    witness: Float64[np.ndarray, "n m 2"], log_odds: Float64[np.ndarray, "n"], score: Float64[np.ndarray, "n"], *, side_weight: float
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """Person (-1: nobody) and side of each hand: nobody gets two left or two right hands.

    `log_odds` of right against left are the detectors'; a wrist that speaks fully adds `SIDE_AND_PERSON` times `side_weight` for its person
    and side. Hands near a wrist go to somebody if they can; of the ways to do so the one that agrees best with sides, wrists and scores
    is taken.
    """
    num_hands, num_people, _ = witness.shape
    person, side = np.full(num_hands, -1), (log_odds > 0).astype(np.int64)
    if num_people == 0:
        return person, side
    sign = np.array([-1, 1])  # left, right
    utility = sign * log_odds[:, None, None] + side_weight * (SIDE_AND_PERSON * witness + score[:, None, None])
    utility = np.where(witness.max(-1, keepdims=True) > 0, utility, -np.inf).reshape(num_hands, num_people * 2)
    for hand, slot in assign(-utility):
        person[hand], side[hand] = divmod(slot, 2)
    return person, side


def side_log_odds(
    witness: Float64[np.ndarray, "n m 2"], log_odds: Float64[np.ndarray, "n"], person: Int64[np.ndarray, "n"], *, side_weight: float
) -> Float64[np.ndarray, "n"]:
    """Detectors' and wrists' votes of right against left."""
    odds = log_odds.copy()
    for hand in np.flatnonzero(person >= 0):
        left, right = witness[hand, person[hand]]
        odds[hand] += side_weight * (right - left)
    return odds
