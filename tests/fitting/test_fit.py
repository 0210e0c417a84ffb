"""The fit finds the hand again, says what it could not fit, and never answers NaN."""

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.fit import quality as fit_quality
from fitting.fit import Fitter, HandFits, Outcome, disagreement, flip_margin
from fitting.hand import anatomy
from fitting.hand.kinematics import FROM_KEYPOINTS
from fitting.hand.mano import HandModel, pose_hand, project
from fitting.hand.rotation import matrix_from_axis_angle
from fitting.initial import two_tilts
from fitting.objective import Landmarks, Objective, State, projected
from fitting.priors.prior import pose_prior
from fitting.settings import FitSettings
from fitting.solver import solve

FITTED = {Outcome.CONVERGED, Outcome.STALLED}


@pytest.fixture(scope="module")
def fitter(model: HandModel) -> Fitter:
    return Fitter(model)


def error_mm(fits: HandFits, joints: np.ndarray) -> np.ndarray:
    """Mean joint error after the best similarity (PA-MPJPE)."""
    found, true = (x - x.mean(1, keepdims=True) for x in (fits.joints_3d.numpy().astype(float), joints))
    u, s, vt = np.linalg.svd(found.transpose(0, 2, 1) @ true)
    sign = np.ones_like(s)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    scale = (s * sign).sum(1) / np.maximum((found**2).sum((1, 2)), 1e-12)
    return 1000 * np.linalg.norm(scale[:, None, None] * found @ (u * sign[:, None] @ vt) - true, axis=2).mean(1)


def palm_angle_deg(joints: np.ndarray, true: np.ndarray) -> np.ndarray:
    a, b = (np.cross(j[:, 5] - j[:, 0], j[:, 17] - j[:, 0]) for j in (joints, true))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def all_finite(fits: HandFits) -> bool:
    return all(np.isfinite(np.asarray(getattr(fits, f.name))).all() for f in fields(fits) if f.name != "outcome")


@pytest.mark.parametrize(
    ("noise", "outliers", "most_mm", "most_share"),
    [(0.0, 0.0, 4.4, 0.009), (0.01, 0.0, 4.7, 0.013), (0.03, 0.0, 6.4, 0.029), (0.03, 0.1, 7.8, 0.039)],
)
def test_poses_are_found_again(
    fitter: Fitter, invent: Callable[..., Any], noise: float, outliers: float, most_mm: Any, most_share: Any
) -> None:
    hands = invent(256, noise=noise, outliers=outliers)
    fits = fitter.fit(hands.keypoints)
    assert set(fits.outcome) <= FITTED
    assert (fits.outcome == Outcome.CONVERGED).mean() > 0.95
    assert error_mm(fits, hands.joints).mean() < most_mm
    gap = np.linalg.norm(fits.joints_2d.numpy() - hands.pixels, axis=2).mean(1) / hands.size
    assert gap.mean() < most_share


@pytest.mark.parametrize("row", fit_quality.ROWS)
def test_poses_of_another_generator_are_found_as_well_as_promised(fitter: Fitter, row: Any) -> None:
    """The prior learned from `fitting.hand.anatomy`'s sampler, these are the studio's."""
    rng = np.random.default_rng(3)
    hands = fit_quality.hands_of(fit_quality.studio_angles(256, rng), rng)
    figures = fit_quality.measure(fitter, hands.seen(*fit_quality.ROWS[row], rng), hands.frontal)
    assert figures["pa_mpjpe_mm"] < 0.9 * fit_quality.TARGET_MM[row]
    assert figures["flip_rate"] < 0.005
    assert figures["limit_violation_share"] == 0


def test_depths_a_tenth_of_the_box_off_are_worth_having(model: HandModel) -> None:
    rng = np.random.default_rng(4)
    hands = fit_quality.hands_of(fit_quality.studio_angles(256, rng), rng)
    seen = hands.seen(0.03, 0.0, rng)
    size = np.ptp(hands.joints[..., :2], axis=1).max(1)[:, None]
    world = hands.joints + 0.1 * size[..., None] * np.array([0, 0, 1]) * rng.normal(size=hands.joints.shape)
    blind, told = (Fitter(model, FitSettings(depth_weight=weight, world_weight=0)) for weight in (0, 0.1))
    errors = [error_mm(fitter.fit(seen.keypoints, world), hands.joints) for fitter in (blind, told)]
    assert errors[1].mean() < 0.95 * errors[0].mean()


