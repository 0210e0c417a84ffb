"""The moving average of a network's weights: what is evaluated and shipped."""

import copy

import torch
from torch import nn

RECENT = 20
"""The average is over about the last twentieth of the steps so far, until `decay` bounds it."""


class Ema:
    """Exponential, in float32: after step n it keeps n / (n + 20) of what it was, `decay` at the most.

    The window grows with the run, so that a run of any length, known or not, ends with an average of its end: neither of steps of the
    start, nor of a handful, as a window has that opens by a fixed number of steps.
    """

    def __init__(self, network: nn.Module, decay: float = 0.9999) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, num_steps: int) -> None:
        """Take in the weights after step `num_steps` (counted from 1); integer buffers are copied."""
        keep = min(self.decay, num_steps / (num_steps + RECENT))
        averaged, fresh = self.network.state_dict(), network.state_dict()
        real = [name for name, values in averaged.items() if values.is_floating_point()]
        torch._foreach_lerp_([averaged[name] for name in real], [fresh[name].to(averaged[name]) for name in real], 1 - keep)
        for name in averaged.keys() - set(real):
            averaged[name].copy_(fresh[name])
