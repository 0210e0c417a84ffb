"""Which side every hand of a clip is, decided jointly: its own votes, its body's wrists, its track, and the other hand of its person.

All evidence is log-odds of right against left. A hand that a detector or a wrist contradicts in one frame keeps its track's side; where
the votes turn for good the track holds two hands and is cut. Nobody has two hands of one side: of each person's hands the sides are
chosen together, and those that no choice favours by much stay unknown.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float64, Int8, Int32, Int64, Shaped

from stages import boxes
from stages.tables import UNKNOWN_SIDE

VOTE = 2.0
"""Log-odds that one row can add: detectors are wrong at .99, and wrists lie at the wrong hand. Ours."""
SURE = 6.0
"""How many times as sure a row may be where it is weighed against its person's other hand. Ours."""
FULL_S = 0.2
"""Rows nearer in time than this, seconds, repeat each other: each counts by its share of it, so that a rate changes nothing. Ours."""
ALIKE = 0.25
"""Correlation of a track's votes: of many rows no more than 1 / ALIKE count. Ours."""
TURN, LOOSE_TURN = 5.0, 1.0
"""Log-odds that a track must gain by changing its side where it goes on smoothly, and where it jumps or comes back after a gap. Ours."""
SMOOTH_STEP = 0.8
"""Hand sizes that a hand moves within a smooth step. Ours."""
SAME_PERSON, PERHAPS_SAME_PERSON = 6.0, 1.0
"""Log-odds against one side for two hands of one frame that one person has, and that are its only two, no two people's: so the wearer of
a camera sees his own. Ours."""
MIN_CLAIMS, MAX_SHARED = 3, 0.1
"""Frames in which a body has hands, at least, and share of them with two bodies that have some, at most, in a clip of one person. Ours."""
PERHAPS = 0.3
"""How sure it is that the only two hands of a frame are one person's. Ours."""
LAYOUT, LAYOUT_S = 6.0, 2.0
"""Log-odds that a person's right hand lies where it mostly lies beside the left one within so many seconds. Ours."""
MOST_TOGETHER = 12
"""Pieces of tracks whose sides are chosen among all choices; of more, one after the other. Ours."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sides:
    """One entry a row."""

    side: Int8[np.ndarray, "n"]  # 0 left, 1 right, -1 unknown
    log_odds: Float64[np.ndarray, "n"]  # of right against left, by all evidence of the clip


def paired(
    frame: Int64[np.ndarray, "n"],
    time_s: Float64[np.ndarray, "n"],
    box: Float[np.ndarray, "n 4"],
    person: Shaped[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    log_odds: Float[np.ndarray, "n"],
    most: float = VOTE,
) -> Float64[np.ndarray, "n"]:
    """Votes of rows in order of time, none surer than `most`, those of a person's two hands in one frame weighed against each other.

    Just one of them is right, and where the right one lies beside the left one says which: to its left in the image when the person
    faces the camera, to its right when it is the wearer's.
    """
    votes = np.clip(log_odds.astype(np.float64), -most, most)
    pairs, sure = _pairs(frame, person, score)
    if not len(pairs):
        return votes
    first, second = pairs.T
    apart = boxes.centre(box[first])[:, 0] - boxes.centre(box[second])[:, 0]
    apart = np.clip(apart / boxes.long_side(box[pairs]).mean(1), -1, 1).astype(np.float64)
    differ = votes[first] - votes[second]
    near = np.exp(-np.abs(time_s[first][:, None] - time_s[first][None]) / LAYOUT_S)
    layout = near @ (sure * apart * differ) / (near @ (sure * np.abs(apart) * 2 * most) + most)
    theirs = np.clip(log_odds.astype(np.float64), -SURE * most, SURE * most)  # between two the surer one counts
    told = sure * (theirs[first] - theirs[second] + 2 * LAYOUT * layout * apart)
    both = votes.copy()
    both[first] = (1 - sure) * votes[first] + told
    both[second] = (1 - sure) * votes[second] - told
    return np.clip(both, -most, most)


def is_one_person(frame: Int64[np.ndarray, "n"], person: Shaped[np.ndarray, "n"]) -> bool:
    """Whether all of a clip's hands seem to be one person's: in some frames somebody has hands, and hardly ever do two people."""
    claims = np.unique(np.stack([frame, person], 1)[person >= 0], axis=0)
    per_frame = np.unique(claims[:, 0], return_counts=True)[1]
    return bool(len(per_frame) >= MIN_CLAIMS and (per_frame > 1).mean() <= MAX_SHARED)


def _pairs(
    frame: Int64[np.ndarray, "n"], person: Shaped[np.ndarray, "n"], score: Float[np.ndarray, "n"]
) -> tuple[Int64[np.ndarray, "p 2"], Float64[np.ndarray, "p"]]:
    """Rows of two hands that are one person's, and how sure that is, in [0, 1]; a hand is in one pair at most."""
    alone = is_one_person(frame, person)
    found: list[tuple[int, int]] = []
    sure: list[float] = []
    edges = np.flatnonzero(np.diff(frame, prepend=-1, append=-1))
    for start, end in pairwise(edges.tolist()):
        theirs = person[start:end]
        if end - start == 2 and (theirs < 0).any():
            found.append((start, start + 1))
            sure.append((1.0 if alone else PERHAPS) * _is_hand_too(theirs, score[start:end]))
        for who in np.unique(theirs[theirs >= 0]):
            rows = start + np.flatnonzero(theirs == who)
            if len(rows) == 2:
                found.append((int(rows[0]), int(rows[1])))
                sure.append(1.0)
    return np.array(found, np.int64).reshape(-1, 2), np.array(sure, np.float64)


