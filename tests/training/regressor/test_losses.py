"""The terms of the regressor's loss by hand, what they do not feel, their gradients, and what is masked."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from fitting.hand.rotation import matrix_from_axis_angle
from training.regressor.losses import adversarial_loss, angles_loss, betas_loss, discriminator_loss, matrices_loss, point_loss, shape_loss
from training.regressor.network import HandEstimate
from training.regressor.objective import RegressorLossWeights, hand_terms, regressor_loss
from training.regressor.targets import HandTargets


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def targets_of(num: int = 3) -> HandTargets:
    """Hands of which everything is known, float32."""
    return HandTargets(
        rotations=matrix_from_axis_angle(draw(num, 16, 3).float()),
        betas=draw(num, 10, seed=1).float(),
        vertices=0.1 * draw(num, 778, 3, seed=2).float(),
        joints=0.1 * draw(num, 21, 3, seed=3).float(),
        points=0.2 * draw(num, 21, 2, seed=4).float(),
        confidence=torch.ones(num, 21),
        has_mano=torch.ones(num, dtype=torch.bool),
        has_betas=torch.ones(num, dtype=torch.bool),
        has_joints=torch.ones(num, dtype=torch.bool),
        weight=torch.ones(num),
    )


def estimate_of(truth: HandTargets, noise: float = 0.0, seed: int = 9) -> HandEstimate:
    """The truth, or something beside it."""
    values = (truth.rotations, truth.betas, torch.ones(len(truth.betas), 3), truth.vertices, truth.joints, truth.points)
    return HandEstimate(*(v + noise * draw(*v.shape, seed=seed + k).float() for k, v in enumerate(values)))


def test_terms_by_hand() -> None:
    zero, one = torch.zeros(1, 21, 3), torch.zeros(1, 21, 3)
    one[0, 5] = torch.tensor([0.03, -0.06, 0.0])
    wrist = torch.zeros(1, 3)
    assert shape_loss(one, zero, wrist, wrist).item() == pytest.approx(0.09 / 63)
    assert shape_loss(one, zero, wrist + 0.01, wrist).item() == pytest.approx((20 * 0.03 + 0.02 + 0.07 + 0.01) / 63)
    points, confidence = torch.zeros(1, 21, 2), torch.zeros(1, 21)
    points[0, 0], points[0, 1], confidence[0, 0], confidence[0, 1] = 0.1, 0.2, 1.0, 0.5
    assert point_loss(points, torch.zeros(1, 21, 2), confidence).item() == pytest.approx((2 * 0.1 + 0.5 * 2 * 0.2) / 42)
    assert point_loss(points, torch.zeros(1, 21, 2), 0 * confidence).item() == 0
    half_turn, still = torch.eye(3).repeat(1, 16, 1, 1), torch.eye(3).repeat(1, 16, 1, 1)
    half_turn[0, 3] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    assert matrices_loss(half_turn, still).item() == pytest.approx(2 * 4 / 144)
    about_z = torch.zeros(2, 1, 16, 3)
    about_z[0, 0, 3, 2], about_z[1, 0, 3, 2], about_z[1, 0, 7, 0] = 0.5, 0.1, 0.3
    assert angles_loss(*matrix_from_axis_angle(about_z)).item() == pytest.approx((0.4**2 + 0.3**2) / 48, rel=1e-4)
    assert betas_loss(torch.full((1, 10), 3.0), torch.full((1, 10), 1.0)).item() == pytest.approx(4)


def test_the_two_players_want_opposite_things() -> None:
    real, fake = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 3.0]])
    assert adversarial_loss(fake).item() == pytest.approx((1 + 4) / 2)
    assert discriminator_loss(real, fake).item() == pytest.approx(0.25 / 2 + 9 / 2)
    assert adversarial_loss(torch.ones(1, 17)).item() == 0
    assert discriminator_loss(torch.ones(1, 17), torch.zeros(1, 17)).item() == 0


def test_place_is_not_felt_in_space_and_is_in_the_image() -> None:
    truth = targets_of()
    moved = estimate_of(truth)
    moved = moved._replace(vertices=moved.vertices + 0.5, joints=moved.joints + 0.5, points=moved.points + 0.5)
    terms = hand_terms(moved, truth)
    torch.testing.assert_close(terms.vertices, torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(terms.joints, torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(terms.points, torch.full((3,), 0.5))


def test_gradients() -> None:
    said, true, wrist, root = (
        draw(2, 21, 3).requires_grad_(),
        draw(2, 21, 3, seed=1),
        draw(2, 3, seed=2).requires_grad_(),
        draw(2, 3, seed=3),
    )
    assert gradcheck(lambda x, w: shape_loss(x, true, w, root), (said, wrist))
    confidence = torch.rand(2, 21, dtype=torch.float64)
    assert gradcheck(lambda x: point_loss(x, true[..., :2], confidence), draw(2, 21, 2, seed=4).requires_grad_())
    rotations = draw(2, 16, 3, 3, seed=5)
    assert gradcheck(lambda x: matrices_loss(x, rotations), draw(2, 16, 3, 3, seed=6).requires_grad_())
    assert gradcheck(lambda x: betas_loss(x, draw(2, 10, seed=7)), draw(2, 10, seed=8).requires_grad_())
    real, fake = draw(2, 17).requires_grad_(), draw(2, 17, seed=1).requires_grad_()
    assert gradcheck(adversarial_loss, fake)
    assert gradcheck(discriminator_loss, (real, fake))


def test_what_is_unknown_neither_counts_nor_moves_anything() -> None:
    truth = targets_of()
    only_points = torch.tensor([True, False, True])
    truth = truth._replace(has_mano=only_points, has_betas=only_points, has_joints=only_points)
    said = HandEstimate(*(values.requires_grad_() for values in estimate_of(truth, 0.1)))
    losses = regressor_loss([said], truth, RegressorLossWeights())
    torch.stack(list(losses.values())).sum().backward()
    for name in ("vertices", "rotations", "betas", "joints"):
        gradient = getattr(said, name).grad
        assert (gradient[1] == 0).all(), name
        assert (gradient[[0, 2]] != 0).any(), name
    assert (said.points.grad[1] != 0).all(), "its points are known"  # type: ignore[index]


def test_vertices_count_where_both_pose_and_shape_are_known() -> None:
    known = torch.tensor([True, True, False, False])
    truth = targets_of(4)._replace(has_mano=known, has_betas=known[[0, 2, 1, 3]])
    said = estimate_of(truth, 0.1)
    terms = hand_terms(said, truth)
    torch.testing.assert_close(terms.betas, truth.has_betas * betas_loss(said.betas, truth.betas))
    torch.testing.assert_close(terms.joints, shape_loss(said.joints, truth.joints, said.joints[:, 0], truth.joints[:, 0]))
    assert (terms.vertices > 0).tolist() == [True, False, False, False]
    assert (terms.rotations > 0).tolist() == [True, True, False, False]
    assert (terms.betas > 0).tolist() == [True, False, True, False]


def test_weights_of_samples_terms_and_estimates() -> None:
    truth = targets_of()._replace(weight=torch.tensor([1.0, 0.5, 0.0]))
    coarse, refined = estimate_of(truth, 0.2, seed=20), estimate_of(truth, 0.1, seed=40)
    weights = RegressorLossWeights(coarse=0.5)
    losses = regressor_loss([coarse, refined], truth, weights)
    for estimate, prefix, share in ((coarse, "coarse_", 0.5), (refined, "", 1.0)):
        for name, values in hand_terms(estimate, truth)._asdict().items():
            wanted = share * getattr(weights, name) * (values[0] + 0.5 * values[1]) / 3
            assert losses[prefix + name].item() == pytest.approx(wanted.item(), rel=1e-5), prefix + name
    assert "adversarial" not in losses
    judged = [torch.zeros(3, 17), torch.full((3, 17), 2.0)]
    assert regressor_loss([coarse, refined], truth, weights, judged)["adversarial"].item() == pytest.approx(0.008 * 1.5 / 3, rel=1e-5)
    alone = regressor_loss([refined], truth, weights)
    assert not any(name.startswith("coarse") for name in alone), "a network without refinement has one estimate, and it is the last"


def test_the_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    """However many ranks share a batch, and whatever is known in each part."""
    truth = targets_of(4)._replace(has_mano=torch.tensor([True, False, False, False]), weight=torch.tensor([0.9, 0.2, 0.5, 0.7]))
    said = estimate_of(truth, 0.1)
    whole = regressor_loss([said], truth, RegressorLossWeights())
    parts = [
        regressor_loss([HandEstimate(*(v[k] for v in said))], HandTargets(*(v[k] for v in truth)), RegressorLossWeights())
        for k in (slice(0, 2), slice(2, 4))
    ]
    for name, value in whole.items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2)


def test_a_bad_weight_is_named() -> None:
    for bad in (-0.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"regressor_loss_weights\.betas"):
            RegressorLossWeights(betas=bad)
    assert RegressorLossWeights(betas=0).betas == 0


def test_rotations_are_compared_as_matrices_or_as_angles() -> None:
    truth = targets_of()
    said = estimate_of(truth)._replace(rotations=matrix_from_axis_angle(draw(3, 16, 3, seed=11).float()))
    for kind, loss in (("matrices", matrices_loss), ("angles", angles_loss)):
        wanted = loss(said.rotations, truth.rotations)
        torch.testing.assert_close(hand_terms(said, truth, kind).rotations, wanted)  # type: ignore[arg-type]
        whole = regressor_loss([said], truth, RegressorLossWeights(rotation_loss=kind))  # type: ignore[arg-type]
        torch.testing.assert_close(whole["rotations"], 1.5 * wanted.mean())
    torch.testing.assert_close(hand_terms(said, truth).rotations, matrices_loss(said.rotations, truth.rotations))


def test_the_weights_are_those_that_are_told() -> None:
    """Round figures of the release's weights times the numbers in its sums; ours are the rotations' and the coarse hand's half."""
    told = RegressorLossWeights()
    numbers = (told.vertices, told.joints, told.points, told.rotations, told.betas, told.adversarial, told.coarse)
    assert numbers == (3.0, 3.0, 0.4, 1.5, 0.005, 0.008, 0.5)
