"""Links by hand: how far, how long after, how much larger, and of which side a hand may be; which of all are taken; and the assignment."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest

from stages.fusion import links
from stages.fusion.links import Steps, possible_steps, tracks_by_sides, tracks_by_votes, visible
from stages.fusion.sides import FULL_S, usual_step_s
from stages.fusion.tracks import _without_crumbs, assign, third_hands
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE, Hands
from tests.small_tables import columns
from tests.stages.fused_hands import detection, fuse


def hands_at(*rows: tuple[int, float], size: Any = 100.0, rate: float = 5.0) -> Hands:
    """Hands of (frame, x) about (x, 300), in a large image."""
    frame, x = (np.array(column) for column in zip(*rows, strict=True))
    half = np.broadcast_to(np.asarray(size, np.float64), len(x)) / 2
    box = np.stack([x - half, 300 - half, x + half, 300 + half], 1)
    found = columns(Hands, len(x), frame=frame, time_s=frame / rate, box=box, width=10_000, height=10_000)
    assert isinstance(found, Hands)
    return found


def steps(*rows: tuple[int, float], size: Any = 100.0, rate: float = 5.0, max_gap_s: float = 1.0, around: float = 0.0) -> Steps:
    return possible_steps(hands_at(*rows, size=size, rate=rate), max_gap_s=max_gap_s, around=around)


def by_votes(*rows: tuple[int, float, float], size: Any = 100.0, rate: float = 5.0) -> list[int]:
    """Tracks of (frame, x, log-odds of right) while sides are open."""
    hands = hands_at(*[row[:2] for row in rows], size=size, rate=rate)
    return tracks_by_votes(hands, possible_steps(hands, max_gap_s=1.0, around=0.0), np.array([row[2] for row in rows], float)).tolist()


def by_sides(*rows: tuple[int, float, int], size: Any = 100.0, person: Any = -1) -> list[int]:
    """Tracks of (frame, x, side)."""
    hands = hands_at(*[row[:2] for row in rows], size=size)
    hands = replace(hands, person=np.broadcast_to(np.asarray(person, np.int16), len(hands)))
    return tracks_by_sides(hands, possible_steps(hands, max_gap_s=1.0, around=0.0), np.array([row[2] for row in rows], np.int8)).tolist()


def test_assignment_makes_as_many_pairs_as_can_be_and_of_those_the_cheapest() -> None:
    inf = np.inf
    assert assign(np.array([[inf, inf]])) == []
    assert assign(np.array([[0.0, inf], [inf, inf]])) == [(0, 0)]
    assert assign(np.array([[0.0, 100.0], [100.0, inf]])) == [(0, 1), (1, 0)]
    assert assign(np.array([[1.0, 2.0], [2.0, 2.5]])) == [(0, 0), (1, 1)]
    assert assign(np.array([[-5.0, -1.0, inf], [-4.0, inf, inf], [inf, inf, 7.0]])) == [(0, 1), (1, 0), (2, 2)]
    assert assign(np.array([[3.0], [2.0], [inf]])) == [(1, 0)]
    assert assign(np.array([[inf, 1000.0], [1000.0, 1000.0]])) == [(0, 1), (1, 0)], "though one pair would cost half"


def test_a_hand_is_looked_for_as_long_as_its_gap() -> None:
    assert steps((0, 300), (5, 300)).later.tolist() == [1]
    assert steps((0, 300), (6, 300)).later.tolist() == []
    assert steps((0, 300), (0, 310)).later.tolist() == [], "two hands of one frame"
    assert steps((0, 300), (1, 300), (3, 300)).skipped.tolist() == pytest.approx([0, 1, 1 / 3]), "of the usual step, here 0.3 s"


def test_ways_are_hand_sizes_and_growth() -> None:
    assert steps((0, 300), (1, 350)).way.tolist() == [0.5]
    assert steps((0, 300), (1, 799)).way.tolist() == [4.99]
    assert steps((0, 300), (1, 801)).way.tolist() == []
    for sizes in ([100, 200], [200, 100]):
        assert steps((0, 300), (1, 400), size=sizes).way.tolist() == pytest.approx([100 / np.sqrt(20000) + np.log(2) / 4])
        assert steps((0, 300), (1, 300), size=[2.49 / 2 * s if s == 200 else s for s in sizes]).later.tolist() == [1]
        assert steps((0, 300), (1, 300), size=[2.51 / 2 * s if s == 200 else s for s in sizes]).later.tolist() == []


def test_what_the_border_cuts_says_nothing_of_growth() -> None:
    """A hand that comes up from below the frame: a third of it is seen, then all of it."""
    come = replace(table((0, (100, 440, 160, 560), 0.9, -1), (1, (100, 300, 160, 420), 0.9, -1)), time_s=np.array([0, 0.2]))
    assert possible_steps(come, max_gap_s=1.0, around=0.0).way.tolist() == pytest.approx([100 / 120]), "from the middle of what is seen"
    guess = replace(table((0, (100, 440, 160, 900), 0.9, -1), (1, (100, 440, 160, 500), 0.9, -1)), time_s=np.array([0, 0.2]))
    assert possible_steps(guess, max_gap_s=1.0, around=0.0).way.tolist() == [0.0], "what is seen of both is alike"


def test_an_image_that_closes_to_a_ring_is_crossed_the_shorter_way() -> None:
    assert steps((0, 980), (1, 20), around=1000.0).way.tolist() == pytest.approx([0.4])
    assert steps((0, 20), (1, 980), around=1000.0).way.tolist() == pytest.approx([0.4])
    assert steps((0, 980), (1, 20)).way.tolist() == []


def test_a_hand_that_was_not_seen_for_a_frame_is_robbed_of_no_other() -> None:
    """Seen in a video of a man who juggles: his knee, taken for a hand once, took the track of the hand above it."""
    swing = [(f, 300, LEFT) for f in (0, 1, 2)] + [(3, 700, LEFT)] + [(f, 300, LEFT) for f in (4, 5, 6)]
    assert by_sides(*swing) == [0, 0, 0, 1, 0, 0, 0]
    alone = [(0, 300, LEFT), (1, 700, LEFT)]
    assert by_sides(*alone) == [0, 0], "a hand that drops is no other"


def test_what_a_track_would_go_far_out_of_its_way_for_is_no_hand_of_it() -> None:
    for away, wanted in ((520, [0, 0, 0]), (530, [0, 1, 0])):  # 4.4 and 4.6 hand sizes there and back
        assert by_sides((0, 300, LEFT), (1, away, LEFT), (2, 300, LEFT)) == wanted
    assert by_sides((0, 300, LEFT), (1, 530, LEFT), (2, 530, LEFT)) == [0, 0, 0], "it stays there"
    assert by_sides((0, 300, LEFT), (1, 530, LEFT)) == [0, 0]


def test_a_hand_that_goes_up_and_down_is_one() -> None:
    """Seen in a video of a girl who jumps on a bed: where a skipped frame cost little, one track was above and one below."""
    assert by_sides(*[(f, 300 + 140 * (f % 2), RIGHT) for f in range(8)]) == [0] * 8


def test_the_way_of_all_hands_together_is_the_shortest() -> None:
    assert by_sides((0, 300, -1), (0, 400, -1), (1, 390, -1), (1, 500, -1)) == [0, 1, 0, 1]
    assert by_sides((0, 300, -1), (0, 400, -1), (1, 390, -1)) == [0, 1, 1]
    assert by_sides((0, 300, -1), (0, 400, -1), (1, 460, -1), (2, 290, -1)) == [0, 1, 1, 0], "the other one is seen again"


def test_a_frame_in_which_a_hand_is_not_seen_costs_one_and_a_half_of_its_size() -> None:
    """Half a size and a frame that is left out, against 1.9 or 2.1 sizes without one."""
    assert by_sides((0, 300, LEFT), (1, 540, RIGHT), (2, 350, -1)) == [0, 1, 1]
    assert by_sides((0, 300, LEFT), (1, 560, RIGHT), (2, 350, -1)) == [0, 1, 0]


def test_a_hand_of_somebody_who_has_no_other_of_that_side_is_waited_for_longer() -> None:
    """Three frames left out cost 4.5 sizes: 3.4 more are worth a link, 4 between two sights of one person's left hand alone, 5 none."""
    others = [(f, 3000, RIGHT) for f in range(5)]

    def is_one(away: float, *person: int, side: int = LEFT) -> bool:
        first, last = (0, 300, side), (4, 300 + 100 * away, side)
        track = by_sides(first, *others[:4], last, others[4], person=[person[0], 9, 9, 9, 9, person[1], 9])
        return track[0] == track[5]

    assert [is_one(away, 2, 2) for away in (3.4, 4.0, 4.9, 5.0)] == [True, True, True, False]
    for whose in ((2, 3), (-1, -1)):
        assert [is_one(away, *whose) for away in (3.4, 3.6)] == [True, False], whose
    assert not is_one(4.0, 2, 2, side=UNKNOWN_SIDE), "of which side nobody knows"


