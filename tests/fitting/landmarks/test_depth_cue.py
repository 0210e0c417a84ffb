"""A detector's depths come in the image's unit, and are not believed where they contradict the image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fitting.fit import Fitter
from fitting.hand.mano import HandModel
from fitting.landmarks.depth_cue import HINT_MISFIT, MOST_MISFIT, depth_cue, laid_over, mended
from fitting.settings import FitSettings
from pipeline.evaluate.studio_truth import pa_mpjpe_mm


def test_depth_is_what_the_hand_has_in_the_image(invent: Callable[..., Any]) -> None:
    hands = invent(8)
    keypoints = torch.as_tensor(hands.pixels / hands.size[:, None, None])
    world = torch.as_tensor(0.8 * hands.joints + np.array([0.3, -0.1, 0.05]))
    depth, confidence = depth_cue(keypoints, torch.full((8, 21), 0.7, dtype=torch.float64), world)
    metre = np.ptp(hands.pixels, axis=1)[:, 0] / np.ptp(hands.joints, axis=1)[:, 0] / hands.size
    torch.testing.assert_close(depth, torch.as_tensor(hands.joints[..., 2] * metre[:, None]), rtol=1e-6, atol=1e-6)
    assert (confidence[:, 0] == 0).all()
    assert (confidence[:, 1:] == 0.7).all()


def test_what_is_unknown_or_contradicts_the_image_has_no_confidence(invent: Callable[..., Any]) -> None:
    hands = invent(6)
    keypoints, sure = torch.as_tensor(hands.pixels / hands.size[:, None, None]), torch.ones(6, 21, dtype=torch.float64)
    world = torch.as_tensor(hands.joints).clone()
    world[0] = torch.nan
    world[1, 5] = torch.nan
    world[2, 0] = torch.nan
    world[3, :, :2] *= -1
    world[4] = world[4, torch.randperm(21, generator=torch.Generator().manual_seed(0))]
    depth, confidence = depth_cue(keypoints, sure, world)
    assert (confidence.count_nonzero(1) == torch.tensor([0, 19, 0, 0, 0, 20])).all()
    assert torch.isfinite(depth).all()
    assert (depth[confidence == 0] == 0).all()


def test_depths_help_the_fit(model: HandModel, invent: Callable[..., Any]) -> None:
    hands = invent(96, noise=0.03)
    world = hands.joints + 0.004 * np.random.default_rng(0).normal(size=hands.joints.shape)
    without, told = (Fitter(model, FitSettings(depth_weight=weight)).fit(hands.keypoints, world) for weight in (0.0, 0.3))
    error = [pa_mpjpe_mm(fits.joints_3d.double().numpy(), hands.joints).mean() for fits in (without, told)]
    assert error[1] < 0.8 * error[0]
    assert (without.loss_depth > 0).all()
    unknown = Fitter(model, FitSettings(depth_weight=0.3)).fit(hands.keypoints)
    assert (unknown.loss_depth == 0).all()


def test_a_hint_counts_by_its_deviations(model: HandModel, invent: Callable[..., Any]) -> None:
    hands, rng = invent(96, noise=0.03), np.random.default_rng(0)
    fitter = Fitter(model, FitSettings(hint_share=0.0))
    deviation = np.full((96, 21), 0.004)
    hint = hands.joints + deviation[..., None] * rng.normal(size=hands.joints.shape)
    plain, told = fitter.fit(hands.keypoints, hint), fitter.fit(hands.keypoints, hint, deviation=deviation)
    doubted = fitter.fit(hands.keypoints, hint, deviation=np.full((96, 21), 1.0))
    error = [pa_mpjpe_mm(fits.joints_3d.double().numpy(), hands.joints).mean() for fits in (plain, told, doubted)]
    assert error[1] < 0.8 * error[0], "sure depths are followed further than a detector's own"
    assert error[1] < 0.8 * error[2], "and unsure ones hardly at all"


def test_a_hint_mends_landmarks(invent: Callable[..., Any]) -> None:
    hands = invent(16)
    exact = torch.as_tensor(hands.pixels / hands.size[:, None, None])
    seen = exact + 0.03 * torch.as_tensor(np.random.default_rng(0).normal(size=exact.shape))
    sure, hint = torch.ones(16, 21, dtype=torch.float64), torch.as_tensor(hands.joints)
    error = [
        (mended(seen, sure, hint, torch.full((16,), share, dtype=torch.float64)) - exact).norm(dim=-1).mean() for share in (0.0, 0.5, 1.0)
    ]
    assert error[0] > 1.5 * error[1] > 3 * error[2]
    wrong = hint * torch.tensor([-1.0, -1.0, 1.0])
    np.testing.assert_array_equal(mended(seen, sure, wrong, torch.ones(16, dtype=torch.float64)), seen)


def test_a_hint_is_believed_where_it_disagrees_with_the_landmarks_and_a_detectors_depths_are_not(invent: Callable[..., Any]) -> None:
    hands = invent(16)
    exact, sure = torch.as_tensor(hands.pixels / hands.size[:, None, None]), torch.ones(16, 21, dtype=torch.float64)
    other = torch.as_tensor(hands.joints).clone()
    other[:, 5:9] += torch.tensor([0.05, 0.05, 0.0])
    misfit = laid_over(exact, sure, other).misfit
    assert ((misfit > MOST_MISFIT) & (misfit < HINT_MISFIT)).all()
    assert (depth_cue(exact, sure, other)[1] == 0).all()
    assert (depth_cue(exact, sure, other, most_misfit=HINT_MISFIT)[1][:, 1:] > 0).all()
    moved = mended(exact, sure, other, torch.ones(16, dtype=torch.float64))
    assert (moved - exact).norm(dim=-1).mean() > 0.05


def test_before_a_known_camera_a_hint_lies_over_the_image_as_that_sees_it(invent: Callable[..., Any]) -> None:
    joints, focal_px, distance_m = torch.as_tensor(invent(16).joints), 600.0, 0.4
    joints = joints - joints[:, :1]
    place = torch.tensor([0.01, -0.02, distance_m], dtype=torch.float64)
    pixels = focal_px * (joints + place)[..., :2] / (joints + place)[..., 2:]
    side = (pixels.amax(1) - pixels.amin(1)).amax(1)
    keypoints, sure = pixels / side[:, None, None], torch.ones(16, 21, dtype=torch.float64)
    true = laid_over(keypoints, sure, joints, side / focal_px)
    torch.testing.assert_close(true.points, keypoints, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(true.depth, joints[..., 2] * (focal_px / distance_m / side)[:, None], rtol=1e-9, atol=1e-9)
    assert (laid_over(keypoints, sure, joints).points - keypoints).norm(dim=-1).mean() > 0.01
    for one, other in zip(laid_over(keypoints, sure, joints), laid_over(keypoints, sure, joints, torch.zeros(16).double()), strict=True):
        assert torch.equal(one, other)
