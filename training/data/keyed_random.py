"""Random numbers that hang on a sample's key alone: the same augmentation on any device, in any batch, after any resume."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def uniform(key: Int64[Tensor, "b"], stream: int, count: int = 1) -> Float[Tensor, "b count"]:
    """Numbers in [0, 1), float32; another `stream` for every use. SplitMix64's finaliser of key + n golden ratios, 24 bits of it."""
    golden, first, second = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    nth = torch.arange(1, count + 1, device=key.device) + (stream << 16)
    value = key[:, None] + golden * nth
    value = (value ^ _shifted(value, 30)) * first
    value = (value ^ _shifted(value, 27)) * second
    value = value ^ _shifted(value, 31)
    return _shifted(value, 40).to(torch.float32) / (1 << 24)


def between(key: Int64[Tensor, "b"], stream: int, low: float, high: float) -> Float[Tensor, "b"]:
    """Uniform in [low, high)."""
    return low + (high - low) * uniform(key, stream)[:, 0]


def _shifted(value: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    """Shift right without the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
