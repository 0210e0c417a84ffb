"""Whatever landmarks come, the fit answers with finite numbers and an outcome, never an exception, and no hand harms another."""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fitting.batches import in_batches
from fitting.fit import MIN_POINTS, Fitter, HandFits, Outcome, disagreement
from fitting.hand.mano import HandModel
from fitting.settings import FitSettings

FITTED = {Outcome.CONVERGED, Outcome.STALLED}
MIRROR = np.array([-1.0, 1, 1])
PALM = (0, 1, 5, 9, 13, 17)
NUMBERS = [f.name for f in fields(HandFits) if f.name != "outcome"]


@pytest.fixture(scope="module")
def fitter(model: HandModel) -> Fitter:
    return Fitter(model)


def assert_sound(fits: HandFits, num_hands: int) -> None:
    """A known outcome and finite float32 numbers for every hand; zeros where nothing was fitted."""
    assert len(fits.outcome) == num_hands
    assert set(fits.outcome) <= set(Outcome)
    unfitted = ~np.isin(fits.outcome, list(FITTED))
    for name in NUMBERS:
        values = getattr(fits, name)
        assert len(values) == num_hands, name
        assert torch.isfinite(values).all(), name
        assert values.dtype == (torch.int64 if name.startswith("num_") else torch.float32), name
        assert name == "num_points" or not values[unfitted].any(), name


def relative_mm(fits: HandFits, joints: np.ndarray) -> np.ndarray:
    """Mean joint error in millimetres for a hand of the true size, which weak perspective cannot see."""
    found = fits.joints_3d.numpy()
    size = np.sqrt((joints**2).sum((1, 2)) / np.maximum((found**2).sum((1, 2)), 1e-12))
    return 1000 * np.linalg.norm(size[:, None, None] * found - joints, axis=2).mean(1)


SPOILT: dict[str, tuple[Callable[[np.ndarray], object], Outcome | None]] = {
    "missing": (lambda k: k.fill(np.nan), Outcome.TOO_FEW_POINTS),
    "infinite": (lambda k: k[:, :2].fill(np.inf), Outcome.TOO_FEW_POINTS),
    "beyond any image": (lambda k: k[:, :2].fill(1e300), Outcome.TOO_FEW_POINTS),
    "no confidence": (lambda k: k[:, 2].fill(0), Outcome.TOO_FEW_POINTS),
    "confidence NaN": (lambda k: k[:, 2].fill(np.nan), Outcome.TOO_FEW_POINTS),
    "confidence infinite": (lambda k: k[:, 2].fill(np.inf), Outcome.TOO_FEW_POINTS),
    "negative confidence": (lambda k: k[:, 2].fill(-1), Outcome.TOO_FEW_POINTS),
    "one visible point too few": (lambda k: k[MIN_POINTS - 1 :, 2].fill(0), Outcome.TOO_FEW_POINTS),
    "all points equal": (lambda k: k[:, :2].fill(7), Outcome.NO_EXTENT),
    "just enough points": (lambda k: k[MIN_POINTS:, 2].fill(0), None),
    "some missing": (lambda k: k[3:8].fill(np.nan), None),
    "one point infinite": (lambda k: k[4, :2].fill(-np.inf), None),
    "one point at 1e8": (lambda k: k[4, :2].fill(1e8), None),
    "one confidence NaN": (lambda k: k[4:5, 2].fill(np.nan), None),
    "palm hidden": (lambda k: np.copyto(k, np.nan, where=np.isin(range(21), PALM)[:, None]), None),
    "on a line": (lambda k: k[:, 1].fill(100), None),
    "one point away from the rest": (lambda k: np.copyto(k[:, :2], np.where(np.arange(21)[:, None] == 0, 60, 50)), None),
    "far away": (lambda k: k[:, :2].__iadd__(1e6), None),
    "confidence over one": (lambda k: k[:, 2].fill(50), None),
    "tiny confidence": (lambda k: k[:, 2].fill(1e-30), None),
}


