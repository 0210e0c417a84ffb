"""The benchmark of tracks: its errors are what they are said to be, and tracks are worth what is promised."""

from typing import Literal

import numpy as np
import pytest

from benchmarks.fit.tracks import Motion, flip_share, jitter_mm, landmarks, studio_motion, tracks


@pytest.fixture(scope="module")
def motion() -> Motion:
    return studio_motion(2, 4.0, seed=5)


@pytest.mark.parametrize("step", [1, 6])
@pytest.mark.parametrize("kind", ["fresh", "lasting"])
def test_errors_have_one_spread_and_last_as_long_as_they_should(motion: Motion, step: int, kind: Literal["fresh", "lasting"]) -> None:
    some = motion.every(step)
    size = np.ptp(some.pixels, axis=1).max(1)[:, None, None]
    error = (landmarks(some, 0.02, kind, seed=0)[..., :2] - some.pixels) / size
    usual = np.abs(error) < 0.08
    assert error[usual].std() == pytest.approx(0.02, rel=0.1)
    assert 0.003 < (~usual).any(2).mean() < 0.06  # outliers
    follows = some.track[1:] == some.track[:-1]
    both = usual[1:][follows] & usual[:-1][follows]
    memory = np.corrcoef(error[1:][follows][both], error[:-1][follows][both])[0, 1]
    assert memory == pytest.approx(0 if kind == "fresh" else np.exp(-step / 30 / 0.1), abs=0.06)


def test_jitter_and_flips_are_those_worked_by_hand(motion: Motion) -> None:
    steady = np.zeros((5, 21, 3)) + np.arange(5)[:, None, None] * 0.01
    assert jitter_mm(steady, np.zeros(5, int)) == pytest.approx(0)
    steady[2, :, 0] += 0.003
    assert jitter_mm(steady, np.zeros(5, int)) == pytest.approx((3 + 6 + 3) / 3)
    assert flip_share(motion.joints, motion.joints) == 0
    assert flip_share(motion.joints * [1, 1, -1], motion.joints) > 0.3


def test_tracks_halve_the_jitter_at_no_cost_in_error() -> None:
    found = tracks(num_shots=2, seconds=2.0)
    assert found["jitter_ratio"] < 0.5
    assert found["pa_mpjpe_ratio"] < 1
    assert found["flip_rate"] < 0.005
    assert len(found["rows"]) == 12
