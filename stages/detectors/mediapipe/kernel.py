"""A smooth function learned from examples: what it says of an input is what was true of the examples near it (kernel ridge regression, with
a Gaussian and a linear kernel; Saunders, Gammerman and Vovk, 1998), and beside it a network of three layers on the same numbers. Both err,
but not alike: their mean is nearer than either. `training.regressor.landmark_kernel` and `landmark_layers` learn them.

Convention. Inputs are centred and scaled, cut off at `MOST` deviations and laid on principal directions, in which examples are near or not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int8

from fitting.files import read_arrays

MOST = 6.0
"""Deviations beyond which an input is no odder."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Kernel:
    """What examples taught. Directions and examples are whole numbers of steps, 127 at most, so that they fill a quarter of the room."""

    mean: Float32[np.ndarray, "d"]
    scale: Float32[np.ndarray, "d"]
    directions: Int8[np.ndarray, "d k"]
    step: Float32[np.ndarray, "k"]
    examples: Int8[np.ndarray, "n k"]
    example_step: Float32[np.ndarray, "k"]
    narrow: Float32[np.ndarray, ""]  # an example at distance r counts exp(-narrow r^2)
    gaussian: Float32[np.ndarray, "n out"]
    linear: Float32[np.ndarray, "k out"]
    constant: Float32[np.ndarray, "out"]

    def ready(self) -> Callable[[Float32[np.ndarray, "m k"]], Float32[np.ndarray, "m out"]]:
        """What is said of inputs as they lie on the directions (`placed`); with all numbers unpacked, 4 bytes each."""
        known = self.examples * self.example_step
        sizes = (known**2).sum(1)
        return lambda laid: np.asarray(nearness(laid, known, self.narrow, sizes) @ self.gaussian + laid @ self.linear + self.constant)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Layers:
    """A network that reads inputs as they lie on a kernel's directions, with ReLU between its layers."""

    weight_1: Float32[np.ndarray, "k h"]
    bias_1: Float32[np.ndarray, "h"]
    weight_2: Float32[np.ndarray, "h h"]
    bias_2: Float32[np.ndarray, "h"]
    weight_3: Float32[np.ndarray, "h out"]
    bias_3: Float32[np.ndarray, "out"]

    def __call__(self, laid: Float32[np.ndarray, "m k"]) -> Float32[np.ndarray, "m out"]:
        hidden = np.maximum(laid @ self.weight_1 + self.bias_1, 0)
        hidden = np.maximum(hidden @ self.weight_2 + self.bias_2, 0)
        return np.asarray(hidden @ self.weight_3 + self.bias_3)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Learned:
    """A kernel and a network on its directions, whose mean is said."""

    kernel: Kernel
    layers: Layers

    def ready(self) -> Callable[[Float32[np.ndarray, "m d"]], Float32[np.ndarray, "m out"]]:
        """Inputs in, what is said of them out; with all numbers unpacked, 4 bytes each."""
        own = self.kernel
        place, of_laid = placed(own.mean, own.scale, own.directions, own.step), own.ready()

        def say(inputs: Float32[np.ndarray, "m d"]) -> Float32[np.ndarray, "m out"]:
            laid = place(inputs)
            return np.asarray((of_laid(laid) + self.layers(laid)) / 2)

        return say

    def save(self, path: Path) -> None:
        """Write what `read_learned` reads, whole or not at all; weights in half precision."""
        arrays = {field.name: getattr(one, field.name) for one in (self.kernel, self.layers) for field in fields(one)}
        halved = {name: values.astype(np.float16) if name in _HALVED else values for name, values in arrays.items()}
        aside = path.with_suffix(".partial.npz")
        np.savez_compressed(aside, **halved)
        aside.rename(path)


_HALVED = ("gaussian", "linear", *(field.name for field in fields(Layers)))


def placed(
    mean: Float32[np.ndarray, "d"], scale: Float32[np.ndarray, "d"], directions: Int8[np.ndarray, "d k"], step: Float32[np.ndarray, "k"]
) -> Callable[[Float32[np.ndarray, "m d"]], Float32[np.ndarray, "m k"]]:
    """Where inputs lie on the directions, as a function."""
    unpacked = directions * step
    return lambda inputs: np.asarray(np.clip((inputs - mean) / scale, -MOST, MOST) @ unpacked)


def nearness(
    one: Float32[np.ndarray, "m k"],
    other: Float32[np.ndarray, "n k"],
    narrow: float | np.ndarray,
    sizes: Float32[np.ndarray, "n"] | None = None,
) -> Float32[np.ndarray, "m n"]:
    """The Gaussian kernel of every pair; `sizes` are the squared lengths of the others, where they are known."""
    squared = (one**2).sum(1)[:, None] + ((other**2).sum(1) if sizes is None else sizes) - 2 * (one @ other.T)
    return np.asarray(np.exp(-narrow * np.maximum(squared, 0)), np.float32)


def read_learned(path: Path, num_inputs: int, num_outputs: int) -> Learned:
    """What `Learned.save` wrote. Raises ValueError where the file holds something else, or what reads and says other numbers."""
    names = [field.name for kind in (Kernel, Layers) for field in fields(kind)]
    arrays: Mapping[str, np.ndarray] = read_arrays(path, names)
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"{path} is not what whim train landmarks writes ({', '.join(missing)} missing): train it anew")
    k, n, h, out = arrays["step"].size, arrays["gaussian"].size // num_outputs, arrays["bias_1"].size, num_outputs
    wanted = {
        "mean": (num_inputs,), "scale": (num_inputs,), "directions": (num_inputs, k), "step": (k,), "examples": (n, k),
        "example_step": (k,), "narrow": (), "gaussian": (n, out), "linear": (k, out), "constant": (out,),
        "weight_1": (k, h), "bias_1": (h,), "weight_2": (h, h), "bias_2": (h,), "weight_3": (h, out), "bias_3": (out,),
    }  # fmt: skip
    if odd := [name for name, shape in wanted.items() if arrays[name].shape != shape]:
        raise ValueError(f"{path}: {', '.join(odd)} of another shape: train it anew by whim train landmarks")
    whole = ("directions", "examples")
    kept = {name: values.astype(np.int8 if name in whole else np.float32) for name, values in arrays.items()}
    kernel, layers = ({field.name: kept[field.name] for field in fields(kind)} for kind in (Kernel, Layers))
    return Learned(kernel=Kernel(**kernel), layers=Layers(**layers))
