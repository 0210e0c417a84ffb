"""The detector's loss of a batch: assignment, the terms of eq. 5, and their weights (WiLoR, section 4.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from training.detector.assignment import Assignment, Hands, assign
from training.detector.losses import (
    complete_iou,
    distance_loss,
    keypoint_distance_loss,
    keypoint_loss,
    side_loss,
    visibility_loss,
)
from training.detector.network import NUM_KEYPOINTS, NUM_SIDES, Raw, anchors, decode
from training.run.ranks import part_of_all


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorLossWeights:
    """Weights of the terms; the paper gives none. These are the usual ones of the YOLO family."""

    side: float = 0.5
    box: float = 7.5
    distance: float = 1.5
    keypoints: float = 12.0
    visibility: float = 1.0
    keypoint_loss: Literal["similarity", "distance"] = "similarity"
    """similarity: OKS with the sigmas of hands; distance: the paper's L2."""
    widest: float = 8.0
    """How many times wider the sigmas of the similarity are at the start of a run: as they are, it has no gradient at the first guesses."""
    narrow_from: float = 0.5
    """Share of a run after which they are as wide as they are; until then they narrow evenly in the logarithm."""

    def widened(self, share_done: float) -> float:
        """The sigmas' factor when so much of a run lies behind."""
        return float(self.widest ** max(0.0, 1 - share_done / self.narrow_from)) if self.narrow_from else 1.0


class Terms(NamedTuple):
    """Weighted terms of the detector's loss, each a number."""

    side: Float[Tensor, ""]
    box: Float[Tensor, ""]
    distance: Float[Tensor, ""]
    keypoints: Float[Tensor, ""]
    visibility: Float[Tensor, ""]

    def total(self) -> Float[Tensor, ""]:
        return torch.stack(list(self)).sum()


class Targets(NamedTuple):
    """The truth of a batch, padded."""

    hands: Hands
    ignore: Float[Tensor, "b ignored 4"]  # zeros where there is none


def targets_of(labels: Mapping[str, Tensor], num_images: int) -> Targets:
    """Padded truth from flat columns `image`, `box`, `side`, `keypoints`, `ignore_image`, `ignore`."""
    (box, side, keypoints), real = _padded(labels["image"], num_images, labels["box"], labels["side"].long(), labels["keypoints"])
    (ignore,), _ = _padded(labels["ignore_image"], num_images, labels["ignore"])
    return Targets(Hands(box, side, keypoints, real), ignore)


def _padded(image: Tensor, num_images: int, *columns: Tensor) -> tuple[list[Tensor], Tensor]:
    """Rows by image, [b, most, ...] with zeros at the end, and which are real."""
    order = image.argsort(stable=True)
    counts = torch.bincount(image, minlength=num_images)
    most = int(counts.max()) if len(image) else 0
    sorted_image = image[order]
    place = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[sorted_image]
    out = []
    for values in columns:
        padded = values.new_zeros(num_images, most, *values.shape[1:])
        padded[sorted_image, place] = values[order]
        out.append(padded)
    return out, torch.arange(most, device=image.device) < counts[:, None]


def detector_loss(
    raw: Raw, targets: Targets, size: tuple[int, int], weights: DetectorLossWeights, num_anchors: int = 10, share_done: float = 1.0
) -> Terms:
    """Loss of one head on a batch; `num_anchors` 1 for the one-to-one head. Sums over anchors, over the sum of
    their qualities in the whole batch, other ranks' part included.

    A hand whose side nobody knows aims at the side that the anchor says by itself, and says nothing of the other.
    """
    points, strides = anchors(*size, raw.box)
    prediction = decode(raw, points, strides)
    given = assign(
        prediction._replace(box=prediction.box.detach(), score=prediction.score.detach()), points, targets.hands, num_anchors=num_anchors
    )
    norm = part_of_all(given.quality.sum())
    number, anchor = torch.nonzero(given.taken, as_tuple=True)
    hand = given.hand[number, anchor]
    box, keypoints = targets.hands.box[number, hand], targets.hands.keypoints[number, hand]
    quality, stride = given.quality[number, anchor], strides[anchor]

    aim = torch.zeros_like(raw.side)
    known = targets.hands.side[number, hand]
    its = torch.where(known < 0, raw.side[number, anchor].detach().argmax(-1), known)
    aim[number, anchor, its] = quality.to(aim.dtype)
    ignored = _ignored(points, targets.ignore, given)[..., None].repeat(1, 1, NUM_SIDES)
    ignored[number, anchor, 1 - its] = known < 0
    side = side_loss(raw.side, aim, ignored).sum() / norm
    overlap = complete_iou(prediction.box[number, anchor], box)
    corners = torch.cat([points[anchor] - box[:, :2], box[:, 2:] - points[anchor]], 1) / stride[:, None]
    distance = distance_loss(raw.box[number, anchor], corners)
    area = (box[:, 2:] - box[:, :2]).prod(1)
    seen, guessed = keypoints[..., 2], prediction.keypoints[number, anchor, :, :2]
    if weights.keypoint_loss == "similarity":
        spread = keypoint_loss(guessed, keypoints[..., :2], seen, area, weights.widened(share_done))
    else:
        spread = keypoint_distance_loss(guessed, keypoints[..., :2], seen, area)
    visible = visibility_loss(raw.keypoints[number, anchor].reshape(-1, NUM_KEYPOINTS, 3)[..., 2], (seen > 0).to(spread.dtype))
    with_points = (seen > 0).any(1)
    count = part_of_all(with_points.sum())
    return Terms(
        side=weights.side * side,
        box=weights.box * (quality * (1 - overlap)).sum() / norm,
        distance=weights.distance * (quality * distance).sum() / norm,
        keypoints=weights.keypoints * (spread * with_points).sum() / count,
        visibility=weights.visibility * (visible * with_points).sum() / count,
    )


def _ignored(points: Float[Tensor, "anchors 2"], ignore: Float[Tensor, "b ignored 4"], given: Assignment) -> Tensor:
    """Anchors within boxes of which nobody knows what they show, but for those that answer for a hand."""
    if not ignore.shape[1]:
        return torch.zeros_like(given.taken)
    within = ((points > ignore[:, :, None, :2]) & (points < ignore[:, :, None, 2:])).all(-1).any(1)
    return within & ~given.taken


def tensors(labels: Mapping[str, np.ndarray], device: torch.device | str) -> dict[str, Tensor]:
    """The columns of a batch on a device."""
    return {name: torch.from_numpy(np.ascontiguousarray(values)).to(device) for name, values in labels.items()}
