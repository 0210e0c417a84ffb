"""The hand model as a layer, rotations, shape and camera to vertices, joints and points of the crop, and the mean hand."""

from dataclasses import fields
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fitting.hand.mano import HandModel, pose_rotations
from fitting.hand.rotation import matrix_from_axis_angle, matrix_from_six, six_from_matrix
from training.regressor.camera import project_to_crop

HAND_SHARE = 0.5
"""Share of the crop's side that the mean hand takes: crops are twice the hand's box."""


class HandEstimate(NamedTuple):
    """Right hands: numbers, and what they mean."""

    rotations: Float[Tensor, "batch 16 3 3"]  # global_orient first, then hand_pose
    betas: Float[Tensor, "batch 10"]
    camera: Float[Tensor, "batch 3"]  # s, tx, ty: see `camera`
    vertices: Float[Tensor, "batch 778 3"]  # metres, wrist at the origin
    joints: Float[Tensor, "batch 21 3"]  # the same, OpenPose's order
    points: Float[Tensor, "batch 21 2"]  # the joints in the crop, [-0.5, 0.5]


class MeanHand(NamedTuple):
    """The mean hand, to which the heads' outputs are added."""

    pose: Float[Tensor, "16 6"]  # each rotation's first two columns
    betas: Float[Tensor, "10"]
    camera: Float[Tensor, "3"]


class HandLayer(nn.Module):
    """The hand model on the network's device; its arrays are no part of a checkpoint, for their licence is not ours to pass on."""

    def __init__(self, model: HandModel) -> None:
        super().__init__()
        self.source = model.source
        self.names = [field.name for field in fields(model) if field.name != "source"]
        for name in self.names:
            self.register_buffer(name, getattr(model, name), persistent=False)

    def forward(self, rotations: Float[Tensor, "b 16 3 3"], betas: Float[Tensor, "b 10"], camera: Float[Tensor, "b 3"]) -> HandEstimate:
        model = HandModel(**{name: getattr(self, name) for name in self.names}, source=self.source)
        hand = pose_rotations(model, betas, rotations)
        wrist = hand.joints[:, :1]
        vertices, joints = hand.vertices - wrist, hand.joints - wrist
        return HandEstimate(rotations, betas, camera, vertices, joints, project_to_crop(joints, camera))

    def mean(self) -> MeanHand:
        """MANO's mean pose and shape, seen upright, fingers up, in the middle of the crop.

        The release's mean root is (1, 0, 0, -1, 0, 0), whose second column is no direction beside the first; this is the turn it meant.
        """
        fingers = matrix_from_axis_angle(self.hands_mean.reshape(15, 3))  # type: ignore[operator]
        root = matrix_from_six(fingers.new_tensor([1.0, 0, 0, 0, -1, 0]))
        rotations, betas = torch.cat([root[None], fingers]), fingers.new_zeros(10)
        flat = self(rotations[None], betas[None], betas.new_tensor([[1.0, 0, 0]])).vertices[0, :, :2]
        low, high = flat.amin(0), flat.amax(0)
        scale = 2 * HAND_SHARE / (high - low).max()
        return MeanHand(six_from_matrix(rotations), betas, torch.cat([scale[None], -(low + high) / 2]))
