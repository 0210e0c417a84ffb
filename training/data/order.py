"""The order of samples, of every epoch: a pure function of (datasets, weights, seed, epoch, position).

Nothing is shuffled in memory and nothing is remembered: a pseudo-random permutation is evaluated where it is needed, so that a run
resumes at any step of any number of samples at once, and any number of ranks, workers or threads sees the same batches.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64

_ROUNDS = 6
"""Rounds of the Feistel network; four make a pseudo-random permutation of an ideal round function (Luby and Rackoff, 1988)."""


def key_of(*parts: object) -> int:
    """64 bits that depend on every part, on any machine and in any version."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:8], "little")


def mixed(value: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """A hash of each number, every bit of it (the finaliser of SplitMix64; Steele, Lea and Flood, 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def shuffled(position: Int64[np.ndarray, "n"], count: int, key: int) -> Int64[np.ndarray, "n"]:
    """The place to which a permutation of range(count) takes each position, without building it.

    A Feistel network on the least even number of bits that hold `count`, applied again to what falls outside (cycle walking; Black
    and Rogaway, 2002).
    """
    if count <= 1:
        return position
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    rounds = np.array([key_of(key, k) for k in range(_ROUNDS)], np.uint64)
    value = position.astype(np.uint64)
    walking = np.ones(len(value), bool)
    while walking.any():
        left, right = value[walking] >> half, value[walking] & mask
        for round_key in rounds:
            left, right = right, left ^ (mixed(right + round_key) & mask)
        value[walking] = (left << half) | right
        walking = value >= count
    return value.astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The order of epochs over several datasets.

    Without weights an epoch holds every sample once. With weights, `share[k] * num_samples` of an epoch come from dataset k, and
    the epochs go on where the last one left it: no sample of a dataset is seen twice before all of it has been seen.
    """

    counts: Sequence[int]
    """Samples of each dataset."""
    weights: Sequence[float] | None = None
    """Relative; None takes every dataset whole."""
    num_samples: int | None = None
    """Samples of an epoch with weights; None: as many as all datasets hold."""
    seed: int = 0
    fingerprint: str = ""
    """Key of the datasets: other data are in another order."""

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 1:
            raise ValueError(f"every dataset of a mixture needs samples, got counts {list(self.counts)}")
        if self.weights is not None and (len(self.weights) != len(self.counts) or min(self.weights) < 0 or sum(self.weights) <= 0):
            raise ValueError(f"weights must be {len(self.counts)} numbers, none negative and not all 0, got {list(self.weights)}")

    @property
    def quotas(self) -> Int64[np.ndarray, "datasets"]:
        """How many samples of an epoch come from each dataset; what rounding leaves goes to the largest remainders."""
        if self.weights is None:
            return np.array(self.counts, np.int64)
        total = self.num_samples or sum(self.counts)
        exact = np.array(self.weights, np.float64) / sum(self.weights) * total
        quotas = np.floor(exact).astype(np.int64)
        quotas[np.argsort(quotas - exact, kind="stable")[: total - quotas.sum()]] += 1
        return quotas

    def __len__(self) -> int:
        """Samples of an epoch."""
        return int(self.quotas.sum())

    def at(
        self, epoch: int, position: Int64[np.ndarray, "n"], *, shuffle: bool = True
    ) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """Dataset and sample at each position of an epoch."""
        quotas = self.quotas
        place = shuffled(position, len(self), key_of(self.fingerprint, self.seed, epoch)) if shuffle else position
        dataset = np.searchsorted(np.cumsum(quotas), place, side="right")
        nth = place - (np.cumsum(quotas) - quotas)[dataset] + epoch * quotas[dataset]
        sample = np.empty_like(nth)
        for k, count in enumerate(self.counts):
            mine = np.flatnonzero(dataset == k)
            turn, within = np.divmod(nth[mine], count)
            for t in np.unique(turn):
                now = mine[turn == t]
                key = key_of(self.fingerprint, self.seed, "dataset", k, t)
                sample[now] = shuffled(within[turn == t], count, key) if shuffle else within[turn == t]
        return dataset, sample
