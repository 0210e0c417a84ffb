"""The regressor's targets: what is known of the hand in each crop of a batch, from the labels of sample sources.

Frame of reference: every crop shows a right hand; a left one is mirrored with its image, x -> -x. Camera axes of the crop as the
network sees it (x right, y down, z forward), so that a crop turned by its augmentation turns the truth about z. Crop units: the
square's middle is 0, its borders are -0.5 and 0.5. What is unknown is 0 and masked, never NaN, so that gradients stay finite.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fitting.hand.mano import LEFT
from fitting.hand.rotation import matrix_from_axis_angle
from training.regressor.camera import mirrored_points, mirrored_rotations
from training.regressor.hand import HandLayer
from training.regressor.network import hand_in_use


class HandTargets(NamedTuple):
    """Targets of a batch of crops. A sample with 2D points only has `has_joints`, `has_mano` and `has_betas` false.

    Vertices are known where both the rotations and the shape are.
    """

    rotations: Float[Tensor, "b 16 3 3"]  # global orientation, then MANO's 15 joints in its order, the mean pose added
    betas: Float[Tensor, "b 10"]
    vertices: Float[Tensor, "b 778 3"]  # metres, about any origin: what is compared is relative to the wrist
    joints: Float[Tensor, "b 21 3"]  # metres, OpenPose's order, about the vertices' origin
    points: Float[Tensor, "b 21 2"]  # the joints in the crop, crop units
    confidence: Float[Tensor, "b 21"]  # of the points, in [0, 1]; 0 where unknown
    has_mano: Bool[Tensor, "b"]  # the rotations are known
    has_betas: Bool[Tensor, "b"]
    has_joints: Bool[Tensor, "b"]
    weight: Float[Tensor, "b"]  # of the sample in every term, in [0, 1]: 1 for measured truth, the review's quality for a fit


def refuse_other_hand(folder: Path) -> None:
    """Raises ValueError when the parameters of a folder of shards are another hand model's than the one in use."""
    index = folder / "index.json"
    theirs = json.loads(index.read_text()).get("hand_model") if index.exists() else None
    if theirs and theirs != hand_in_use():
        raise ValueError(
            f"the hands of {folder} are told in the {theirs} model's parameters, the model in use is {hand_in_use()}: "
            "pack them again, or set WHIM_MANO"
        )


def targets_of(labels: Mapping[str, np.ndarray], side: int, margin: float, hand: HandLayer, device: torch.device) -> HandTargets:
    """The truth of a batch of `training.data.samples.Crops` or readers alike, whose images are `side` pixels, `margin` crops, wide.

    Rows are in the order of the images; the labels of a batch of several sources are not (`image` says of which image each is).
    NaN means unknown. The points are the joints of the fit, or the landmarks where nothing was fitted; the landmarks' confidence says
    how well each is seen.
    """
    order = np.argsort(labels["image"])
    told = {name: torch.as_tensor(np.asarray(values, np.float32)[order]).to(device) for name, values in labels.items() if name != "image"}
    left = told["side"] == LEFT
    points, landmarks = told["joints_2d"], told["keypoints"]
    seen = torch.where(points.isfinite(), points, landmarks[..., :2])
    known = seen.isfinite().all(2)
    confidence = torch.where(known, landmarks[..., 2].nan_to_num(1.0), 0.0).clamp(0, 1)
    scale, shift = told["to_input"][:, None, :1], told["to_input"][:, None, 1:]
    in_crop = mirrored_points(((seen * scale + shift) / side - 0.5) * margin, left)
    parameters = torch.cat([told["global_orient"], told["hand_pose"]], 1)
    has_mano, has_betas = parameters.isfinite().all(1), told["betas"].isfinite().all(1)
    has_joints = told["joints_3d"].isfinite().all((1, 2))
    rotations = mirrored_rotations(matrix_from_axis_angle(parameters.nan_to_num(0.0).reshape(-1, 16, 3)), left)
    betas = told["betas"].nan_to_num(0.0)
    return HandTargets(
        rotations=rotations,
        betas=betas,
        vertices=_vertices(hand, rotations, betas),
        joints=mirrored_points(told["joints_3d"].nan_to_num(0.0), left),
        points=torch.where(known[..., None], in_crop, 0.0),
        confidence=confidence,
        has_mano=has_mano,
        has_betas=has_betas,
        has_joints=has_joints,
        weight=told["quality"].nan_to_num(1.0).clamp(0, 1),
    )


@torch.no_grad()
def _vertices(hand: HandLayer, rotations: Float[Tensor, "b 16 3 3"], betas: Float[Tensor, "b 10"]) -> Float[Tensor, "b 778 3"]:
    return hand(rotations, betas, betas.new_tensor([1.0, 0, 0]).expand(len(betas), 3)).vertices
