"""Crops of hands to MANO: a backbone reads image and tokens, heads say a coarse hand, the refinement mends it (WiLoR, section 4.2).

Frames of reference: see `camera`. Hands are right hands; a left hand is shown in a mirrored crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fitting.files import hand_of, model_file
from fitting.hand.mano import HandModel, load_hand_model
from fitting.hand.rotation import matrix_from_axis_angle, matrix_from_six, six_from_matrix
from training.regressor.camera import project_to_crop
from training.regressor.fastvit import FastViT
from training.regressor.hand import HandEstimate, HandLayer
from training.regressor.landmark_trunk import WIDTH, LandmarkMaps, LandmarkReader, LandmarkTrunk
from training.regressor.refinement import REFINEMENTS, Aggregation
from training.regressor.vit import SHAPES, ViT

__all__ = ["HandEstimate", "Regressor", "RegressorSettings"]

Size = Literal["xs", "s", "b", "l", "h"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of R, G, B."""
BORDER = 32
"""Columns at either side of the crop that ViTPose's upright image leaves out."""


def hand_in_use() -> Literal["mano", "standin"]:
    """Whose rotations the network is to say: `fitting.files.model_file`'s."""
    return hand_of(model_file())


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressorSettings:
    """The size of the network, and the ablations of the paper's Table 5."""

    size: Size = "h"
    """Size of the transformer: ViT-H is the paper's; xs is ours, for a processor."""
    backbone: Literal["vit", "fastvit", "mediapipe"] = "vit"
    """fastvit, of one size, is the paper's ablation; mediapipe is that package's landmark network, ours: see `whim train landmarks`."""
    tokens: Literal["learned", "released"] = "learned"
    """Learned ones on top of the embedded mean hand (paper), or the embedded mean hand alone (release)."""
    refine_steps: int = 1
    """0 is the paper's ablation without refinement."""
    scales: tuple[int, ...] = (1, 2, 4)
    """Sizes of the feature maps beside the 16 x 12 cells of the backbone; (1,) is the paper's single scale."""
    pyramid: Literal["chain", "branches"] = "chain"
    """Each map from the one before (paper), or each from the first (release)."""
    aggregation: tuple[Aggregation, ...] = ("mean", "max")
    """Over the features of the 778 vertices on each map. `joints` is a mean about each joint by the weights of its skin; ours."""
    residual: Literal["one", "paper"] = "one"
    """One layer says all residuals from the features and the hand as it is; or a layer each for pose and shape from the features alone,
    and none for the camera (paper, eq. 7)."""
    detach_vertices: bool = True
    """The refinement reads where the coarse hand is, and does not pull it to where reading is better."""
    drop_path: float | None = None
    """Share of the samples that skip the last block in training; the first skips none. None: by size, as ViTPose."""
    checkpoint_activations: bool = False
    """Compute each block anew in the backward pass rather than remember it: for ViT-L and H."""
    hand: Literal["mano", "standin"] = field(default_factory=hand_in_use)
    """Whose rotations these are."""

    def __post_init__(self) -> None:
        if not 0 <= self.refine_steps <= 3:
            raise ValueError(f"regressor.refine_steps must lie in [0, 3], got {self.refine_steps}")
        for name, known in (("scales", (1, 2, 4)), ("aggregation", get_args(Aggregation))):
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
                raise ValueError(f"regressor.{name} must be some of {known}, each once, got {chosen}")
        if self.drop_path is not None and not 0 <= self.drop_path < 1:
            raise ValueError(f"regressor.drop_path must lie in [0, 1), got {self.drop_path}")


class Tokens(nn.Module):
    """One token for each of 16 joints, one for the shape, one for the camera: the mean hand embedded, and what is learned of each.

    The mean shape is all zeros, so that of its embedding only the summand is left, where the release has a layer.
    """

    def __init__(self, width: int, *, learned: bool) -> None:
        super().__init__()
        self.pose, self.camera = nn.Linear(6, width), nn.Linear(3, width)
        self.shape = nn.Parameter(torch.randn(1, width) * 0.02)
        self.learned = nn.Parameter(torch.randn(18, width) * 0.02) if learned else None

    def forward(self, pose: Float[Tensor, "16 6"], camera: Float[Tensor, "3"]) -> Float[Tensor, "18 width"]:
        tokens = torch.cat([self.pose(pose), self.shape, self.camera(camera[None])])
        return tokens if self.learned is None else tokens + self.learned


