"""A detector's 3D landmarks as depths in the image's own unit: what the depth loss compares joints with."""

import torch
from jaxtyping import Float
from torch import Tensor

MOST_MISFIT = 0.1
"""Root mean square, box sides, by which 3D landmarks may miss the 2D ones they lie behind. Ours; 99 of 100 rendered hands are below."""


def depth_cue(
    keypoints: Float[Tensor, "n 21 2"],  # box sides
    confidence: Float[Tensor, "n 21"],
    world: Float[Tensor, "n 21 3"],  # metres, camera axes, in the same order, wrist first
) -> tuple[Float[Tensor, "n 21"], Float[Tensor, "n 21"]]:
    """Depths behind the wrist, box sides, and their confidences.

    The 3D landmarks are scaled so that they lie over the 2D ones (weighted least squares). Confidence is 0 where a point or the wrist is
    unknown, and for the whole hand where the scale is not positive or the two disagree by more than `MOST_MISFIT`.
    """
    known = torch.isfinite(world).all(-1) & (confidence > 0)
    known = known & known[:, :1]
    weight = torch.where(known, confidence, 0)
    share = (weight / weight.sum(1, keepdim=True).clamp_min(1e-9))[..., None]
    world = torch.where(known[..., None], world, 0)
    flat, seen = (points - (share * points).sum(1, keepdim=True) for points in (world[..., :2], keypoints))
    scale = (share * flat * seen).sum((1, 2)) / (share * flat**2).sum((1, 2)).clamp_min(1e-12)
    misfit = (share * (seen - scale[:, None, None] * flat) ** 2).sum((1, 2)).sqrt()
    believed = (scale > 0) & (misfit < MOST_MISFIT)
    depth = scale[:, None] * (world[..., 2] - world[:, :1, 2])
    confidence = weight * believed[:, None]
    confidence[:, 0] = 0  # the wrist lies at 0 by definition
    return torch.where(confidence > 0, depth, 0), confidence