def test_tracks_of_decided_sides_hold_one_side() -> None:
    assert by_sides((0, 300, LEFT), (1, 300, RIGHT)) == [0, 1]
    assert by_sides((0, 300, LEFT), (1, 300, -1), (2, 300, LEFT)) == [0, 0, 0]
    assert by_sides((0, 300, LEFT), (1, 300, -1), (2, 300, -1), (3, 300, RIGHT)) == [0, 0, 0, 1], "not by one of unknown side between"
    assert by_sides((0, 300, -1), (1, 300, RIGHT), (2, 300, RIGHT)) == [0, 0, 0]


def test_a_wrong_vote_on_the_way_of_a_hand_makes_it_no_other_hand() -> None:
    """Seen in a shell game at five frames a second: a hand whose vote turned once took the other one's track, lost for a frame."""
    still = [(f, 1000, -4) for f in range(3)] + [(3, 1000, 2)] + [(f, 1000, -4) for f in (4, 5, 6)]
    other = [(0, 700, 4), (1, 750, 4), (2, 860, 4), (4, 740, 4), (5, 600, 4), (6, 500, 4)]
    rows = sorted(still + other)
    track = by_votes(*rows)
    assert {number for number, row in zip(track, rows, strict=True) if row in still} == {track[1]}
    assert {number for number, row in zip(track, rows, strict=True) if row in other} == {track[0]}