def test_prior_and_limits_pay_under_noise(model: HandModel, invent: Callable[..., Any]) -> None:
    hands = invent(128, noise=0.03)
    free = Fitter(model, FitSettings(bone_weight=0, angle_weight=0, prior_weight=0, num_iterations=15))
    loose, held = error_mm(free.fit(hands.keypoints), hands.joints), error_mm(Fitter(model).fit(hands.keypoints), hands.joints)
    assert held.mean() < 0.75 * loose.mean()


def test_columns_agree_with_the_parameters(fitter: Fitter, model: HandModel, invent: Callable[..., Any]) -> None:
    hands = invent(16, noise=0.01)
    fits = fitter.fit(hands.keypoints)
    hand = pose_hand(model, fits.betas, fits.global_orient, fits.hand_pose)
    joints = hand.joints - hand.joints[:, :1]
    torch.testing.assert_close(fits.joints_3d, joints, atol=1e-5, rtol=0)
    torch.testing.assert_close(fits.joints_2d, project(joints, fits.camera), atol=1e-2, rtol=0)
    outline = project(hand.vertices - hand.joints[:, :1], fits.camera)
    torch.testing.assert_close(fits.box, torch.cat([outline.amin(1), outline.amax(1)], 1), atol=1e-2, rtol=0)
    distance = np.linalg.norm(fits.joints_2d.numpy() - hands.keypoints[..., :2], axis=2).mean(1)
    np.testing.assert_allclose(fits.error_px, distance, rtol=1e-3)
    assert (fits.violation_deg < 10).all()


def test_columns_of_quality_tell_landmarks_off_the_hand(fitter: Fitter, invent: Callable[..., Any]) -> None:
    hands = invent(64, noise=0.005)
    spoiled = hands.keypoints.copy()
    spoiled[:, [8, 15, 20], :2] += 0.4 * hands.size[:, None, None] * np.array([1, -1])
    clean, off = fitter.fit(hands.keypoints), fitter.fit(spoiled)
    assert clean.inlier_ratio.mean() > 0.98
    assert 0.8 < off.inlier_ratio.mean() < 18.5 / 21
    assert (off.error_share > 1.5 * clean.error_share).float().mean() > 0.95
    longer = (clean.box[:, 2:] - clean.box[:, :2]).amax(1)
    torch.testing.assert_close(clean.error_share, clean.error_px / longer)
    torch.testing.assert_close(clean.loss_shape, (clean.betas**2).sum(1))
    half = hands.keypoints.copy()
    half[:, [8, 15, 20], 2] = 0
    torch.testing.assert_close(fitter.fit(half).inlier_ratio * 18, (fitter.fit(half).inlier_ratio * 18).round())


def test_flip_margin_is_what_the_other_tilt_costs_more() -> None:
    score = torch.tensor([[2.0, 2.0, 2.0, 2.0], [3.0, 1.5, 2.0, 9.0]])
    apart = torch.stack([torch.zeros(4, 21, 3), torch.full((4, 21, 3), 0.1)])
    margin = flip_margin(score, apart, torch.tensor([False, True, False, False]))
    torch.testing.assert_close(margin, torch.tensor([0.5, 1 / 3, 0.0, 1.0]))
    overruled = flip_margin(score, apart, torch.tensor([True, False, False, False]))
    torch.testing.assert_close(overruled[:2], torch.tensor([-1 / 3, -0.25]))
    assert (flip_margin(score, 0 * apart, torch.zeros(4, dtype=torch.bool)) == 1).all()


def test_place_and_size_of_the_image_change_nothing_but_the_camera(fitter: Fitter, invent: Callable[..., Any]) -> None:
    hands = invent(32)
    moved = hands.keypoints * [0.25, 0.25, 1] + [1000, -50, 0]
    here, there = fitter.fit(hands.keypoints), fitter.fit(moved)
    same = (here.joints_3d - there.joints_3d).norm(dim=2).mean(1) < 1e-3
    assert same.float().mean() > 0.9
    torch.testing.assert_close(there.camera[same, 0], 0.25 * here.camera[same, 0], rtol=0.02, atol=0)


def test_order_and_size_of_the_batch_change_nothing(model: HandModel, fitter: Fitter, invent: Callable[..., Any]) -> None:
    hands = invent(40)
    small = Fitter(model, FitSettings(batch_size=7))
    whole, parts = fitter.fit(hands.keypoints), small.fit(hands.keypoints[::-1].copy())
    assert small.batch_size == 7
    gap = (whole.joints_3d - parts.joints_3d.flip(0)).norm(dim=2).mean(1)
    assert gap.median() < 1e-4
    assert (gap < 1e-3).float().mean() > 0.9