def test_spoilt_hands_say_why_and_do_no_harm_to_others(fitter: Fitter, invent: Callable[..., Any]) -> None:
    hands = invent(len(SPOILT) + 1)
    keypoints = hands.keypoints.copy()
    for row, (spoil, _) in enumerate(SPOILT.values()):
        spoil(keypoints[row])
    fits = fitter.fit(keypoints)
    assert_sound(fits, len(keypoints))
    for (name, (_, wanted)), outcome in zip(SPOILT.items(), fits.outcome, strict=False):
        assert outcome in ({wanted} if wanted else FITTED), name
    alone = fitter.fit(hands.keypoints[-1:])
    torch.testing.assert_close(fits.joints_3d[-1:], alone.joints_3d, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side_px", [2, 10_000])
def test_a_hand_of_any_size_is_the_same_hand(fitter: Fitter, invent: Callable[..., Any], side_px: Any) -> None:
    hands = invent(24)
    sized = hands.keypoints.copy()
    sized[..., :2] *= side_px / hands.size[:, None, None]
    usual, fits = fitter.fit(hands.keypoints), fitter.fit(sized)
    assert_sound(fits, 24)
    assert set(fits.outcome) <= FITTED
    assert np.median(relative_mm(fits, hands.joints)) < 1.1 * np.median(relative_mm(usual, hands.joints))
    share = fits.error_px.numpy() / side_px
    np.testing.assert_allclose(np.median(share), np.median(usual.error_px.numpy() / hands.size), rtol=0.1)


def test_a_left_hand_said_to_be_right_is_the_right_hand_seen_from_behind(fitter: Fitter, invent: Callable[..., Any]) -> None:
    """Under weak perspective (-x, y) is the image both of the mirrored hand and of the hand itself after half a turn about y: no error
    can tell them apart, landmarks in space can."""
    hands = invent(48)
    right, wrong = fitter.fit(hands.keypoints), fitter.fit(hands.keypoints * MIRROR)
    assert_sound(wrong, 48)
    np.testing.assert_allclose(np.median(wrong.error_px / right.error_px), 1, rtol=0.01)
    turned = wrong.joints_3d * torch.tensor([-1.0, 1, -1])
    assert (turned - right.joints_3d).norm(dim=2).mean(1).median() < 1e-3
    world = torch.as_tensor(hands.joints * MIRROR, dtype=torch.float32)
    told = disagreement(wrong.joints_3d, world), disagreement(right.joints_3d, world * torch.tensor([-1.0, 1, 1]))
    assert told[0].median() > 10 * told[1].median()


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e4, 1e8])
def test_noise_instead_of_a_hand_gives_numbers(fitter: Fitter, scale: Any) -> None:
    keypoints = np.random.default_rng(0).normal(size=(32, 21, 3)) * [scale, scale, 1]
    assert_sound(fitter.fit(keypoints), 32)


NUMBER = st.floats(0, 1000) | st.floats() | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 0.5, 1.0, 1e-30, 1e9, 1e38, 1e300])
ANY = arrays.arrays(np.float64, st.tuples(st.integers(0, 3), st.just(21), st.just(3)), elements=NUMBER, fill=st.nothing())


@given(keypoints=ANY)
@settings(max_examples=40)
def test_any_numbers_at_all_give_numbers(fitter: Fitter, keypoints: Any) -> None:
    assert_sound(fitter.fit(keypoints), len(keypoints))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30, 0.0])
def test_senseless_world_landmarks_are_no_worse_than_none(fitter: Fitter, invent: Callable[..., Any], value: Any) -> None:
    hands = invent(8)
    told = fitter.fit(hands.keypoints, value * np.random.default_rng(0).normal(size=(8, 21, 3)))
    assert_sound(told, 8)
    torch.testing.assert_close(told.error_px, fitter.fit(hands.keypoints).error_px, rtol=0.5, atol=1)


def test_no_hands_give_no_rows(fitter: Fitter) -> None:
    fits = fitter.fit(np.zeros((0, 21, 3)))
    assert_sound(fits, 0)
    assert fits.hand_pose.shape == (0, 45)


def test_landmarks_of_single_precision_are_the_same_landmarks(fitter: Fitter, invent: Callable[..., Any]) -> None:
    keypoints = invent(4).keypoints.round()
    torch.testing.assert_close(fitter.fit(keypoints.astype(np.float32)).joints_3d, fitter.fit(keypoints).joints_3d)


# A batch that does not fit


def test_a_batch_that_does_not_fit_is_split_and_no_row_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def work(rows: torch.Tensor) -> None:
        if len(rows) > 13:
            raise torch.OutOfMemoryError
        done.extend(rows.tolist())

    with caplog.at_level(logging.WARNING):
        size = in_batches(work, torch.arange(100), 64)
    assert done == list(range(100))
    assert size == 8
    assert [record.getMessage().partition(" do not fit")[0] for record in caplog.records] == ["64 hands at once"]


def test_a_small_batch_makes_no_later_one_small(model: HandModel, invent: Callable[..., Any]) -> None:
    fitter = Fitter(model)
    fitter.fit(invent(3).keypoints)
    assert fitter.batch_size == FitSettings().batch_size


def test_a_row_too_large_by_itself_is_an_error() -> None:
    def work(rows: torch.Tensor) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(work, torch.arange(5), 4)


@pytest.mark.gpu
def test_more_hands_than_the_gpu_holds_are_fitted_in_parts(
    model: HandModel, invent: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Under a real limit of 512 MB, which the meshes alone of 65,536 hands exceed."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    hands = invent(256, noise=0.01)
    keypoints = np.tile(hands.keypoints, (256, 1, 1))
    on_gpu = model.to("cuda")
    usual = Fitter(on_gpu, FitSettings(batch_size=256)).fit(hands.keypoints)
    fitter = Fitter(on_gpu, FitSettings(batch_size=len(keypoints)))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**29 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with caplog.at_level(logging.WARNING):
            fits = fitter.fit(keypoints)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert_sound(fits, len(keypoints))
    assert set(fits.outcome) <= FITTED
    assert 0 < fitter.batch_size < len(keypoints)
    assert len([r for r in caplog.records if "do not fit" in r.getMessage()]) == 1
    torch.testing.assert_close(fits.error_px.reshape(256, 256).median(0).values, usual.error_px, rtol=0.05, atol=0.5)
