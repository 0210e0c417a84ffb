"""The discriminator is HMR's: its size, its 17 opinions, and each of them about what it names; it learns, and what it says teaches."""

import pytest
import torch

from fitting.hand.rotation import matrix_from_axis_angle
from training.regressor.discriminator import NUM_OPINIONS, Discriminator
from training.regressor.task import AdversarialRegressorTask, Poses

POSE, BETAS = torch.randn(4, 15, 3, 3), torch.randn(4, 10)


def test_size_is_hmrs() -> None:
    assert sum(p.numel() for p in Discriminator().parameters()) / 1e6 == pytest.approx(1.545, abs=5e-4)


def test_seventeen_opinions_a_hand() -> None:
    assert Discriminator()(POSE, BETAS).shape == (4, NUM_OPINIONS) == (4, 17)


@pytest.mark.parametrize("joint", [0, 7, 14])
def test_a_joint_moves_its_own_opinion_and_the_whole_poses(joint: int) -> None:
    torch.manual_seed(0)
    judge = Discriminator()
    moved = POSE.clone()
    moved[:, joint] += 0.5
    changed = (judge(moved, BETAS) != judge(POSE, BETAS)).any(0)
    assert changed.nonzero().flatten().tolist() == [joint, 15]


def test_the_shape_has_an_opinion_of_its_own() -> None:
    torch.manual_seed(0)
    judge = Discriminator()
    changed = (judge(POSE, BETAS + 0.5) != judge(POSE, BETAS)).any(0)
    assert changed.nonzero().flatten().tolist() == [16]


def test_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    judge = Discriminator()
    (judge(POSE, BETAS) - 1).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in judge.parameters())  # type: ignore[union-attr]


def invented(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations of no hand's, and a shape that no hand has."""
    return matrix_from_axis_angle(torch.randn(count, 15, 3)), 2 + torch.randn(count, 10)


def real(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fingers that bend a little, all alike: about the axis of MANO's bends."""
    bend = torch.rand(count, 1, 1) * torch.tensor([0.0, 0.0, 1.0]) + 0.05 * torch.randn(count, 15, 3)
    return matrix_from_axis_angle(bend), torch.randn(count, 10) / 2


def test_it_comes_to_tell_real_hands_from_invented_ones() -> None:
    """In five dozen steps of the task's own loss, on hands that it has not seen; hands whose pose is not known teach it nothing."""
    torch.manual_seed(0)
    task, judge = AdversarialRegressorTask(held_out=None), Discriminator()
    optimizer = torch.optim.AdamW(judge.parameters(), 3e-3)
    known = (torch.arange(32) % 2).float()
    for _ in range(60):
        (pose, betas), (other, shape) = real(32), invented(32)
        pose[known == 0], betas[known == 0] = invented(16)
        optimizer.zero_grad()
        task.adversary_loss(judge, Poses(pose, betas, known, other, shape))["discriminator"].backward()
        optimizer.step()
    with torch.no_grad():
        genuine, false = judge(*real(64)) > 0.5, judge(*invented(64)) > 0.5
    right = (genuine.float().mean(0) + 1 - false.float().mean(0)) / 2
    assert right[:15].mean() > 0.8, "each joint"
    assert right[15] > 0.9, "the whole pose"
    assert right[16] > 0.7, "the shape"
