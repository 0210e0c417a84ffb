"""Rotations survive the round trip at every angle, and their gradients are finite everywhere."""

import math

import pytest
import torch

from fitting.rotation import axis_angle_from_matrix, cross_matrix, matrix_from_axis_angle, mirror_axis_angle

AXES = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)


def test_quarter_turn_about_z_takes_x_to_y():
    turn = matrix_from_axis_angle(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(turn @ torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.tensor([0.0, 1, 0], dtype=torch.float64))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.1, 1.5, 3.0, math.pi - 1e-7, math.pi])
def test_round_trip_at_every_angle(angle):
    matrix = matrix_from_axis_angle(AXES * angle)
    torch.testing.assert_close(matrix_from_axis_angle(axis_angle_from_matrix(matrix)), matrix, atol=1e-9, rtol=0)
    assert (axis_angle_from_matrix(matrix).norm(dim=1) <= math.pi + 1e-9).all()


def test_gradient_at_zero_is_the_cross_matrix():
    jacobian = torch.func.jacfwd(matrix_from_axis_angle)(torch.zeros(3, dtype=torch.float64))
    for k in range(3):
        torch.testing.assert_close(jacobian[..., k], cross_matrix(torch.eye(3, dtype=torch.float64)[k]))


def test_gradcheck():
    value = (AXES[:4] * torch.tensor([[1e-6], [0.3], [2.0], [3.1]])).requires_grad_()
    assert torch.autograd.gradcheck(matrix_from_axis_angle, value)


def test_mirrored_rotation_is_the_rotation_between_mirrors():
    mirror = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    axis_angle = AXES * 1.3
    torch.testing.assert_close(matrix_from_axis_angle(mirror_axis_angle(axis_angle)), mirror @ matrix_from_axis_angle(axis_angle) @ mirror)