def test_points_without_confidence_are_not_used(fitter: Fitter, invent: Callable[..., Any]) -> None:
    hands = invent(32)
    hidden = hands.keypoints.copy()
    hidden[:, [4, 12, 17], 2] = 0
    lying = hidden.copy()
    lying[:, [4, 12, 17], :2] = [1e6, np.nan]
    honest, misled = fitter.fit(hidden), fitter.fit(lying)
    assert (honest.num_points == 18).all()
    torch.testing.assert_close(honest.joints_3d, misled.joints_3d)
    assert error_mm(misled, hands.joints).mean() < 8


def palms(fitter: Fitter, tilt_deg: float, n: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Hands in the mean pose, tilted, of which only the palm is seen, 8 px off: keypoints and true joints."""
    rng = np.random.default_rng(0)
    angle = torch.as_tensor(rng.uniform(0, 2 * np.pi, n), dtype=torch.float32)
    facing = matrix_from_axis_angle(torch.tensor([[1.5708, 0.0, 0.0]]))
    axis = torch.stack([angle.cos(), angle.sin(), torch.zeros(n)], 1)
    root = matrix_from_axis_angle(axis * np.radians(tilt_deg)) @ facing
    objective = fitter.objective
    posed = objective.joints.pose(root, objective.prior.mean_rotations.expand(n, 15, 3, 3), torch.zeros(n, 10)).points
    order = np.argsort(FROM_KEYPOINTS)
    joints = posed.numpy()[:, order]
    pixels = 1000 * joints[..., :2] + 500 + 8 * rng.normal(size=(n, 21, 2))
    keypoints = np.concatenate([pixels, np.zeros((n, 21, 1))], 2)
    keypoints[:, [0, 1, 5, 9, 13, 17], 2] = 1
    return keypoints, joints


def test_world_landmarks_choose_the_tilt_that_the_image_cannot_tell(fitter: Fitter) -> None:
    keypoints, joints = palms(fitter, 40)
    rng = np.random.default_rng(1)
    world = joints - joints.mean(1, keepdims=True) + 0.01 * rng.normal(size=joints.shape)
    blind = palm_angle_deg(fitter.fit(keypoints).joints_3d.numpy(), joints)
    told = palm_angle_deg(fitter.fit(keypoints, world).joints_3d.numpy(), joints)
    assert (blind > 40).mean() > 0.15
    assert (told > 40).mean() < 0.1
    unknown = fitter.fit(keypoints, np.full_like(world, np.nan))
    np.testing.assert_allclose(palm_angle_deg(unknown.joints_3d.numpy(), joints), blind, atol=1e-3)


def test_disagreement_is_of_shape_and_direction_alone() -> None:
    hand = torch.randn(3, 21, 3, generator=torch.Generator().manual_seed(0))
    assert disagreement(hand, 7 * hand + 1).max() < 1e-6
    assert disagreement(hand, -hand).allclose(torch.full((3,), 4.0))


def test_both_tilts_show_the_palm_alike_and_look_two_ways(fitter: Fitter, invent: Callable[..., Any]) -> None:
    hands = invent(64)
    keypoints = torch.as_tensor(hands.keypoints[..., :2]).float()[:, list(FROM_KEYPOINTS)]
    seen = Landmarks(
        (keypoints - keypoints.mean(1, keepdim=True)) / 200, torch.ones(64, 21), torch.zeros(64, 21), torch.zeros(64, 21), torch.zeros(64)
    )
    first, second = two_tilts(fitter.objective, seen)
    images, roots = [], []
    for state in (first, second):
        posed = fitter.objective.joints.pose(state.root, state.rotations, state.betas)
        images.append(projected(state, posed)[:, [0, 1, 5, 9, 13]])
        roots.append(state.root)
        torch.testing.assert_close(torch.linalg.det(state.root), torch.ones(64))
    centred = [image - image.mean(1, keepdim=True) for image in images]
    assert (centred[0] - centred[1]).norm(dim=2).mean() < 0.1
    assert (roots[0] - roots[1]).flatten(1).norm(dim=1).median() > 0.3


def test_fingers_begin_straight_or_bent_as_they_are(fitter: Fitter) -> None:
    """Fists with one straight finger, mean shape, no noise: one of the tilts begins with the pose itself."""
    objective, n = fitter.objective, 64
    angles = torch.zeros(n, 5, 3, 3)
    angles[:, :4, :, 1] = torch.tensor([75, 95, 2 / 3 * 95]).deg2rad()
    straight = torch.arange(n) % 4
    angles[torch.arange(n), straight, :, 1] = torch.tensor([-5, 5, 2 / 3 * 5]).deg2rad()
    angles[:, 4, :, 1] = torch.tensor([20, 40, 35]).deg2rad()
    rotations = anatomy.compose(angles.flatten(1, 2), objective.axes)
    root = matrix_from_axis_angle(torch.as_tensor(np.random.default_rng(0).normal(size=(n, 3))).float())
    points = objective.joints.pose(root, rotations, torch.zeros(n, 10)).points[..., :2]
    seen = Landmarks(5 * points, torch.ones(n, 21), torch.zeros(n, 21), torch.zeros(n, 21), torch.zeros(n))
    starts = torch.stack([start.rotations for start in two_tilts(objective, seen)])
    right = ((starts - rotations).abs().amax((-1, -2)) < 1e-3).unflatten(2, (5, 3)).all(3)  # tilt hand finger
    assert right.any(0)[torch.arange(n), straight].float().mean() > 0.9
    assert right.all(2).any(0).float().mean() > 0.6


# Bad hands


BAD: dict[str, tuple[Callable[[np.ndarray], object], Outcome | None]] = {
    "all NaN": (lambda k: k.fill(np.nan), Outcome.TOO_FEW_POINTS),
    "no confidence": (lambda k: k[:, 2].fill(0), Outcome.TOO_FEW_POINTS),
    "confidence NaN": (lambda k: k[:, 2].fill(np.nan), Outcome.TOO_FEW_POINTS),
    "negative confidence": (lambda k: k[:, 2].fill(-1), Outcome.TOO_FEW_POINTS),
    "five points": (lambda k: k[5:, 2].fill(0), Outcome.TOO_FEW_POINTS),
    "one place": (lambda k: k[:, :2].fill(7), Outcome.NO_EXTENT),
    "infinite": (lambda k: k[:, :2].fill(np.inf), Outcome.TOO_FEW_POINTS),
    "some NaN": (lambda k: k[3:8].fill(np.nan), None),
    "palm hidden": (lambda k: k[[0, 1, 5, 9, 13, 17], 2:].fill(0), None),
    "on a line": (lambda k: k[:, 1].fill(100), None),
    "one point away": (lambda k: np.copyto(k[:, :2], np.where(np.arange(21)[:, None] == 0, 60, 50)), None),
    "two pixels": (lambda k: k[:, :2].__itruediv__(100), None),
    "enormous": (lambda k: k[:, :2].__imul__(1e5), None),
    "far away": (lambda k: k[:, :2].__iadd__(1e6), None),
    "confidence over one": (lambda k: k[:, 2].fill(50), None),
    "tiny confidence": (lambda k: k[:, 2].fill(1e-30), None),
}


def test_bad_hands_say_why_and_do_no_harm_to_others(fitter: Fitter, invent: Callable[..., Any]) -> None:
    hands = invent(len(BAD) + 1)
    keypoints = hands.keypoints.copy()
    for row, (spoil, _) in enumerate(BAD.values()):
        spoil(keypoints[row])
    fits = fitter.fit(keypoints)
    assert all_finite(fits)
    for (name, (_, wanted)), outcome in zip(BAD.items(), fits.outcome, strict=False):
        assert outcome in ({wanted} if wanted else FITTED), name
    alone = fitter.fit(hands.keypoints[-1:])
    torch.testing.assert_close(fits.joints_3d[-1:], alone.joints_3d, atol=1e-3, rtol=0)
    small = list(BAD).index("two pixels")
    assert error_mm(fits, hands.joints)[small] < 12


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e4, 1e8])
def test_noise_instead_of_a_hand_gives_numbers(fitter: Fitter, scale: Any) -> None:
    keypoints = np.random.default_rng(0).normal(size=(32, 21, 3)) * [scale, scale, 1]
    assert all_finite(fitter.fit(keypoints))


def test_no_hands_give_no_rows(fitter: Fitter) -> None:
    fits = fitter.fit(np.zeros((0, 21, 3)))
    assert len(fits.outcome) == len(fits.betas) == 0
    assert fits.hand_pose.shape == (0, 45)


def test_a_second_chance_only_lowers_totals(model: HandModel, invent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    hands = invent(400, noise=0.02).keypoints
    fitter = Fitter(model)

    def totals() -> torch.Tensor:
        fits, own = fitter.fit(hands), fitter.settings
        pose = own.bone_weight * fits.loss_bone + own.angle_weight * fits.loss_angle + own.prior_weight * fits.loss_prior
        return fits.loss_reprojection + pose + own.shape_weight * fits.loss_shape

    after = totals()
    monkeypatch.setattr("fitting.fit._DEAR", float("inf"))
    before = totals()
    assert (after <= before * (1 + 1e-5)).all()
    assert (after < 0.98 * before).any()


def test_who_is_fitted_beside_a_hand_changes_no_bit_of_it(fitter: Fitter, invent: Callable[..., Any]) -> None:
    torch.set_num_threads(1)  # as the stage does: several sum in another order where others are many
    hands, worse, better = invent(32, noise=0.03).keypoints, invent(32, seed=5, noise=0.1).keypoints, invent(32, seed=5).keypoints
    one, other = (fitter.fit(np.concatenate([beside, hands])) for beside in (worse, better))
    assert torch.equal(one.hand_pose[32:], other.hand_pose[32:])


def test_too_few_iterations_are_reported(model: HandModel, invent: Callable[..., Any]) -> None:
    hands = invent(16, noise=0.03)
    fits = Fitter(model, FitSettings(num_iterations=2, tolerance=1e-6)).fit(hands.keypoints)
    assert (fits.outcome == Outcome.STALLED).all()


# The solver


@pytest.fixture(scope="module")
def problem(exact: HandModel) -> tuple[Objective, State, Landmarks]:
    """Hands beyond their limits, in float64 and without the tip correctives that the Jacobian leaves out."""
    plain = replace(exact, posedirs=torch.zeros_like(exact.posedirs))
    objective = Objective.of(plain, pose_prior(plain), FitSettings())
    rng = np.random.default_rng(0)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.as_tensor(rng.normal(size=shape))

    rotations = matrix_from_axis_angle(draw(6, 15, 3, scale=0.7))
    state = State(rotations, matrix_from_axis_angle(draw(6, 3)), draw(6, 10, scale=3), draw(6, scale=0.2) + 2, draw(6, 2, scale=0.1))
    perspective = torch.tensor([0, 0, 0.1, 0.2, 0.3, 0.45], dtype=torch.float64)
    image = projected(state, objective.joints.pose(state.root, state.rotations, state.betas), perspective)
    return (
        objective,
        state,
        Landmarks(
            image + draw(6, 21, 2, scale=0.03),
            torch.rand(6, 21, dtype=torch.float64),
            draw(6, 21, scale=0.2),
            torch.rand(6, 21, dtype=torch.float64),
            perspective,
        ),
    )


@pytest.mark.parametrize("only", ["reprojection", "bone", "angle", "prior", "shape", "depth"])
def test_normal_equations_hold_the_gradient_of_every_loss(problem: Any, only: str) -> None:
    objective, state, seen = problem
    weights: dict[str, Any] = {f"{name}_weight": 100.0 if name == only else 0.0 for name in ("bone", "angle", "prior", "shape", "depth")}
    objective = replace(objective, settings=FitSettings(**weights))
    matrix, gradient = objective.normal_equations(state, seen, objective.losses(state, seen)[1])
    step = torch.zeros(6, 61, dtype=torch.float64, requires_grad=True)
    losses, _ = objective.losses(state.moved(step), seen)
    objective.total(losses).sum().backward()
    torch.testing.assert_close(gradient, step.grad, rtol=1e-7, atol=1e-9)
    assert getattr(losses, only).max() > 0
    assert torch.linalg.eigvalsh(matrix).min() > -1e-8


def test_total_never_rises(problem: Any) -> None:
    objective, state, seen = problem
    totals = [objective.total(objective.losses(state, seen)[0])]
    for count in (1, 2, 4, 8, 16):
        totals.append(solve(objective, state, seen, num_iterations=count, tolerance=1e-9).total)
    for before, after in pairwise(totals):
        assert (after <= before + 1e-12).all()
    assert (totals[-1] < 0.5 * totals[0]).all()


def test_reaches_what_adam_reaches(problem: Any) -> None:
    """The reference: a first-order method on the same losses by autograd, many more iterations."""
    objective, state, seen = problem
    ours = solve(objective, state, seen, num_iterations=40, tolerance=1e-7).total
    step = torch.zeros(6, 61, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([step], lr=0.03)
    for _ in range(400):
        adam.zero_grad()
        total = objective.total(objective.losses(state.moved(step), seen)[0])
        total.sum().backward()
        adam.step()
    assert (ours <= 1.05 * total.detach()).float().mean() >= 5 / 6
