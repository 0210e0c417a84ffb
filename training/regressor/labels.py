"""What products say of hands, in pixels of stored images and of either side, as the regressor's truth: right hands in crop units.

Frame of reference: as `training.regressor.targets`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fitting.hand.mano import LEFT
from fitting.hand.rotation import matrix_from_axis_angle
from training.regressor.camera import mirrored_points, mirrored_rotations
from training.regressor.hand import HandLayer
from training.regressor.network import hand_in_use
from training.regressor.targets import HandTruth


def refuse_other_hand(folder: Path) -> None:
    """Raises ValueError when the parameters of a folder of shards are another hand model's than the one in use."""
    index = folder / "index.json"
    theirs = json.loads(index.read_text()).get("hand_model") if index.exists() else None
    if theirs and theirs != hand_in_use():
        raise ValueError(
            f"the hands of {folder} are told in the {theirs} model's parameters, the model in use is {hand_in_use()}: "
            "pack them again, or set WHIM_MANO"
        )


def truth_of(labels: Mapping[str, np.ndarray], side: int, margin: float, hand: HandLayer, device: torch.device) -> HandTruth:
    """The truth of a batch of `training.data.samples.Crops` or readers alike, whose pictures are `side` pixels, `margin` crops, wide.

    Rows are in the order of the pictures; the labels of a batch of several products are not (`image` says of which picture each is).
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
    scale, shift = told["to_picture"][:, None, :1], told["to_picture"][:, None, 1:]
    in_crop = mirrored_points(((seen * scale + shift) / side - 0.5) * margin, left)
    parameters = torch.cat([told["global_orient"], told["hand_pose"]], 1)
    has_mano, has_betas = parameters.isfinite().all(1), told["betas"].isfinite().all(1)
    has_joints = told["joints_3d"].isfinite().all((1, 2))
    rotations = mirrored_rotations(matrix_from_axis_angle(parameters.nan_to_num(0.0).reshape(-1, 16, 3)), left)
    betas = told["betas"].nan_to_num(0.0)
    return HandTruth(
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
