"""From crops of hands to MANO: a backbone reads the picture and 18 tokens, heads say a coarse hand, the refinement mends it (WiLoR, section 4.2).

Frames of reference. The crop: units of its side, x right, y down, (0, 0) its middle, so that it spans [-0.5, 0.5]; edges of pixels, not
their middles. Space: metres, camera axes, the wrist at the origin. All hands are right hands; a left hand is a mirrored picture.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from fitting.files import model_file

Size = Literal["xs", "s", "b", "l", "h"]
Aggregation = Literal["mean", "max", "sum", "joints"]


def hand_in_use() -> Literal["mano", "standin"]:
    """Whose angles the network is to speak of: `fitting.files.model_file`'s."""
    return "standin" if model_file().suffix == ".npz" else "mano"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressorSettings:
    """The size of the network, and the ablations of the paper's Table 5."""

    size: Size = "h"
    """Of the transformer: ViT-H is the paper's; xs is ours, for a processor."""
    backbone: Literal["vit", "fastvit"] = "vit"
    """fastvit is the paper's ablation; its size is its own."""
    tokens: Literal["learned", "released"] = "learned"
    """Learned ones on top of the embedded mean hand (paper), or the embedded mean hand alone (release)."""
    refine_steps: int = 1
    """0 is the paper's ablation without refinement."""
    scales: tuple[int, ...] = (1, 2, 4)
    """Of the feature maps, beside the 16 x 12 of the tokens; (1,) is the paper's single scale."""
    aggregation: tuple[Aggregation, ...] = ("mean", "max")
    """Over the features of the 778 vertices on each map. `joints` is a mean about each joint, weighted by the skin's weights; ours."""
    detach_vertices: bool = True
    """The refinement reads where the coarse hand is, and does not move it to where features are better."""
    drop_path: float | None = None
    """Share of the last block's samples that skip it in training; the first skips none. None: by size."""
    checkpoint_activations: bool = False
    """Compute each block again in the backward pass rather than remember it: for ViT-L and H."""
    hand: Literal["mano", "standin"] = field(default_factory=hand_in_use)
    """Whose rotations these are; another hand's weights are refused."""


class HandEstimate(NamedTuple):
    """Right hands."""

    rotations: Float[Tensor, "batch 16 3 3"]  # global_orient first, then hand_pose
    betas: Float[Tensor, "batch 10"]
    camera: Float[Tensor, "batch 3"]  # s, tx, ty: see `camera`
    vertices: Float[Tensor, "batch 778 3"]  # metres, wrist at the origin
    joints: Float[Tensor, "batch 21 3"]  # OpenPose's order
    points: Float[Tensor, "batch 21 2"]  # the joints in the crop, [-0.5, 0.5]


class Regressor(nn.Module):
    """Crops in [0, 1] to hands, the coarse one first, the most refined last."""

    def __init__(self, settings: RegressorSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or RegressorSettings()

    def forward(self, images: Float[Tensor, "batch 3 256 256"]) -> tuple[HandEstimate, ...]:
        raise NotImplementedError