def test_the_only_hand_of_a_frame_goes_by_its_vote_where_ways_are_alike() -> None:
    """Seen in the shell game: both hands rush to the middle, one of them is seen there."""
    both = [(0, 350, 6), (0, 650, -6), (1, 350, 6), (1, 650, -6), (3, 480, 6), (3, 520, -6)]
    for vote, x in ((6.0, 505.0), (-6.0, 495.0)):
        rows = sorted([*both, (2, x, vote)])
        track = by_votes(*rows)
        assert track[4] == track[0 if vote > 0 else 1], vote
    assert by_votes((0, 300, 6), (1, 305, -6), (2, 300, 6)) == [0, 0, 0], "no vote takes a still hand off its way"


def test_a_vote_counts_by_time_and_up_to_a_bound() -> None:
    """At five frames a second a sure vote is worth 0.25 x 6 hand sizes, at twenty a quarter of it."""
    assert by_votes((0, 300, -6), (1, 300, 4), (2, 300, -6)) == [0, 0, 0]
    assert by_votes((0, 300, -6), (1, 300, 60), (2, 300, -60)) == [0, 0, 0], "a link is worth more"
    half = [(0, 300, -60), (1, 400, 60)]  # a link is worth 2, less a way of 1, and 1.5 is against it
    assert by_votes(*half) == [0, 1]
    assert by_votes(*half, rate=20.0) == [0, 0]
    assert by_votes((0, 300, -60), (1, 340, 60)) == [0, 0]
    assert by_votes((0, 300, -60), (1, 360, 60)) == [0, 1]


def test_long_clips_are_chosen_a_piece_at_a_time() -> None:
    frame = np.repeat(np.arange(10), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "MOST_HANDS", 7)
        assert links._pieces(frame) == [(0, 6), (6, 12), (12, 18), (18, 24), (24, 30)]
        patch.setattr(links, "MOST_HANDS", 2)
        assert links._pieces(frame[:6]) == [(0, 3), (3, 6)], "a frame is never parted"
        patch.setattr(links, "MOST_HANDS", 3)
        assert by_votes(*[(f, 300, 4) for f in range(6)]) == [0, 0, 0, 1, 1, 1]
    assert links._pieces(frame) == [(0, 30)]
    assert by_votes(*[(f, 300, 4) for f in range(6)]) == [0] * 6