def _is_hand_too(person: Shaped[np.ndarray, "2"], score: Float[np.ndarray, "2"]) -> float:
    """How sure it is that the one of two hands that is nobody's is a hand at all: by its score where the other has a body's wrist, since a
    ball may be taken for a hand and must not say which side that one is of."""
    return float(score[person < 0].min()) if (person >= 0).any() else 1.0


def decide(
    frame: Int64[np.ndarray, "n"],
    time_s: Float64[np.ndarray, "n"],
    box: Float[np.ndarray, "n 4"],
    track: Int32[np.ndarray, "n"],
    person: Shaped[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    votes: Float64[np.ndarray, "n"],
    *,
    min_log_odds: float,
) -> Sides:
    """Sides of rows in order of time; a piece of track of less than `min_log_odds` is unknown."""
    weight = np.ones(len(frame))
    piece = np.full(len(frame), -1, np.int64)
    usual_s = usual_step_s(time_s)
    for number in np.unique(track):
        rows = np.flatnonzero(track == number)
        weight[rows] = np.clip(np.diff(time_s[rows], append=np.inf) / FULL_S, 0, 1)
        cost = _turn_cost(time_s[rows], box[rows].astype(np.float64), usual_s)
        turned = np.cumsum(np.diff(_smooth_sides(votes[rows] * weight[rows], cost), prepend=0) != 0)
        piece[rows] = piece.max(initial=-1) + 1 + turned - turned.min()
    count = np.bincount(piece, weight)
    evidence = np.bincount(piece, votes * weight) / (1 + ALIKE * np.maximum(count - 1, 0))
    margin = _margins(evidence, _against(frame, piece, person, score, weight))[piece]
    side = np.where(np.abs(margin) < min_log_odds, UNKNOWN_SIDE, margin > 0).astype(np.int8)
    side[_second_of_a_side(frame, person, side, np.abs(margin))] = UNKNOWN_SIDE
    return Sides(side=side, log_odds=margin)


def of_tracks(frame: Int64[np.ndarray, "n"], track: Int32[np.ndarray, "n"], person: Shaped[np.ndarray, "n"], rows: Sides) -> Sides:
    """One side for every row of a track, that of its rows together; but a row is unknown beside a surer one of its person and side."""
    odds = (np.bincount(track, rows.log_odds) / np.bincount(track))[track]
    known = np.bincount(track, rows.side != UNKNOWN_SIDE)[track] > 0
    side = np.where(known, odds > 0, UNKNOWN_SIDE).astype(np.int8)
    side[_second_of_a_side(frame, person, side, np.abs(odds))] = UNKNOWN_SIDE
    if is_one_person(frame, person):
        side[_second_of_a_side(frame, np.zeros_like(person), side, np.abs(odds))] = UNKNOWN_SIDE
    return Sides(side=side, log_odds=odds)


def usual_step_s(time_s: Float64[np.ndarray, "n"]) -> float:
    """Seconds from one frame to the next."""
    steps = np.diff(np.unique(time_s))
    return float(np.median(steps)) if len(steps) else FULL_S


def _turn_cost(time_s: Float64[np.ndarray, "n"], box: Float64[np.ndarray, "n 4"], usual_s: float) -> Float64[np.ndarray, "m"]:
    """What a change of side costs between each row of a track and the next."""
    step = np.linalg.norm(np.diff(boxes.centre(box), axis=0), axis=1) / boxes.long_side(box)[1:]
    smooth = (np.diff(time_s) <= 1.5 * usual_s) & (step <= SMOOTH_STEP)
    return np.where(smooth, TURN, LOOSE_TURN)


def _smooth_sides(votes: Float64[np.ndarray, "n"], turn_cost: Float64[np.ndarray, "m"]) -> Int64[np.ndarray, "n"]:
    """The most likely sides along a track (Viterbi); where nothing speaks for either, they stay."""
    best = np.array([-votes[0], votes[0]]) / 2
    came_from = np.zeros((len(votes), 2), np.int64)
    for i, cost in enumerate(turn_cost, 1):
        turns = best[::-1] - cost > best
        came_from[i] = np.where(turns, [1, 0], [0, 1])
        best = np.where(turns, best[::-1] - cost, best) + np.array([-votes[i], votes[i]]) / 2
    side = np.empty(len(votes), np.int64)
    side[-1] = best.argmax()
    for i in range(len(votes) - 1, 0, -1):
        side[i - 1] = came_from[i, side[i]]
    return side


def _against(
    frame: Int64[np.ndarray, "n"],
    piece: Int64[np.ndarray, "n"],
    person: Shaped[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    weight: Float64[np.ndarray, "n"],
) -> Float64[np.ndarray, "k k"]:
    """Log-odds against one side for each two pieces of tracks, by the frames in which both are seen and one person's."""
    against, together = np.zeros((2, *(piece.max() + 1,) * 2))
    edges, alone = np.flatnonzero(np.diff(frame, prepend=-1, append=-1)), is_one_person(frame, person)
    for start, end in pairwise(edges):
        rows = np.arange(start, end)
        theirs = person[rows]
        pairs = (theirs[:, None] == theirs[None]) & (theirs[:, None] >= 0)
        cost = np.where(pairs, SAME_PERSON, 0.0)
        if len(rows) == 2 and (theirs < 0).any():
            cost += (SAME_PERSON if alone else PERHAPS_SAME_PERSON) * _is_hand_too(theirs, score[rows])
        np.fill_diagonal(cost, 0)
        where, both = (piece[rows][:, None], piece[rows][None]), np.minimum(weight[rows][:, None], weight[rows][None])
        np.add.at(against, where, cost * both)
        np.add.at(together, where, both * (cost > 0))
    np.fill_diagonal(against, 0)
    return against / (1 + ALIKE * np.maximum(together - 1, 0))


def _margins(evidence: Float64[np.ndarray, "k"], against: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k"]:
    """Margin by which the best choice of all sides with each piece right beats the best one with it left."""
    from scipy.sparse.csgraph import connected_components

    margin = evidence.copy()
    _, group = connected_components(against > 0, directed=False)
    for number in np.flatnonzero(np.bincount(group) > 1):
        rows = np.flatnonzero(group == number)
        choose = _all_choices if len(rows) <= MOST_TOGETHER else _one_after_the_other
        margin[rows] = choose(evidence[rows], against[np.ix_(rows, rows)])
    return margin


def _all_choices(evidence: Float64[np.ndarray, "k"], against: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k"]:
    sides = 2.0 * (np.arange(1 << len(evidence))[:, None] >> np.arange(len(evidence)) & 1) - 1
    worth = sides @ evidence / 2 - ((sides @ against) * sides + against.sum(1)).sum(1) / 4
    right: Bool[np.ndarray, "choices k"] = sides > 0
    return np.where(right, worth[:, None], -np.inf).max(0) - np.where(right, -np.inf, worth[:, None]).max(0)


def _one_after_the_other(evidence: Float64[np.ndarray, "k"], against: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k"]:
    """The surest first, each knowing those before it; then turns, each knowing all others, while the whole gains."""
    side = np.zeros(len(evidence))
    for i in np.argsort(-np.abs(evidence), kind="stable"):
        side[i] = 1.0 if evidence[i] - against[i] @ side >= 0 else -1.0
    while True:
        margin = evidence - against @ side
        worst = int((margin * side).argmin())
        if margin[worst] * side[worst] >= 0:
            return np.asarray(margin, np.float64)
        side[worst] = -side[worst]


def _second_of_a_side(
    frame: Int64[np.ndarray, "n"], person: Shaped[np.ndarray, "n"], side: Int8[np.ndarray, "n"], sureness: Float64[np.ndarray, "n"]
) -> list[int]:
    """Rows of which a surer hand of the same person, frame and side is there."""
    taken: set[tuple[int, int, int]] = set()
    second = []
    for i in np.argsort(-sureness, kind="stable").tolist():
        slot = (int(frame[i]), int(person[i]), int(side[i]))
        if person[i] < 0 or side[i] == UNKNOWN_SIDE:
            continue
        if slot in taken:
            second.append(i)
        taken.add(slot)
    return second
