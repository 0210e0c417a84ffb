"""The end-to-end figures: rendered hands lie where the truth says, flips are told from turns, and the offsets are worth their name."""

from itertools import islice

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from benchmarks.fit.end_to_end import end_to_end, flipped, joined, mirrored
from benchmarks.fit.rendered_hands import RenderedHands, find, render
from fitting.hand.mano import LEFT
from studio.hand import studio_model


@pytest.fixture(scope="module")
def found() -> RenderedHands:
    return joined([find(render(kind, 7), 6) for kind in ("still", "film", "mixed")])


def palms(tilt_deg: float) -> np.ndarray:
    """One flat hand, its palm towards the camera, tilted back."""
    joints = studio_model().rest_joints()[0].numpy()
    hand = np.zeros((21, 3))
    hand[[0, 1, 5, 9, 13, 17]] = joints[[0, 13, 1, 4, 10, 7]] - joints[0]
    upright = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])
    return (hand @ upright.T @ Rotation.from_euler("x", tilt_deg, degrees=True).as_matrix().T)[None]


def test_the_same_seed_is_the_same_picture_and_another_seed_another_hand() -> None:
    for kind in ("still", "film", "mixed"):
        (one,), (same,), (other,) = (list(islice(render(kind, seed), 1)) for seed in (3, 3, 4))
        np.testing.assert_array_equal(one.image, same.image)
        assert np.abs(one.joints_3d - other.joints_3d).max() > 0.01


def test_found_hands_lie_on_the_true_ones(found: RenderedHands) -> None:
    assert found.num_clear >= len(found.side) >= 0.9 * found.num_clear
    assert np.median(found.labelled.error(found.labelled.keypoints)) < 0.1
    assert set(found.labelled.detector) == {"mediapipe"}
    assert (found.side == found.true_side).mean() > 0.85
    assert not found.labelled.joints_3d[:, 0].any()


def test_hands_called_left_are_mirrored_with_their_truth(found: RenderedHands) -> None:
    hands, left = mirrored(found), found.side == LEFT
    assert left.any()
    np.testing.assert_array_equal(hands.joints_3d[left], found.labelled.joints_3d[left] * [-1, 1, 1])
    np.testing.assert_array_equal(hands.joints_2d[~left], found.labelled.joints_2d[~left])
    np.testing.assert_allclose(hands.error(hands.keypoints), found.labelled.error(found.labelled.keypoints))


@pytest.mark.parametrize(
    ("true_deg", "found_deg", "flip"), [(45, 45, False), (45, 20, False), (45, -45, True), (5, -5, False), (88, 95, False), (0, 100, True)]
)
def test_a_palm_tilted_the_wrong_way_is_a_flip_and_a_small_error_is_none(true_deg: float, found_deg: float, flip: bool) -> None:
    assert flipped(palms(found_deg), palms(true_deg)).tolist() == [flip]


def test_the_fit_beats_the_detector_and_the_offsets_help() -> None:
    figures = end_to_end(24)
    assert figures["num_found"] >= 20
    assert figures["end_to_end_pa_mpjpe_mm"] < min(figures["detector_mm"], figures["without_offsets_mm"])
    assert figures["landmark_error_corrected"] < figures["landmark_error"]
    assert figures["true_landmarks_mm"] < figures["end_to_end_pa_mpjpe_mm"]
    assert 0 <= figures["flip_rate"] < 0.1
