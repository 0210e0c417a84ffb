"""A second network that a task's network plays against, and that learns in turn, by an optimizer of its own."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.data.loader import Batch


@runtime_checkable
class Adversarial(Protocol):
    """A task with a rival: its loss is asked for with the rival at hand, and the rival learns from what the network said."""

    rival_rate: float
    """The rival's learning rate over the network's."""

    def rival(self) -> nn.Module:
        """A fresh one."""

    def loss_against(
        self, network: nn.Module, rival: nn.Module, batch: Batch, device: torch.device, share_done: float
    ) -> tuple[Mapping[str, Tensor], Any]:
        """The network's weighted terms, and what the rival is to judge, without gradient. The rival does not learn from these."""

    def rival_loss(self, rival: nn.Module, said: Any) -> Mapping[str, Tensor]:
        """The rival's weighted terms."""


class Rival:
    """The second network of a run."""

    def __init__(self, task: Adversarial, weight_decay: float, device: torch.device, world_size: int) -> None:
        self.task = task
        self.plain = task.rival().to(device)
        self.network = DistributedDataParallel(self.plain) if world_size > 1 else self.plain
        self.optimizer = torch.optim.AdamW(self.plain.parameters(), weight_decay=weight_decay)

    def state(self) -> dict[str, Any]:
        """All that decides its steps to come."""
        return {"network": self.plain.state_dict(), "optimizer": self.optimizer.state_dict()}

    def gradient(self, said: Any) -> Mapping[str, Tensor]:
        """Its terms, and their gradient in its parameters."""
        self.plain.requires_grad_(True)
        terms = self.task.rival_loss(self.network, said)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        return terms

    def step(self, rate: float) -> None:
        """Learn from the gradient."""
        self.optimizer.param_groups[0]["lr"] = self.task.rival_rate * rate
        self.optimizer.step()
