"""Each loss: a value worked by hand, what must not change it, and its gradient."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from fitting.hand import anatomy
from fitting.hand.kinematics import JointModel
from fitting.hand.mano import HandModel
from fitting.hand.rotation import matrix_from_axis_angle
from fitting.losses import bone_length_loss, bone_lengths, depth_loss, joint_angle_loss, outside_hulls, prior_loss, reprojection_loss
from fitting.objective import bone_length_limits
from fitting.priors.prior import mesh_map, pose_prior

LIMITS = torch.as_tensor(anatomy.limits()[:, 0]), torch.as_tensor(anatomy.hulls())


@pytest.fixture(scope="module")
def axes(exact: HandModel) -> torch.Tensor:
    return anatomy.joint_axes(*exact.rest_joints())


@pytest.fixture(scope="module")
def prior(exact: HandModel) -> Any:
    return pose_prior(exact, 20, noise=0)


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def chain_hand(length: float) -> torch.Tensor:
    """Five straight fingers of bones of one length, side by side."""
    points = torch.zeros(1, 21, 3, dtype=torch.float64)
    for finger in range(5):
        for k in range(4):
            angle = 0.3 * (finger - 2)
            points[0, 1 + 4 * finger + k] = (k + 1) * length * torch.tensor([math.sin(angle), math.cos(angle), 0.0])
    return points


# Equation 2


def test_reprojection_by_hand() -> None:
    keypoints = torch.zeros(1, 3, 2, dtype=torch.float64)
    projected = torch.tensor([[[3.0, 4.0], [0.6, 0.8], [100.0, 0.0]]], dtype=torch.float64)
    confidence = torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64)
    loss = reprojection_loss(projected, keypoints, confidence, robust_scale=2.0)
    assert loss.tolist() == [pytest.approx((5 - 1) + 0.5 * 1 / 4)]
    within = reprojection_loss(projected[:, :1] * 0.36, keypoints[:, :1], confidence[:, :1], robust_scale=2.0)
    assert within.tolist() == [pytest.approx(1.8**2 / 4)]


def test_reprojection_does_not_feel_where_and_how_the_image_is_turned() -> None:
    projected, keypoints, confidence = random(4, 21, 2), random(4, 21, 2, seed=1), torch.rand(4, 21, dtype=torch.float64)
    turn = matrix_from_axis_angle(torch.tensor([0, 0, 0.7], dtype=torch.float64))[:2, :2]
    before = reprojection_loss(projected, keypoints, confidence, 0.5)
    after = reprojection_loss(projected @ turn + 3, keypoints @ turn + 3, confidence, 0.5)
    torch.testing.assert_close(before, after)


def test_reprojection_gradient() -> None:
    keypoints, confidence = random(2, 21, 2, seed=1), torch.rand(2, 21, dtype=torch.float64)
    assert gradcheck(lambda p: reprojection_loss(p, keypoints, confidence, 0.7), random(2, 21, 2).requires_grad_())
    exact_hit = keypoints.clone().requires_grad_()
    reprojection_loss(exact_hit, keypoints, confidence, 0.7).sum().backward()
    assert exact_hit.grad is not None
    assert not exact_hit.grad.any()


# Equation 3


def test_bone_length_by_hand() -> None:
    limits = torch.tensor([[0.02, 0.03]], dtype=torch.float64).expand(20, 2)
    torch.testing.assert_close(bone_lengths(chain_hand(0.025)), torch.full((1, 20), 0.025, dtype=torch.float64))
    assert bone_length_loss(chain_hand(0.025), limits).item() == 0
    assert bone_length_loss(chain_hand(0.040), limits).item() == pytest.approx((0.010 / 0.025) ** 2)
    assert bone_length_loss(chain_hand(0.015), limits).item() == pytest.approx((0.005 / 0.025) ** 2)


def test_joint_angle_by_hand(axes: Any) -> None:
    angles = torch.zeros(1, 15, 3, dtype=torch.float64)
    angles[0, 1, 1] = math.radians(115 + 20)  # index, second joint: bends to 115 degrees
    angles[0, 3, 2] = math.radians(-22 - 10)  # middle, first joint: splays to 22
    angles[0, 12, 0] = math.radians(25 + 5)  # thumb, first joint: twists to 25
    wanted = (math.radians(20) ** 2 + math.radians(10) ** 2 + math.radians(5) ** 2) / 15
    assert joint_angle_loss(anatomy.compose(angles, axes), axes, *LIMITS).item() == pytest.approx(wanted)


def test_joint_angles_do_not_feel_the_frame_of_the_rest_hand(axes: Any) -> None:
    """All axes and rotations seen from elsewhere; the root's rotation is no argument at all."""
    turn, rotations = matrix_from_axis_angle(random(3)), matrix_from_axis_angle(random(6, 15, 3))
    there = joint_angle_loss(turn @ rotations @ turn.T, turn @ axes, *LIMITS)
    torch.testing.assert_close(there, joint_angle_loss(rotations, axes, *LIMITS))
    assert (there > 0).all()


