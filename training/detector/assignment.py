"""Assignment of anchors to the hands they answer for: task-aligned assignment (TOOD; Feng et al. 2021, section 3.2)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from training.detector.losses import complete_iou
from training.detector.network import STRIDES, Detections


class Hands(NamedTuple):
    """The hands of a batch, padded to the most that one image has."""

    box: Float[Tensor, "b hands 4"]
    side: Int64[Tensor, "b hands"]  # 0 left, 1 right, -1 nobody knows
    keypoints: Float[Tensor, "b hands 21 3"]  # x, y, weight
    real: Bool[Tensor, "b hands"]


class Assignment(NamedTuple):
    """The hand that each anchor of a batch answers for, if any."""

    hand: Int64[Tensor, "b anchors"]  # index into the image's hands; 0 where not taken
    taken: Bool[Tensor, "b anchors"]
    quality: Float[Tensor, "b anchors"]
    """The score to aim at, in [0, 1]: the anchor's alignment, scaled so that a hand's best anchor aims at its best overlap."""


@torch.no_grad()
def assign(
    prediction: Detections,
    points: Float[Tensor, "anchors 2"],
    hands: Hands,
    *,
    num_anchors: int = 10,
    score_power: float = 0.5,
    overlap_power: float = 6.0,
) -> Assignment:
    """The `num_anchors` anchors inside each hand's box that align best, t = score^0.5 overlap^6; an anchor that several hands
    want goes to the one that it overlaps most.

    A box smaller than the middle stride is grown to it when it looks for anchors, or small hands would find none.
    """
    b, n, _ = prediction.box.shape
    most = hands.box.shape[1]
    if not most:
        empty = prediction.score.new_zeros(b, n)
        return Assignment(empty.long(), empty.bool(), empty)
    inside = _inside(points, hands.box) & hands.real[..., None]
    overlap = complete_iou(prediction.box[:, None], hands.box[:, :, None]).clamp_min(0) * inside
    score = prediction.score.gather(2, hands.side.clamp_min(0)[:, None].expand(b, n, most)).mT  # b hands anchors
    score = torch.where(hands.side[..., None] < 0, prediction.score.amax(2)[:, None], score)
    alignment = score**score_power * overlap**overlap_power * inside
    best = alignment.topk(min(num_anchors, n), -1)
    wanted = torch.zeros_like(inside).scatter_(2, best.indices, best.values > 0) & inside
    owner = torch.where(wanted, overlap, -1).argmax(1)
    owned = wanted & (torch.arange(most, device=owner.device)[:, None] == owner[:, None])
    alignment, overlap = alignment * owned, overlap * owned
    top = alignment.amax(-1, keepdim=True).clamp_min(1e-9)
    quality = (alignment / top * overlap.amax(-1, keepdim=True)).amax(1)
    return Assignment(owner, owned.any(1), quality)


def _inside(points: Float[Tensor, "anchors 2"], box: Float[Tensor, "b hands 4"]) -> Bool[Tensor, "b hands anchors"]:
    """Whether an anchor lies in a box, grown to the middle stride where it is smaller."""
    half = ((box[..., 2:] - box[..., :2]) / 2).clamp_min(STRIDES[1] / 2)
    middle = (box[..., :2] + box[..., 2:]) / 2
    away = (points - middle[:, :, None]).abs()
    return (away < half[:, :, None]).all(-1)
