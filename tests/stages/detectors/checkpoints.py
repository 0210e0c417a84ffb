"""Checkpoints of official layouts, filled with seeded random numbers: tables of names and shapes, independent of our modules."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

Layout = Mapping[str, tuple[int, ...]]
"""Shape by tensor name."""


def random_state(layout: Layout, *, seed: int = 0) -> dict[str, Tensor]:
    """Weights scaled so that signals keep their size; running variances and norm weights positive; counters zero."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in layout.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            state[name] = torch.rand(shape, generator=generator) * 0.5 + 0.75
        elif len(shape) == 1:
            state[name] = torch.randn(shape, generator=generator) * 0.1
        else:
            inputs = torch.Size(shape[1:]).numel()
            state[name] = torch.randn(shape, generator=generator) * (2 / inputs) ** 0.5
    return state


def save(state: Mapping[str, Tensor], path: Path, **wrapping: object) -> Path:
    """A checkpoint file; with `wrapping`, under the key `model` beside these others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": dict(state), **wrapping} if wrapping else dict(state), path)
    return path
