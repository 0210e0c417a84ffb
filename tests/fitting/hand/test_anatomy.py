"""Twist, bend and splay mean what they say, survive the round trip, and the sampled poses keep to the limits."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from fitting.hand import anatomy
from fitting.hand.mano import HandModel, pose_hand
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle


@pytest.fixture(scope="module")
def axes(exact: HandModel) -> torch.Tensor:
    return anatomy.joint_axes(*exact.rest_joints())


@pytest.fixture(scope="module")
def angles() -> torch.Tensor:
    rng = np.random.default_rng(3)
    return torch.as_tensor(anatomy.sample_angles(50, rng) + 0.2 * rng.normal(size=(50, 15, 3)))


def test_axes_are_right_handed_and_orthonormal(axes: Any) -> None:
    torch.testing.assert_close(axes.mT @ axes, torch.eye(3, dtype=axes.dtype).expand(15, 3, 3))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(15, dtype=axes.dtype))


def test_decompose_undoes_compose(axes: Any, angles: Any) -> None:
    torch.testing.assert_close(anatomy.decompose(anatomy.compose(angles, axes), axes), angles)


def test_bending_brings_the_fingertips_to_the_palm(exact: HandModel, axes: Any) -> None:
    angles = torch.zeros(1, 15, 3, dtype=torch.float64)
    angles[:, :12, 1] = math.radians(70)
    pose = axis_angle_from_matrix(anatomy.compose(angles, axes)).flatten(1)
    zero = torch.zeros(1, 13, dtype=torch.float64)
    rest = pose_hand(exact, zero[:, :10], zero[:, 10:], torch.zeros_like(pose)).joints[0]
    fist = pose_hand(exact, zero[:, :10], zero[:, 10:], pose).joints[0]
    for tip in (8, 12, 16, 20):
        assert fist[tip, 1] < rest[tip, 1] - 0.02, "the palm looks to -y in the rest hand"
        assert (fist[tip] - fist[0]).norm() < (rest[tip] - rest[0]).norm() - 0.05


def test_jacobian_is_that_of_decompose(axes: Any, angles: Any) -> None:
    rotations = anatomy.compose(angles, axes)
    turned = torch.func.jacfwd(lambda d: anatomy.decompose(rotations @ matrix_from_axis_angle(d), axes))
    full = turned(torch.zeros(15, 3, dtype=torch.float64))
    wanted = torch.stack([full[:, j, :, j] for j in range(15)], 1)
    torch.testing.assert_close(anatomy.angle_jacobian(angles, axes), wanted)


def test_gradient_is_finite_at_ninety_degrees_of_splay(axes: Any) -> None:
    angles = torch.zeros(1, 15, 3, dtype=torch.float64)
    angles[..., 2] = math.pi / 2
    rotations = anatomy.compose(angles, axes).requires_grad_()
    anatomy.decompose(rotations, axes).sum().backward()
    assert rotations.grad is not None
    assert rotations.grad.isfinite().all()


def test_sampled_poses_keep_to_the_limits_but_for_tails() -> None:
    angles, limits = anatomy.sample_angles(2000, np.random.default_rng(0)), anatomy.limits()
    outside = (angles < limits[..., 0]) | (angles > limits[..., 1])
    assert outside.mean() < 0.005


def test_sampling_is_reproducible() -> None:
    first, second = (anatomy.sample_angles(5, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
