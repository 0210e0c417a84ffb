"""Links through a clip: which hand of a later frame is a hand's next, chosen over all frames at once. Boxes xyxy, pixels; seconds.

Of all ways to link the hands of a clip, each to at most one before and one after it, the one is taken that costs least: the way that its
hands go, in hand sizes, less what each link is worth. A hand that was not seen for a frame is not robbed by another one nearby, which a
choice frame by frame cannot see. A clip holds no shot cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64

from stages import boxes
from stages.fusion import sides
from stages.tables import UNKNOWN_SIDE, Hands

FARTHEST, LARGEST = 5.0, 2.5
"""Hand sizes that a hand may move from one sight to the next, at most, and how many times as large it may become. Ours."""
GROWTH = 0.25
"""Hand sizes further away that a hand e times as large seems. Ours."""
WORTH_UNSIDED, WORTH = 2.0, 8.0
"""What a link is worth, in hand sizes: while sides are open, and between hands of decided sides. Ours."""
WORTH_OWN = 1.5
"""Hand sizes that a link is worth beyond that between two sights of one person's hand of one side, of which nobody has two. Ours: 1 to 2
are the same on clips, at 4 hands are linked whose person is told wrongly."""
SKIPPED_UNSIDED, SKIPPED = 0.4, 1.5
"""The same that each frame costs in which the hand is not seen. Ours: where that is cheap, a hand that goes up and down is two hands."""
DETOUR = 4.5
"""Hand sizes that a track goes out of its way for a hand, at most: a foot may be taken for a hand for a moment. Ours."""
ODDS_UNIT = 0.25
"""Hand sizes that a log-odds of a frame's vote weighs against the way. Ours."""
SURE = 6.0
"""No vote is surer than this log-odds where it is weighed against ways. Ours."""
MOST_HANDS = 400
"""Hands whose sides are chosen with their links in one piece; longer clips are chosen so many at a time. Ours: of crowds of 40 whose votes
are often wrong, 400 take about a second, 900 took half a minute."""
MOST_NODES = 500
"""Branches that are looked at before the best choice so far is taken: a crowd ends as well. Ours."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Steps:
    """Pairs of hands that may be one hand and its next sight."""

    earlier: Int64[np.ndarray, "m"]
    later: Int64[np.ndarray, "m"]
    way: Float64[np.ndarray, "m"]  # hand sizes, growth with it
    skipped: Float64[np.ndarray, "m"]  # frames between


def visible(hands: Hands, around: float) -> Float64[np.ndarray, "n 4"]:
    """The part of each box that lies within the frame: how far a hand goes on beyond the border is a guess that jumps. A box of which less
    than a pixel lies within stays whole, and so do all of an image that closes to a ring (`around` above 0)."""
    box = hands.box.astype(np.float64)
    size = np.stack([hands.width, hands.height, hands.width, hands.height], 1).astype(np.float64)
    inside = np.clip(box, 0, size)
    seen = ((inside[:, 2:] - inside[:, :2]) >= 1).all(1, keepdims=True)
    return np.where(seen, inside, box) if not around else box


def shortest(shift: Float64[np.ndarray, "*n 2"], around: float) -> Float64[np.ndarray, "*n 2"]:
    """Ways, pixels, the shorter way round an image that is so wide and closes to a ring; as they are where it does not."""
    if not around:
        return shift
    return np.stack([(shift[..., 0] + around / 2) % around - around / 2, shift[..., 1]], -1)


def possible_steps(hands: Hands, *, max_gap_s: float, around: float) -> Steps:
    """Steps between hands in order of frame that are at most so many seconds apart and near enough. `around`: width of an image that
    closes to a ring."""
    seen, whole = visible(hands, around), hands.box.astype(np.float64)
    centre, size = boxes.centre(seen), boxes.long_side(whole)
    sizes = np.log(np.stack([size, boxes.long_side(seen)], 1))
    start = np.flatnonzero(np.diff(hands.frame, prepend=-1))
    end, time_s = np.append(start[1:], len(hands)), hands.time_s[start]
    last = np.append(start, len(hands))[np.searchsorted(time_s, time_s + max_gap_s + 1e-6, side="right")]
    usual_s, found = sides.usual_step_s(hands.time_s), []
    for i in range(len(start)):
        here, there = slice(start[i], end[i]), slice(end[i], last[i])
        apart = np.linalg.norm(shortest(centre[here, None] - centre[None, there], around), axis=-1)
        apart = apart / np.sqrt(size[here, None] * size[None, there])
        growth = np.abs(sizes[here, None] - sizes[None, there]).min(-1)  # what the border cuts says nothing of the whole
        earlier, later = np.nonzero((apart <= FARTHEST) & (growth <= np.log(LARGEST)))
        way = (apart + GROWTH * growth)[earlier, later]
        skipped = (hands.time_s[there][later] - time_s[i]) / usual_s - 1
        found.append((start[i] + earlier, end[i] + later, way, np.maximum(skipped, 0)))
    earlier, later, way, skipped = (np.concatenate(column) for column in zip(*found, strict=True))
    return Steps(earlier=earlier, later=later, way=way.astype(np.float64), skipped=skipped.astype(np.float64))


def tracks_by_votes(hands: Hands, steps: Steps, votes: Float64[np.ndarray, "n"]) -> Int32[np.ndarray, "n"]:
    """Tracks of hands whose sides are open, by their ways and the votes of their rows: links and one side for all of a track are chosen
    together (an integer program, HiGHS). Of a long clip so many hands at a time; a track ends there."""
    weight = min(sides.usual_step_s(hands.time_s) / sides.FULL_S, 1.0)
    cost = steps.way + SKIPPED_UNSIDED * steps.skipped - WORTH_UNSIDED
    right = ODDS_UNIT * weight * np.clip(votes, -SURE, SURE)
    then = np.full(len(hands), -1, np.int64)
    for first, last in _pieces(hands.frame):
        ours = (cost < 0) & (steps.earlier >= first) & (steps.later < last)
        earlier, later = steps.earlier[ours], steps.later[ours]
        chosen = _sided_links(earlier - first, later - first, cost[ours], right[first:last])
        then[earlier[chosen]] = later[chosen]
    return numbered(then)


def _pieces(frame: Int64[np.ndarray, "n"]) -> list[tuple[int, int]]:
    """First and last row (exclusive) of stretches of whole frames, of `MOST_HANDS` at most where a frame has no more."""
    edges = np.append(np.flatnonzero(np.diff(frame, prepend=-1)), len(frame)).tolist()
    pieces, first = [], 0
    for edge, after in zip(edges[1:], [*edges[2:], np.inf], strict=True):
        if after - first > MOST_HANDS or edge == len(frame):
            pieces.append((first, edge))
            first = edge
    return pieces


def _sided_links(
    earlier: Int64[np.ndarray, "m"], later: Int64[np.ndarray, "m"], cost: Float64[np.ndarray, "m"], right: Float64[np.ndarray, "n"]
) -> Int64[np.ndarray, "k"]:
    """Which links are taken, at least cost less `right` for each hand that is a right one. A link joins two hands of one side."""
    import scipy.sparse as sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    n, m = len(right), len(cost)
    if not m:
        return np.zeros(0, np.int64)
    each, ones = np.arange(m), np.ones(m)
    ends = [sparse.csr_array((ones, (rows, each)), shape=(n, m)) for rows in (earlier, later)]
    is_right, nothing = sparse.eye_array(n, format="csr"), sparse.csr_array((n, m))
    matrix = sparse.vstack(
        [sparse.hstack([sign * is_right, *links]) for end in ends for sign, links in ((-1, [end, nothing]), (1, [nothing, end]))]
    )
    limit = np.tile(np.repeat([0.0, 1.0], n), 2)
    found = milp(
        np.concatenate([-right, cost, cost]),
        constraints=LinearConstraint(matrix.tocsr(), ub=limit),
        integrality=np.concatenate([np.ones(n), np.zeros(2 * m)]),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "node_limit": MOST_NODES},
    )
    if found.x is None:  # nothing was found in time: every hand stands for itself
        return np.zeros(0, np.int64)
    return np.flatnonzero(found.x[n : n + m] + found.x[n + m :] > 0.5)


def tracks_by_sides(hands: Hands, steps: Steps, side: Int8[np.ndarray, "n"]) -> Int32[np.ndarray, "n"]:
    """Tracks of hands whose sides are decided or unknown, by their ways and whose they are; no track holds hands of two sides."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n = len(hands)
    known = (side[steps.earlier] != UNKNOWN_SIDE) & (side[steps.later] != UNKNOWN_SIDE)
    same = known & (side[steps.earlier] == side[steps.later])
    person = hands.person[steps.earlier]
    cost = steps.way + SKIPPED * steps.skipped - WORTH_OWN * (same & (person >= 0) & (person == hands.person[steps.later]))
    allowed = (cost < 2 * WORTH) & (same | ~known)
    worth = allowed & (cost < WORTH)
    ends = np.arange(n)  # instead of a next one a track may end, for what a link is worth
    weights = 1 + WORTH_OWN + np.concatenate([cost[worth], np.full(n, WORTH)])  # above 0, which would be no edge
    graph = csr_array((weights, (np.append(steps.earlier[worth], ends), np.append(steps.later[worth], n + ends))), shape=(n, 2 * n))
    rows, columns = min_weight_full_bipartite_matching(graph)
    then = np.full(n, -1, np.int64)
    then[rows] = np.where(columns < n, columns, -1)
    pairs = zip(steps.earlier[allowed].tolist(), steps.later[allowed].tolist(), strict=True)  # a detour may save a link worth nothing
    ways = dict(zip(pairs, steps.way[allowed].tolist(), strict=True))
    return numbered(_without_detours(then, ways), side)


