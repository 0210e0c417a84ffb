"""Bone angles of Spurr et al. 2020 and their hulls: values by hand, what must not change them, gradients, and a plain slow reference."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from fitting.files import POSE_PRIOR
from fitting.hand import anatomy
from fitting.hand.kinematics import FROM_KEYPOINTS, JointModel
from fitting.hand.mano import LEFT, RIGHT
from fitting.hand.rotation import matrix_from_axis_angle
from fitting.priors.bone_angles import bone_angle_loss, bone_angles, hull_distance, hull_excess_deg, read_hulls

FAN = (0.9, 0.35, 0.0, -0.3, -0.6)
"""Directions of the fingers of a flat hand, thumb to little, radians from the middle finger's."""


def flat_hand(bend_deg: float = 0.0, splay_deg: float = 0.0, finger: int = 1, bone: int = 1) -> torch.Tensor:
    """A right hand in the plane of the picture (x right, y down, z into it): straight fingers, one bone of one of them turned.

    Fingers point up (-y), the thumb's side is to the viewer's right (+x) with the palm towards the viewer (-z).
    """
    points = torch.zeros(21, 3, dtype=torch.float64)
    for f, angle in enumerate(FAN):
        along = torch.tensor([math.sin(angle), -math.cos(angle), 0.0], dtype=torch.float64)
        thumbwards = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
        palmwards = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
        place = torch.zeros(3, dtype=torch.float64)
        for k in range(4):
            direction = along
            if f == finger and k >= bone:
                bend, splay = math.radians(bend_deg), math.radians(splay_deg)
                direction = math.cos(splay) * (math.cos(bend) * along + math.sin(bend) * palmwards) + math.sin(splay) * thumbwards
            place = place + 0.03 * direction
            points[1 + 4 * f + k] = place
    return points


@pytest.fixture(scope="module")
def hands(exact) -> torch.Tensor:
    """200 right hands in plausible poses and any orientation, metres."""
    rng = np.random.default_rng(5)
    rotations = anatomy.sample_poses(200, anatomy.joint_axes(*exact.rest_joints()), rng)
    root = matrix_from_axis_angle(torch.as_tensor(rng.normal(size=(200, 3))))
    points = JointModel.of(exact).pose(root, rotations, 0.5 * torch.as_tensor(rng.normal(size=(200, 10)))).points
    return points[:, np.argsort(FROM_KEYPOINTS)]


@pytest.fixture(scope="module")
def hulls() -> torch.Tensor:
    return read_hulls(POSE_PRIOR.with_suffix(".hulls.npz"))


