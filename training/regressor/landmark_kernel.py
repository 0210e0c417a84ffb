"""Kernel ridge regression on what the landmark network says of looks: no steps, one system of equations.

`stages.detectors.mediapipe.kernel` is what comes of it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int8

from stages.detectors.mediapipe.kernel import MOST, Kernel, nearness

LEAST_WEIGHT = 0.05
"""Of an example: the ridge of others is beyond all measure."""
LAID_BY = 3000
"""Examples, about, by which directions are found."""
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
    """Examples in their principal directions, as `Kernel` holds them."""

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
    examples, example_step = in_steps(values @ (directions * step * size[:, None]))
    some = (examples * example_step)[:: max(len(examples) // 200, 1)]
    squared = ((some[:, None] - some) ** 2).sum(2)
    narrow = np.float32(settings.narrow / max(float(np.median(squared[np.triu_indices(len(some), 1)])) if len(some) > 1 else 1.0, 1e-9))
    return Laid(mean, scale, directions, step, examples, example_step, np.asarray(narrow))


def in_steps(values: Float32[np.ndarray, "n k"]) -> tuple[Int8[np.ndarray, "n k"], Float32[np.ndarray, "k"]]:
    """Columns as whole numbers of steps, 127 at most, and each column's step."""
    step = np.maximum(np.abs(values).max(0), 1e-9).astype(np.float32) / 127
    return np.round(values / step).astype(np.int8), step


class Solver:
    """The equations of some examples with one ridge, for any targets."""

    def __init__(self, laid: Laid, weight: Float32[np.ndarray, "n"], settings: KernelSettings, ridge: float) -> None:
        from scipy.linalg import cho_factor

        self.laid, self.settings, self.weight = laid, settings, np.maximum(weight, LEAST_WEIGHT)
        self.known = laid.examples * laid.example_step
        matrix = nearness(self.known, self.known, laid.narrow) + settings.linear * self.known @ self.known.T
        matrix[np.diag_indices(len(matrix))] += ridge / self.weight
        self.factor, _ = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)

    def solve(self, target: Float32[np.ndarray, "n out"]) -> Kernel:
        """What says this of other inputs."""
        weights, mean = self._weights(target)
        linear = self.settings.linear * self.known.T @ weights
        return Kernel(**self.laid._asdict(), gaussian=weights, linear=linear, constant=mean)

    def left_out(self, target: Float32[np.ndarray, "n out"]) -> Float32[np.ndarray, "n out"]:
        """What is missing in what all other examples say of each: its weight over its place in the inverse (Allen, 1974)."""
        from scipy.linalg.lapack import spotri

        inverse, _ = spotri(self.factor, lower=1)
        return np.asarray(self._weights(target)[0] / np.diag(inverse)[:, None], np.float32)

    def _weights(self, target: Float32[np.ndarray, "n out"]) -> tuple[Float32[np.ndarray, "n out"], Float32[np.ndarray, "out"]]:
        """Weights of the examples, and the targets' mean, about which they are told."""
        from scipy.linalg import cho_solve

        mean = np.average(target, 0, self.weight).astype(np.float32)
        return cho_solve((self.factor, True), target - mean, check_finite=False), mean
