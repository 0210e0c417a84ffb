"""A hand keeps its track where a frame is blurred, where the border cuts it, and where its fingers are found a second time."""

import numpy as np

from stages.tables import HandDetections, PersonDetections
from tests.stages.fused_hands import body, detection, fuse


def at(frame: int, x: float, p_right: float, y: float = 200.0, size: float = 80.0, score: float = 0.9) -> HandDetections:
    return detection([x, y, x + size, y + size], score, p_right=p_right, frame=frame)


def test_a_fast_hand_that_votes_for_the_other_side_in_one_frame_keeps_its_track() -> None:
    """Seen in a video of a man who juggles: one blurred frame of a swing was a track of a left hand, and the swing two switches."""
    x = [100, 110, 120, 130, 230, 330, 340, 350]
    hands = fuse(*[at(f, x[f], 0.02 if f == 4 else 0.98) for f in range(8)])
    assert set(hands.track) == {0}
    assert set(hands.side) == {1}


def test_a_hand_that_is_not_on_the_way_of_another_keeps_a_track_of_its_own() -> None:
    x = [100, 110, 120, 130, 230, 330, 340, 350]
    found = [at(f, x[f], 0.98) for f in range(8) if f != 4]
    hands = fuse(*found, at(4, 480, 0.02))
    assert hands.track[hands.box[:, 0] > 450].tolist() == [1]
    assert set(hands.track[hands.box[:, 0] < 450]) == {0}


def test_how_far_a_hand_goes_on_beyond_the_border_does_not_end_its_track() -> None:
    """Seen from above a table: of a hand at the border the landmark network guesses now a fifth, now three fifths of the frame."""
    low, high = [500, -20, 600, 60], [490, -420, 610, 90]
    hands = fuse(*[detection(low if f < 3 else high, 0.9, frame=f) for f in range(6)])
    assert set(hands.track) == {0}


def test_a_persons_third_hand_over_another_is_that_one_again() -> None:
    """Seen in a shell game: fingers beside a cup voted for the other side than the hand with the cup, and its track went on with them."""
    people = PersonDetections.concat([body(left=(340, 280), right=(140, 280), frame=f) for f in range(4)])
    both = [hand for f in range(8) for hand in (at(f, 100, 0.98), at(f, 300, 0.02))]
    fingers = [at(f, 350, 0.9, y=210, size=50, score=0.6) for f in (5, 6)]
    hands = fuse(*both, *fingers, people=people)
    assert np.bincount(hands.frame).tolist() == [2] * 8
    apart = [at(f, 420, 0.9, y=210, size=50, score=0.6) for f in (5, 6)]
    assert np.bincount(fuse(*both, *apart, people=people).frame).tolist() == [2, 2, 2, 2, 2, 3, 3, 2]
    two = PersonDetections.concat([people, *[body(left=(640, 280), right=(540, 280), frame=f, person=1) for f in range(4)]])
    theirs = [at(f, 500, 0.98) for f in range(4)]
    assert np.bincount(fuse(*both, *theirs, *fingers, people=two).frame).tolist() == [3, 3, 3, 3, 2, 3, 3, 2]
