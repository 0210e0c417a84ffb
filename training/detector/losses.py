"""The terms of the detector's loss (WiLoR, eq. 5), one value an anchor, unreduced."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SIGMAS = (
    0.029,
    *(0.022, 0.035, 0.037, 0.047),
    *(0.026, 0.025, 0.024, 0.035),
    *(0.018, 0.024, 0.022, 0.026),
    *(0.017, 0.021, 0.021, 0.032),
    *(0.020, 0.019, 0.022, 0.031),
)
"""Spread of people's labels of each hand keypoint, wrist then thumb to little finger (COCO-WholeBody; Jin et al. 2020)."""


def complete_iou(a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch2 4"]) -> Float[Tensor, "*batch3"]:
    """Overlap less the distance of centres and the difference of shapes (CIoU; Zheng et al. 2020, eq. 10), broadcast; at most 1."""
    size_a, size_b = (a[..., 2:] - a[..., :2]).clamp_min(0), (b[..., 2:] - b[..., :2]).clamp_min(0)
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    overlap = shared / (size_a.prod(-1) + size_b.prod(-1) - shared + 1e-7)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) ** 2).sum(-1) / 4 / ((hull**2).sum(-1) + 1e-7)
    turn = torch.atan(size_b[..., 0] / (size_b[..., 1] + 1e-7)) - torch.atan(size_a[..., 0] / (size_a[..., 1] + 1e-7))
    shape = 4 / math.pi**2 * turn**2
    with torch.no_grad():
        weight = shape / (1 - overlap + shape + 1e-7)
    return overlap - apart - weight * shape


def distance_loss(logits: Float[Tensor, "n logits"], distance: Float[Tensor, "n 4"]) -> Float[Tensor, "n"]:
    """Cross-entropy to the bins on either side of each true distance, in strides; mean of the four sides (DFL; Li et al. 2020, eq. 6)."""
    bins = logits.shape[1] // 4
    distance = distance.clamp(0, bins - 1 - 0.01)
    low = distance.floor()
    log_p = logits.reshape(-1, 4, bins).log_softmax(-1)
    below, above = (log_p.gather(2, (low + k).long()[..., None])[..., 0] for k in (0, 1))
    return -((low + 1 - distance) * below + (distance - low) * above).mean(1)


def keypoint_loss(
    keypoints: Float[Tensor, "n 21 2"],
    target: Float[Tensor, "n 21 2"],
    weight: Float[Tensor, "n 21"],
    area: Float[Tensor, "n"],  # of the box, in the square of the keypoints' unit
    widened: float = 1.0,  # the sigmas, so that a guess far off is told where to go
) -> Float[Tensor, "n"]:
    """One less the object keypoint similarity, exp(-d^2 / (2 area (2 sigma)^2)), mean over the keypoints that count (Maji et al. 2022)."""
    sigmas = widened * torch.tensor(SIGMAS).to(keypoints)
    squared = ((keypoints - target) ** 2).sum(-1)
    similarity = torch.exp(-squared / (8 * sigmas**2 * area.clamp_min(1e-6)[:, None]))
    return (weight * (1 - similarity)).sum(1) / weight.sum(1).clamp_min(1e-6)


def keypoint_distance_loss(
    keypoints: Float[Tensor, "n 21 2"], target: Float[Tensor, "n 21 2"], weight: Float[Tensor, "n 21"], area: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """The paper's L2: squared distance over the box's area, mean over the keypoints that count."""
    squared = ((keypoints - target) ** 2).sum(-1) / area.clamp_min(1e-6)[:, None]
    return (weight * squared).sum(1) / weight.sum(1).clamp_min(1e-6)


def visibility_loss(logits: Float[Tensor, "n 21"], seen: Float[Tensor, "n 21"]) -> Float[Tensor, "n"]:
    """Cross-entropy of whether each keypoint is labelled, mean over the keypoints."""
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, seen, reduction="none").mean(1)


def side_loss(
    logits: Float[Tensor, "b anchors 2"], quality: Float[Tensor, "b anchors 2"], ignored: Bool[Tensor, "b anchors 2"]
) -> Float[Tensor, "b anchors"]:
    """Cross-entropy to the quality that each anchor should claim for each side, 0 for background; nothing where it is unknown."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return torch.where(ignored, 0, loss).sum(-1)
