"""The order of samples: whole, shuffled, the same everywhere, and known at once."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.order import Mixture, key_of, mixed, shuffled


@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_a_permutation_takes_every_place_once(count: int, key: int) -> None:
    assert sorted(shuffled(np.arange(count), count, key)) == list(range(count))


def test_neighbours_are_torn_apart_and_the_key_decides_where_they_go() -> None:
    count = 100_000
    first, second = (shuffled(np.arange(count), count, key) for key in (1, 2))
    assert np.mean(np.abs(np.diff(first)) < 1000) < 0.03  # 0.02 of two places drawn at random are as near
    assert np.mean(first == second) < 1e-3
    assert abs(np.corrcoef(np.arange(count), first)[0, 1]) < 0.01
    counts = np.histogram2d(np.arange(count), first, bins=20)[0]
    assert ((counts - count / 400) ** 2 / (count / 400)).sum() < 520  # chi square of 361 degrees of freedom: 99.99 % lie below 468


def test_the_order_is_the_same_in_another_process() -> None:
    code = "import numpy as np; from training.data.order import Mixture; print(Mixture(counts=[70, 30], seed=5).at(3, np.arange(100)))"
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert outputs == {f"{Mixture(counts=[70, 30], seed=5).at(3, np.arange(100))}\n"}


def test_the_order_is_that_of_every_version_and_machine() -> None:
    """Numbers as they were first made: a checkpoint of an older version goes on where it stopped."""
    assert key_of("a", 1) == 14466745585209649668
    assert mixed(np.array([0, 1, 2**63], np.uint64)).tolist() == [0, 6238072747940578789, 2720858781877447050]
    assert shuffled(np.arange(10), 10, 12345).tolist() == [0, 2, 1, 7, 4, 5, 8, 3, 6, 9]
    mixture = Mixture(counts=[5, 3], weights=[0.25, 0.5], num_samples=6, seed=2, fingerprint="x")
    assert [of.tolist() for of in mixture.at(1, np.arange(6))] == [[0, 1, 1, 1, 1, 0], [1, 0, 2, 1, 2, 0]]
    assert Mixture(counts=[9]).at(0, np.arange(9))[1].tolist() == Mixture(counts=[9], seed=0).at(0, np.arange(9))[1].tolist()


def test_unshuffled_datasets_follow_each_other_and_go_on_where_the_last_epoch_left_them() -> None:
    mixture = Mixture(counts=[5, 3], weights=[0.25, 0.5], num_samples=6)
    assert [of.tolist() for of in mixture.at(0, np.arange(6), shuffle=False)] == [[0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 2, 0]]
    assert [of.tolist() for of in mixture.at(1, np.arange(6), shuffle=False)] == [[0, 0, 1, 1, 1, 1], [2, 3, 1, 2, 0, 1]]


def test_an_epoch_without_weights_holds_everything_once() -> None:
    mixture = Mixture(counts=[7, 50, 3])
    for epoch in range(3):
        dataset, sample = mixture.at(epoch, np.arange(60))
        assert {(d, s) for d, s in zip(dataset.tolist(), sample.tolist(), strict=True)} == {
            (d, s) for d, count in enumerate((7, 50, 3)) for s in range(count)
        }
    assert not np.array_equal(mixture.at(0, np.arange(60))[1], mixture.at(1, np.arange(60))[1])


def test_weights_set_the_shares_and_no_sample_comes_again_before_all_have_come() -> None:
    mixture = Mixture(counts=[10, 100], weights=[1, 3], num_samples=41)
    assert mixture.quotas.tolist() == [10, 31]
    seen: list[int] = []
    for epoch in range(10):
        dataset, sample = mixture.at(epoch, np.arange(41))
        seen += sample[dataset == 1].tolist()
    counts = np.bincount(seen, minlength=100)
    assert counts.min() >= 3
    assert counts.max() <= 4


def test_two_samples_come_in_either_order_and_a_dataset_may_weigh_nothing() -> None:
    assert {tuple(shuffled(np.arange(2), 2, key).tolist()) for key in range(9)} == {(0, 1), (1, 0)}
    assert shuffled(np.arange(1), 1, 5).tolist() == [0]
    assert Mixture(counts=[3, 1], weights=[0, 0.5]).quotas.tolist() == [0, 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"counts": [0, 3]},
        {"counts": []},
        {"counts": [3], "weights": [1, 1]},
        {"counts": [3], "weights": [0]},
        {"counts": [3, 3], "weights": [-0.5, 3]},
    ],
)
def test_senseless_mixtures_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"samples|weights"):
        Mixture(**wrong)
