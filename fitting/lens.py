"""Hands seen by true rays: each is fitted before its camera as if that turned to look at it, and is turned back into its axes.

About the axis of a turned camera perspective is one number a hand (`fitting.objective.Landmarks.perspective`), a detector's crop looks the
same way, and the fit of weak perspective is the limit of a far camera. Frame: camera axes x right, y down, z forward, metres.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from fitting.camera import looking_at
from fitting.hand.mano import HandModel, pose_rotations
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle

_NEAREST_M = 1e-3
"""No point of a mesh counts as nearer to the camera's plane."""


class Lens(NamedTuple):
    """The pinhole that each hand was seen through; pixels are square."""

    focal_px: Float64[np.ndarray, "n"]
    principal: Float64[np.ndarray, "n 2"]


class Turned(NamedTuple):
    """Pinholes, each turned towards its hand."""

    focal: Float[Tensor, "n"]
    principal: Float[Tensor, "n 2"]
    rotation: Float[Tensor, "n 3 3"]  # from camera axes to those of the turned one

    @classmethod
    def towards(cls, lens: Lens, points: Float[Tensor, "n 21 2"], used: Bool[Tensor, "n 21"]) -> "Turned":
        """Each towards the middle of its hand's landmarks; one without any is not turned."""
        focal, principal = torch.as_tensor(lens.focal_px, dtype=torch.float64), torch.as_tensor(lens.principal, dtype=torch.float64)
        low = torch.where(used[..., None], points, torch.inf).amin(1)
        high = torch.where(used[..., None], points, -torch.inf).amax(1)
        middle = torch.where(used.any(1)[:, None], (low + high) / 2, principal)
        ray = torch.cat([(middle - principal) / focal[:, None], torch.ones_like(focal)[:, None]], 1)
        return cls(focal, principal, torch.as_tensor(looking_at(ray.numpy())))

    def take(self, rows: Int[Tensor, "m"]) -> "Turned":
        return Turned(*(values[rows] for values in self))

    def see(self, points: Float[Tensor, "n 21 2"]) -> Float[Tensor, "n 21 2"]:
        """Pixels of the camera as those of the turned one, about its axis; not finite where it does not look."""
        ray = torch.cat([(points - self.principal[:, None]) / self.focal[:, None, None], torch.ones_like(points[..., :1])], 2)
        turned = ray @ self.rotation.mT
        ahead = turned[..., 2:] > 1e-6
        return torch.where(ahead, self.focal[:, None, None] * turned[..., :2] / turned[..., 2:].clamp_min(1e-6), torch.nan)

    def back(self, model: HandModel, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        """Columns of fits in the turned camera's axes and pixels, in the camera's own; and where the wrist stands, metres."""
        scale, pixel = columns["camera"][:, :1].double(), columns["camera"][:, 1:].double()
        scale = scale.clamp_min(1e-6)
        back = self.rotation.mT
        wrist = (back @ torch.cat([pixel / scale, self.focal[:, None] / scale], 1)[..., None])[..., 0]
        root = back @ matrix_from_axis_angle(columns["global_orient"].double())
        joints = columns["joints_3d"].double() @ self.rotation
        turns = matrix_from_axis_angle(columns["hand_pose"].reshape(-1, 15, 3))
        hand = pose_rotations(
            model, columns["betas"].to(model.v_template), torch.cat([root[:, None].to(turns), turns], 1).to(model.v_template)
        )
        outline = self._project((hand.vertices - hand.joints[:, :1]).cpu().double() + wrist[:, None])
        wrist_pixel = self._project(wrist[:, None])[:, 0]
        placed = {
            "global_orient": axis_angle_from_matrix(root),
            "joints_3d": joints,
            "joints_2d": self._project(joints + wrist[:, None]),
            "box": torch.cat([outline.amin(1), outline.amax(1)], 1),
            "camera": torch.cat([self.focal[:, None] / wrist[:, 2:].clamp_min(_NEAREST_M), wrist_pixel], 1),
            "transl": wrist,
        }
        return columns | {name: values.to(columns["joints_3d"].dtype) for name, values in placed.items()}

    def _project(self, points: Float[Tensor, "n points 3"]) -> Float[Tensor, "n points 2"]:
        return self.focal[:, None, None] * points[..., :2] / points[..., 2:].clamp_min(_NEAREST_M) + self.principal[:, None]
