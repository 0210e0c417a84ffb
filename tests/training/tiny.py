"""A task so small that a test can train it, and a program that trains one rank of it."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.samples import Frames
from training.run.loop import Run, TrainSettings


@dataclass(kw_only=True)
class MeanColour:
    """Learn the mean colour of an image."""

    norm: bool = True
    width: int = 8
    image: int = 416
    """No weight tells of it."""
    bad_steps: tuple[int, ...] = ()
    """Whose images are not a number."""
    metrics: tuple[float, ...] | None = ()
    """What `evaluate` says, epoch after epoch; empty: the network's own; None: nothing."""
    pause_s: float = 0.0
    stands_at: int = 0
    """Step of this process at which it waits to be killed; 0: none."""
    begun: int = 0
    asked: int = 0
    doors: Path | None = None
    """File that takes the addresses at which each rank listens."""

    kind = "mean colour"
    metric = "good"

    def network(self) -> nn.Module:
        norm = nn.BatchNorm2d(self.width) if self.norm else nn.Identity()
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.width, 3))
        return nn.Sequential(nn.Conv2d(3, self.width, 3, 2), norm, nn.SiLU(), *pooled)

    def settings(self) -> Mapping[str, Any]:
        return {"width": self.width, "image": self.image}

    def begin_step(self) -> None:
        time.sleep(self.pause_s)
        self.begun += 1
        while self.begun == self.stands_at:
            time.sleep(1)

    def loss(self, network: nn.Module, batch: Any, device: torch.device, share_done: float) -> Mapping[str, Tensor]:
        self.begin_step()
        if self.doors:
            found = [c.laddr.ip.removeprefix("::ffff:") for c in psutil.Process().net_connections() if c.status == "LISTEN"]
            with self.doors.open("a") as file:
                file.write(f"{os.getpid()} {' '.join(found)}\n")
        pictures = batch.images.permute(0, 3, 1, 2).float() / 255
        wanted = pictures.mean((2, 3))
        if batch.step in self.bad_steps:
            pictures = pictures * torch.nan
        return {"colour": ((network(pictures) - wanted) ** 2).mean()}

    def evaluate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        if self.metrics is None:
            return {}
        self.asked += 1
        if self.metrics:
            return {"good": self.metrics[min(self.asked, len(self.metrics)) - 1]}
        with torch.no_grad():
            said = network(torch.full((1, 3, 32, 32), 0.5))
        return {"good": -float((said - 0.5).abs().mean())}

    def draw(self, network: nn.Module, device: torch.device, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@dataclass(kw_only=True)
class ContestedColour(MeanColour):
    """MeanColour with an adversary that learns to tell what the network says from the truth, and a network that draws random numbers."""

    adversary_rate = 2.0
    frozen: str = "0."
    """Parameters whose name begins so learn nothing."""

    def network(self) -> nn.Module:
        return nn.Sequential(*super().network(), nn.Dropout(0.1))  # type: ignore[misc]

    def groups(self, network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        named = list(network.named_parameters())
        parts = [[p for name, p in named if bool(self.frozen) and name.startswith(self.frozen)], []]
        parts[1] = [p for _, p in named if not any(p is other for other in parts[0])]
        return [{"params": part, "weight_decay": weight_decay, "share": float(share)} for share, part in enumerate(parts)]

    def adversary(self) -> nn.Module:
        return nn.Linear(3, 1)

    def loss_against(
        self, network: nn.Module, adversary: nn.Module, batch: Any, device: torch.device, share_done: float
    ) -> tuple[Mapping[str, Tensor], Any]:
        self.begin_step()
        pictures = batch.images.permute(0, 3, 1, 2).float() / 255
        wanted, said = pictures.mean((2, 3)), network(pictures)
        return {"colour": ((said - wanted) ** 2).mean(), "fooled": 0.01 * ((adversary(said) - 1) ** 2).mean()}, (said.detach(), wanted)

    def adversary_loss(self, adversary: nn.Module, said: Any) -> Mapping[str, Tensor]:
        invented, real = said
        return {"adversary": (adversary(invented) ** 2).mean() + ((adversary(real) - 1) ** 2).mean()}


def run(shards: list[Path], folder: Path, task: MeanColour, *, batch: int = 8, rank: int = 0, world_size: int = 1, **settings: Any) -> Run:
    frames = Frames(dataset=Dataset.of(shards, shards[0].parents[1] / "cache"), size=32)
    loader = Loader(sources=[frames], batch_size=batch, rank=rank, world_size=world_size, num_threads=1)
    chosen = TrainSettings(**({"epochs": 2, "learning_rate": 1e-2, "warmup_steps": 5} | settings))
    return Run(task, loader, chosen, folder)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world_size > 1:
        torch.distributed.init_process_group("gloo")
    paths = [Path(path) for path in told["shards"]]
    kind = ContestedColour if told.get("contested") else MeanColour
    run(paths, Path(told["folder"]), kind(**told["task"]), rank=rank, world_size=world_size, **told["settings"]).train()
    if world_size > 1:  # a rank that ends with its group standing may be aborted by gloo's own threads
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        os._exit(0)  # and one that unloads torch by its threads; what was trained is on the disk
