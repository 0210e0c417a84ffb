"""Faster R-CNN on a ResNet-101 pyramid (Ren et al., NeurIPS 2015), as detectron2 evaluates it, with its names: boxes of one class.

Everything behind the two heads runs in float32, whatever precision the convolutions have.
"""

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from torch.nn.functional import relu

from stages.detectors.contacthands.resnet_fpn import CHANNELS, STRIDES, FeaturePyramid
from stages.detectors.roi import moved, roi_align, suppress

ANCHOR_SIZES = (32, 64, 128, 256, 512)
"""Pixels, one a level."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width."""
NUM_PROPOSALS, PROPOSAL_IOU = 1000, 0.7
"""Before suppression a level, and after it a picture (detectron2's defaults for pyramids)."""
POOL = 7
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
NUM_DETECTIONS = 100


class RegionHead(nn.Module):
    """Objectness and box deltas of three anchors at each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.objectness_logits = nn.Conv2d(CHANNELS, len(RATIOS), 1)
        self.anchor_deltas = nn.Conv2d(CHANNELS, 4 * len(RATIOS), 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float32[Tensor, "b n"], Float32[Tensor, "b n 4"]]:
        x = relu(self.conv(x))
        logits = self.objectness_logits(x).float().permute(0, 2, 3, 1).flatten(1)
        deltas = self.anchor_deltas(x).float().unflatten(1, (len(RATIOS), 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        return logits, deltas


class BoxHead(nn.Module):
    """Pooled features to a class and box deltas."""

    def __init__(self) -> None:
        super().__init__()
        self.box_head = nn.Module()
        self.box_head.fc1 = nn.Linear(CHANNELS * POOL * POOL, 1024)
        self.box_head.fc2 = nn.Linear(1024, 1024)
        self.box_predictor = nn.Module()
        self.box_predictor.cls_score = nn.Linear(1024, 2)
        self.box_predictor.bbox_pred = nn.Linear(1024, 4)

    def forward(self, x: Float[Tensor, "n c 7 7"]) -> tuple[Float32[Tensor, "n"], Float32[Tensor, "n 4"]]:
        """Probability of the class, against the background, and deltas."""
        x = x.flatten(1)
        for layer in self.box_head.children():
            x = relu(layer(x))
        score, deltas = (layer(x).float() for layer in self.box_predictor.children())
        return score.softmax(1)[:, 0], deltas


class FasterRCNN(nn.Module):
    """Pictures to boxes."""

    def __init__(self, *, min_score: float, max_iou: float) -> None:
        super().__init__()
        self.min_score, self.max_iou = min_score, max_iou
        self.backbone = FeaturePyramid()
        self.proposal_generator = nn.Module()
        self.proposal_generator.rpn_head = RegionHead()
        self.roi_heads = BoxHead()

    def forward(self, pictures: Float[Tensor, "b 3 h w"], sizes: Int[Tensor, "b 2"]) -> Float32[Tensor, "b 100 5"]:
        """Box and score of each detection, best first, then rows of zeros. Pictures are padded with zeros from their own height and
        width, `sizes`, to multiples of 32."""
        maps = self.backbone(pictures)
        proposals = self.proposals(maps, sizes)
        picture = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor([len(box) for box in proposals])).to(pictures.device)
        box = torch.cat(proposals)
        score, deltas = self.roi_heads(pooled(maps, box, picture))
        box = clipped(moved(box, deltas, BOX_WEIGHTS), sizes[picture])
        found = pictures.new_zeros((len(pictures), NUM_DETECTIONS, 5), dtype=torch.float32)
        for i in range(len(pictures)):
            here = (picture == i) & (score > self.min_score) & box.isfinite().all(1)
            kept = suppress(box[here], score[here], self.max_iou)[:NUM_DETECTIONS]
            found[i, : len(kept)] = torch.cat([box[here], score[here, None]], 1)[kept]
        return found

    def proposals(self, maps: list[Tensor], sizes: Int[Tensor, "b 2"]) -> list[Float32[Tensor, "n 4"]]:
        """Where something may be, in each picture, best first."""
        levels: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sizes]
        for x, stride, anchor_size in zip(maps, STRIDES, ANCHOR_SIZES, strict=True):
            logits, deltas = self.proposal_generator.get_submodule("rpn_head")(x)
            anchors = anchor_boxes(x.shape[2], x.shape[3], stride, anchor_size).to(x.device)
            best, rows = logits.topk(min(NUM_PROPOSALS, logits.shape[1]), dim=1)
            for i, size in enumerate(sizes):
                box = clipped(moved(anchors[rows[i]], deltas[i, rows[i]], (1.0, 1.0, 1.0, 1.0)), size[None])
                real = ((box[:, 2:] - box[:, :2]) > 0).all(1) & box.isfinite().all(1)
                kept = suppress(box[real], best[i, real], PROPOSAL_IOU)
                levels[i].append((box[real][kept], best[i, real][kept]))
        merged = [(torch.cat([box for box, _ in of]), torch.cat([logit for _, logit in of])) for of in levels]
        return [box[logit.argsort(descending=True, stable=True)[:NUM_PROPOSALS]] for box, logit in merged]


def anchor_boxes(height: int, width: int, stride: int, size: int) -> Float32[Tensor, "n 4"]:
    """Boxes of about size x size pixels in three shapes at each cell's corner, row by row."""
    shapes = torch.tensor([[size / ratio**0.5, size * ratio**0.5] for ratio in RATIOS])
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
    corner = torch.stack([x, y], -1)[:, :, None].float()
    return torch.cat([corner - shapes / 2, corner + shapes / 2], -1).flatten(0, 2)


def pooled(maps: list[Tensor], box: Float32[Tensor, "n 4"], picture: Int[Tensor, "n"]) -> Float32[Tensor, "n c 7 7"]:
    """Features of each box, from the level whose cells suit its size (Lin et al., 2017, eq. 1)."""
    size = (box[:, 2:] - box[:, :2]).prod(1).sqrt()
    level = (4 + torch.log2(size / 224 + 1e-8)).floor().clamp(2, 5) - 2
    features = box.new_zeros(len(box), CHANNELS, POOL, POOL)
    for number, (x, stride) in enumerate(zip(maps[:4], STRIDES[:4], strict=True)):
        here = (level == number).nonzero()[:, 0]
        with torch.autocast(x.device.type, enabled=False):
            features[here] = roi_align(x, box[here], picture[here], stride=stride, size=POOL)
    return features


def clipped(box: Float32[Tensor, "n 4"], size: Int[Tensor, "*n 2"]) -> Float32[Tensor, "n 4"]:
    """Boxes within pictures of these heights and widths."""
    limit = size.flip(-1).repeat(1, 2).to(box)
    return torch.minimum(box.clamp(min=0), limit)