def test_a_fist_cannot_fan_out(axes: Any) -> None:
    """At 70 degrees of bend, half way to 95, a knuckle keeps 16 of its 22 degrees of splay; the way back is square to the side."""
    angles = torch.zeros(1, 15, 3, dtype=torch.float64)
    angles[0, 0, 1:] = torch.tensor([math.radians(70), math.radians(22)])
    slope = math.hypot(50, 12)
    assert joint_angle_loss(anatomy.compose(angles, axes), axes, *LIMITS).item() == pytest.approx(math.radians(6 * 50 / slope) ** 2 / 15)
    angles[0, 0, 2] = math.radians(15.9)
    assert joint_angle_loss(anatomy.compose(angles, axes), axes, *LIMITS).item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_distance_to_a_hull_against_dense_points_on_its_rim(seed: int) -> None:
    hulls = LIMITS[1]
    points = random(40, 15, 2, seed=seed)
    offset, corner = outside_hulls(points, hulls)
    share = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None, None, None]
    rim = (hulls + share * (hulls.roll(-1, 1) - hulls)).transpose(0, 1).flatten(1, 2)  # 15 points 2
    distance = torch.cdist(points.transpose(0, 1), rim).amin(-1).T
    outside = (offset != 0).any(-1)
    assert 0 < outside.sum() < outside.numel()
    assert 0 < corner[outside].sum() < outside.sum()
    torch.testing.assert_close(offset.norm(dim=-1)[outside], distance[outside], atol=1e-3, rtol=0)
    assert outside_hulls(points - offset, hulls)[0].abs().max() < 1e-9
    to_corner = ((points - offset)[..., None, :] - hulls).norm(dim=-1).amin(-1)
    assert corner[outside].tolist() == (to_corner[outside] < 1e-9).tolist()


def test_a_corner_that_a_polygon_has_twice_changes_nothing() -> None:
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    points = random(200, 1, 2, scale=1.5)
    offset, corner = outside_hulls(points, square[None])
    again, still = outside_hulls(points, square[None, [0, 1, 1, 2, 3]])
    torch.testing.assert_close(again, offset)
    assert still.tolist() == corner.tolist()


def test_depth_by_hand_and_its_gradient() -> None:
    depth, cue = torch.tensor([[0.3, 0.02, 9.0]], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    confidence = torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64)
    assert depth_loss(depth, cue, confidence, 0.1).item() == pytest.approx(0.3 - 0.05 + 0.5 * 0.02**2 / 0.2)
    assert gradcheck(lambda z: depth_loss(z, cue, confidence, 0.1), depth.clone().requires_grad_())


def test_biomechanical_losses_are_free_inside_the_limits_only(exact: HandModel, axes: Any) -> None:
    joints = JointModel.of(exact)
    limits = bone_length_limits(joints)
    rotations = torch.eye(3, dtype=torch.float64).expand(2, 15, 3, 3)
    points = joints.pose(rotations[:, 0], rotations, torch.zeros(2, 10, dtype=torch.float64)).points
    assert (bone_length_loss(points, limits) == 0).all()
    assert (joint_angle_loss(rotations, axes, *LIMITS) == 0).all()
    assert (bone_length_loss(2 * points, limits) > 0).all()
    assert (joint_angle_loss(anatomy.compose(random(2, 15, 3), axes), axes, *LIMITS) > 0).all()


