"""Two hands of one person by hand: who shares a shape with whom, which balls fill a hand, and how far two hands are moved apart."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from stages.fusion.together import _one_shape, apart, balls
from stages.tables import HAND_KEYPOINTS, Fits, Hands
from tests.small_tables import columns

Pair = tuple[list[list[float]], list[list[list[float]]], list[list[float]]]
"""Wrists of two hands, the centres of their balls about them, and the radii of those."""


def in_line(first: float, second: float, *, radius: float = 0.025, beyond: float = 0.0, x: float = 0.0) -> Pair:
    """Two hands of a ball each, whose wrists are so far away on one ray; the second one's ball lies so much beyond its wrist."""
    return [[x * first, 0.0, first], [x * second, 0.0, second]], [[[0.0, 0.0, 0.0]], [[0.0, 0.0, beyond]]], [[radius], [radius]]


def moved(*pairs: Pair) -> np.ndarray:
    """Where the wrists of pairs are then, all moved at once."""
    return np.asarray(apart(*(np.array(column, np.float64) for column in zip(*pairs, strict=True))))


def test_hands_that_do_but_touch_stay() -> None:
    touching, far, within = in_line(1.0, 1.5, radius=0.25), in_line(0.5, 0.9), in_line(1.0, 1.4375, radius=0.25)
    found = moved(touching, far, within)
    assert found[:2].tolist() == [touching[0], far[0]]
    assert found[2, 0, 2] < 1.0 < 1.4375 < found[2, 1, 2]


@pytest.mark.parametrize("x", [0.0, 0.5])
def test_the_nearer_hand_comes_towards_the_camera_and_the_other_goes_away_by_one_share_until_they_touch(x: float) -> None:
    """Two balls of 25 mm touch where their centres are 50 mm apart."""
    depths = [(0.6, 0.62), (0.62, 0.6), (0.3, 0.31)]
    found = moved(*(in_line(*depth, x=x) for depth in depths))
    for wrists, (first, second) in zip(found, depths, strict=True):
        share = (0.05 / np.hypot(x, 1) - abs(second - first)) / (first + second)
        signed = share if first < second else -share
        assert wrists[0] == pytest.approx(np.array([x, 0, 1]) * first * (1 - signed), abs=3e-5)
        assert wrists[1] == pytest.approx(np.array([x, 0, 1]) * second * (1 + signed), abs=3e-5)


def test_hands_are_moved_no_farther_than_it_takes() -> None:
    """A twentieth of a millimetre less, and they were within each other, in whichever way they are turned."""
    rng = np.random.default_rng(0)
    place = rng.normal(0, 0.01, (300, 2, 3)) + rng.uniform([-0.3, -0.3, 0.4], [0.3, 0.3, 1.0], (300, 1, 3))
    centres, radius = rng.normal(0, 0.01, (300, 2, 5, 3)), rng.uniform(0.01, 0.02, (300, 2, 5))

    def gap_m(wrists: np.ndarray) -> np.ndarray:
        one, other = (centres[:, k] + wrists[:, k, None] for k in (0, 1))
        free = np.linalg.norm(one[:, :, None] - other[:, None], axis=3) - radius[:, 0, :, None] - radius[:, 1, None]
        return np.asarray(free.min((1, 2)))

    found = apart(place, centres, radius)
    inside = gap_m(place) < 0
    assert 200 < inside.sum() < 300
    assert (found[~inside] == place[~inside]).all()
    assert (gap_m(found)[inside] > -1e-12).all()
    first, second = np.moveaxis(found[..., 2] / place[..., 2] - 1, 1, 0)
    assert first == pytest.approx(-second, abs=1e-12)
    less = first - np.sign(first) * 5e-5 / np.linalg.norm(place.sum(1), axis=1)
    assert (gap_m(place * (1 + np.stack([less, -less], 1))[..., None])[inside] < 0).all()


@pytest.mark.parametrize(("beyond", "in_order"), [(0.016, True), (0.018, False)])
def test_the_nearer_hand_becomes_the_farther_one_where_the_other_way_is_twice_as_far(beyond: float, in_order: bool) -> None:
    """The farther hand's ball is nearer than the other's: 66 mm in their order or 34 out of it, 68 or 32."""
    pair = in_line(0.6, 0.61, beyond=-0.01 - beyond)
    turned: Pair = pair[0][::-1], pair[1][::-1], pair[2]
    (near, far), (far_again, near_again) = moved(pair, turned)[..., 2]
    assert (near_again, far_again) == pytest.approx((near, far), abs=1e-9)
    assert far - near == pytest.approx(0.01 + 0.05 + beyond if in_order else 0.01 - (0.05 - beyond), abs=5e-5)


