"""Tracks: the same hand through a clip. Boxes xyxy in pixels, times in seconds; a clip holds no shot cut."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64

from stages import boxes
from stages.fusion import sides
from stages.tables import UNKNOWN_SIDE, Hands

FORGET = 0.8
"""Of a track's votes, what is left at its next row. Ours: one hand's votes must not outvote another's for long."""
FARTHEST = 2.0
"""Hand sizes from where it should be, at most, that a track may find its hand. Ours."""
FARTHER = 2.5
"""How many times as far it may be where the sides are known: a hand that drops is no other. Ours."""
CONFLICT = 0.5
"""Hand sizes that a hand of the other side, both votes sure, seems further away. Ours."""
CONTRADICTION = 0.2
"""Product of two votes for opposite sides, each as a share of a sure one: above, a jump does not link them. Ours."""
CRUMB, CRUMB_REACH = 2, 1.5
"""Rows of a track, at most, that may be another's, and hand sizes from where that one must have passed. Ours."""


@dataclass(slots=True)
class _Track:
    box: Float64[np.ndarray, "4"]
    time_s: float
    velocity: Float64[np.ndarray, "2"]  # of the centre, pixels per second
    log_odds: float  # of right against left, summed over its rows, the latest most

    def guess(self, time_s: float) -> Float64[np.ndarray, "4"]:
        """Where constant velocity would put it."""
        return self.box + np.tile(self.velocity * (time_s - self.time_s), 2)

    def extend(self, box: Float64[np.ndarray, "4"], time_s: float, log_odds: float, around: float) -> None:
        shift = _shortest(boxes.centre(box) - boxes.centre(self.box), around) / max(time_s - self.time_s, 1e-3)
        self.velocity = (self.velocity + shift) / 2  # starts at rest: the first step counts half, a jump is damped
        self.box, self.time_s = box, time_s
        self.log_odds = FORGET * self.log_odds + log_odds


def _shortest(shift: Float64[np.ndarray, "*n 2"], around: float) -> Float64[np.ndarray, "*n 2"]:
    """Steps, pixels, the shorter way round an image that is so wide and closes to a ring; 0 where it does not."""
    if not around:
        return shift
    return np.stack([(shift[..., 0] + around / 2) % around - around / 2, shift[..., 1]], -1)


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
    usual_s: float,
    strict: bool,
    around: float,
) -> Float64[np.ndarray, "m n"]:
    """Distance from the guess in hand sizes, plus what a change of size or of side costs; infinite beyond reach, and where a hand of the
    other side jumps in or comes after a gap."""
    guess = np.stack([t.guess(time_s) for t in tracks])
    size = np.sqrt(boxes.long_side(guess)[:, None] * boxes.long_side(box)[None])
    distance = np.linalg.norm(_shortest(boxes.centre(guess)[:, None] - boxes.centre(box)[None], around), axis=-1) / size
    growth = np.abs(np.log(boxes.long_side(guess)[:, None] / boxes.long_side(box)[None]))
    past = np.clip([t.log_odds for t in tracks], -3, 3)
    conflict = np.maximum(-past[:, None] * np.clip(log_odds, -3, 3)[None], 0) / 9  # 1 when both are sure and differ
    since_s = time_s - np.array([t.time_s for t in tracks])
    reach = np.minimum(0.5 + max_speed * since_s, FARTHEST) * (FARTHER if strict else 1)
    jumps = (distance > sides.SMOOTH_STEP) | (since_s[:, None] > 1.5 * usual_s)
    possible = (distance <= reach[:, None]) & (growth <= np.log(2.5)) & ~((jumps | strict) & (conflict > (0 if strict else CONTRADICTION)))
    return np.where(possible, distance + growth / 2 + CONFLICT * conflict, np.inf)


def link(
    frame: Int64[np.ndarray, "n"],
    time_s: Float64[np.ndarray, "n"],
    box: Float[np.ndarray, "n 4"],
    log_odds: Float[np.ndarray, "n"],
    *,
    max_gap_s: float,
    max_speed: float,
    strict: bool = False,
    around: float = 0.0,
) -> Int32[np.ndarray, "n"]:
    """Track numbers, in order of first sight: frame by frame the cheapest pairs of open tracks and hands.

    `log_odds` (n) of right against left; a track is open for `max_gap_s` seconds after its last row; a hand moves
    at most `max_speed` of its own sizes a second away from the constant-velocity guess (and half a size more, two at most). With
    `strict` no track holds hands of two sides. `around`: width of an image that closes to a ring.
    """
    track = np.full(len(frame), -1, np.int32)
    everyone: list[_Track] = []
    box, log_odds, usual_s = box.astype(np.float64), log_odds.astype(np.float64), sides.usual_step_s(time_s)
    for number in np.unique(frame):
        rows = np.flatnonzero(frame == number)
        now = float(time_s[rows[0]])
        open_tracks = [i for i, t in enumerate(everyone) if now - t.time_s <= max_gap_s + 1e-6]
        if open_tracks:
            cost = _link_cost([everyone[i] for i in open_tracks], box[rows], log_odds[rows], now, max_speed, usual_s, strict, around)
            for i, j in assign(cost):
                track[rows[j]] = open_tracks[i]
                everyone[open_tracks[i]].extend(box[rows[j]], now, float(log_odds[rows[j]]), around)
        for row in rows[track[rows] < 0]:
            track[row] = len(everyone)
            everyone.append(_Track(box[row], now, np.zeros(2), float(log_odds[row])))
    return track


