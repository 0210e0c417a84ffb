"""Links from frame to frame by hand: how far, how long after, how much larger, and of which side a hand may be; and the assignment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stages.fusion.tracks import _visible, _without_crumbs, assign, link, third_hands
from stages.tables import Hands
from tests.small_tables import columns
from tests.stages.fused_hands import detection, fuse


def tracks(*rows: tuple[int, float, float], size: Any = 100.0, rate: float = 5.0, **changes: Any) -> list[int]:
    """Track numbers of boxes about (x, 300) in frames; rows are (frame, x, log-odds of right)."""
    frame, x, odds = (np.array(column) for column in zip(*rows, strict=True))
    half = np.broadcast_to(np.asarray(size, np.float64), len(x)) / 2
    box = np.stack([x - half, 300 - half, x + half, 300 + half], 1)
    told = link(frame.astype(np.int64), frame / rate, box, odds.astype(np.float64), **{"max_gap_s": 1.0, "max_speed": 1.0} | changes)
    return told.tolist()


def test_assignment_makes_as_many_pairs_as_can_be_and_of_those_the_cheapest() -> None:
    inf = np.inf
    assert assign(np.array([[inf, inf]])) == []
    assert assign(np.array([[0.0, inf], [inf, inf]])) == [(0, 0)]
    assert assign(np.array([[0.0, 100.0], [100.0, inf]])) == [(0, 1), (1, 0)]
    assert assign(np.array([[1.0, 2.0], [2.0, 2.5]])) == [(0, 0), (1, 1)]
    assert assign(np.array([[-5.0, -1.0, inf], [-4.0, inf, inf], [inf, inf, 7.0]])) == [(0, 1), (1, 0), (2, 2)]
    assert assign(np.array([[3.0], [2.0], [inf]])) == [(1, 0)]


def test_a_track_is_open_for_its_gap() -> None:
    assert tracks((0, 300, 0), (5, 300, 0)) == [0, 0]
    assert tracks((0, 300, 0), (6, 300, 0)) == [0, 1]


@pytest.mark.parametrize(
    ("frames", "reach", "changes"),
    [
        (1, 70, {}),  # half a size, and as far as 1 size a second goes in 0.2 s
        (2, 90, {}),
        (1, 90, {"max_speed": 2.0}),
        (5, 200, {"max_speed": 9.0}),  # two sizes at most
        (1, 175, {"strict": True}),  # 2.5 times as far where sides are known
    ],
)
def test_a_hand_is_looked_for_within_reach(frames: int, reach: float, changes: Any) -> None:
    assert tracks((0, 300, 1), (frames, 299 + reach, 1), **changes) == [0, 0]
    assert tracks((0, 300, 1), (frames, 301 + reach, 1), **changes) == [0, 1]


def test_a_hand_grows_by_2_5_at_most_and_sizes_of_both_count() -> None:
    for size, wanted in ((249, [0, 0]), (251, [0, 1])):
        assert tracks((0, 300, 0), (1, 300, 0), size=[100, size]) == wanted
        assert tracks((0, 300, 0), (1, 300, 0), size=[size, 100]) == wanted
    assert tracks((0, 300, 0), (1, 439, 0), size=[400, 100]) == [0, 1]
    assert tracks((0, 300, 0), (1, 397, 0), size=[100, 200]) == [0, 0]  # 0.7 of 141
    assert tracks((0, 300, 0), (1, 400, 0), size=[100, 200]) == [0, 1]


def test_a_track_is_looked_for_where_its_velocity_takes_it() -> None:
    steady = [(frame, 300.0 + 50 * frame, 0.0) for frame in range(4)]
    assert tracks(*steady, (4, 494, 0), (4, 450, 0)) == [0, 0, 0, 0, 0, 1]
    assert tracks((0, 300, 0), (1, 360, 0), (2, 459, 0)) == [0, 0, 0]  # 30 on, and 70 beyond that
    assert tracks((0, 300, 0), (1, 360, 0), (2, 461, 0)) == [0, 0, 1]
    assert tracks((0, 300, 0), (1, 360, 0), (3, 509, 0)) == [0, 0, 0]  # 60 on, and 90
    assert tracks((0, 300, 0), (1, 360, 0), (3, 511, 0)) == [0, 0, 1]


def test_the_nearest_and_most_alike_hand_is_taken() -> None:
    assert tracks((0, 300, 0), (1, 320, 0), (1, 270, 0)) == [0, 0, 1]
    assert tracks((0, 300, 0), (1, 330, 0), (1, 290, 0), size=[100, 100, 200]) == [0, 0, 1]  # 0.30 against 0.07 and half of ln 2
    assert tracks((0, 300, 0), (1, 338, 0), (1, 290, 0), size=[100, 100, 200]) == [0, 0, 1]  # 0.38 against 0.42
    assert tracks((0, 300, 0), (1, 350, 0), (1, 290, 0), size=[100, 100, 200]) == [0, 1, 0]
    assert tracks((0, 300, 3), (1, 320, 3), (1, 317, 0)) == [0, 1, 0]  # no less far for being of its side
    assert tracks((0, 300, 3), (1, 340, 3), (1, 300, -3)) == [0, 0, 1]  # half a size for the other side
    assert tracks((0, 300, 3), (1, 355, 3), (1, 300, -3)) == [0, 1, 0]


def test_a_hand_of_the_other_side_neither_jumps_in_nor_comes_after_a_gap() -> None:
    fast: dict[str, Any] = {"max_speed": 9.0}
    assert tracks((0, 300, 3), (1, 379, -3), **fast) == [0, 0], "a smooth step"
    assert tracks((0, 300, 3), (1, 381, -3), **fast) == [0, 1]
    assert tracks((0, 300, 3), (1, 381, 3), **fast) == [0, 0]
    assert tracks((0, 300, 3), (1, 381, -0.59), **fast) == [0, 0], "a fifth of what two sure votes say"
    assert tracks((0, 300, 3), (1, 381, -0.61), **fast) == [0, 1]
    assert tracks((0, 300, 0.59), (1, 381, -9), **fast) == [0, 0], "no vote counts more than 3"
    assert tracks((0, 300, 0.61), (1, 381, -9), **fast) == [0, 1]
    assert tracks((0, 300, -9), (1, 381, 0.59), **fast) == tracks((0, 300, -0.59), (1, 381, 9), **fast) == [0, 0]
    assert tracks((0, 300, -9), (1, 381, 0.61), **fast) == tracks((0, 300, -0.61), (1, 381, 9), **fast) == [0, 1]
    assert tracks((0, 300, 3), (1, 380, -3), **fast) == [0, 0], "just a smooth step"
    assert tracks((0, 300, 3), (1, 300, 3), (2, 300, 3), (4, 300, -3)) == [0, 0, 0, 1], "after a gap"
    assert tracks((0, 300, 3), (1, 300, 3), (2, 300, 3), (3, 300, -3)) == [0, 0, 0, 0]


def test_strict_tracks_hold_one_side() -> None:
    assert tracks((0, 300, 3), (1, 300, -0.1), strict=True) == [0, 1]
    assert tracks((0, 300, 3), (1, 300, 0), strict=True) == [0, 0]
    assert tracks((0, 300, 3), (1, 300, 2), strict=True) == [0, 0]


def test_of_a_tracks_votes_the_latest_count_most() -> None:
    """3, then -1: 0.8 x 3 - 1 = 1.4 is left against a jump of the other side."""
    start = [(0, 300, 3), (1, 300, -1)]
    assert tracks(*start, (2, 385, -1.25), max_speed=9.0) == [0, 0, 0]
    assert tracks(*start, (2, 385, -1.32), max_speed=9.0) == [0, 0, 1]


def test_an_image_that_closes_to_a_ring_is_crossed_the_shorter_way() -> None:
    assert tracks((0, 980, 0), (1, 20, 0)) == [0, 1]
    assert tracks((0, 980, 0), (1, 20, 0), around=1000.0) == [0, 0]
    assert tracks((0, 20, 0), (1, 980, 0), around=1000.0) == [0, 0]
    assert tracks((0, 960, 0), (1, 990, 0), (2, 20, 0), (3, 50, 0), around=1000.0) == [0, 0, 0, 0]
    assert tracks((0, 960, 0), (1, 990, 0), (2, 20, 0), (3, 134, 0), around=1000.0) == [0, 0, 0, 1], "26 on a frame by now, and 70"
    assert tracks((0, 960, 0), (1, 990, 0), (2, 20, 0), (3, 110, 0), around=1000.0) == [0, 0, 0, 0]


def test_tracks_are_numbered_as_they_are_seen() -> None:
    assert tracks((3, 100, 0), (3, 500, 0), (4, 505, 0), (4, 102, 0), (4, 900, 0)) == [0, 1, 1, 0, 2]


def table(*rows: tuple[int, tuple[float, ...], float, int]) -> Hands:
    """Hands of (frame, box, score, person) in frames of 640 by 480."""
    frame, box, score, person = (list(column) for column in zip(*rows, strict=True))
    told = {"frame": frame, "box": box, "score": score, "person": person, "width": 640, "height": 480}
    found = columns(Hands, len(rows), **{name: np.array(values) if isinstance(values, list) else values for name, values in told.items()})
    assert isinstance(found, Hands)
    return found


def test_what_little_lies_within_the_frame_is_what_is_followed() -> None:
    boxes = [
        (-20.0, -30.0, 50.0, 60.0),
        (600.0, 400.0, 700.0, 500.0),
        (-50.0, 0.0, 1.0, 50.0),
        (-50.0, 0.0, 0.5, 50.0),
        (10.0, 10.0, 20.0, 20.0),
        (650.0, 100.0, 750.0, 200.0),
        (100.0, 490.0, 200.0, 590.0),
    ]
    hands = table(*[(0, box, 0.9, -1) for box in boxes])
    assert _visible(hands, 0.0).tolist() == [[0, 0, 50, 60], [600, 400, 640, 480], [0, 0, 1, 50], *map(list, boxes[3:])]
    assert _visible(hands, 640.0).tolist() == [[*box] for box in boxes], "an image that closes to a ring has no border"


def test_a_third_hand_shares_more_than_the_share_with_one_of_two_surer_ones() -> None:
    left, right, over = (100.0, 100.0, 200.0, 200.0), (300.0, 100.0, 400.0, 200.0), (350.0, 100.0, 400.0, 300.0)
    rows = [(0, over, 0.5, 5), (0, left, 0.9, 5), (0, right, 0.8, 5), (1, over, 0.9, 5), (1, left, 0.8, 5), (1, right, 0.5, 5)]
    assert third_hands(table(*rows), share=0.49).tolist() == [True, False, False, False, False, True]
    assert not third_hands(table(*rows), share=0.5).any(), "just the share is not more"
    apart = (500.0, 100.0, 600.0, 200.0)
    assert not third_hands(table((0, left, 0.9, 5), (0, right, 0.8, 5), (0, apart, 0.5, 5)), share=0.1).any()
    assert not third_hands(table((0, left, 0.9, -1), (0, right, 0.8, -1), (0, over, 0.5, -1)), share=0.1).any(), "nobody's"
    assert not third_hands(table((0, left, 0.9, 5), (0, right, 0.8, 6), (0, over, 0.5, 6)), share=0.1).any(), "his second"
    assert third_hands(table((0, left, 0.9, 0), (0, right, 0.8, 0), (0, over, 0.5, 0)), share=0.1).tolist() == [False, False, True]


def crumbs(*rows: tuple[int, float, int], y: Sequence[float] = (), max_gap_s: float = 1.0, around: float = 0.0) -> list[int]:
    """Tracks of (frame, x, track) without crumbs; boxes of 100 pixels, five frames a second."""
    frame, x, track = (np.array(column) for column in zip(*sorted(rows), strict=True))
    low = np.stack([x, np.array(y) if len(y) else 0 * x], 1).astype(np.float64)
    box = np.concatenate([low, low + 100], 1)
    return _without_crumbs(frame, frame / 5, box, track.astype(np.int32), max_gap_s, around).tolist()


def test_a_crumb_on_the_way_of_a_track_is_of_it() -> None:
    long = [(frame, 100.0 * frame, 0) for frame in (0, 1, 2, 5, 6, 7)]
    far = [(frame, 3000.0, 1) for frame in (0, 1, 2, 5, 6, 7)]
    assert set(crumbs(*long, (3, 300, 1), (4, 400, 1))) == {0}
    assert set(crumbs(*long, (3, 449, 1))) == {0}, "1.5 sizes off the way"
    assert set(crumbs(*long, (3, 451, 1))) == {0, 1}
    assert set(crumbs(*long, (3, 390, 1), y=[0, 0, 0, 110, 0, 0, 0])) == {0}, "0.9 across and 1.1 down"
    assert set(crumbs(*long, (3, 420, 1), y=[0, 0, 0, 110, 0, 0, 0])) == {0, 1}, "1.2 across and 1.1 down"
    assert crumbs(*long, *far, (3, 451, 2)).count(2) == 1, "one on no way stays itself"
    assert crumbs(*long, *far, (3, 2990, 2)).count(1) == 7
    assert set(crumbs(*long, (3, 300, 1), (4, 551, 1))) == {0, 1}, "with all of its rows"
    assert set(crumbs(*long, (3, 300, 1), max_gap_s=0.6)) == {0}
    assert set(crumbs(*long, (3, 300, 1), max_gap_s=0.59)) == {0, 1}
    assert set(crumbs(*long, (4, 400, 1), (5, 500, 1))) == {0, 1}, "the track is seen meanwhile"
    for frame in (-1, 8):
        assert set(crumbs(*[(f + 1, x, t) for f, x, t in long], (frame + 1, 100.0 * frame, 1))) == {0, 1}, "before it or after it"
    assert set(crumbs(*long, (2, 250, 1), (3, 300, 1), (4, 400, 1))) == {0, 1}, "three rows are no crumb"


def test_a_way_across_the_seam_is_the_shorter_one() -> None:
    over = [(0, 900.0, 0), (1, 930.0, 0), (2, 960.0, 0), (4, 20.0, 0), (5, 50.0, 0)]
    assert crumbs(*over, (3, 990.0, 1), around=1000.0) == [0] * 6
    assert crumbs(*over, (3, 490.0, 1), around=1000.0) == [0, 0, 0, 1, 0, 0], "on the other side of the sphere"
    assert crumbs(*over, (3, 490.0, 1)) == [0] * 6, "in an image that ends"


def test_hands_come_by_frame_and_falling_score() -> None:
    hands = fuse(detection((100, 100, 200, 200), 0.5), detection((300, 100, 400, 200), 0.9), detection((100, 100, 200, 200), 0.7, frame=1))
    assert (hands.frame.tolist(), hands.hand.tolist()) == ([0, 0, 1], [0, 1, 0])
    np.testing.assert_allclose(hands.score, [0.9, 0.5, 0.7], rtol=1e-6)
    assert hands.track.tolist() == [0, 1, 1]
    assert hands.track_length.tolist() == [1, 2, 2]