def test_hands_as_far_as_each_other_part_all_the_same() -> None:
    first, second = moved(([[-0.01, 0, 0.6], [0.01, 0, 0.6]], [[[0, 0, 0]]] * 2, [[0.025]] * 2))[0]
    assert first[2] < 0.6 < second[2], "the first comes nearer"
    assert np.linalg.norm(first - second) == pytest.approx(0.05, abs=5e-5)


def test_hands_that_would_have_to_part_by_more_than_20_cm_stay() -> None:
    """195 mm are found, 205 are too far."""
    enough, too_far = in_line(0.9, 0.91, radius=0.1025), in_line(0.9, 0.91, radius=0.1075)
    found = moved(enough, too_far)
    assert found[0, 1, 2] - found[0, 0, 2] == pytest.approx(0.205, abs=5e-5)
    assert found[1].tolist() == too_far[0]


def test_balls_lie_along_the_bones_and_between_those_of_the_palm_and_beside_the_wrist() -> None:
    """Each reaches 2 mm beyond the nearest vertex, the wrist's is as large as a wrist."""
    rng = np.random.default_rng(0)
    joints, outline = rng.normal(0, 0.1, (3, 21, 3)), rng.normal(0, 0.2, (3, 778, 3))
    outline[0, 5] = joints[0, HAND_KEYPOINTS.index("ring3")]
    faces = rng.integers(0, 778, (100, 3))
    centres, radius = (each[:, :97] for each in balls(joints, outline, faces))  # those beneath the skin follow
    at = {name: joints[:, k] for k, name in enumerate(HAND_KEYPOINTS)}
    expected = [at["wrist"]]
    across = (at["little1"] - at["index1"]) / np.linalg.norm(at["little1"] - at["index1"], axis=1)[:, None]
    expected += [at["wrist"] + metres * across for metres in (-0.02, -0.01, 0.01, 0.02)]
    palm: dict[str, list[np.ndarray]] = {}
    for finger in ("thumb", "index", "middle", "ring", "little"):
        names = ["wrist", *(name for name in HAND_KEYPOINTS if name.startswith(finger))]
        assert len(names) == 5
        for start, end in pairwise(names):
            bone = [at[start] + share * (at[end] - at[start]) for share in (0.25, 0.5, 0.75, 1)]
            expected += bone
            palm[finger] = palm.get(finger, bone)
    for one, other in (("index", "middle"), ("middle", "ring"), ("ring", "little")):
        expected += [(a + b) / 2 for a, b in zip(palm[one], palm[other], strict=True)]
    assert centres.shape[1] == len(expected) == 1 + 4 + 80 + 12
    for hand in range(3):
        wanted = np.stack(expected, 1)[hand]
        which = np.linalg.norm(wanted[:, None] - centres[hand][None], axis=2).argmin(1)
        assert sorted(which) == list(range(97))
        np.testing.assert_allclose(centres[hand, which], wanted, atol=1e-12)
        free = np.linalg.norm(wanted[:, None] - outline[hand][None], axis=2).min(1) + 0.002
        free[0] = max(free[0], 0.025)
        np.testing.assert_allclose(radius[hand, which], free, atol=1e-7)


def shapes(*rows: tuple[int, int, float, float], pairs: list[list[int]]) -> list[float]:
    """First number of the shape that each row gets, NaN where none; rows are (track, side, length of the palm, first number so far)."""
    track, side, palm, beta = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    joints = np.zeros((n, 21, 3))
    joints[:, HAND_KEYPOINTS.index("middle1"), 1] = np.abs(palm)
    betas = np.zeros((n, 10))
    betas[:, 0], betas[:, 9] = beta, 2 * beta
    transl = np.where(palm[:, None] < 0, np.nan, [0.1, 0.1, 0.6])
    hands = columns(Hands, n, track=track)
    fits = columns(Fits, n, side=side, betas=betas, joints_3d=joints, transl=transl)
    assert isinstance(hands, Hands)
    assert isinstance(fits, Fits)
    taken, found = _one_shape(hands, fits, np.array(pairs, np.int64).reshape(-1, 2))
    np.testing.assert_allclose(found[:, 9], 2 * found[:, 0])
    told: Any = np.full(n, np.nan)
    told[taken] = found[:, 0]
    return [round(float(one), 6) for one in told]