def degrees(angles: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(angles).reshape(5, 3, 2)


# Angles


def test_flat_straight_hand_has_no_angles():
    torch.testing.assert_close(bone_angles(flat_hand()), torch.zeros(15, 2, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("finger", range(5))
@pytest.mark.parametrize("bone", [1, 2, 3])
def test_one_turned_bone_by_hand(finger, bone):
    """Flexion is positive towards the palm, abduction towards the thumb's side; only the bone that turns has angles."""
    wanted = torch.zeros(5, 3, 2, dtype=torch.float64)
    wanted[finger, bone - 1] = torch.tensor([50.0, 20.0])
    torch.testing.assert_close(degrees(bone_angles(flat_hand(50, 20, finger, bone))), wanted, atol=1e-9, rtol=0)


def test_frames_are_carried_along_the_finger():
    """A second bend in the same plane is measured from the first."""
    points = flat_hand(40)
    along = torch.tensor([math.sin(0.35), -math.cos(0.35), 0.0], dtype=torch.float64)
    towards_palm = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    bend = math.radians(40 + 30)
    for point in (7, 8):
        points[point] = points[point - 1] + 0.03 * (math.cos(bend) * along + math.sin(bend) * towards_palm)
    torch.testing.assert_close(degrees(bone_angles(points))[1, :, 0], torch.tensor([40.0, 30.0, 0.0], dtype=torch.float64))


def test_angles_and_loss_do_not_feel_place_orientation_or_size(hands, hulls):
    turn = matrix_from_axis_angle(torch.tensor([0.4, -1.2, 0.8], dtype=torch.float64))
    hulls = 0.5 * hulls  # so that some hands lie outside
    for factor in (0.01, 1000):
        moved = factor * hands @ turn + 3 * factor
        torch.testing.assert_close(bone_angles(moved), bone_angles(hands), atol=1e-9, rtol=0)
        torch.testing.assert_close(bone_angle_loss(moved, hulls), bone_angle_loss(hands, hulls), atol=1e-9, rtol=0)


def test_mirroring_flips_every_flexion_and_keeps_abduction(hands):
    flip = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(
        bone_angles(hands * flip), bone_angles(hands) * torch.tensor([-1.0, 1], dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_left_hand_is_measured_as_the_mirrored_right_one(hands, hulls):
    flip = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    left, right = (torch.full((200,), side) for side in (LEFT, RIGHT))
    assert torch.equal(bone_angles(hands * flip, left), bone_angles(hands))
    assert torch.equal(bone_angles(hands, right), bone_angles(hands))
    loss = bone_angle_loss(torch.cat([hands, hands * flip]), hulls, torch.cat([right, left]))
    assert torch.equal(loss[:200], loss[200:])
    assert (bone_angle_loss(hands, hulls, left) > loss[:200]).double().mean() > 0.95


# Hulls

SQUARE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.5], [0.0, 0.5]], dtype=torch.float64).expand(15, 4, 2)


def test_distance_by_hand():
    angles = torch.zeros(3, 15, 2, dtype=torch.float64)
    angles[0, 0] = torch.tensor([0.5, 0.25])  # inside
    angles[1, 0] = torch.tensor([1.3, 0.25])  # beside the edge at 1: p = (1, 0.25)
    angles[2, 0] = torch.tensor([1.3, 0.9])  # beyond the corner (1, 0.5)
    distance = hull_distance(angles, SQUARE)[:, 0].tolist()
    flexion = abs(math.cos(1.3) - math.cos(1)) + abs(math.sin(1.3) - math.sin(1))
    abduction = abs(math.cos(0.9) - math.cos(0.5)) + abs(math.sin(0.9) - math.sin(0.5))
    assert distance == [0, pytest.approx(flexion), pytest.approx(flexion + abduction)]
    excess = hull_excess_deg(angles, SQUARE)[:, 0].tolist()
    assert excess == [0, pytest.approx(math.degrees(0.3)), pytest.approx(math.degrees(0.5))]


def test_loss_by_hand():
    """One bone of fifteen bends by 80 degrees where 57.3 are free."""
    loss = bone_angle_loss(flat_hand(80)[None], torch.cat([SQUARE - 0.25 * torch.tensor([0, 1.0])]))
    wanted = abs(math.cos(math.radians(80)) - math.cos(1)) + abs(math.sin(math.radians(80)) - math.sin(1))
    assert loss.tolist() == [pytest.approx(wanted / 15)]


def slow_loss(points: np.ndarray, hulls: np.ndarray) -> float:
    """The same for one right hand in plain numpy, bone by bone, with arc cosines and an explicit rotation, as it is usually written."""

    def unit(vector):
        return vector / np.linalg.norm(vector)

    def angle(a, b):
        return math.acos(np.clip(unit(a) @ unit(b), -1, 1))

    roots = [points[1 + 4 * f] - points[0] for f in range(5)]
    normals = [unit(np.cross(roots[f + 1], roots[f])) for f in range(4)]
    across = [normals[0], normals[1], unit(normals[1] + normals[2]), unit(normals[2] + normals[3]), normals[3]]
    total = 0.0
    for f in range(5):
        z, x = unit(roots[f]), -across[f]
        y = unit(np.cross(z, x))
        for k in range(3):
            bone = points[2 + 4 * f + k] - points[1 + 4 * f + k]
            in_plane = bone - (bone @ y) * y
            flexion = angle(in_plane, z) * np.sign(bone @ x)
            abduction = angle(bone, in_plane) * np.sign(bone @ y)
            total += slow_distance(np.array([flexion, abduction]), hulls[3 * f + k])
            axis, turn = unit(np.cross(z, bone)), angle(z, bone)
            matrix = matrix_from_axis_angle(torch.as_tensor(axis * turn)).numpy()
            x, y, z = matrix @ x, matrix @ y, unit(bone)
    return total / 15


def slow_distance(point: np.ndarray, hull: np.ndarray) -> float:
    inside, distances = True, []
    for start, end in zip(hull, np.roll(hull, -1, 0), strict=True):
        edge, gap = end - start, point - start
        inside &= edge[0] * gap[1] - edge[1] * gap[0] >= 0
        length = edge @ edge
        foot = start + np.clip(gap @ edge / length, 0, 1) * edge if length else start
        distances.append(np.abs(np.cos(point) - np.cos(foot)).sum() + np.abs(np.sin(point) - np.sin(foot)).sum())
    return 0.0 if inside else min(distances)


def test_agrees_with_the_plain_slow_reference(hands, hulls):
    tight = 0.6 * hulls
    wanted = torch.tensor([slow_loss(hand, tight.numpy()) for hand in hands.numpy()], dtype=torch.float64)
    assert (wanted > 0).double().mean() > 0.9
    torch.testing.assert_close(bone_angle_loss(hands, tight), wanted, atol=1e-7, rtol=0)


# Gradients


def test_gradient(hands, hulls):
    tight = 0.5 * hulls
    assert gradcheck(lambda points: bone_angles(points), hands[:3].clone().requires_grad_())
    assert gradcheck(lambda points: bone_angle_loss(points, tight), hands[:3].clone().requires_grad_())


def folded_back() -> torch.Tensor:
    points = flat_hand()
    points[8] = points[6]  # the last bone lies on the one before
    return points


def along_y() -> torch.Tensor:
    """A bone at right angles to the plane of flexion."""
    return flat_hand(0, 90)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hand", [flat_hand(), folded_back(), along_y(), torch.zeros(21, 3), torch.ones(21, 3), flat_hand() * 1e-9])
def test_gradient_is_finite_for_straight_folded_and_collapsed_hands(hand, dtype, hulls):
    points = hand[None].to(dtype).requires_grad_()
    loss = bone_angle_loss(points, (0.1 * hulls + 0.3).to(dtype))
    assert loss.isfinite().all()
    (loss.sum() + bone_angles(points).sum()).backward()
    assert points.grad.isfinite().all()


# The hulls that ship


def test_shipped_hulls_hold_what_they_promise(exact, hulls):
    """Of poses that were not among those they were learned from."""
    rotations = anatomy.sample_poses(4000, anatomy.joint_axes(*exact.rest_joints()), np.random.default_rng(99))
    eye, betas = torch.eye(3, dtype=torch.float64).expand(4000, 3, 3), torch.zeros(4000, 10, dtype=torch.float64)
    angles = bone_angles(JointModel.of(exact).pose(eye, rotations, betas).points[:, np.argsort(FROM_KEYPOINTS)])
    held = (hull_distance(angles, hulls) < 1e-6).double().mean(0)
    assert held.min() > 0.996
    assert held.mean() > 0.998
    bent_back = angles - torch.tensor([math.pi, 0])
    assert (hull_distance(bent_back, hulls) > 0).all()


def test_file_without_hulls_is_named(tmp_path):
    np.savez(tmp_path / "other.npz", hulls=np.zeros((15, 4, 2)))
    for path in (POSE_PRIOR, tmp_path / "other.npz"):
        with pytest.raises(ValueError, match=rf"{path} holds no hulls of bone angles: .* python -m fitting\.pca"):
            read_hulls(path)
