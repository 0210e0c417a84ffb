"""Kernel ridge regression on what the landmark network says of looks: no steps, one system of equations (that of Nystrom's method, where
it learns from more looks than it keeps as examples; Williams and Seeger, 2001).

`stages.detectors.mediapipe.kernel` is what comes of it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int8, Int64

from stages.detectors.mediapipe.kernel import MOST, Kernel, nearness

LEAST_WEIGHT = 0.05
"""Of an example: the ridge of others is beyond all measure."""
LAID_BY = 3000
"""Examples, about, by which directions are found."""
GUARD = 1e-3
"""Added to the ridge's diagonal, where examples may be alike."""
AT_ONCE = 2000
"""Looks whose nearness to all examples is in memory."""
OVERSAMPLED = 60
"""Directions that are looked for beside those that are kept (Halko, Martinsson and Tropp, 2011)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSettings:
    """How near examples must be to count. All ours."""

    directions: int = 512
    """Principal ones; with 256 hands are 1 % worse."""
    narrow: float = 3.0
    """Of the Gaussian: in units of the median squared distance between examples."""
    linear: float = 0.1
    """Share of the linear kernel."""
    ridge: float = 0.1
    """Of an example of weight 1."""
    sure_ridge: float = 3.0
    """The same where it is learned how far off the joints of others are."""


class Laid(NamedTuple):
    """Principal directions, and the examples laid on them, as `Kernel` holds them."""

    mean: Float32[np.ndarray, "d"]
    scale: Float32[np.ndarray, "d"]
    directions: Int8[np.ndarray, "d k"]
    step: Float32[np.ndarray, "k"]
    examples: Int8[np.ndarray, "n k"]
    example_step: Float32[np.ndarray, "k"]
    narrow: Float32[np.ndarray, ""]


def lay(inputs: Float32[np.ndarray, "n d"], blocks: list[int], settings: KernelSettings) -> Laid:
    """Examples on their principal directions; each of the blocks of inputs, `blocks` numbers long, weighs as much as another."""
    size = np.repeat(np.sqrt(blocks), blocks).astype(np.float32)
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-3
    values = np.clip((inputs - mean) / scale, -MOST, MOST) / size
    some = values[:: max(len(values) // LAID_BY, 1)]
    k = min(settings.directions, *some.shape)
    basis = some @ np.random.default_rng(0).normal(size=(some.shape[1], k + OVERSAMPLED)).astype(np.float32)
    for _ in range(2):
        basis = some @ (some.T @ np.linalg.qr(basis)[0])
    found = np.linalg.svd(np.linalg.qr(basis)[0].T @ some, full_matrices=False)[2][:k].T
    directions, step = in_steps(found / size[:, None])
    laid = values @ (directions * step * size[:, None])
    examples, example_step = in_steps(laid, np.full(k, np.abs(laid).max() / 127, np.float32))
    some = (examples * example_step)[:: max(len(examples) // 200, 1)]
    squared = ((some[:, None] - some) ** 2).sum(2)
    narrow = np.float32(settings.narrow / max(float(np.median(squared[np.triu_indices(len(some), 1)])) if len(some) > 1 else 1.0, 1e-9))
    return Laid(mean, scale, directions, step, examples, example_step, np.asarray(narrow))


def in_steps(
    values: Float32[np.ndarray, "n k"], step: Float32[np.ndarray, "k"] | None = None
) -> tuple[Int8[np.ndarray, "n k"], Float32[np.ndarray, "k"]]:
    """Columns as whole numbers of steps, 127 at most, and each column's step: the least that it can be, where none is told."""
    step = np.maximum(np.abs(values).max(0) / 127 if step is None else step, 1e-11).astype(np.float32)
    return np.round(values / step).astype(np.int8), step


class Solver:
    """The equations of a kernel, for any targets of the looks that it learns from; and of each half of the hands alone."""

    def __init__(
        self,
        laid: Laid,
        looks: Float32[np.ndarray, "n k"],
        hand: Int64[np.ndarray, "n"],
        weight: Float32[np.ndarray, "n"],
        settings: KernelSettings,
    ) -> None:
        """`looks` are laid on the directions; `hand` numbers whose they are. A weight below `LEAST_WEIGHT` counts as that, so that
        every look teaches."""
        from scipy.linalg.blas import ssyrk

        self.laid, self.looks, self.settings, self.weight = laid, looks, settings, np.maximum(weight, LEAST_WEIGHT)
        self.known = laid.examples * laid.example_step
        self.half = hand % 2
        count = len(self.known) + looks.shape[1]
        self.sums = [np.zeros((count, count), np.float32, order="F") for _ in range(2)]
        for half, sums in enumerate(self.sums):
            for rows in self._parts(np.flatnonzero(self.half == half)):
                ssyrk(1.0, self._numbers(rows) * np.sqrt(self.weight[rows, None]), beta=1.0, c=sums, trans=1, lower=1, overwrite_c=1)

    def solve(self, target: Float32[np.ndarray, "n out"], ridge: float) -> Kernel:
        """What says this of other inputs."""
        mean = np.average(target, 0, self.weight).astype(np.float32)
        both = self._solved(self.sums[0] + self.sums[1], np.arange(len(target)), target - mean, ridge)
        gaussian, linear = np.split(both, [len(self.known)])
        return Kernel(**self.laid._asdict(), gaussian=gaussian, linear=linear, constant=mean)

    def missed(self, target: Float32[np.ndarray, "n out"], ridge: float) -> Float32[np.ndarray, "n out"]:
        """What is missing in what the other half of the hands says of each look."""
        gap = np.array(target, np.float32)
        for half, sums in enumerate(self.sums):
            learned, others = np.flatnonzero(self.half == half), np.flatnonzero(self.half != half)
            if not len(learned):
                continue
            mean = np.average(target[learned], 0, self.weight[learned]).astype(np.float32)
            both = self._solved(sums, learned, target[learned] - mean, ridge)
            for rows in self._parts(others):
                gap[rows] -= self._numbers(rows) @ both + mean
        return gap

    def _solved(self, sums: np.ndarray, rows: np.ndarray, target: np.ndarray, ridge: float) -> Float32[np.ndarray, "m out"]:
        from scipy.linalg import cho_factor, cho_solve

        matrix, m = np.array(sums, order="F"), len(self.known)
        matrix[:m, :m] += ridge * nearness(self.known, self.known, self.laid.narrow)
        matrix[np.diag_indices(m)] += ridge * GUARD
        matrix[np.arange(m, len(matrix)), np.arange(m, len(matrix))] += ridge / self.settings.linear
        right = np.zeros((len(matrix), target.shape[1]), np.float32)
        for part in self._parts(np.arange(len(rows))):
            right += self._numbers(rows[part]).T @ (self.weight[rows[part], None] * target[part])
        return np.asarray(cho_solve(cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False), right), np.float32)

    def _numbers(self, rows: np.ndarray) -> Float32[np.ndarray, "n m"]:
        """How near looks are to each example, and where they lie."""
        return np.concatenate([nearness(self.looks[rows], self.known, self.laid.narrow), self.looks[rows]], 1)

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.array_split(rows, max(len(rows) // AT_ONCE, 1)) if len(rows) else []
