"""The discriminator is HMR's: its size, its 17 opinions, and each of them about what it names."""

import pytest
import torch

from training.regressor.discriminator import NUM_OPINIONS, Discriminator

POSE, BETAS = torch.randn(4, 15, 3, 3), torch.randn(4, 10)


def test_size_is_hmrs():
    assert sum(p.numel() for p in Discriminator().parameters()) / 1e6 == pytest.approx(1.545, abs=5e-4)


def test_seventeen_opinions_a_hand():
    assert Discriminator()(POSE, BETAS).shape == (4, NUM_OPINIONS) == (4, 17)


@pytest.mark.parametrize("joint", [0, 7, 14])
def test_a_joint_moves_its_own_opinion_and_the_whole_poses(joint):
    torch.manual_seed(0)
    judge = Discriminator()
    moved = POSE.clone()
    moved[:, joint] += 0.5
    changed = (judge(moved, BETAS) != judge(POSE, BETAS)).any(0)
    assert changed.nonzero().flatten().tolist() == [joint, 15]


def test_the_shape_has_an_opinion_of_its_own():
    torch.manual_seed(0)
    judge = Discriminator()
    changed = (judge(POSE, BETAS + 0.5) != judge(POSE, BETAS)).any(0)
    assert changed.nonzero().flatten().tolist() == [16]


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    judge = Discriminator()
    (judge(POSE, BETAS) - 1).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in judge.parameters())
