"""The detector as a task of the training loop: its loss, its metrics, and images of its predictions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hands.drawing.hands import TARGET_COLOUR, draw_box
from hands.drawing.sheets import sheet, write_image
from training.data.loader import Batch
from training.data.readers.shard_frames import shard_frames
from training.data.samples import Frames
from training.detector.augment import Augmentation, as_floats, augment, of_training
from training.detector.evaluate import LEAST_SCORE, evaluate, metrics
from training.detector.inference import HandDetector
from training.detector.network import Detector, DetectorSettings
from training.detector.objective import DetectorLossWeights, detector_loss, targets_of, tensors
from training.run.checkpoint import Checkpoint, load_weights
from training.run.optimizer import plain_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorTask:
    """The detector, trained on frames."""

    held_out: Frames | None
    """Frames of videos that are not trained on; without them nothing is measured."""
    network_settings: DetectorSettings = field(default_factory=DetectorSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    weights: DetectorLossWeights = field(default_factory=DetectorLossWeights)
    plain_share: float = 0.1
    """Share of a run, at its end, that sees no mosaic and no mixup, so that it ends on images as they are (YOLOX)."""
    one_to_one: tuple[float, float] = (0.2, 0.9)
    """Share of the one-to-one head in the loss at the beginning and at the end (the rest is the one-to-many head's)."""
    backbone_weights: Path | None = None
    """Learned on ImageNet, for a backbone that has such."""
    start: Path | None = None
    """A checkpoint of the same network to begin with."""
    trunk_share: float = 0.1
    """Share of the learning rate for the palm network, which has learned already."""
    trunk_from: float = 0.2
    """Share of a run after which it learns at all: until then the heads say nothing that it should listen to."""

    kind = "detector"
    metric = "ap"

    def network(self) -> nn.Module:
        network = Detector(self.network_settings)
        if self.backbone_weights:
            network.load_backbone(self.backbone_weights)
        if self.start:
            load_weights(network, Checkpoint.load(self.start, "detector").ema, self.start)
        return network

    def settings(self) -> Mapping[str, Any]:
        return asdict(self.network_settings)

    def groups(self, network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """All parameters alike, but for a backbone that has learned already."""
        if self.network_settings.backbone != "palm":
            return plain_groups(network, weight_decay)
        named = list(network.named_parameters())
        heads = nn.ParameterList(values for name, values in named if not name.startswith("backbone."))
        trunk = [values for name, values in named if name.startswith("backbone.") and values.requires_grad]
        learned = {"params": trunk, "weight_decay": 0.0, "share": self.trunk_share, "learns_from": self.trunk_from}
        return [*plain_groups(heads, weight_decay), learned]

    def loss(self, network: nn.Module, batch: Batch, device: torch.device, share_done: float) -> Mapping[str, Tensor]:
        """Terms of both heads, each head by its share."""
        images = as_floats(batch.images.to(device, non_blocking=True))
        picture = np.argsort(batch.samples.dataset, kind="stable")  # the loader has the images of one dataset after those of another
        labels = of_training(tensors(batch.labels, device), torch.from_numpy(picture).to(device), images.shape[2])
        chosen = self.augmentation if share_done < 1 - self.plain_share else _without_mosaic(self.augmentation)
        with torch.no_grad():
            images, labels = augment(images, labels, batch.key.to(device), chosen)
            targets = targets_of(labels, len(images))
        many, one = network(images.contiguous(memory_format=torch.channels_last))
        size = (images.shape[2], images.shape[3])
        first, last = self.one_to_one
        share = first + (last - first) * share_done if one is not None else 0.0
        dense = detector_loss(many, targets, size, self.weights, share_done=share_done)
        terms = {name: (1 - share) * value for name, value in dense._asdict().items()}
        if one is not None:
            single = detector_loss(one, targets, size, self.weights, num_anchors=1, share_done=share_done)
            terms |= {f"single_{name}": share * value for name, value in single._asdict().items()}
        return terms

    def evaluate(self, network: nn.Module, device: torch.device) -> Mapping[str, float]:
        """COCO's figures without regard to sides, and by side; precision, recall and side at a score of 0.3."""
        if self.held_out is None:
            return {}
        detector = HandDetector(network, size=self.held_out.size, threshold=LEAST_SCORE)  # type: ignore[arg-type]
        return metrics(evaluate(detector, shard_frames(self.held_out)))

    def draw(self, network: nn.Module, device: torch.device, path: Path) -> None:
        """A sheet of held-out frames: labels white, left hands blue, right hands orange."""
        if self.held_out is None:
            return
        detector = HandDetector(network, size=self.held_out.size)  # type: ignore[arg-type]
        rows = np.linspace(0, len(self.held_out) - 1, min(12, len(self.held_out))).astype(int).tolist()
        drawn = []
        for frame in shard_frames(self.held_out, rows):
            image = frame.image()
            (hands,) = detector([image])
            for box in frame.box:
                draw_box(image, box, TARGET_COLOUR)
            hands.draw(image)
            drawn.append(image)
        if drawn:
            write_image(path, sheet(drawn, 4))


def _without_mosaic(chosen: Augmentation) -> Augmentation:
    return replace(chosen, mosaic=0.0, mixup=0.0)
