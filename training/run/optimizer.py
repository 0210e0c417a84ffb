"""Optimizers: AdamW, or Muon for the matrices inside a transformer and AdamW for the rest."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

Kind = Literal["adamw", "muon"]


class Both:
    """Two optimizers that step together, each with parameters of its own; to a run they are one."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.parts = (first, second)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)


def optimizer_of(kind: Kind, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer | Both:
    """The optimizer of groups of parameters, each with its `weight_decay`; Muon takes those that say `inner`, matrices between layers.

    Muon steps along the orthogonal matrix nearest to the momentum (Jordan et al. 2024), here as long as AdamW's steps (Liu et al. 2025,
    section 2.2), so that one learning rate serves both. Raises ValueError where nothing is left for it.
    """
    inner, others = ([group for group in groups if group.get("inner", False) is is_inner] for is_inner in (True, False))
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    if not inner:
        raise ValueError("train.optimizer muon is for the matrices inside a transformer, and this network has none: take adamw")
    muon = torch.optim.Muon(inner, lr=learning_rate, adjust_lr_fn="match_rms_adamw")
    return Both(muon, torch.optim.AdamW(others, lr=learning_rate, fused=True))


def plain_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay, biases and norms do not."""
    heavy = [p for p in network.parameters() if p.ndim > 1]
    light = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": heavy, "weight_decay": weight_decay}, {"params": light, "weight_decay": 0.0}]
