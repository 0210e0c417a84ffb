"""The regressor as a task of the training loop: its loss, its discriminator, its metrics, and images of its predictions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fitting.hand.mano import RIGHT
from hands.drawing.hands import draw_mesh, draw_targets, mesh_faces
from hands.drawing.sheets import sheet, write_image
from training.data.loader import Batch
from training.detector.augment import as_floats
from training.regressor.augment import CropAugmentation, augment
from training.regressor.camera import project_to_crop
from training.regressor.discriminator import Discriminator
from training.regressor.evaluate import Benchmark, evaluate
from training.regressor.hand import HandLayer
from training.regressor.losses import discriminator_loss
from training.regressor.network import Regressor, RegressorSettings
from training.regressor.objective import RegressorLossWeights, regressor_loss
from training.regressor.pretrained import layer_decay_groups, load_vitpose
from training.regressor.targets import HandTargets, targets_of
from training.run.checkpoint import Checkpoint, load_weights

METRICS = ("pa_mpjpe_mm", "pa_mpvpe_mm", "proper_pa_mpjpe_mm", "proper_pa_mpvpe_mm", "proper_pa_auc_j", "root_mpjpe_mm")
"""Noted after every epoch, of those of `hands.metrics.hands.evaluate_hands3d`."""


class Poses(NamedTuple):
    """Hands that the discriminator looks at: real ones with their weight, and estimated ones, the last of each crop."""

    real_pose: Float[Tensor, "b 15 3 3"]
    real_betas: Float[Tensor, "b 10"]
    real_weight: Float[Tensor, "b"]
    pose: Float[Tensor, "b 15 3 3"]
    betas: Float[Tensor, "b 10"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressorTask:
    """The regressor on crops of hands, without an adversary."""

    held_out: Benchmark | None
    """Hands that are not trained on; without them nothing is measured."""
    network_settings: RegressorSettings = field(default_factory=RegressorSettings)
    augmentation: CropAugmentation = field(default_factory=CropAugmentation)
    weights: RegressorLossWeights = field(default_factory=RegressorLossWeights)
    margin: float = 1.5
    """Side of the training images over the network's crop: room to turn and to shift."""
    vitpose: Path | None = None
    """Checkpoint that the transformer begins with."""
    start: Path | None = None
    """A checkpoint of the same network to begin with."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block to the one before it; 0.75 from ViTPose's weights."""

    kind = "regressor"
    metric = "proper_pa_auc_j"

    def network(self) -> nn.Module:
        network = Regressor(self.network_settings)
        if self.vitpose:
            load_vitpose(network.backbone, self.vitpose)  # type: ignore[arg-type]
        if self.start:
            load_weights(network, Checkpoint.load(self.start, "regressor").ema, self.start)
        return network

    def settings(self) -> Mapping[str, Any]:
        return asdict(self.network_settings)

    def groups(self, network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        return layer_decay_groups(network, self.layer_decay, weight_decay)

    def loss(self, network: nn.Module, batch: Batch, device: torch.device, share_done: float) -> Mapping[str, Tensor]:
        """Weighted terms of every estimate."""
        crops, targets = self._augmented(network, batch, device)
        return regressor_loss(network(crops), targets, self.weights)

    def evaluate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Figures of the last estimate, and of the first as `coarse_...` where the network refines."""
        if self.held_out is None:
            return {}
        found = evaluate(network, self.held_out).evaluations  # type: ignore[arg-type]
        last = found.get("refined", found["coarse"]).metrics
        coarse = {f"coarse_{name}": found["coarse"].metrics[name] for name in METRICS} if "refined" in found else {}
        return {name: last[name] for name in METRICS} | coarse

    def draw(self, network: nn.Module, device: torch.device, path: Path) -> None:
        """A sheet of held-out crops: the last mesh, and the true joints as white dots."""
        if self.held_out is None:
            return
        crops = self.held_out.crops
        rows = np.linspace(0, len(crops) - 1, min(24, len(crops))).astype(int).tolist()
        images = np.empty((len(rows), *crops.shape), np.uint8)
        for row, image in zip(rows, images, strict=True):
            crops.decode(row, image)
        targets = targets_of(crops.labels(rows), crops.size, 1.0, hand_layer(network), device)
        with torch.inference_mode():
            prediction = network(as_floats(torch.from_numpy(images).to(device)))[-1]
            pixels = (project_to_crop(prediction.vertices, prediction.camera) + 0.5) * crops.size - 0.5
        faces = mesh_faces(RIGHT)
        for k, image in enumerate(images):
            draw_mesh(image, prediction.vertices[k].cpu().numpy(), pixels[k].cpu().numpy(), faces, RIGHT)
            draw_targets(image, (targets.points[k].cpu().numpy() + 0.5) * crops.size - 0.5)
        write_image(path, sheet(list(images), 6))

    def _augmented(self, network: nn.Module, batch: Batch, device: torch.device) -> tuple[Float[Tensor, "b 3 256 256"], HandTargets]:
        images = as_floats(batch.images.to(device, non_blocking=True))
        with torch.no_grad():
            targets = targets_of(batch.labels, batch.images.shape[1], self.margin, hand_layer(network), device)
            return augment(images, targets, batch.key.to(device), self.augmentation, self.margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdversarialRegressorTask(RegressorTask):
    """The regressor with the discriminator of eq. 8, for which the true poses of the batch are the real ones (as in HaMeR)."""

    adversary_rate = 1.0

    def adversary(self) -> nn.Module:
        return Discriminator()

    def loss_against(
        self, network: nn.Module, adversary: nn.Module, batch: Batch, device: torch.device, share_done: float
    ) -> tuple[Mapping[str, Tensor], Poses]:
        crops, targets = self._augmented(network, batch, device)
        predictions = network(crops)
        opinions = [adversary(hand.rotations[:, 1:], hand.betas) for hand in predictions]
        last, known = predictions[-1], targets.weight * (targets.has_mano & targets.has_betas)
        poses = Poses(targets.rotations[:, 1:], targets.betas, known, last.rotations[:, 1:].detach(), last.betas.detach())
        return regressor_loss(predictions, targets, self.weights, opinions), poses

    def adversary_loss(self, adversary: nn.Module, poses: Any) -> Mapping[str, Tensor]:
        """The discriminator's loss over crops whose pose is known; the others have nothing to be told from."""
        both = adversary(torch.cat([poses.real_pose, poses.pose]), torch.cat([poses.real_betas, poses.betas]))
        real, invented = both.chunk(2)
        return {"discriminator": (poses.real_weight * discriminator_loss(real, invented)).mean()}


def hand_layer(network: nn.Module) -> HandLayer:
    """The hand model inside a network, however the network is wrapped."""
    return next(module for module in network.modules() if isinstance(module, HandLayer))
