"""From images around hands to the crops that the network sees, all of a batch at once on its device: turned, scaled, shifted, coloured,
partly hidden, and the truth with them.

Frame of reference: as `training.regressor.targets`. Everything is drawn by the sample's key. A turn is about the camera's axis, so that the
hand in space turns with its image.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from training.data.keyed_random import between, uniform
from training.data.samples import FILL
from training.regressor.targets import HandTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class CropAugmentation:
    """Ranges of the random changes; zeros turn them off. Normal numbers are cut at two deviations for turns, at one for the others."""

    turn_deg: float = 30.0
    """Deviation; 60 either way at the most (release; the paper's ±60)."""
    turned: float = 0.6
    """Share of the crops that are turned (release)."""
    scale: float = 0.3
    """Deviation of the crop's side from its own (release)."""
    shift: float = 0.02
    """Deviation in crop units (release, of its box)."""
    colour: float = 0.2
    """Largest change of each of red, green and blue, either way (release)."""
    masking: float = 0.3
    """Share of the crops of which a rectangle is hidden (paper; the share is ours)."""

    def __post_init__(self) -> None:
        for name in ("turned", "masking"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} is a share in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"augmentation.scale must lie in [0, 1), got {self.scale}")

    @classmethod
    def none(cls) -> "CropAugmentation":
        """The crop as it is."""
        return cls(turn_deg=0, scale=0, shift=0, colour=0, masking=0)


def augment(
    images: Float[Tensor, "b 3 side side"],
    targets: HandTargets,
    key: Int64[Tensor, "b"],
    chosen: CropAugmentation,
    margin: float,
    size: int = 256,
) -> tuple[Float[Tensor, "b 3 size size"], HandTargets]:
    """Crops out of images in [0, 1] that are `margin` times as wide as a crop, and their truth.

    `targets.points` are told in units of the plain crop, of the image's middle.
    """
    turn, scale, shift = _placement(key, chosen)
    crops = _cut(images, turn, scale, shift, margin, size)
    return _hidden(_coloured(crops, key, chosen), key, chosen), _moved(targets, turn, scale, shift)


def _placement(
    key: Int64[Tensor, "b"], chosen: CropAugmentation
) -> tuple[Float[Tensor, "b 2 2"], Float[Tensor, "b"], Float[Tensor, "b 2"]]:
    """How the plain crop becomes the new one: its image turned, its side times `scale`, its middle moved by `shift`."""
    angle = _normal(key, 1, 1, 2.0)[:, 0] * math.radians(chosen.turn_deg) * (uniform(key, 2)[:, 0] < chosen.turned)
    scale = 1 + chosen.scale * _normal(key, 3, 1, 1.0)[:, 0]
    shift = chosen.shift * _normal(key, 4, 2, 1.0)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2), scale, shift


def _normal(key: Int64[Tensor, "b"], stream: int, count: int, most: float) -> Float[Tensor, "b count"]:
    """Standard normal numbers, cut at `most` either way."""
    return torch.special.ndtri(uniform(key, stream, count).clamp(1e-6, 1 - 1e-6)).clamp(-most, most)


def _cut(
    images: Float[Tensor, "b 3 side side"],
    turn: Float[Tensor, "b 2 2"],
    scale: Float[Tensor, "b"],
    shift: Float[Tensor, "b 2"],
    margin: float,
    size: int,
) -> Float[Tensor, "b 3 size size"]:
    """The crops' pixels. A point u of the new crop is `scale * turn^-1 u + shift` of the plain one."""
    to_plain = scale[:, None, None] * turn.mT / margin
    grid = F.affine_grid(torch.cat([to_plain, 2 * shift[..., None] / margin], 2), [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images - FILL / 255, grid.to(images.dtype), align_corners=False) + FILL / 255


def _moved(targets: HandTargets, turn: Float[Tensor, "b 2 2"], scale: Float[Tensor, "b"], shift: Float[Tensor, "b 2"]) -> HandTargets:
    """The hand turned in space about the camera's axis, and its points where they now are. What was unknown stays masked."""
    about_z = torch.zeros(len(turn), 3, 3).to(turn)
    about_z[:, :2, :2], about_z[:, 2, 2] = turn, 1
    points = torch.einsum("bij,bnj->bni", turn, targets.points - shift[:, None]) / scale[:, None, None]
    return targets._replace(
        rotations=torch.cat([about_z[:, None] @ targets.rotations[:, :1], targets.rotations[:, 1:]], 1),
        vertices=targets.vertices @ about_z.mT,
        joints=targets.joints @ about_z.mT,
        points=torch.where(targets.confidence[..., None] > 0, points, 0.0),
    )


def _coloured(crops: Float[Tensor, "b 3 h w"], key: Int64[Tensor, "b"], chosen: CropAugmentation) -> Float[Tensor, "b 3 h w"]:
    """Each channel times a number of its own."""
    gain = 1 + chosen.colour * (2 * uniform(key, 5, 3) - 1)
    return (crops * gain[..., None, None].to(crops.dtype)).clamp(0, 1)


def _hidden(crops: Float[Tensor, "b 3 h w"], key: Int64[Tensor, "b"], chosen: CropAugmentation) -> Float[Tensor, "b 3 h w"]:
    """A rectangle of one colour over the middle part, 2 to 10 % of the crop; the truth stays, the hand is still there."""
    if not chosen.masking:
        return crops
    area, stretch = between(key, 6, 0.02, 0.10), torch.exp(between(key, 7, -0.7, 0.7))
    half = torch.stack([(area * stretch).sqrt(), (area / stretch).sqrt()], 1) / 2
    middle = 0.2 + 0.6 * uniform(key, 8, 2)
    place = [(torch.arange(n, device=crops.device) + 0.5) / n for n in (crops.shape[3], crops.shape[2])]
    inside = [(place[k] - middle[:, k, None]).abs() < half[:, k, None] for k in (0, 1)]
    hidden = inside[1][:, :, None] & inside[0][:, None] & (uniform(key, 9)[:, 0] < chosen.masking)[:, None, None]
    return torch.where(hidden[:, None], uniform(key, 10, 3)[..., None, None].to(crops.dtype), crops)
