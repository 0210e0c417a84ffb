"""Tracks: the same hand through a clip. Boxes xyxy in pixels, times in seconds; a clip holds no shot cut."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64, Int32, Int64

from stages import boxes
from stages.tables import Hands


@dataclass(slots=True)
class _Track:
    box: Float64[np.ndarray, "4"]
    time_s: float
    velocity: Float64[np.ndarray, "2"]  # of the centre, pixels per second
    log_odds: float  # of right against left, summed over its rows

    def guess(self, time_s: float) -> Float64[np.ndarray, "4"]:
        """Where constant velocity would put it."""
        return self.box + np.tile(self.velocity * (time_s - self.time_s), 2)

    def extend(self, box: Float64[np.ndarray, "4"], time_s: float, log_odds: float) -> None:
        shift = (boxes.centre(box) - boxes.centre(self.box)) / max(time_s - self.time_s, 1e-3)
        self.velocity = (self.velocity + shift) / 2  # starts at rest: the first step counts half, a jump is damped
        self.box, self.time_s, self.log_odds = box, time_s, self.log_odds + log_odds


def assign(cost: Float[np.ndarray, "n m"]) -> list[tuple[int, int]]:
    """Pairs of least total cost (the Hungarian method); infinite costs forbid a pair, and as many pairs are made as can be."""
    from scipy.optimize import linear_sum_assignment

    allowed = np.isfinite(cost)
    if not allowed.any():
        return []
    span = 1 + np.ptp(cost[allowed])
    forbidden = span * (1 + min(cost.shape))  # dearer than any set of allowed pairs
    rows, columns = linear_sum_assignment(np.where(allowed, cost - cost[allowed].min(), forbidden))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if allowed[i, j]]


def _link_cost(
    tracks: list[_Track],
    box: Float64[np.ndarray, "n 4"],
    log_odds: Float64[np.ndarray, "n"],
    time_s: float,
    max_speed: float,
) -> Float64[np.ndarray, "m n"]:
    """Distance from the guess in hand sizes, plus what a change of size or of side costs; infinite beyond reach."""
    guess = np.stack([t.guess(time_s) for t in tracks])
    size = np.sqrt(boxes.long_side(guess)[:, None] * boxes.long_side(box)[None])
    distance = np.linalg.norm(boxes.centre(guess)[:, None] - boxes.centre(box)[None], axis=-1) / size
    growth = np.abs(np.log(boxes.long_side(guess)[:, None] / boxes.long_side(box)[None]))
    past = np.clip([t.log_odds for t in tracks], -3, 3)
    conflict = np.maximum(-past[:, None] * np.clip(log_odds, -3, 3)[None], 0) / 9  # 1 when both are sure and differ
    reach = np.minimum(0.5 + max_speed * (time_s - np.array([t.time_s for t in tracks])), 2.0)
    cost = distance + growth / 2 + conflict / 2
    return np.where((distance <= reach[:, None]) & (growth <= np.log(2.5)), cost, np.inf)


def link(
    frame: Int64[np.ndarray, "n"],
    time_s: Float64[np.ndarray, "n"],
    box: Float[np.ndarray, "n 4"],
    log_odds: Float[np.ndarray, "n"],
    *,
    max_gap_s: float,
    max_speed: float,
) -> Int32[np.ndarray, "n"]:
    """Track numbers, in order of first sight: frame by frame the cheapest pairs of open tracks and hands.

    `log_odds` (n) of right against left; a track is open for `max_gap_s` seconds after its last row; a hand moves
    at most `max_speed` of its own sizes a second away from the constant-velocity guess (and half a size more, two at most).
    """
    track = np.full(len(frame), -1, np.int32)
    everyone: list[_Track] = []
    box, log_odds = box.astype(np.float64), log_odds.astype(np.float64)
    for number in np.unique(frame):
        rows = np.flatnonzero(frame == number)
        now = float(time_s[rows[0]])
        open_tracks = [i for i, t in enumerate(everyone) if now - t.time_s <= max_gap_s + 1e-6]
        if open_tracks:
            cost = _link_cost([everyone[i] for i in open_tracks], box[rows], log_odds[rows], now, max_speed)
            for i, j in assign(cost):
                track[rows[j]] = open_tracks[i]
                everyone[open_tracks[i]].extend(box[rows[j]], now, float(log_odds[rows[j]]))
        for row in rows[track[rows] < 0]:
            track[row] = len(everyone)
            everyone.append(_Track(box[row], now, np.zeros(2), float(log_odds[row])))
    return track


def follow(hands: Hands, *, max_gap_s: float, max_speed: float) -> Hands:
    """The same hands with tracks, in order of frame and falling score; a side is its whole track's, never one frame's alone."""
    hands = hands.take(np.lexsort((*hands.box.T, -hands.score, hands.frame)))
    track = link(hands.frame, hands.time_s, hands.box, hands.side_log_odds, max_gap_s=max_gap_s, max_speed=max_speed)
    length = np.bincount(track)[track]
    odds = np.bincount(track, hands.side_log_odds)[track]
    undecided = np.bincount(track, hands.side)[track] * 2 > length
    side = np.where(odds == 0, undecided, odds > 0)
    first = np.searchsorted(hands.frame, hands.frame)
    return replace(
        hands,
        hand=(np.arange(len(hands)) - first).astype(np.int16),
        side=side.astype(np.int8),
        side_log_odds=odds.astype(np.float32),
        person=_one_of_each(hands, side, np.abs(odds)),
        track=track,
        track_length=length.astype(np.int32),
    )


def _one_of_each(hands: Hands, side: np.ndarray, sureness: Float[np.ndarray, "n"]) -> np.ndarray:
    """People, without the less sure of two hands that came to have one side of one person in one frame."""
    person = hands.person.copy()
    taken: set[tuple[int, int, int]] = set()
    for i in np.argsort(-sureness, kind="stable"):
        slot = (int(hands.frame[i]), int(person[i]), int(side[i]))
        if slot in taken and person[i] >= 0:
            person[i] = -1
        taken.add(slot)
    return person