def test_a_crowd_whose_votes_contradict_each_other_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best choice would take long: the best that was found so far is taken, each hand by itself where nothing was found."""
    draw, crowd = np.random.default_rng(0), 30
    hands = hands_at(*[(f, x) for f in range(8) for x in np.sort(draw.uniform(0, 900, crowd))])
    found, votes = possible_steps(hands, max_gap_s=1.0, around=0.0), draw.choice([-6.0, 6.0], len(hands))
    monkeypatch.setattr(links, "MOST_NODES", 1)
    track = tracks_by_votes(hands, found, votes)
    assert all(len(np.unique(hands.frame[track == one])) == (track == one).sum() for one in np.unique(track)), "one hand a frame"
    monkeypatch.setattr(links, "MOST_NODES", 0)
    assert tracks_by_votes(hands, found, votes).tolist() == list(range(len(hands)))


@pytest.mark.parametrize("seed", range(12))
def test_links_are_the_best_of_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every way to link a handful of hands, with every choice of sides."""
    monkeypatch.setattr(links, "DETOUR", np.inf)  # what is left out afterwards
    draw = np.random.default_rng(seed)
    n = 5
    frame = np.sort(draw.integers(0, 4, n))
    hands = hands_at(*[(int(f), float(x)) for f, x in zip(frame, draw.uniform(0, 500, n), strict=True)])
    hands = replace(hands, person=draw.integers(-1, 2, n).astype(np.int16))
    found, votes = possible_steps(hands, max_gap_s=1.0, around=0.0), draw.uniform(-8, 8, n)
    side = draw.integers(-(seed % 2), 2, n).astype(np.int8)
    weight = min(usual_step_s(hands.time_s) / FULL_S, 1.0)
    open_cost = dict(zip(pairs_of(found), found.way + 0.4 * found.skipped - 2, strict=True))
    sided_cost = dict(zip(pairs_of(found), found.way + 1.5 * found.skipped - 8, strict=True))
    for i, j in pairs_of(found):
        sided_cost[i, j] -= 1.5 * (side[i] == side[j] != UNKNOWN_SIDE and hands.person[i] == hands.person[j] != -1)
    right = 0.25 * weight * np.clip(votes, -6, 6)
    best_open = best_sided = 0.0
    for taken in each_linking(pairs_of(found)):
        chains = [np.flatnonzero(np.array(chained(n, taken)) == k) for k in range(n)]
        gain = sum(max(right[rows].sum(), 0.0) for rows in chains) - np.maximum(right, 0).sum()
        best_open = min(best_open, sum(open_cost[link] for link in taken) - gain)
        if not any(side[i] >= 0 and side[j] >= 0 and side[i] != side[j] for i, j in taken):
            best_sided = min(best_sided, sum(sided_cost[link] for link in taken))
    told = links_of(tracks_by_votes(hands, found, votes))
    gain = sum(max(right[np.array(rows)].sum(), 0.0) for rows in told.values()) - np.maximum(right, 0).sum()
    ways = sum(open_cost[pair] for rows in told.values() for pair in pairwise(rows))
    assert ways - gain == pytest.approx(best_open)
    if UNKNOWN_SIDE not in side:  # where a side is unknown a track may be cut after the choice
        told = links_of(tracks_by_sides(hands, found, side))
        assert sum(sided_cost[pair] for rows in told.values() for pair in pairwise(rows)) == pytest.approx(best_sided)


def pairs_of(found: Steps) -> list[tuple[int, int]]:
    return list(zip(found.earlier.tolist(), found.later.tolist(), strict=True))


def each_linking(pairs: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    for count in range(len(pairs) + 1):
        for taken in combinations(pairs, count):
            if len({i for i, _ in taken}) == len({j for _, j in taken}) == count:
                yield taken


def chained(n: int, taken: tuple[tuple[int, int], ...]) -> list[int]:
    before = {j: i for i, j in taken}
    number = list(range(n))
    for j in range(n):
        number[j] = number[before[j]] if j in before else j
    return number


def links_of(track: np.ndarray) -> dict[int, list[int]]:
    return {int(number): np.flatnonzero(track == number).tolist() for number in np.unique(track)}


def test_tracks_are_numbered_as_they_are_seen() -> None:
    assert by_sides((3, 100, 0), (3, 800, 0), (4, 805, 0), (4, 102, 0), (4, 1900, 0)) == [0, 1, 1, 0, 2]


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
    assert visible(hands, 0.0).tolist() == [[0, 0, 50, 60], [600, 400, 640, 480], [0, 0, 1, 50], *map(list, boxes[3:])]
    assert visible(hands, 640.0).tolist() == [[*box] for box in boxes], "an image that closes to a ring has no border"


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
    assert set(crumbs(*long, (3, 450, 1))) == {0, 1}
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
    assert set(crumbs(*long, (3, 300, 1), (5, 500, 1))) == {0, 1}
    without_one = [(frame, 100.0 * frame, 0) for frame in (0, 1, 2, 4, 6, 7)]
    assert set(crumbs(*without_one, (3, 300, 1), (5, 500, 1))) == {0, 1}, "or between two of its rows"
    parted = [(frame, 100.0 * frame, 0) for frame in (0, 1, 2, 6, 7, 8)]
    assert set(crumbs(*parted, (3, 300, 1), (4, 400, 1), (5, 500, 1))) == {0, 1}, "three rows are no crumb"
    assert set(crumbs(*parted, (3, 300, 1), (5, 500, 1))) == {0}
    assert crumbs((0, 0, 0), (1, 100, 1), (2, 200, 0)) == [0, 1, 0], "and none of another crumb"
    assert set(crumbs((0, 0, 0), (1, 100, 1), (2, 200, 0), (3, 300, 0))) == {0}, "from its first row on"
    assert set(crumbs((0, 0, 0), (1, 100, 0), (2, 200, 1), (3, 300, 0))) == {0}, "up to its last"


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
