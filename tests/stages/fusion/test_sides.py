"""Sides are decided over a clip: no track holds two hands, nobody has two hands of one side, and what nothing tells is unknown."""

from typing import Any

import numpy as np
import pytest

from stages.fusion.sides import VOTE, Sides, _all_choices, _one_after_the_other, decide, is_one_person, of_tracks, paired, usual_step_s
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
    votes = paired(frame, frame / 5, box, np.zeros(40, np.int16), np.ones(40), odds)
    assert (votes[0::2] > 0).all()
    assert (votes[1::2] < 0).all()
    far = paired(frame, frame / 5, box[:, [1, 0, 3, 2]], np.zeros(40, np.int16), np.ones(40), odds)  # one above the other: nothing to learn
    assert (far[24::2] < 0).all()


def test_two_hands_that_nobody_can_tell_apart_are_unknown_and_two_peoples_are_not() -> None:
    one = PersonDetections.concat([body(left=(340, 180), right=(140, 180), frame=f, seen=0.004) for f in range(6)])
    found = [hand for f in range(6) for hand in (at(f, 100, 0.9), at(f, 300, 0.9))]
    assert set(fuse(*found, people=one).side) == {UNKNOWN_SIDE}
    assert set(fuse(*found).side) == {RIGHT}


def test_evidence_counts_by_time_and_not_by_rows() -> None:
    def margin(rate: int) -> float:
        n = 2 * rate
        told = decide(
            np.arange(n), np.arange(n) / rate, np.tile([0.0, 0, 10, 10], (n, 1)), np.zeros(n, np.int32), np.full(n, -1),
            np.ones(n), np.full(n, 0.5), min_log_odds=0.1,
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
    told = decide(frame, frame / 5, box, track, person, np.ones(len(frame)), rng.uniform(-VOTE, VOTE, len(frame)), min_log_odds=0.1)
    known = told.side != UNKNOWN_SIDE
    slots = list(zip(frame[known], person[known], told.side[known], strict=True))
    assert len(slots) == len(set(slots)) > 40


def votes_of(*rows: tuple[int, float, int, float], rate: float = 5.0, score: float = 1.0) -> list[float]:
    """What `paired` makes of rows (frame, x, person, log-odds), boxes of 80 pixels, nobody's hands of this score."""
    frame, x, person, odds = (np.array(column) for column in zip(*rows, strict=True))
    box = np.stack([x, 0 * x, x + 80, 0 * x + 80], 1).astype(np.float64)
    scores = np.where(person < 0, score, 1.0)
    told: list[float] = paired(frame, frame / rate, box, person.astype(np.int16), scores, odds.astype(np.float64)).tolist()
    return told


def test_votes_of_a_pair_by_hand() -> None:
    """Layout: differ x apart over 4 |apart| + 2 of the pairs nearby; it adds 12 times itself x apart."""
    assert votes_of((0, 0, -1, 5.0), (1, 0, -1, -0.5), (2, 0, 0, -9.0)) == [2, -0.5, -2]
    assert votes_of((0, 0, 0, 0.1), (0, 0, 0, -0.1)) == pytest.approx([0.2, -0.2]), "one above the other"
    assert votes_of((1, 0, 0, 0.1), (1, 0, 0, -0.1)) == pytest.approx([0.2, -0.2]), "whatever frame is the first"
    assert votes_of((0, 0, 0, 0.1), (0, 300, 0, -0.1)) == pytest.approx([0.2 + 12 * 0.2 / 6, -0.6])
    assert votes_of((0, 300, 0, 0.1), (0, 0, 0, -0.1)) == pytest.approx([0.2 + 12 * 0.2 / 6, -0.6]), "no farther than a hand"
    somebody, nobody = (1, 0, 0, 0.1), (1, 0, -1, -0.1)
    assert votes_of((0, 0, 0, 5.0), somebody, nobody)[1:] == votes_of(somebody, nobody) != [0.1, -0.1], "in whatever frame they lie"
    assert votes_of((0, 40, 0, 0.1), (0, 0, 0, -0.1)) == pytest.approx([0.2 + 12 * 0.5 * 0.1 / 4, -0.35])
    assert votes_of((0, 0, 0, -0.5), (0, 0, 0, 0.4)) == pytest.approx([-0.9, 0.9])
    assert votes_of((0, 0, 0, 4.5), (0, 0, 0, 3.0)) == pytest.approx([1.5, -1.5]), "between two the surer one counts, up to 12"
    assert votes_of((0, 0, 0, 13.0), (0, 0, 0, 11.0)) == pytest.approx([1, -1])
    later = votes_of((0, 0, 0, 0.1), (0, 300, 0, -0.1), (10, 0, 0, 0.3), (10, 300, 0, 0.3))
    far = np.exp(-1)
    assert later[2:] == pytest.approx([12 * far * 0.2 / (4 * far + 6), -12 * far * 0.2 / (4 * far + 6)])


def test_two_hands_that_nobody_claims_are_a_pair_by_three_tenths_and_three_are_none() -> None:
    assert votes_of((0, 0, -1, 0.1), (0, 0, -1, -0.3)) == pytest.approx([0.7 * 0.1 + 0.3 * 0.4, -0.7 * 0.3 - 0.3 * 0.4])
    assert votes_of((0, 0, -1, 0.1), (0, 0, 0, -0.3)) == pytest.approx([0.19, -0.33])
    assert votes_of((0, 0, -1, 0.1), (0, 0, -1, -0.3), (0, 0, -1, 1.0)) == pytest.approx([0.1, -0.3, 1.0])
    assert votes_of((0, 0, 0, 0.1), (0, 0, 1, -0.3)) == pytest.approx([0.1, -0.3]), "two people's"
    assert votes_of((0, 0, 0, 0.1), (0, 0, 0, -0.3), (0, 0, 0, 1.0)) == pytest.approx([0.1, -0.3, 1.0])
    one_persons = [(frame, 0, 0, 0.5) for frame in range(1, 4)]
    assert votes_of((0, 0, -1, 0.1), (0, 0, -1, -0.3), *one_persons)[:2] == pytest.approx([0.4, -0.4])


def test_what_is_nobodys_beside_a_persons_hand_says_of_its_side_what_its_score_lets_it() -> None:
    """A score of 0.5 halves the 0.3 of what may be two people's and the 1 of what is one's; two hands of nobody say all they can."""
    stray, one_persons = ((0, 0, -1, 0.1), (0, 0, 0, -0.3)), [(frame, 0, 0, 0.5) for frame in range(1, 4)]
    assert votes_of(*stray, score=0.5) == pytest.approx([0.85 * 0.1 + 0.15 * 0.4, -0.85 * 0.3 - 0.15 * 0.4])
    assert votes_of(*stray, *one_persons, score=0.5)[:2] == pytest.approx([0.5 * 0.1 + 0.5 * 0.4, -0.5 * 0.3 - 0.5 * 0.4])
    nobodys = ((0, 0, -1, 0.1), (0, 0, -1, -0.3))
    assert votes_of(*nobodys, score=0.5) == votes_of(*nobodys)


def test_a_ball_that_is_taken_for_a_hand_takes_neither_its_track_nor_its_side() -> None:
    """A left hand leaps, and there it is not quite sure of its side; far below a ball is surely a left hand, and at nobody's wrist."""
    where = [100, 140, 180, 220, 332]
    people = PersonDetections.concat([body(left=(x + 40, 180), right=(600, 60), frame=f, seen=0.22) for f, x in enumerate(where)])
    hands = [at(f, x, 0.1 if f < 4 else 0.3) for f, x in enumerate(where)]
    ball = detection([260, 380, 340, 460], 0.6, p_right=0.02, frame=4)
    found = fuse(*hands, ball, people=people)
    is_hand = found.box[:, 1] < 300
    assert is_hand.sum() == 5
    assert (~is_hand).sum() == 1
    assert set(found.side[is_hand]) == {LEFT}
    assert len(set(found.track[is_hand])) == 1
    assert found.track[~is_hand][0] not in found.track[is_hand]


def test_a_clip_is_one_persons_where_hardly_ever_two_have_hands() -> None:
    for num_frames, wanted in ((2, False), (3, True)):
        assert is_one_person(np.arange(num_frames), np.zeros(num_frames, np.int16)) is wanted
        assert is_one_person(np.repeat(np.arange(num_frames), 2), np.zeros(2 * num_frames, np.int16)) is wanted, "both hands are one claim"
    for num_frames, wanted in ((10, True), (9, False)):
        frame, person = np.append(np.arange(num_frames), 0), np.append(np.zeros(num_frames, np.int16), 1).astype(np.int16)
        assert is_one_person(frame, person) is wanted
    assert not is_one_person(np.arange(9), np.full(9, -1, np.int16))


def told(
    *rows: tuple[int, float, int, int, float], min_log_odds: float = 0.1, rate: float = 5.0, size: float = 100.0
) -> tuple[list[int], Any]:
    """Sides and log-odds of rows (frame, x, track, person, vote)."""
    frame, x, track, person, votes = (np.array(column) for column in zip(*rows, strict=True))
    box = np.stack([x, 0 * x, x + size, 0 * x + size], 1).astype(np.float64)
    key = frame, frame / rate, box, track.astype(np.int32), person.astype(np.int16), np.ones(len(frame)), votes.astype(np.float64)
    found = decide(*key, min_log_odds=min_log_odds)
    return found.side.tolist(), found.log_odds.tolist()


def test_a_tracks_votes_add_up_and_repeat_each_other_by_hand() -> None:
    """Rows 0.2 s apart count as their sum over 1 + (count - 1) / 4."""
    three = [(frame, 0, 0, -1, 0.5) for frame in range(3)]
    assert told(*three)[1] == pytest.approx([1.0] * 3)
    assert told(*three, rate=10.0)[1] == pytest.approx([1.0 / 1.25] * 3), "twice as often, half of each but the last"
    assert told(*three, rate=1.0)[1] == pytest.approx([1.0] * 3)
    alone = [(0, 0, 0, -1, 0.5)]
    assert told(*alone, min_log_odds=0.5) == ([RIGHT], [0.5])
    assert told(*alone, min_log_odds=0.51)[0] == [UNKNOWN_SIDE]
    assert told((0, 0, 0, -1, -0.5), min_log_odds=0.5)[0] == [LEFT]


def test_a_smooth_track_turns_for_more_than_5_and_one_that_jumps_or_returns_for_more_than_1() -> None:
    for each, sides in ((5, [UNKNOWN_SIDE] * 10), (6, [RIGHT] * 6 + [LEFT] * 6)):
        assert told(*[(frame, 0, 0, -1, 1.0 if frame < each else -1.0) for frame in range(2 * each)])[0] == sides
    sides, odds = told(*[(frame, 0, 0, -1, -1.0 if frame < 6 else 1.0) for frame in range(12)])
    assert sides == [LEFT] * 6 + [RIGHT] * 6
    assert odds == pytest.approx([-6 / 2.25] * 6 + [6 / 2.25] * 6)
    for second, votes, sides in (
        (79, (1.0, -1.0), [UNKNOWN_SIDE] * 4),
        (81, (1.0, -1.0), [RIGHT] * 2 + [LEFT] * 2),
        (81, (0.5, -0.5), [UNKNOWN_SIDE] * 4),
        (81, (0.55, -0.55), [RIGHT] * 2 + [LEFT] * 2),
    ):
        rows = [(frame, 0 if frame < 2 else second, 0, -1, votes[frame // 2]) for frame in range(4)]
        assert told(*rows)[0] == sides, (second, votes)
    for gap, sides in ((1, [UNKNOWN_SIDE] * 6), (2, [RIGHT] * 3 + [LEFT] * 3)):
        assert told(*[(frame if frame < 3 else frame + gap - 1, 0, 0, -1, 1.0 if frame < 3 else -1.0) for frame in range(6)])[0] == sides


def test_two_hands_of_one_person_take_two_sides_by_hand() -> None:
    assert told((0, 0, 0, 0, 1.0), (0, 300, 1, 0, 0.5)) == ([RIGHT, LEFT], pytest.approx([0.5, -0.5]))
    assert told((0, 0, 0, 0, 0.5), (0, 300, 1, 0, 0.5), min_log_odds=0.0001)[0] == [UNKNOWN_SIDE] * 2
    assert told((0, 0, 0, 0, 9.0), (0, 300, 1, 0, 8.0))[1] == pytest.approx([3.0, 2.0]), "each side against 6"
    assert told((0, 0, 0, 0, 9.0), (0, 300, 1, 0, 8.0))[0] == [RIGHT, UNKNOWN_SIDE], "the less sure of two on one side"
    assert told((0, 0, 0, -1, 2.0), (0, 300, 1, -1, 1.5)) == ([RIGHT, RIGHT], pytest.approx([1.0, 0.5])), "perhaps one person's: against 1"
    assert told((0, 0, 0, 0, 2.0), (0, 300, 1, 1, 1.5)) == ([RIGHT, RIGHT], pytest.approx([2.0, 1.5])), "two people's"
    assert told((0, 0, 0, -1, 2.0), (0, 300, 1, -1, 1.5), (0, 600, 2, -1, 1.5))[1] == pytest.approx([2.0, 1.5, 1.5])
    rows = [row for frame in range(3) for row in ((frame, 0, 0, 0, 4.0), (frame, 300, 1, 0, 3.0))]
    assert told(*rows)[1][:2] == pytest.approx([2.0, -2.0]), "8 and 6, against 12"
    rows = [row for frame in range(3) for row in ((frame, 0, 0, 0, 8.0), (frame, 300, 1, 0, 7.0))]
    assert told(*rows)[1][:2] == pytest.approx([4.0, 2.0]), "16 and 14, against 12"


def test_sides_of_many_pieces_are_such_that_no_single_one_gains_by_turning() -> None:
    rng = np.random.default_rng(5)
    evidence, against = rng.normal(0, 2, 14), rng.uniform(0, 3, (14, 14)) * (rng.random((14, 14)) < 0.4)
    against = np.triu(against, 1) + np.triu(against, 1).T
    margin = _one_after_the_other(evidence, against)
    np.testing.assert_allclose(margin, evidence - against @ np.sign(margin))
    assert set(np.sign(margin)) == {-1, 1}
    few, among = evidence[:6], against[:6, :6]
    choices = 2.0 * (np.arange(64)[:, None] >> np.arange(6) & 1) - 1
    worth = [side @ few / 2 - sum(among[i, j] for i in range(6) for j in range(i) if side[i] == side[j]) for side in choices]
    best = [max(w for w, side in zip(worth, choices, strict=True) if side[k] == s) for s in (1, -1) for k in range(6)]
    np.testing.assert_allclose(_all_choices(few, among), np.subtract(best[:6], best[6:]))


def test_twelve_pieces_are_chosen_among_all_choices() -> None:
    evidence = np.linspace(-2, 3, 12)
    odds = told(*[(0, 0, track, 0, float(vote)) for track, vote in enumerate(evidence.clip(-2, 2))])[1]
    np.testing.assert_allclose(odds, _all_choices(evidence.clip(-2, 2), 6 * (1 - np.eye(12))))
    assert _one_after_the_other(np.zeros(3), np.zeros((3, 3))).tolist() == [0, 0, 0], "it ends where nothing speaks for any side"


def test_a_track_has_one_side_and_the_less_sure_of_two_on_one_is_unknown() -> None:
    frame, track = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2], np.int32)
    rows = Sides(side=np.array([1, 1, -1, 0, -1], np.int8), log_odds=np.array([3.0, 2.0, -1.0, -1.0, 5.0]))
    found = of_tracks(frame, track, np.array([0, 0, 0, -1, -1], np.int16), rows)
    assert found.log_odds.tolist() == [1.0, 0.5, 1.0, 0.5, 5.0]
    assert found.side.tolist() == [1, -1, 1, 1, -1]
    two_people = of_tracks(frame, track, np.array([0, 1, 0, 1, 0], np.int16), rows)
    assert two_people.side.tolist() == [1, 1, 1, 1, -1]
    frame, track = np.array([0, 1, 2, 3, 3]), np.array([0, 0, 0, 0, 1], np.int32)
    rows = Sides(side=np.ones(5, np.int8), log_odds=np.array([1.0, 1.0, 1.0, 1.0, 2.0]))
    assert of_tracks(frame, track, np.array([0, 0, 0, 0, -1], np.int16), rows).side.tolist() == [1, 1, 1, -1, 1], "a clip of one person"


def test_the_usual_step_is_that_of_most_frames() -> None:
    assert usual_step_s(np.array([0.0, 0.25, 0.25, 0.5, 2.0])) == 0.25
    assert usual_step_s(np.array([3.0, 3.0])) == 0.2