class Heads(nn.Module):
    """From each token its own number: what is to be added to the mean hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pose, self.shape, self.camera = nn.Linear(width, 6), nn.Linear(width, 10), nn.Linear(width, 3)
        for head in (self.pose, self.shape, self.camera):
            nn.init.xavier_uniform_(head.weight, gain=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, tokens: Float[Tensor, "b 18 width"]) -> tuple[Float[Tensor, "b 16 6"], Float[Tensor, "b 10"], Float[Tensor, "b 3"]]:
        return self.pose(tokens[:, :16]), self.shape(tokens[:, 16]), self.camera(tokens[:, 17])


class Numbers(NamedTuple):
    """What a hand is told by."""

    rotations: Float[Tensor, "b 16 3 3"]
    betas: Float[Tensor, "b 10"]
    camera: Float[Tensor, "b 3"]


class Regressor(nn.Module):
    """Crops in [0, 1] to hands, the coarse one first, the most refined last."""

    mean_pose: Float[Tensor, "16 6"]
    mean_betas: Float[Tensor, "10"]
    mean_camera: Float[Tensor, "3"]
    image_mean: Float[Tensor, "3 1 1"]
    image_std: Float[Tensor, "3 1 1"]

    def __init__(self, settings: RegressorSettings | None = None, model: HandModel | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or RegressorSettings()
        model = model or load_hand_model()
        if model.source != settings.hand:
            raise ValueError(
                f"this network says the rotations of the {settings.hand} hand, and the hand in use is {model.source}: set WHIM_MANO"
            )
        self.hand = HandLayer(model)
        if settings.backbone == "vit":
            shape = SHAPES[settings.size]
            self.backbone: nn.Module = ViT(shape, drop_path=settings.drop_path, checkpoint_activations=settings.checkpoint_activations)
            width = shape.width
        elif settings.backbone == "mediapipe":
            self.backbone, width = LandmarkTrunk(), WIDTH
            self.reader = LandmarkReader()
        else:
            self.backbone = FastViT(drop_path=settings.drop_path)
            width = self.backbone.width
        of_landmarks = settings.backbone == "mediapipe"
        self.heads = Heads(width)
        if not of_landmarks:
            self.tokens = Tokens(width, learned=settings.tokens == "learned")
        maps, chain = LandmarkMaps() if of_landmarks else None, settings.pyramid == "chain"
        kind = REFINEMENTS[settings.residual]
        self.refinement = (
            kind(width, settings.scales, settings.aggregation, model.weights, chain=chain, pyramid=maps) if settings.refine_steps else None
        )
        for name, values in self.hand.mean()._asdict().items():
            self.register_buffer(f"mean_{name}", values, persistent=False)  # the hand model's, as `HandLayer`'s arrays
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(f"image_{name}", torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 256 256"], points: Float[Tensor, "b 21 2"] | None = None) -> tuple[HandEstimate, ...]:
        """`points`: the hands' landmarks where they are known, crop units; the landmark network turns its looks by them."""
        if isinstance(self.backbone, LandmarkTrunk):
            seen = self.backbone(images, points)
            return tuple(seen.region.back(hand) for hand in self.in_look(seen.said, seen.maps))
        middle = (images[..., BORDER:-BORDER] - self.image_mean) / self.image_std
        tokens = self.tokens(self.mean_pose, self.mean_camera)
        tokens, cells = self.backbone(middle, tokens.expand(images.shape[0], -1, -1))
        maps = self.refinement.pyramid(cells) if self.refinement is not None else []
        with torch.autocast(images.device.type, enabled=False):
            return self._hands(tokens.float(), [features.float() for features in maps])

    def in_look(self, said: Float[Tensor, "b 1278"], maps: Sequence[Tensor]) -> tuple[HandEstimate, ...]:
        """Hands of upright looks, from what the landmark network says of each; without maps the coarse ones alone."""
        return self._hands(self.reader(said), self.refinement.pyramid(maps) if self.refinement is not None and maps else [])

    def _hands(self, tokens: Float[Tensor, "b 18 width"], maps: Sequence[Tensor]) -> tuple[HandEstimate, ...]:
        hands = [self.hand(*self.coarse(tokens))]
        for _ in range(self.settings.refine_steps if maps else 0):
            hands.append(self.hand(*self.mended(hands[-1], maps)))
        return tuple(hands)

    def coarse(self, tokens: Float[Tensor, "b 18 width"]) -> Numbers:
        """The coarse hand's numbers, in single precision: half a thousandth of a radian matters."""
        pose, betas, camera = self.heads(tokens)
        return Numbers(matrix_from_six(self.mean_pose + pose), self.mean_betas + betas, moved(self.mean_camera, camera))

    def mended(self, hand: HandEstimate, maps: Sequence[Tensor]) -> Numbers:
        """The numbers of a hand after a step of the refinement."""
        assert self.refinement is not None
        vertices, camera = hand.vertices, hand.camera
        if self.settings.detach_vertices:
            vertices, camera = vertices.detach(), camera.detach()
        numbers = torch.cat([six_from_matrix(hand.rotations).flatten(1), hand.betas, hand.camera], 1).detach()
        prediction = self.refinement(maps, project_to_crop(vertices, camera), numbers)
        rotations = matrix_from_axis_angle(prediction.turns) @ hand.rotations
        return Numbers(rotations, hand.betas + prediction.betas, moved(hand.camera, prediction.camera))


def moved(camera: Float[Tensor, "*b 3"], change: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
    """The scale by a factor, so that it stays positive and the hand before the camera; the shift by metres."""
    scale = camera[..., :1] * change[:, :1].clamp(-3, 3).exp()
    return torch.cat([scale, camera[..., 1:] + change[:, 1:]], 1)