def _in_order(hands: Hands) -> Int64[np.ndarray, "n"]:
    """Rows in order of frame and falling score."""
    return np.lexsort((*hands.box.T, -hands.score, hands.frame))


def _visible(hands: Hands, around: float) -> Float64[np.ndarray, "n 4"]:
    """The part of each box within the frame, of what little lies within: how far a hand goes on beyond the border is a guess that jumps."""
    box = hands.box.astype(np.float64)
    size = np.stack([hands.width, hands.height, hands.width, hands.height], 1).astype(np.float64)
    inside = np.clip(box, 0, size)
    seen = ((inside[:, 2:] - inside[:, :2]) >= 1).all(1, keepdims=True)
    return np.where(seen, inside, box) if not around else box


def third_hands(hands: Hands, *, share: float) -> Bool[np.ndarray, "n"]:
    """Hands that share more than `share` of the smaller box with a surer one of a person who has two surer ones in that frame: fingers
    beside the hand, or the hand with what it holds, that vote for the other side."""
    person = np.zeros_like(hands.person) if sides.is_one_person(hands.frame, hands.person) else hands.person
    third = np.zeros(len(hands), bool)
    order = _in_order(hands)
    for rows in np.split(order, np.flatnonzero(np.diff(hands.frame[order])) + 1):
        box = hands.box[rows].astype(np.float64)
        smaller = np.minimum(boxes.area(box)[:, None], boxes.area(box)[None])
        theirs = np.triu((person[rows][:, None] == person[rows][None]) & (person[rows] >= 0)[:, None], 1)  # surer hands of one's person
        again = theirs & (boxes.intersection(box, box) > share * smaller)
        third[rows] = (theirs.sum(0) >= 2) & again.any(0)
    return third


def _without_crumbs(
    frame: Int64[np.ndarray, "n"],
    time_s: Float64[np.ndarray, "n"],
    box: Float64[np.ndarray, "n 4"],
    track: Int32[np.ndarray, "n"],
    max_gap_s: float,
    around: float,
) -> Int32[np.ndarray, "n"]:
    """Tracks without those of one or two rows that fill a gap of another where it must have passed: a blurred hand votes for any side."""
    track, count = track.copy(), np.bincount(track)
    rows_of = [np.flatnonzero(track == number) for number in range(len(count))]
    for number in np.flatnonzero(count <= CRUMB):
        rows = rows_of[number]
        best, nearest = -1, CRUMB_REACH
        for other in np.flatnonzero(count > CRUMB):
            apart = _off_the_way(rows_of[other], rows, frame, time_s, box, max_gap_s, around)
            if apart < nearest:
                best, nearest = int(other), apart
        if best >= 0:
            track[rows] = best
            rows_of[best] = np.sort(np.concatenate([rows_of[best], rows]))
    return np.unique(track, return_inverse=True)[1].astype(np.int32)


def _off_the_way(
    track: Int64[np.ndarray, "m"],
    rows: Int64[np.ndarray, "k"],
    frame: Int64[np.ndarray, "n"],
    time_s: Float64[np.ndarray, "n"],
    box: Float64[np.ndarray, "n 4"],
    max_gap_s: float,
    around: float,
) -> float:
    """Hand sizes, at most, of rows from the straight way between a track's row before and its row after them; infinite where it has none
    within so many seconds, or is seen meanwhile."""
    after = int(np.searchsorted(frame[track], frame[rows[0]]))
    if not 0 < after < len(track) or frame[track[after]] <= frame[rows[-1]]:
        return np.inf
    a, b = track[after - 1], track[after]
    if time_s[b] - time_s[a] > max_gap_s + 1e-6:
        return np.inf
    share = ((time_s[rows] - time_s[a]) / (time_s[b] - time_s[a]))[:, None]
    size = boxes.long_side(box[a] * (1 - share) + box[b] * share)
    here, there = boxes.centre(box[[a]]), boxes.centre(box[[b]])
    way = here + share * _shortest(there - here, around)
    apart = np.linalg.norm(_shortest(way - boxes.centre(box[rows]), around), axis=1)
    return float((apart / np.sqrt(size * boxes.long_side(box[rows]))).max())


def follow(hands: Hands, *, max_gap_s: float, max_speed: float, min_side_log_odds: float, around: float) -> Hands:
    """Hands with tracks, in order of frame and falling score; a side is decided over the whole clip, or unknown.

    Tracks are linked twice: first by places and single votes, to decide the sides, then by places and sides. `around`: width of an image
    that closes to a ring.
    """
    hands = hands.take(_in_order(hands))
    where: dict[str, Any] = {"frame": hands.frame, "time_s": hands.time_s, "box": _visible(hands, around)}
    votes = sides.paired(**where, person=hands.person, log_odds=hands.side_log_odds)
    bounded_link = partial(link, **where, max_gap_s=max_gap_s, max_speed=max_speed, around=around)
    linked = bounded_link(log_odds=votes)
    told = sides.decide(**where, track=linked, person=hands.person, votes=votes, min_log_odds=min_side_log_odds)
    track = bounded_link(log_odds=told.log_odds * (told.side != UNKNOWN_SIDE), strict=True)
    track = _without_crumbs(hands.frame, hands.time_s, where["box"], track, max_gap_s, around)
    told = sides.of_tracks(hands.frame, track, hands.person, told)
    first = np.searchsorted(hands.frame, hands.frame)
    return replace(
        hands,
        hand=(np.arange(len(hands)) - first).astype(np.int16),
        side=told.side,
        side_log_odds=told.log_odds.astype(np.float32),
        track=track,
        track_length=np.bincount(track)[track].astype(np.int32),
    )
