"""Rotations survive the round trip at every angle, and their gradients are finite everywhere."""

import math
from typing import Any

import pytest
import torch
from scipy.spatial.transform import Rotation

from fitting.hand.rotation import (
    axis_angle_from_matrix,
    cross_matrix,
    matrix_from_axis_angle,
    matrix_from_six,
    mirror_axis_angle,
    safe_atan2,
    six_from_matrix,
)

AXES = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)


def test_quarter_turn_about_z_takes_x_to_y() -> None:
    turn = matrix_from_axis_angle(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(turn @ torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.tensor([0.0, 1, 0], dtype=torch.float64))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.1, 1.5, 3.0, math.pi - 1e-7, math.pi])
def test_round_trip_at_every_angle(angle: Any) -> None:
    matrix = matrix_from_axis_angle(AXES * angle)
    torch.testing.assert_close(matrix_from_axis_angle(axis_angle_from_matrix(matrix)), matrix, atol=1e-9, rtol=0)
    assert (axis_angle_from_matrix(matrix).norm(dim=1) <= math.pi + 1e-9).all()


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.1, 1.5, 3.0, math.pi - 1e-5])
def test_other_way_round_below_half_a_turn(angle: Any) -> None:
    torch.testing.assert_close(axis_angle_from_matrix(matrix_from_axis_angle(AXES * angle)), AXES * angle, atol=1e-9, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1.5, 3.0, math.pi - 1e-3])
def test_single_precision_loses_little(angle: Any) -> None:
    single = (AXES * angle).float()
    matrix = matrix_from_axis_angle(single)
    torch.testing.assert_close(matrix.double(), matrix_from_axis_angle(AXES * angle), atol=1e-6, rtol=0)
    torch.testing.assert_close(axis_angle_from_matrix(matrix), single, atol=1e-5 / max(math.pi - angle, 0.1), rtol=0)


def test_both_ways_are_scipys() -> None:
    axis_angle = AXES * torch.linspace(0, 3.1, len(AXES), dtype=torch.float64)[:, None]
    matrix = torch.as_tensor(Rotation.from_rotvec(axis_angle.numpy()).as_matrix())
    torch.testing.assert_close(matrix_from_axis_angle(axis_angle), matrix, atol=1e-12, rtol=0)
    torch.testing.assert_close(axis_angle_from_matrix(matrix), torch.as_tensor(Rotation.from_matrix(matrix.numpy()).as_rotvec()))


def test_more_than_half_a_turn_comes_back_as_the_shorter_one() -> None:
    back = axis_angle_from_matrix(matrix_from_axis_angle(AXES * 4.0))
    torch.testing.assert_close(back, AXES * (4.0 - 2 * math.pi))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.5, math.pi])
def test_gradient_back_is_finite(angle: Any) -> None:
    matrix = matrix_from_axis_angle(AXES[:4] * angle).requires_grad_()
    axis_angle_from_matrix(matrix).sum().backward()
    assert matrix.grad is not None
    assert matrix.grad.isfinite().all()


def test_gradient_at_zero_is_the_cross_matrix() -> None:
    jacobian = torch.func.jacfwd(matrix_from_axis_angle)(torch.zeros(3, dtype=torch.float64))
    for k in range(3):
        torch.testing.assert_close(jacobian[..., k], cross_matrix(torch.eye(3, dtype=torch.float64)[k]))


def test_gradcheck() -> None:
    value = (AXES[:4] * torch.tensor([[1e-6], [0.3], [2.0], [3.1]])).requires_grad_()
    assert torch.autograd.gradcheck(matrix_from_axis_angle, value)


def test_six_numbers_are_the_first_two_columns_and_come_back_as_the_matrix() -> None:
    rotations = torch.from_numpy(Rotation.random(8, random_state=0).as_matrix())
    assert six_from_matrix(rotations)[0].tolist() == [*rotations[0, :, 0].tolist(), *rotations[0, :, 1].tolist()]
    torch.testing.assert_close(matrix_from_six(six_from_matrix(rotations)), rotations)


def test_any_six_numbers_make_a_rotation_that_keeps_the_direction_of_the_first_column() -> None:
    six = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = matrix_from_six(six)
    torch.testing.assert_close(made @ made.mT, torch.eye(3, dtype=torch.float64).expand(8, 3, 3))
    assert (torch.linalg.det(made) > 0.999).all()
    torch.testing.assert_close(made[..., 0], six[:, :3] / six[:, :3].norm(dim=1, keepdim=True))


def test_mirrored_rotation_is_the_rotation_between_mirrors() -> None:
    mirror = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    axis_angle = AXES * 1.3
    torch.testing.assert_close(matrix_from_axis_angle(mirror_axis_angle(axis_angle)), mirror @ matrix_from_axis_angle(axis_angle) @ mirror)


def test_mirror_of_the_mirror_is_the_rotation() -> None:
    assert torch.equal(mirror_axis_angle(mirror_axis_angle(AXES)), AXES)


def test_safe_atan2_is_atan2_with_a_gradient_at_the_origin() -> None:
    y, x = AXES[:, 0], AXES[:, 1]
    torch.testing.assert_close(safe_atan2(y, x), torch.atan2(y, x))
    origin = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    safe_atan2(*origin).sum().backward()
    assert origin.grad is not None
    assert not origin.grad.any()
