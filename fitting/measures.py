"""Measures of a fitted hand besides its parameters: its losses, joints, outline and worst joint angle."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fitting.hand import anatomy
from fitting.hand.mano import HandModel, pose_hand
from fitting.hand.rotation import axis_angle_from_matrix
from fitting.losses import angle_excess
from fitting.objective import Landmarks, Losses, Objective, State


class Measures(NamedTuple):
    """Measures of a batch of fitted right hands."""

    losses: Losses
    joints: Float[Tensor, "n 21 3"]  # OpenPose's order, wrist-centred, metres
    box: Float[Tensor, "n 4"]  # of the 778 vertices in the image, box sides
    violation: Float[Tensor, "n"]  # worst joint angle beyond its limit, radians


def measure(model: HandModel, objective: Objective, state: State, seen: Landmarks) -> Measures:
    """Measure fitted hands by their whole mesh."""
    hand = pose_hand(model, state.betas, axis_angle_from_matrix(state.root), axis_angle_from_matrix(state.rotations).flatten(1))
    wrist = hand.joints[:, :1]
    outline = state.log_scale.exp()[:, None, None] * (hand.vertices - wrist)[..., :2] + state.shift[:, None]
    excess, _ = angle_excess(anatomy.decompose(state.rotations, objective.axes), objective.twist_limits, objective.hulls)
    worst = torch.maximum(excess[..., 0].abs(), excess[..., 1:].norm(dim=-1)).amax(1)
    box = torch.cat([outline.amin(1), outline.amax(1)], 1)
    return Measures(objective.losses(state, seen)[0], hand.joints - wrist, box, worst)
