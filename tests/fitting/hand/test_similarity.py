"""Alignment beside scipy's, one hand at a time: with reflections, without, and at a fixed size."""

from typing import Any

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation

from fitting.hand.similarity import aligned


def hands(num: int = 6, points: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """True points, and noisy ones turned, scaled and moved; every other one mirrored."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(num, points, 3)) * [0.03, 0.06, 0.015]
    said = (true + rng.normal(size=true.shape) * 0.004) @ Rotation.random(num, rng=rng).as_matrix() * rng.uniform(0.5, 2, (num, 1, 1))
    said[::2] *= [-1, 1, 1]
    return said + rng.normal(size=(num, 1, 3)), true


def test_with_reflections_it_is_orthogonal_procrustes() -> None:
    said, true = hands()
    for one, other, found in zip(said, true, aligned(said, true, mirrored=True), strict=True):
        a, b = other - other.mean(0), one - one.mean(0)
        turn, scale = orthogonal_procrustes(a / np.linalg.norm(a), b / np.linalg.norm(b))
        np.testing.assert_allclose(found, b / np.linalg.norm(b) @ turn.T * scale * np.linalg.norm(a) + other.mean(0), atol=1e-12)


@pytest.mark.parametrize("scaled", [True, False])
def test_without_reflections_it_is_the_best_rotation(scaled: Any) -> None:
    said, true = hands()
    for one, other, found in zip(said, true, aligned(said, true, scaled=scaled), strict=True):
        a, b = other - other.mean(0), one - one.mean(0)
        turned = Rotation.align_vectors(a, b)[0].apply(b)
        scale = (turned * a).sum() / (b**2).sum() if scaled else 1
        np.testing.assert_allclose(found, scale * turned + other.mean(0), atol=1e-9)


def test_a_mirrored_hand_is_another_hand() -> None:
    _, true = hands()
    mirror = true * [-1, 1, 1]
    np.testing.assert_allclose(aligned(mirror, true, mirrored=True), true, atol=1e-12)
    assert np.linalg.norm(aligned(mirror, true) - true, axis=2).mean() > 0.005


def test_a_similarity_is_undone_and_a_point_is_put_in_the_middle() -> None:
    said, true = hands()
    turn = Rotation.from_rotvec([0.3, -2, 1]).as_matrix()
    np.testing.assert_allclose(aligned(3 * true @ turn + [1, 2, 3], true), true, atol=1e-12)
    np.testing.assert_allclose(aligned(0 * said, true, mirrored=True), true.mean(1, keepdims=True) + 0 * true, atol=1e-12)
    assert aligned(said.astype(np.float32), true.astype(np.float32)).dtype == np.float64
