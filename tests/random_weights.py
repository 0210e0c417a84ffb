"""Seeded random weights for a table of names and shapes, of a size that keeps the signal alive through a deep network."""

import torch
from torch import Tensor


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Matrices by their fan-in, norms near one, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator) if shape else torch.tensor(0)
        fan_in = max(1, values[0].numel() if len(shape) > 1 else 1)
        scale = fan_in**-0.5 if len(shape) > 1 and "pos_embed" not in name else 0.1
        if name.endswith("running_var"):
            values = 0.5 + values.abs()
        elif len(shape) == 1 and name.endswith("weight"):
            values = 1 + 0.1 * values
        elif shape:
            values = scale * values
        tensors[name] = values
    return tensors
