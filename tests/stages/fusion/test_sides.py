"""Sides are decided over a clip: no track holds two hands, nobody has two hands of one side, and what nothing tells is unknown."""

import numpy as np
import pytest

from stages.fusion.sides import VOTE, decide, paired
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE, HandDetections, PersonDetections
from tests.stages.fused_hands import body, detection, fuse


def at(frame: int, x: float, p_right: float, y: float = 100.0) -> HandDetections:
    return detection([x, y, x + 80, y + 80], 0.9, p_right=p_right, frame=frame)


def test_a_track_that_jumps_to_the_other_hand_is_two_tracks_of_two_sides() -> None:
    """The right hand leaves and the left one comes nearby, after a gap: as in a video of a moving camera."""
    hands = fuse(*[at(f, 100 + 5 * f, 0.95) for f in range(6)], *[at(f, 190 + 5 * f, 0.05) for f in range(8, 12)])
    assert hands.side.tolist() == [RIGHT] * 6 + [LEFT] * 4
    assert len(set(hands.track[:6])) == len(set(hands.track[6:])) == 1
    assert hands.track[0] != hands.track[-1]


def test_a_hand_that_a_smooth_track_takes_from_another_goes_back_to_its_own_side() -> None:
    hands = fuse(*[at(f, 100, 0.97) for f in range(10)], *[at(f, 110, 0.03) for f in range(10, 20)])
    assert hands.side.tolist() == [RIGHT] * 10 + [LEFT] * 10


def test_hands_that_meet_and_part_keep_their_sides_where_both_votes_are_sure() -> None:
    """Seen in a signed video: both race towards each other and stop, and at constant velocity each would be where the other is."""
    right = [(207, 385, 242, 465), (222, 281, 254, 346), (243, 235, 303, 305), (246, 232, 294, 298), (237, 228, 280, 298)]
    left = [(339, 194, 404, 261), (271, 237, 340, 289), (270, 239, 346, 291), (331, 229, 386, 284)]
    found = [
        detection(list(box), 0.9, p_right=p, frame=f) for f, (box, p) in enumerate(zip(right, (0.9, 0.5, 0.99, 0.9, 0.97), strict=True))
    ]
    found += [
        detection(list(box), 0.9, p_right=p, frame=f) for f, (box, p) in enumerate(zip(left, (0.01, 0.01, 0.01, 0.7), strict=True), 1)
    ]
    hands = fuse(*found)
    for f in range(1, 5):
        here = np.flatnonzero(hands.frame == f)
        assert hands.side[here[np.argsort(hands.box[here, 2])]].tolist() == [RIGHT, LEFT], f


def test_a_few_wrong_votes_in_a_smooth_track_turn_nothing() -> None:
    votes = [0.95] * 5 + [0.05] * 2 + [0.95] * 5
    hands = fuse(*[at(f, 100, p) for f, p in enumerate(votes)])
    assert hands.side.tolist() == [RIGHT] * 12
    assert set(hands.track) == {0}


def test_a_persons_hands_have_two_sides_whatever_one_of_them_votes() -> None:
    people = PersonDetections.concat([body(left=(340, 180), right=(140, 180), frame=f, seen=0.01) for f in range(6)])
    found = [hand for f in range(6) for hand in (at(f, 100, 0.98), at(f, 300, 0.7))]
    hands = fuse(*found, people=people)
    assert hands.side[hands.box[:, 0] < 200].tolist() == [RIGHT] * 6
    assert hands.side[hands.box[:, 0] > 200].tolist() == [LEFT] * 6


def test_where_the_right_hand_mostly_lies_tells_who_is_who_where_votes_fail() -> None:
    frame = np.repeat(np.arange(20), 2)
    box = np.tile([[100, 100, 180, 180], [300, 100, 380, 180]], (20, 1)).astype(np.float64)
    odds = np.where(frame < 12, np.tile([2.0, -2.0], 20), np.tile([-0.5, 0.5], 20))
    votes = paired(frame, frame / 5, box, np.zeros(40, np.int16), odds)
    assert (votes[0::2] > 0).all()
    assert (votes[1::2] < 0).all()
    far = paired(frame, frame / 5, box[:, [1, 0, 3, 2]], np.zeros(40, np.int16), odds)  # one above the other: nothing to learn
    assert (far[24::2] < 0).all()


def test_two_hands_that_nobody_can_tell_apart_are_unknown_and_two_peoples_are_not() -> None:
    one = PersonDetections.concat([body(left=(340, 180), right=(140, 180), frame=f, seen=0.01) for f in range(6)])
    found = [hand for f in range(6) for hand in (at(f, 100, 0.9), at(f, 300, 0.9))]
    assert set(fuse(*found, people=one).side) == {UNKNOWN_SIDE}
    assert set(fuse(*found).side) == {RIGHT}


def test_evidence_counts_by_time_and_not_by_rows() -> None:
    def margin(rate: int) -> float:
        n = 2 * rate
        told = decide(
            np.arange(n), np.arange(n) / rate, np.tile([0.0, 0, 10, 10], (n, 1)), np.zeros(n, np.int32), np.full(n, -1),
            np.full(n, 0.5), min_log_odds=0.1,
        )  # fmt: skip
        return float(told.log_odds[0])

    assert margin(5) == pytest.approx(margin(30), rel=0.05)
    assert margin(5) < 4 * VOTE


@pytest.mark.parametrize("num_people", [1, 9])
def test_no_frame_has_two_hands_of_one_side_of_one_person(num_people: int) -> None:
    rng = np.random.default_rng(num_people)
    frame, person = np.repeat(np.arange(40), 3 * num_people), np.tile(np.repeat(np.arange(num_people), 3), 40)
    box = np.tile(rng.uniform(0, 400, (len(frame), 2)), 2) + np.array([0, 0, 60, 60])
    track = np.tile(np.arange(3 * num_people), 40).astype(np.int32)
    told = decide(frame, frame / 5, box, track, person, rng.uniform(-VOTE, VOTE, len(frame)), min_log_odds=0.1)
    known = told.side != UNKNOWN_SIDE
    slots = list(zip(frame[known], person[known], told.side[known], strict=True))
    assert len(slots) == len(set(slots)) > 40
