"""The moving average of a network's weights: what is evaluated and shipped."""

import copy
import math

import torch
from torch import nn


class Average:
    """Exponential, in float32, slow at the start: decay 0.9999 (1 - exp(-n / 2000)) at the n-th step."""

    def __init__(self, network: nn.Module, decay: float = 0.9999, warmup: float = 2000.0) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.warmup = decay, warmup

    @torch.no_grad()
    def update(self, network: nn.Module, num_steps: int) -> None:
        """Take in the weights after step `num_steps` (counted from 1); integer buffers are copied."""
        keep = self.decay * (1 - math.exp(-num_steps / self.warmup))
        averaged, fresh = self.network.state_dict(), network.state_dict()
        real = [name for name, values in averaged.items() if values.is_floating_point()]
        torch._foreach_lerp_([averaged[name] for name in real], [fresh[name].to(averaged[name]) for name in real], 1 - keep)
        for name in averaged.keys() - set(real):
            averaged[name].copy_(fresh[name])


def warmup_for(num_steps: int) -> float:
    """The `warmup` by which a run of so many steps ends with an average over about its last twentieth; 2000 at the most.

    A shorter one would freeze the average at weights of the middle of the run.
    """
    return min(2000.0, num_steps / math.log(max(num_steps / 20, math.e)))
