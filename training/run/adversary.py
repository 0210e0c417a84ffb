"""A second network that a task's network plays against, and that learns in turn, by an optimizer of its own."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.data.loader import Batch


@runtime_checkable
class Adversarial(Protocol):
    """A task with an adversary: its loss is asked for with the adversary at hand, which learns from what the network predicted."""

    adversary_rate: float
    """The adversary's learning rate over the network's."""

    def adversary(self) -> nn.Module:
        """A fresh second network."""

    def loss_against(
        self, network: nn.Module, adversary: nn.Module, batch: Batch, device: torch.device, share_done: float
    ) -> tuple[Mapping[str, Tensor], Any]:
        """The network's weighted terms, and what the adversary is to judge, without gradient. The adversary does not learn from these."""

    def adversary_loss(self, adversary: nn.Module, prediction: Any) -> Mapping[str, Tensor]:
        """The adversary's weighted terms."""


class Adversary:
    """The second network of a run."""

    def __init__(self, task: Adversarial, weight_decay: float, device: torch.device, world_size: int) -> None:
        self.task = task
        self.plain = task.adversary().to(device)
        self.network = DistributedDataParallel(self.plain) if world_size > 1 else self.plain
        self.optimizer = torch.optim.AdamW(self.plain.parameters(), weight_decay=weight_decay)

    def state(self) -> dict[str, Any]:
        """All that decides its steps to come."""
        return {"network": self.plain.state_dict(), "optimizer": self.optimizer.state_dict()}

    def gradient(self, prediction: Any) -> Mapping[str, Tensor]:
        """Terms of the adversary's loss; leaves their gradient in its parameters."""
        self.plain.requires_grad_(True)
        terms = self.task.adversary_loss(self.network, prediction)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        return terms

    def step(self, rate: float) -> None:
        """Change the adversary's weights by the gradient."""
        self.optimizer.param_groups[0]["lr"] = self.task.adversary_rate * rate
        self.optimizer.step()
