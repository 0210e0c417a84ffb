"""Second looks: changed looks say the same of a clear hand, part where there is none, and their spread counts what it should."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, Landmarks, load_hand_landmarks
from stages.detectors.mediapipe.second_looks import SECOND_LOOKS, Change, hand_length_px, look_again, spread
from stages.tables import RIGHT

FRAME = (640, 480)


@pytest.fixture(scope="module")
def find() -> FindLandmarks:
    return load_hand_landmarks()


@pytest.fixture
def hands_jpg(media: Path) -> np.ndarray:
    image = cv2.imread(str(media / "images/tfjs/hands.jpg"))
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1])


def clear_hand(image: np.ndarray, find: FindLandmarks) -> Landmarks:
    """The left one of the picture's two."""
    (found,) = find([(image, np.array([190.0, 190.0, 480.0, 0.0]))])
    assert found.presence > 0.9
    return found


def points(*, offset: float = 0.0) -> np.ndarray:
    unit = np.stack([np.linspace(100, 200, 21), np.linspace(200, 100, 21)], 1)
    return unit + offset


def look(xy: np.ndarray) -> Landmarks:
    return Landmarks(presence=1.0, p_right=1.0, points=xy, world=np.zeros((21, 3)))


def test_mirrored_and_turned_looks_agree_on_a_clear_hand(hands_jpg: np.ndarray, find: FindLandmarks) -> None:
    hand = clear_hand(hands_jpg, find)
    (again,) = look_again(hands_jpg, [hand.points], find, [Change(mirrored=True), Change(turn=0.3), Change(scale=1.2, shift=(0.05, 0))])
    size = np.ptp(hand.points, axis=0).max()
    for other in again:
        assert np.linalg.norm(other.points - hand.points, axis=1).mean() < 0.05 * size
        assert (other.p_right > 0.5) == (hand.p_right > 0.5), "a mirrored look's side is turned back"
        assert np.linalg.norm(other.world - hand.world, axis=1).mean() < 0.02, "and so is its shape, metres"


def test_hands_keep_their_looks(hands_jpg: np.ndarray, find: FindLandmarks) -> None:
    hand = clear_hand(hands_jpg, find)
    elsewhere = hand.points + np.array([300, 0])
    one, other = look_again(hands_jpg, [hand.points, elsewhere], find, SECOND_LOOKS)
    assert len(one) == len(other) == len(SECOND_LOOKS)
    np.testing.assert_allclose(one[0].points, look_again(hands_jpg, [hand.points], find, SECOND_LOOKS)[0][0].points, atol=0.5)
    assert np.linalg.norm(other[0].points - hand.points, axis=1).mean() > 50


def test_landmarks_that_are_none_spread_wide(hands_jpg: np.ndarray, find: FindLandmarks) -> None:
    hand = clear_hand(hands_jpg, find)
    height, width = hands_jpg.shape[:2]
    between = hand.points * 0.5 + np.array([250, 60])  # on the paper between the two hands

    def mean_spread(xy: np.ndarray) -> float:
        (again,) = look_again(hands_jpg, [xy], find, SECOND_LOOKS)
        return float(spread(xy, again, hand_length_px(hand), width, height).mean())

    assert mean_spread(hand.points) < 0.03 < mean_spread(between)


def test_a_look_at_the_border_is_no_error(hands_jpg: np.ndarray, find: FindLandmarks) -> None:
    for xy in (points(offset=-400.0), points(offset=5000.0), points() * 0.001):
        (again,) = look_again(hands_jpg, [xy], find, SECOND_LOOKS)
        assert np.isfinite([one.points for one in again]).all()


def test_spread_is_in_lengths_of_the_hand_and_forgives_a_shift() -> None:
    assert np.isnan(spread(points(), [], 100.0, *FRAME)).all()
    np.testing.assert_allclose(spread(points(), [look(points(offset=30))], 100.0, *FRAME), 0, atol=1e-12)
    moved = points()
    moved[8] += [21, 0]  # the middle of all goes with it by one pixel
    told = spread(points(), [look(moved)], 100.0, *FRAME)
    assert told[8] == pytest.approx(0.10)
    assert told[9] == pytest.approx(0.005)
    np.testing.assert_allclose(spread(points(), [look(moved)], 200.0, *FRAME), told / 2)


def test_landmarks_outside_the_frame_do_not_move_the_others() -> None:
    cut = points()
    cut[15:] += 1000
    wild = cut.copy()
    wild[15:] += [500, 0]
    told = spread(cut, [look(wild)], 100.0, *FRAME)
    np.testing.assert_allclose(told[:15], 0, atol=1e-12)
    assert (told[15:] > 1).all()


def test_the_hand_is_as_long_as_its_metric_shape_shows() -> None:
    world = np.random.default_rng(0).normal(0, 0.03, (21, 3))
    seen = Landmarks(presence=1.0, p_right=float(RIGHT), points=500 * world[:, :2] + 300, world=world)
    assert hand_length_px(seen) == pytest.approx(0.18 * 500)
