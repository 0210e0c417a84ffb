"""A detector's checkpoint whose weights are random, but all of which matter."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from training.detector.network import Detector, DetectorSettings
from training.run.checkpoint import Checkpoint, Progress


def random_detector(settings: DetectorSettings | None = None, seed: int = 0) -> Detector:
    """With norms as after training, and scores from low to high."""
    torch.manual_seed(seed)
    network = Detector(settings or DetectorSettings())
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            torch.nn.init.uniform_(module.weight, 0.8, 1.6)
    for heads in (network.heads, network.single):
        for branch in heads.branches["side"] if heads is not None else ():  # type: ignore[union-attr]
            torch.nn.init.zeros_(branch[-1].bias)
            torch.nn.init.normal_(branch[-1].weight, 0, 4.0)
    return network.eval()


def save(network: Detector, path: Path) -> Path:
    weights = network.state_dict()
    made: dict[str, Any] = {"kind": "detector", "settings": asdict(network.settings), "network": weights, "ema": weights}
    Checkpoint(**made, optimizer={}, progress=Progress(), data="random").save(path)
    return path
