"""A trained detector at work: images in, hands out. No suppression of duplicates where the one-to-one head was trained."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor, nn

from hands.drawing.hands import draw_hands
from stages import boxes
from stages.settings import with_values
from training.data.samples import FILL, placed
from training.detector.fast_decode import best_hands
from training.detector.network import Detections, Detector, DetectorSettings, anchors, decode
from training.run.checkpoint import Checkpoint, load_weights

SHIPPED = Path(__file__).parent / "assets" / "palm.pt"
"""The detector that comes with the project: docs/detector_palm.md."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class DetectedHands:
    """The hands of one image, best first; its pixels."""

    box: Float32[np.ndarray, "n 4"]
    score: Float32[np.ndarray, "n"]
    side: Int64[np.ndarray, "n"]  # 0 left, 1 right
    side_score: Float32[np.ndarray, "n"]  # of its side beside the other, in [0.5, 1]
    keypoints: Float32[np.ndarray, "n 21 3"]  # x, y, visibility

    def draw(self, canvas: UInt8[np.ndarray, "h w 3"]) -> None:
        """Draw them onto their image, keypoints only where they are likelier seen than not."""
        visible = self.keypoints * np.array([1, 1, 0], np.float32)
        visible[..., 2] = self.keypoints[..., 2] > 0.5
        draw_hands(canvas, self.side, self.box, self.score, visible)

    def take(self, rows: Bool[np.ndarray, "n"]) -> "DetectedHands":
        """The rows of a mask."""
        return DetectedHands(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class HandDetector:
    """A network ready to be called."""

    def __init__(self, network: Detector, *, size: int | None = None, threshold: float = 0.3, max_hands: int = 100) -> None:
        self.network = network.eval()
        self.size, self.threshold, self.max_hands = size or network.settings.image, threshold, max_hands

    @classmethod
    def load(
        cls, path: Path | None = None, device: torch.device | str = "cpu", *, size: int | None = None, threshold: float = 0.3
    ) -> "HandDetector":
        """The averaged weights of a checkpoint, or of the detector that ships, for images of the size it was trained on unless another is
        named, which is logged.

        Raises ValueError when it is none of a detector.
        """
        network = fused(read(path or SHIPPED)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if size and size != network.settings.image:
            _log.warning("%s was trained at %d px and is used at %d: its scores mean less", path or SHIPPED, network.settings.image, size)
        return cls(network, size=size, threshold=threshold)

    @torch.inference_mode()
    def __call__(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[DetectedHands]:
        """Hands of RGB images of any sizes, in one batch."""
        if not images:
            return []
        device = next(self.network.parameters()).device
        fitted = [letterboxed(image, self.size) for image in images]
        batch = torch.from_numpy(np.stack([square for square, _ in fitted])).to(device)
        count = self.max_hands if self.network.single is not None else 4 * self.max_hands
        prediction = best_hands(self.network, batch.permute(0, 3, 1, 2).float() / 255, count)
        return [self._hands(Detections(*(values[k] for values in prediction)), to_input) for k, (_, to_input) in enumerate(fitted)]

    def _hands(self, prediction: Detections, to_input: Float32[np.ndarray, "3"]) -> DetectedHands:
        best, sides = prediction.score.max(1)
        order = torch.nonzero(best >= self.threshold)[:, 0]
        if self.network.single is None:
            order = order[torch.from_numpy(unduplicated(prediction.box[order].cpu().numpy(), 0.6)).to(order.device)]
        order = order[: self.max_hands]
        box, score, side, points = (values[order].cpu().numpy() for values in (prediction.box, best, sides, prediction.keypoints))
        both = prediction.score[order].cpu().numpy()
        scale, shift = to_input[0], to_input[1:]
        points = np.concatenate([(points[..., :2] - shift) / scale, points[..., 2:]], -1)
        box = (box - np.tile(shift, 2)) / scale
        return DetectedHands(box=box, score=score, side=side, side_score=both.max(1) / np.maximum(both.sum(1), 1e-9), keypoints=points)


def read(path: Path) -> Detector:
    """The network of a checkpoint with its averaged weights. Raises ValueError when it is none of a detector."""
    saved = Checkpoint.load(path, "detector")
    try:
        settings = with_values(DetectorSettings(), saved.settings, "detector")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a detector that this version cannot build: {error}") from error
    network = Detector(settings)
    load_weights(network, saved.ema, path)
    return network.eval()


def detections(network: Detector, images: Float[Tensor, "b 3 h w"]) -> Detections:
    """Detections of every anchor, by the head that is meant for use: the one-to-one head where there is one. See `best_hands`."""
    many, one = network(images)
    raw = many if one is None else one
    return decode(raw, *anchors(images.shape[2], images.shape[3], raw.box))


def letterboxed(image: UInt8[np.ndarray, "h w 3"], size: int) -> tuple[UInt8[np.ndarray, "size size 3"], Float32[np.ndarray, "3"]]:
    """An image in the middle of a grey square, and scale and shift that take its pixels there."""
    height, width = image.shape[:2]
    left, top, wide, high = placed(width, height, size)
    scale = size / max(width, height)
    square = np.full((size, size, 3), FILL, np.uint8)
    square[top : top + high, left : left + wide] = cv2.resize(
        image, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return square, np.array([scale, left, top], np.float32)


def unduplicated(box: Float32[np.ndarray, "n 4"], max_iou: float) -> Int64[np.ndarray, "k"]:
    """Rows, best first, that overlap no better row by more (non-maximum suppression)."""
    return boxes.each_once(boxes.iou(box, box) > max_iou)


def fused(network: Detector) -> Detector:
    """Batch norms folded into the convolutions before them: the same answers, fewer passes over memory. In place."""
    network = network.eval()
    for module in network.modules():
        for (name, layer), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, nn.utils.fuse_conv_bn_eval(layer, norm))
                setattr(module, norm_name, nn.Identity())
    return network