def _without_detours(then: Int64[np.ndarray, "n"], ways: Mapping[tuple[int, int], float]) -> Int64[np.ndarray, "n"]:
    """Links that leave out each hand for which a track goes far out of its way and comes back: it is none of that track's."""
    then = then.copy()
    for hand in range(len(then)):
        between = int(then[hand])
        after = int(then[between]) if between >= 0 else -1
        if after < 0 or (hand, after) not in ways:
            continue
        if ways[hand, between] + ways[between, after] - ways[hand, after] > DETOUR:
            then[hand], then[between] = after, -1
    return then


def numbered(then: Int64[np.ndarray, "n"], side: Int8[np.ndarray, "n"] | None = None) -> Int32[np.ndarray, "n"]:
    """Track numbers, in order of first sight, of hands of which each knows its next (-1: none); with sides, a track ends where it would
    come to hold a second one."""
    track = np.full(len(then), -1, np.int32)
    told: dict[int, int] = {}
    for i, following in enumerate(then.tolist()):
        if track[i] < 0:
            track[i] = len(told)
            told[len(told)] = UNKNOWN_SIDE
        number = int(track[i])
        if side is not None and side[i] != UNKNOWN_SIDE:
            told[number] = int(side[i])
        if following >= 0 and (side is None or UNKNOWN_SIDE in (told[number], side[following]) or told[number] == side[following]):
            track[following] = number
    return track
