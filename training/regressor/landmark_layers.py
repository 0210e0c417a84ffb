"""Training of the network that stands beside a kernel: three layers that read the same directions, a minute of one core.

`stages.detectors.mediapipe.kernel.Layers` is what comes of it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from stages.detectors.mediapipe.kernel import Layers

WARMUP_STEPS = 100
DEVIATIONS_SHARE = 0.3
"""Weight of the deviations' loss beside the joints'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersSettings:
    """Size and training of the network. All ours."""

    hidden: int = 512
    steps: int = 4000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    noise: float = 0.05
    """Deviation of what is added to each number that is read, in deviations of all of them."""
    drop: float = 0.2
    """Share of the hidden numbers that are left out at each step; half as many of those that are read."""
    seed: int = 0


def train_layers(
    looks: Float32[np.ndarray, "n k"],
    joints: Float32[np.ndarray, "n 63"],
    deviations: Float32[np.ndarray, "n 21"],
    weight: Float32[np.ndarray, "n"],
    settings: LayersSettings,
) -> Layers:
    """The network that says joints, by their mean distance, and logarithms of deviations, by their mean square; a look is drawn by its
    weight."""
    torch.manual_seed(settings.seed)
    rng, k, h = np.random.default_rng(settings.seed), looks.shape[1], settings.hidden
    spread = np.sqrt(looks.std(0) + 1e-6)
    unit = (spread * (looks / spread).std()).astype(np.float32)  # the first directions count more, but not as much as they vary
    target = np.concatenate([joints, deviations], 1)
    middle = np.average(target, 0, weight).astype(np.float32)
    known = weight > 0
    size = np.repeat([joints[known].std() + 1e-6, deviations[known].std() + 1e-6], [joints.shape[1], deviations.shape[1]])
    size = size.astype(np.float32)
    shown, wanted = torch.from_numpy(looks / unit), torch.from_numpy((target - middle) / size)
    layers = [nn.Linear(k, h), nn.Linear(h, h), nn.Linear(h, target.shape[1])]
    network = nn.Sequential(
        nn.Dropout(settings.drop / 2), layers[0], nn.ReLU(), nn.Dropout(settings.drop),
        layers[1], nn.ReLU(), nn.Dropout(settings.drop), layers[2],
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    share = weight / weight.sum(dtype=np.float64)
    for number in range(settings.steps):
        rate = min(1.0, (number + 1) / WARMUP_STEPS) * 0.5 * (1 + np.cos(np.pi * number / settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        rows = torch.from_numpy(rng.choice(len(looks), settings.batch_size, p=share))
        gap = network(shown[rows] + settings.noise * torch.randn(len(rows), k)) - wanted[rows]
        apart, unsure = gap.split([joints.shape[1], deviations.shape[1]], 1)
        loss = apart.unflatten(1, (-1, 3)).norm(dim=2).mean() + DEVIATIONS_SHARE * (unsure**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights = [layer.weight.detach().numpy().T.copy() for layer in layers]
    biases = [layer.bias.detach().numpy().copy() for layer in layers]
    return Layers(
        weight_1=weights[0] / unit[:, None],
        bias_1=biases[0],
        weight_2=weights[1],
        bias_2=biases[1],
        weight_3=weights[2] * size,
        bias_3=biases[2] * size + middle,
    )
