"""Figures of motion by hand: steady, accelerating, shaking and frozen hands; and which frames are one run."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hands.metrics.hands import Hands3D
from hands.metrics.motion import (
    error_of_motion_mm,
    jitter,
    motion_frobenius,
    motion_metrics,
    motion_mm,
    path_metrics,
    root_translation_error,
    runs,
    shaking_mm,
)


def track(path: np.ndarray, points: int = 21) -> np.ndarray:
    """A rigid hand that follows a path of places, metres."""
    shape = np.random.default_rng(0).normal(size=(points, 3)) / 30
    return path[:, None] + shape


def test_motion_in_both_readings() -> None:
    steady = track(np.outer(np.arange(5), [0.003, 0, 0.004]))
    np.testing.assert_allclose(motion_mm(steady), 5)
    np.testing.assert_allclose(motion_mm(track(np.outer([0, 0.001, 0.003, 0.006], [0, 1, 0]))), [1, 2, 3])
    np.testing.assert_allclose(motion_frobenius(steady), 100 * 0.005 * np.sqrt(21))
    ratio = motion_frobenius(track(np.outer(np.arange(5), [1, 0, 0]), 778)) / motion_frobenius(track(np.outer(np.arange(5), [1, 0, 0])))
    np.testing.assert_allclose(ratio, 6.087, atol=1e-3)


def test_jitter_is_the_jerk() -> None:
    time = np.arange(8) / 30
    cubic = track(np.outer(time**3, [1, 0, 0]))
    np.testing.assert_allclose(jitter(cubic, 30), [6 / 10] * 5, rtol=1e-6)
    np.testing.assert_allclose(jitter(track(np.outer(time**2, [5, 1, 0])), 30), 0, atol=1e-9)


def test_shaking_is_the_acceleration_of_joints_about_the_wrist_along_tracks() -> None:
    joints = np.zeros((5, 21, 3))
    joints[:, 1:, 0] = 0.001 * np.arange(5)[:, None] ** 2  # 2 mm a frame squared
    joints += np.random.default_rng(0).normal(size=(5, 1, 3))  # where the wrist is does not count
    frame, track = np.arange(5), np.zeros(5, np.int64)
    assert shaking_mm(joints, track, frame) == pytest.approx(2)
    assert shaking_mm(joints, track, 6 * frame) == pytest.approx(2), "every sixth frame was annotated"
    assert np.isnan(shaking_mm(joints, track - 1, frame)), "no track"
    assert np.isnan(shaking_mm(joints, np.array([0, 0, 1, 1, 2]), frame)), "none has three in a row"
    joints[4] = np.nan
    assert shaking_mm(joints, track, frame) == pytest.approx(2)


def test_a_frozen_hand_is_smooth_and_wrong() -> None:
    target = track(np.outer(np.arange(6), [0.002, 0, 0]))
    frozen = np.repeat(target[:1], 6, 0)
    assert motion_mm(frozen).max() == 0
    np.testing.assert_allclose(error_of_motion_mm(frozen, target), 2)
    np.testing.assert_allclose(error_of_motion_mm(target + 1, target), 0, atol=1e-9)


def test_root_error_forgives_place_and_turn_but_not_size() -> None:
    target = np.cumsum(np.random.default_rng(1).normal(size=(20, 3)) / 100, 0)
    turned = target @ Rotation.from_rotvec([1, 2, 3]).as_matrix() + [5, 0, 0]
    np.testing.assert_allclose(root_translation_error(turned, target), 0, atol=1e-9)
    line = np.outer(np.arange(3.0), [0.1, 0, 0])
    np.testing.assert_allclose(root_translation_error(2 * line, line), [50, 0, 50], atol=1e-9)
    still = np.zeros((3, 3))
    assert root_translation_error(still, still).tolist() == [0, 0, 0]


def test_runs_end_where_a_frame_is_missing() -> None:
    sequence = ["b", "a", "a", "b", "a", "a", "a", "b"]
    frame = np.array([10, 4, 2, 20, 6, 12, 14, 30])
    assert [rows.tolist() for rows in runs(sequence, frame)] == [[2, 1, 4], [5, 6], [0, 3, 7]]
    assert [rows.tolist() for rows in runs(["a"], np.array([3]))] == [[0]]


def test_figures_stand_beside_the_truths_own() -> None:
    path = np.outer(np.arange(8), [0.002, 0, 0])
    target = Hands3D(track(path), track(path, 778))
    shaking = path + np.random.default_rng(2).normal(size=path.shape) * 0.003
    prediction = Hands3D(track(shaking), track(shaking, 778))
    metrics = motion_metrics(prediction, target, [np.arange(8), np.arange(2)], 30)
    assert metrics["true_mpfje_mm"] == pytest.approx(2)
    assert path_metrics(prediction, target, [np.arange(8)])["true_wrist_mm"] == pytest.approx(2)
    assert metrics["true_jitter"] == pytest.approx(0, abs=1e-6)
    assert metrics["jitter"] > 1
    assert metrics["mpfve_frobenius"] == pytest.approx(metrics["mpfje_frobenius"] * np.sqrt(778 / 21), rel=1e-6)
    assert metrics["error_of_motion_mm"] > 2
    same = motion_metrics(target, target, [np.arange(8)], 30)
    assert same["error_of_motion_mm"] == pytest.approx(0, abs=1e-9)
    assert path_metrics(target, target, [np.arange(8)])["rte"] == pytest.approx(0, abs=1e-9)
    assert motion_metrics(prediction, target, [np.arange(3)], 30) == {}, "three frames have no jerk"
    assert path_metrics(prediction, target, [np.arange(3)]) == {}
    four = {**motion_metrics(prediction, target, [np.arange(4)], 30), **path_metrics(prediction, target, [np.arange(4)])}
    assert all(np.isfinite(value) for value in four.values())
    assert {"jitter", "true_jitter", "error_of_motion_mm", "rte", "wrist_mm", "true_wrist_mm"} <= four.keys()
    assert four["wrist_mm"] == pytest.approx(motion_mm(prediction.joints[:4, :1]).mean())
