"""Tracks: the same hand through a clip. Boxes xyxy in pixels, times in seconds; a clip holds no shot cut."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64

from stages import boxes
from stages.fusion import links, sides
from stages.tables import Hands

CRUMB, CRUMB_REACH = 2, 1.5
"""Rows of a track, at most, that may be another's, and hand sizes from where that one must have passed. Ours."""


def assign(cost: Float[np.ndarray, "n m"]) -> list[tuple[int, int]]:
    """Pairs of least total cost (the Hungarian method); infinite costs forbid a pair, and as many pairs are made as can be."""
    from scipy.optimize import linear_sum_assignment

    allowed = np.isfinite(cost)
    if not allowed.any():
        return []
    span = 1 + np.ptp(cost[allowed])
    forbidden = span * min(cost.shape)  # dearer than any set of allowed pairs
    rows, columns = linear_sum_assignment(np.where(allowed, cost - cost[allowed].min(), forbidden))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if allowed[i, j]]


def _in_order(hands: Hands) -> Int64[np.ndarray, "n"]:
    """Rows in order of frame and falling score."""
    return np.lexsort((*hands.box.T, -hands.score, hands.frame))


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
    way = here + share * links.shortest(there - here, around)
    apart = np.linalg.norm(links.shortest(way - boxes.centre(box[rows]), around), axis=1)
    return float((apart / np.sqrt(size * boxes.long_side(box[rows]))).max())


def follow(hands: Hands, *, max_gap_s: float, min_side_log_odds: float, around: float) -> Hands:
    """Hands with tracks, in order of frame and falling score; a side is decided over the whole clip, or unknown.

    Tracks are linked twice: first by places and single votes, to decide the sides, then by places and sides. `around`: width of an image
    that closes to a ring.
    """
    hands = hands.take(_in_order(hands))
    box = links.visible(hands, around)
    where: dict[str, Any] = {"frame": hands.frame, "time_s": hands.time_s, "box": box, "person": hands.person, "score": hands.score}
    steps = links.possible_steps(hands, max_gap_s=max_gap_s, around=around)
    linked = links.tracks_by_votes(hands, steps, sides.paired(**where, log_odds=hands.side_log_odds, most=links.SURE))
    votes = sides.paired(**where, log_odds=hands.side_log_odds)
    told = sides.decide(**where, track=linked, votes=votes, min_log_odds=min_side_log_odds)
    track = links.tracks_by_sides(hands, steps, told.side)
    track = _without_crumbs(hands.frame, hands.time_s, box, track, max_gap_s, around)
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