NONE = pytest.approx(np.nan, nan_ok=True)


def test_a_shape_is_the_mean_over_both_tracks_and_of_all_of_their_rows() -> None:
    """However long each is; a row that could not be fitted says nothing and stays, by its shape or by its place."""
    rows = [(4, 0, 0.1, 1.0), (7, 1, 0.1, 6.0), (4, 0, 0.1, 3.0), (9, 1, 0.1, 50.0), (4, 0, 0.1, np.nan), (7, 1, -0.1, 90.0)]
    assert shapes(*rows, pairs=[[0, 1]]) == [4.0, 4.0, 4.0, NONE, NONE, NONE]
    assert shapes(*rows, pairs=[[1, 0]]) == [4.0, 4.0, 4.0, NONE, NONE, NONE]
    assert shapes(*rows, pairs=[]) == [NONE] * 6


def test_a_track_goes_with_the_one_it_is_seen_with_most() -> None:
    rows = [(1, 0, 0.1, 1.0), (2, 1, 0.1, 3.0), (1, 0, 0.1, 1.0), (0, 1, 0.1, 9.0), (1, 0, 0.1, 1.0), (0, 1, 0.1, 9.0)]
    assert shapes(*rows, pairs=[[0, 1], [2, 3], [5, 4]]) == [5.0, NONE, 5.0, 5.0, 5.0, 5.0]
    third = [*rows, (3, 0, 0.1, 5.0), (2, 1, 0.1, 3.0)]
    assert shapes(*third, pairs=[[0, 1], [2, 3], [5, 4], [6, 7]]) == [5.0, 4.0, 5.0, 5.0, 5.0, 5.0, 4.0, 4.0], "who is left finds another"


def test_a_hand_of_no_track_is_one_by_itself() -> None:
    rows = [(-1, 0, 0.1, 1.0), (-1, 1, 0.1, 3.0), (-1, 0, 0.1, 5.0), (-1, 1, 0.1, 9.0)]
    assert shapes(*rows, pairs=[[0, 1], [2, 3]]) == [2.0, 2.0, 7.0, 7.0]
    rows = [(-1, 0, 0.1, 1.0), (1, 1, 0.1, 3.0), (1, 1, 0.1, 5.0), (0, 1, 0.1, 7.0)]
    assert shapes(*rows, pairs=[[0, 1]]) == [2.5, 2.5, 2.5, NONE], "no track's number is another's"
    assert shapes((3, 0, 0.1, 1.0), (3, 1, 0.1, 3.0), pairs=[[0, 1]]) == [NONE, NONE], "one track is no pair"


def test_hands_of_one_side_or_of_palms_too_different_are_no_pair() -> None:
    assert shapes((0, 0, 0.1, 1.0), (1, 1, 0.1299, 3.0), pairs=[[0, 1]]) == [2.0, 2.0]
    assert shapes((0, 0, 0.1301, 1.0), (1, 1, 0.1, 3.0), pairs=[[0, 1]]) == [NONE, NONE]
    assert shapes((0, 0, 0.1, 1.0), (1, 1, 0.1301, 3.0), pairs=[[0, 1]]) == [NONE, NONE]
    long = [(0, 0, 0.1, 1.0), (0, 0, 0.1, 1.0), (0, 0, 0.9, 1.0), (1, 1, 0.1, 3.0)]
    assert shapes(*long, pairs=[[0, 3]]) == [2.0] * 4, "the median of a track counts"
    assert shapes((0, 1, 0.1, 1.0), (1, 1, 0.1, 3.0), pairs=[[0, 1]]) == [NONE, NONE]
    third = [(0, 0, 0.1, 1.0), (1, 1, 0.1, 3.0), (1, 2, 0.1, 3.0)]
    assert shapes(*third, pairs=[[0, 1]]) == [NONE, NONE, NONE], "a track of two sides is not one hand"
