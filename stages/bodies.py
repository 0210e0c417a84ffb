"""What a body's wrists say about hands: whose they are, which side, and that they are there. One frame, pixels."""

import numpy as np
from jaxtyping import Float, Float64, Int64

from stages import boxes
from stages.tables import BODY_KEYPOINTS, LEFT, RIGHT, People
from stages.tracks import assign

WRISTS = [BODY_KEYPOINTS.index("left_wrist"), BODY_KEYPOINTS.index("right_wrist")]  # in the order of `side`


def without_copies(people: People, *, copy_iou: float) -> People:
    """Each person of one frame once: boxes overlap by more than `copy_iou` and the visible keypoints coincide; best score first."""
    ranked = people.take(np.lexsort((*people.box.T, -people.score)))
    points, seen = ranked.keypoints[..., :2], np.nan_to_num(ranked.keypoints[..., 2])
    weight = seen[:, None] * seen[None]
    apart = np.linalg.norm(np.nan_to_num(points[:, None] - points[None], nan=1e6), axis=-1)
    distance = (weight * apart).sum(-1) / np.maximum(weight.sum(-1), 1e-6) / boxes.long_side(ranked.box)[:, None]
    copies = (boxes.iou(ranked.box, ranked.box) > copy_iou) & ((distance < 0.1) | (weight.sum(-1) <= 0))
    kept: list[int] = []
    for i in range(len(ranked)):
        if not copies[kept, i].any():
            kept.append(i)
    return ranked.take(np.array(kept, np.int64))


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
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """Person (-1: nobody), side and log-odds of each hand: nobody gets two left or two right hands.

    `log_odds` are the detectors'; a wrist that speaks fully for one side adds `side_weight`. Hands near a wrist go to
    somebody if they can; among the ways to do so the one that agrees best with sides, nearness and scores is taken. Of two
    hands of one person just one is the right one: each one's log-odds count against the other's.
    """
    num_hands, num_people, _ = witness.shape
    total = log_odds[:, None] + side_weight * (witness[..., RIGHT] - witness[..., LEFT])
    if num_people == 0:
        return np.full(num_hands, -1), (log_odds > 0).astype(np.int64), log_odds
    near = witness.max(-1)
    gain = side_weight * (near + score[:, None])
    utility = np.stack([gain - total, gain + total], -1)  # n, m, (left, right)
    utility = np.where(near[..., None] > 0, utility, -np.inf).reshape(num_hands, num_people * 2)
    person, side, odds = np.full(num_hands, -1), (log_odds > 0).astype(np.int64), log_odds.copy()
    for hand, slot in assign(-utility):
        person[hand], side[hand] = divmod(slot, 2)
        odds[hand] = total[hand, person[hand]]
    pair = (person[:, None] == person[None]) & (person >= 0) & ~np.eye(num_hands, dtype=bool)
    return person, side, odds - pair @ odds