def test_bone_lengths_do_not_feel_where_the_hand_is_and_looks(exact: HandModel) -> None:
    joints, betas = JointModel.of(exact), random(3, 10, scale=3)
    limits, rotations = bone_length_limits(joints), matrix_from_axis_angle(random(3, 15, 3))
    eye = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    here = joints.pose(eye, rotations, betas).points
    there = joints.pose(matrix_from_axis_angle(random(3, 3)), rotations, betas).points + 5
    loss = bone_length_loss(here, limits)
    torch.testing.assert_close(loss, bone_length_loss(there, limits))
    assert (loss > 0).any()


def test_biomechanical_gradient(axes: Any) -> None:
    limits = torch.tensor([[0.02, 0.03]], dtype=torch.float64).expand(20, 2)
    points = (chain_hand(0.04) + random(1, 21, 3, scale=2e-3)).requires_grad_()
    assert gradcheck(lambda p: bone_length_loss(p, limits), points)
    angles = (random(1, 15, 3, scale=0.6)).requires_grad_()
    assert gradcheck(lambda a: joint_angle_loss(anatomy.compose(a, axes), axes, *LIMITS), angles)


def test_gradient_is_finite_for_a_flat_hand_and_for_one_in_a_point(axes: Any) -> None:
    """Where formulas with acos and cross products of bones blow up."""
    limits = torch.tensor([[0.02, 0.03]], dtype=torch.float64).expand(20, 2)
    for points in (chain_hand(0.025), torch.zeros(1, 21, 3, dtype=torch.float64)):
        points.requires_grad_()
        straight = torch.zeros(1, 15, 3, dtype=torch.float64, requires_grad=True)
        loss = bone_length_loss(points, limits) + joint_angle_loss(matrix_from_axis_angle(straight), axes, *LIMITS)
        loss.sum().backward()
        assert points.grad is not None
        assert points.grad.isfinite().all()
        assert straight.grad is not None
        assert straight.grad.isfinite().all()


# Equation 4


def test_prior_by_hand(exact: HandModel, prior: Any) -> None:
    """The reference is the equation as printed, on the mesh: X - ((X - mu) U^T U + mu)."""
    from fitting.files import POSE_PRIOR
    from fitting.priors.prior import bone_rotations, mesh_components, read_second_moment

    basis, _, mean = mesh_components(exact, read_second_moment(POSE_PRIOR), 20)
    offset, matrix = mesh_map(exact)
    rotations = matrix_from_axis_angle(random(6, 15, 3, scale=0.4))
    mesh = offset + bone_rotations(rotations) @ matrix.T
    residual = mesh - ((mesh - mean) @ basis.T @ basis + mean)
    torch.testing.assert_close(prior_loss(rotations, prior), (residual**2).sum(1), atol=1e-9, rtol=1e-6)


def test_prior_is_never_negative(prior: Any) -> None:
    """Whatever rounding leaves of a pose that the components hold whole."""
    rotations = matrix_from_axis_angle(random(3, 15, 3, scale=0.4))
    loss = prior_loss(rotations, prior)
    less = dataclasses.replace(prior, constant=prior.constant - loss.mean())
    torch.testing.assert_close(prior_loss(rotations, less), (loss - loss.mean()).clamp_min(0))
    assert 0 < (prior_loss(rotations, less) == 0).sum() < 3


def test_prior_prefers_plausible_poses_and_ignores_the_root(axes: Any, prior: Any) -> None:
    plausible = anatomy.sample_poses(200, axes, np.random.default_rng(77))
    shaken = plausible @ matrix_from_axis_angle(random(200, 15, 3, scale=0.35))
    assert (prior_loss(shaken, prior) > prior_loss(plausible, prior)).float().mean() > 0.99


def test_prior_does_not_feel_a_relabelling_of_the_batch(axes: Any, prior: Any) -> None:
    poses = anatomy.sample_poses(10, axes, np.random.default_rng(7))
    torch.testing.assert_close(prior_loss(poses.flip(0), prior), prior_loss(poses, prior).flip(0))


def test_prior_gradient(prior: Any) -> None:
    angles = random(2, 15, 3, scale=0.4).requires_grad_()
    assert gradcheck(lambda a: 1e3 * prior_loss(matrix_from_axis_angle(a), prior), angles)
