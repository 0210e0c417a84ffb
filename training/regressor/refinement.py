"""The multi-scale refinement (WiLoR, section 4.2): features where the mesh of a hand falls on maps of the image say how to mend the hand.

Frame of reference: crop units, see `camera`. The maps are 256 by 192 pixels of the crop of 256 by 256: its middle three quarters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.regressor.landmark_trunk import LandmarkMaps

Aggregation = Literal["mean", "max", "sum", "joints"]
ACROSS, DOWN = 0.75, 1.0
"""Share of the crop that a map spans."""
HIDDEN = 512


class Residual(NamedTuple):
    """How to mend a hand; all zero at the first step of training."""

    turns: Float[Tensor, "b 16 3"]  # axis-angle, radians, before the rotation as it is: R <- exp(turn) R
    betas: Float[Tensor, "b 10"]
    camera: Float[Tensor, "b 3"]  # logarithm of the scale's factor, then metres


class Pyramid(nn.Module):
    """Maps of 16 x 12 cells times each scale, of C / 2, C / 4 and C / 8 channels, the wider the fewer."""

    def __init__(self, width: int, scales: Sequence[int], *, chain: bool = True) -> None:
        super().__init__()
        self.scales, self.chain = tuple(scales), chain
        self.first = _normed(nn.Conv2d(width, width // 2, 1), width // 2)
        self.wider = nn.ModuleDict({str(scale): _widen(width, scale, chain=chain) for scale in (2, 4) if self._needed(scale)})
        self.channels = tuple(width // (2 * scale) for scale in self.scales)

    def _needed(self, scale: int) -> bool:
        return scale in self.scales or (self.chain and scale < max(self.scales))

    def forward(self, cells: Float[Tensor, "b width 16 12"]) -> list[Tensor]:
        maps = {1: self.first(cells)}
        for name, layers in self.wider.items():
            maps[int(name)] = layers(maps[int(name) // 2 if self.chain else 1])
        return [maps[scale] for scale in self.scales]


def _widen(width: int, scale: int, *, chain: bool) -> nn.Sequential:
    """Deconvolutions from the map of half the scale, or as in the release all the way from the first."""
    steps = [scale] if chain else [2 ** (k + 1) for k in range(scale.bit_length() - 1)]
    layers = [(width // s, width // (2 * s)) for s in steps]
    return nn.Sequential(*(_normed(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), o) for i, o in layers))


def _normed(convolution: nn.Module, channels: int) -> nn.Sequential:
    """Group norm knows no batch: a hand's answer does not depend on who shares its batch, or on how many machines train."""
    return nn.Sequential(convolution, nn.GroupNorm(8, channels), nn.ReLU())


def sample_map(features: Float[Tensor, "b c h w"], points: Float[Tensor, "b n 2"], across: float = ACROSS) -> Float[Tensor, "b n c"]:
    """Features at points of the crop, between the middles of cells bilinearly; beyond the map those of its border. `across`: share of the
    crop's width that the map spans."""
    grid = 2 * points / points.new_tensor([across, DOWN])
    found = F.grid_sample(features.float(), grid[:, :, None].float(), align_corners=False, padding_mode="border")
    return found[..., 0].mT


class Refinement(nn.Module):
    """Maps once an image, then a residual for each hand that is laid on them."""

    about_joints: Float[Tensor, "16 778"]

    def __init__(
        self,
        width: int,
        scales: Sequence[int],
        aggregation: Sequence[Aggregation],
        weights: Float[Tensor, "778 16"],
        *,
        chain: bool = True,
        pyramid: "Pyramid | LandmarkMaps | None" = None,
    ) -> None:
        """`pyramid`: whose maps span the whole crop; None: maps of `scales` from cells of `width` channels."""
        super().__init__()
        self.pyramid, self.across = (Pyramid(width, scales, chain=chain), ACROSS) if pyramid is None else (pyramid, 1.0)
        self.aggregation = tuple(aggregation)
        self.register_buffer("about_joints", (weights / weights.sum(0)).T.contiguous(), persistent=False)
        shares = sum(16 if kind == "joints" else 1 for kind in self.aggregation)
        self._build(shares * sum(self.pyramid.channels))

    def _build(self, num_features: int) -> None:
        """The layers that say the residual, silent at first."""
        self.read = nn.Linear(num_features + NUM_NUMBERS, HIDDEN)
        self.say = _silent(16 * 3 + 10 + 3)

    def forward(self, maps: Sequence[Tensor], points: Float[Tensor, "b 778 2"], numbers: Float[Tensor, "b 109"]) -> Residual:
        """`points` are the vertices in the crop, `numbers` the hand as it is (iterative error feedback; Kanazawa et al., CVPR 2018)."""
        sampled = [sample_map(features, points, self.across) for features in maps]
        seen = [AGGREGATIONS[kind](values, self.about_joints) for values in sampled for kind in self.aggregation]
        return self._said(torch.cat(seen, 1), numbers)

    def _said(self, features: Float[Tensor, "b features"], numbers: Float[Tensor, "b 109"]) -> Residual:
        prediction = self.say(F.gelu(self.read(torch.cat([features, numbers], 1))))
        turns, betas, camera = prediction.split([48, 10, 3], 1)
        return Residual(turns.unflatten(1, (16, 3)), betas, camera)


class PaperRefinement(Refinement):
    """Eq. 7 as it is printed: an MLP for the pose and one for the shape, of the features alone; the camera stays."""

    def _build(self, num_features: int) -> None:
        self.pose = nn.Sequential(nn.Linear(num_features, HIDDEN), nn.GELU(), _silent(16 * 3))
        self.shape = nn.Sequential(nn.Linear(num_features, HIDDEN), nn.GELU(), _silent(10))

    def _said(self, features: Float[Tensor, "b features"], numbers: Float[Tensor, "b 109"]) -> Residual:
        return Residual(self.pose(features).unflatten(1, (16, 3)), self.shape(features), features.new_zeros(len(features), 3))


def _silent(count: int) -> nn.Linear:
    """A last layer that says nothing until it has learned."""
    layer = nn.Linear(HIDDEN, count)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


REFINEMENTS: Mapping[Literal["one", "paper"], type[Refinement]] = {"one": Refinement, "paper": PaperRefinement}


NUM_NUMBERS = 16 * 6 + 10 + 3
"""Numbers of a hand: rotations by their first two columns, shape, camera."""

AGGREGATIONS: Mapping[Aggregation, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda values, _: values.mean(1),
    "max": lambda values, _: values.amax(1),
    "sum": lambda values, _: values.sum(1),
    "joints": lambda values, about: torch.einsum("jv,bvc->bjc", about, values).flatten(1),
}
"""Means, maxima or sums of the vertices' features, [b, 778, c] -> [b, c] or [b, 16 c]."""
