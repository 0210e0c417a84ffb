"""Learned hulls hold the samples they promise to, in few corners and counter-clockwise."""

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from fitting.priors.hulls import MOST_CORNERS, hull_of, inside, padded

TRIANGLE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def area(polygon: np.ndarray) -> float:
    following = np.roll(polygon, -1, 0)
    return float((polygon[:, 0] * following[:, 1] - polygon[:, 1] * following[:, 0]).sum() / 2)


def chain(samples: np.ndarray) -> list[tuple[float, float]]:
    """Andrew's monotone chain, counter-clockwise."""
    points = sorted(map(tuple, samples))
    halves = []
    for ordered in (points, points[::-1]):
        half: list[tuple[float, float]] = []
        for x, y in ordered:
            while len(half) > 1:
                (ax, ay), (bx, by) = half[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                half.pop()
            half.append((x, y))
        halves += half[:-1]
    return halves


def test_inside_by_hand():
    samples = np.array([[0.2, 0.2], [0.5, 0.5], [0.6, 0.6], [-0.1, 0.5], [0.0, 0.0]])
    assert inside(samples, TRIANGLE).tolist() == [True, True, False, False, True]


def test_hull_of_all_samples_is_the_convex_hull():
    samples = np.random.default_rng(0).normal(size=(60, 2))
    wanted = chain(samples)
    assert len(wanted) <= MOST_CORNERS
    polygon = hull_of(samples, kept=1.0)
    assert sorted(map(tuple, polygon)) == sorted(wanted)
    assert area(polygon) > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kept", [0.99, 0.9995])
def test_promised_share_is_kept_in_few_corners(seed, kept):
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(4000, 2)) @ rng.normal(size=(2, 2)) + rng.normal(size=2)
    polygon = hull_of(samples, kept)
    assert inside(samples, polygon).mean() >= kept
    assert len(polygon) <= MOST_CORNERS
    assert inside(polygon, polygon).all(), "convex and counter-clockwise"


def test_smooth_outline_in_few_corners_loses_nothing_and_grows_little():
    angle = np.linspace(0, 2 * np.pi, 1000)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    polygon = hull_of(circle, kept=1.0)
    assert len(polygon) == MOST_CORNERS
    assert inside(circle, polygon).all()
    assert area(polygon) < 1.05 * np.pi


def test_strays_do_not_set_the_limits():
    samples = np.concatenate([np.random.default_rng(1).uniform(-1, 1, (10_000, 2)), [[3.0, 0.0], [0.0, -4.0]]])
    assert area(hull_of(samples, kept=1.0)) > 8
    assert area(hull_of(samples)) < 4.01
    assert ConvexHull(samples).volume > 8


@pytest.mark.parametrize("samples", [np.zeros((5, 2)), np.arange(20.0).reshape(10, 2), np.zeros((2, 2)), np.full((9, 2), np.nan)])
def test_samples_without_an_area_are_refused(samples):
    with pytest.raises(ValueError, match=f"{len(samples)} samples span no area"):
        hull_of(samples)


def test_padding_turns_hulls_counter_clockwise_and_repeats_the_last_corner():
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    both = padded([TRIANGLE, TRIANGLE[::-1], square[::-1]])
    assert both.shape == (3, 4, 2)
    for polygon, wanted in zip(both, (TRIANGLE, TRIANGLE, square), strict=True):
        assert area(polygon) == area(wanted) > 0
        assert {tuple(corner) for corner in polygon} == {tuple(corner) for corner in wanted}
    assert np.array_equal(padded(list(both)), both)


def test_hulls_rounded_for_a_file_are_still_hulls():
    """A flat corner may be bent inward by it."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        triangle = rng.normal(size=(3, 2))
        with_flat_corner = np.insert(triangle, 1, (triangle[0] + 2 * triangle[1]) / 3, axis=0)
        padded([with_flat_corner.astype(np.float32).astype(np.float64)])


@pytest.mark.parametrize(
    "polygon", [TRIANGLE[:2], np.array([[0.0, 0], [1, 1], [0, 1], [1, 0]]), np.array([[0.0, 0], [1, 1], [2, 2]]), np.full((4, 2), np.nan)]
)
def test_what_is_no_convex_polygon_is_refused(polygon):
    with pytest.raises(ValueError, match="hull 1 is no convex polygon"):
        padded([TRIANGLE, polygon])
