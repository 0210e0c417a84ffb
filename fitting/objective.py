"""The objective of a fit: the weighted losses of a batch of right hands, and their normal equations for Gauss-Newton steps.

Image points are in units of the hand's box (its longer side is 1), so that one setting serves all sizes. The 61 unknowns, in
order: 45 joint rotations and 3 of the root (right perturbations, radians), 10 betas, log scale, 2 of shift.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fitting.hand import anatomy
from fitting.hand.kinematics import JointModel, Points
from fitting.hand.mano import HandModel
from fitting.hand.rotation import matrix_from_axis_angle
from fitting.losses import (
    angle_excess,
    beyond,
    bone_length_loss,
    bone_lengths,
    depth_loss,
    joint_angle_loss,
    prior_loss,
    reprojection_loss,
)
from fitting.priors.prior import PosePrior, bone_rotations
from fitting.settings import FitSettings

NUM_UNKNOWNS = 61
_JOINTS, _ROOT, _BETAS, _SCALE, _SHIFT = slice(0, 45), slice(45, 48), slice(48, 58), 58, slice(59, 61)


class State(NamedTuple):
    """The unknowns of a batch of hands."""

    rotations: Float[Tensor, "n 15 3 3"]
    root: Float[Tensor, "n 3 3"]
    betas: Float[Tensor, "n 10"]
    log_scale: Float[Tensor, "n"]  # of box sides a metre
    shift: Float[Tensor, "n 2"]  # the wrist, box sides

    def take(self, rows: Tensor) -> "State":
        return State(*(values[rows] for values in self))

    def put(self, rows: Tensor, other: "State") -> None:
        """Overwrite rows in place."""
        for mine, theirs in zip(self, other, strict=True):
            mine[rows] = theirs

    def moved(self, step: Float[Tensor, "n 61"]) -> "State":
        """The state after a step."""
        turns = matrix_from_axis_angle(step[:, :48].reshape(-1, 16, 3))
        return State(
            self.rotations @ turns[:, :15],
            self.root @ turns[:, 15],
            self.betas + step[:, _BETAS],
            self.log_scale + step[:, _SCALE].clamp(-1, 1),
            self.shift + step[:, _SHIFT],
        )


class Landmarks(NamedTuple):
    """What was seen, in the order of `fitting.hand.kinematics`."""

    keypoints: Float[Tensor, "n 21 2"]  # box sides
    confidence: Float[Tensor, "n 21"]  # 0 where unknown
    depth: Float[Tensor, "n 21"]  # behind the wrist, box sides
    depth_confidence: Float[Tensor, "n 21"]  # 0 where unknown
    perspective: Float[Tensor, "n"]  # box side over focal length, about the axis through the image's origin; 0 is weak perspective

    def take(self, rows: Tensor) -> "Landmarks":
        return Landmarks(*(values[rows] for values in self))


class Losses(NamedTuple):
    """Unweighted, one value a hand."""

    reprojection: Float[Tensor, "n"]
    bone: Float[Tensor, "n"]
    angle: Float[Tensor, "n"]
    prior: Float[Tensor, "n"]
    shape: Float[Tensor, "n"]
    depth: Float[Tensor, "n"]


def bone_length_limits(model: JointModel, num_hands: int = 1000) -> Float[Tensor, "20 2"]:
    """Shortest and longest of each bone, metres, over hands drawn from the model's own shape space (betas of unit variance).

    Spurr et al. 2020 likewise take the extremes over their data sets; they publish no numbers.
    """
    rng = np.random.default_rng(0)
    betas = torch.as_tensor(rng.normal(size=(num_hands, 10))).to(model.bones)
    root = torch.eye(3).to(model.bones).expand(num_hands, 3, 3)
    rotations = root[:, None].expand(num_hands, 15, 3, 3)
    lengths = bone_lengths(model.pose(root, rotations, betas).points)
    return torch.stack([lengths.amin(0), lengths.amax(0)], 1)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Objective:
    """All that is the same for every hand of a run."""

    joints: JointModel
    prior: PosePrior
    axes: Float[Tensor, "15 3 3"]
    twist_limits: Float[Tensor, "15 2"]
    hulls: Float[Tensor, "15 corners 2"]
    length_limits: Float[Tensor, "20 2"]
    settings: FitSettings

    @classmethod
    def of(cls, model: HandModel, prior: PosePrior, settings: FitSettings) -> "Objective":
        """The objective on a hand model, in its dtype and on its device."""
        joints = JointModel.of(model)
        return cls(
            joints=joints,
            prior=prior,
            axes=anatomy.joint_axes(*model.rest_joints()),
            twist_limits=torch.as_tensor(anatomy.limits()[:, 0]).to(model.v_template),
            hulls=torch.as_tensor(anatomy.hulls()).to(model.v_template),
            length_limits=bone_length_limits(joints),
            settings=settings,
        )

    def losses(self, state: State, seen: Landmarks) -> tuple[Losses, Points]:
        """Every loss, and the posed joints."""
        posed = self.joints.pose(state.root, state.rotations, state.betas)
        values = Losses(
            reprojection_loss(projected(state, posed, seen.perspective), seen.keypoints, seen.confidence, self.settings.robust_scale),
            bone_length_loss(posed.points, self.length_limits),
            joint_angle_loss(state.rotations, self.axes, self.twist_limits, self.hulls),
            prior_loss(state.rotations, self.prior),
            (state.betas**2).sum(1),
            depth_loss(depths(state, posed), seen.depth, seen.depth_confidence, self.settings.depth_scale),
        )
        return values, posed

    def total(self, losses: Losses) -> Float[Tensor, "n"]:
        """The weighted sum that is minimised."""
        own = self.settings
        pose = own.bone_weight * losses.bone + own.angle_weight * losses.angle + own.prior_weight * losses.prior
        return losses.reprojection + pose + own.shape_weight * losses.shape + own.depth_weight * losses.depth

    def normal_equations(self, state: State, seen: Landmarks, posed: Points) -> tuple[Float[Tensor, "n 61 61"], Float[Tensor, "n 61"]]:
        """Gauss-Newton matrix and gradient of `total` (the robust loss by iteratively reweighted squares)."""
        shape = self.joints.shape_jacobian(state.root, posed)
        matrix, gradient = self._landmark_equations(state, seen, posed, shape)
        self._add_bones(matrix, gradient, posed, shape)
        self._add_angles(matrix, gradient, state)
        self._add_prior(matrix, gradient, state)
        gradient[:, _BETAS] += 2 * self.settings.shape_weight * state.betas
        matrix.diagonal(dim1=1, dim2=2)[:, _BETAS] += 2 * self.settings.shape_weight
        return matrix, gradient

    def _landmark_equations(
        self, state: State, seen: Landmarks, posed: Points, shape: Float[Tensor, "n 20 3 10"]
    ) -> tuple[Float[Tensor, "n 61 61"], Float[Tensor, "n 61"]]:
        """Normal equations of the reprojection and depth losses, by iteratively reweighted squares."""
        n = len(state.root)
        scale = state.log_scale.exp()[:, None, None, None]
        jacobian = torch.zeros(n, 21, 3, NUM_UNKNOWNS).to(shape)
        blocks = jacobian[:, 1:, :, _JOINTS].unflatten(3, (5, 9)).unflatten(1, (5, 4))  # type: ignore[no-untyped-call]
        blocks.diagonal(dim1=1, dim2=4)[:] = (scale[..., None] * self.joints.finger_jacobian(posed)).permute(0, 2, 3, 4, 1)
        turned = torch.linalg.cross(state.root.mT[:, None], posed.points[:, :, None])  # n points component xyz
        jacobian[..., _ROOT] = scale * turned.mT
        jacobian[:, 1:, :, _BETAS] = scale * shape
        jacobian[..., _SCALE] = scale[..., 0] * posed.points
        jacobian[:, :, :2, _SHIFT] = torch.eye(2).to(shape)
        image = projected(state, posed, seen.perspective)
        gap = image - seen.keypoints
        if seen.perspective.any():  # the slope of a quotient: q (J_xy - h p J_z) with q = 1 / (1 + h depth)
            share = _shrinking(state, posed, seen.perspective)[..., None, None]
            falls = (seen.perspective[:, None, None] * image)[..., None]
            jacobian[:, :, :2] = share * (jacobian[:, :, :2] - falls * jacobian[:, :, 2:])
        gap_z = depths(state, posed) - seen.depth
        weight = seen.confidence / gap.norm(dim=-1).clamp_min(self.settings.robust_scale)
        weight_z = self.settings.depth_weight * seen.depth_confidence / gap_z.abs().clamp_min(self.settings.depth_scale)
        rows = jacobian.reshape(n, 63, NUM_UNKNOWNS)
        weighted = rows.mT * torch.stack([weight, weight, weight_z], 2).reshape(n, 1, 63)
        residual = torch.cat([gap, gap_z[..., None]], 2).reshape(n, 63, 1)
        return weighted @ rows, (weighted @ residual)[..., 0]

    def _add_bones(
        self, matrix: Float[Tensor, "n 61 61"], gradient: Float[Tensor, "n 61"], posed: Points, shape: Float[Tensor, "n 20 3 10"]
    ) -> None:
        lengths = bone_lengths(posed.points)
        middle = self.length_limits.mean(1)
        excess = beyond(lengths, self.length_limits[:, 0], self.length_limits[:, 1]) / middle
        ends = posed.points[:, 1:].reshape(-1, 5, 4, 3)
        vectors = torch.cat([ends[:, :, :1], ends.diff(dim=2)], 2).reshape(-1, 20, 3)
        moves = shape.reshape(-1, 5, 4, 3, 10)
        moves = torch.cat([moves[:, :, :1], moves.diff(dim=2)], 2).reshape(-1, 20, 3, 10)
        rows = torch.einsum("nkc,nkcb->nkb", vectors / (lengths * middle)[..., None], moves) * (excess != 0)[..., None]
        factor = 2 * self.settings.bone_weight / 20
        gradient[:, _BETAS] += factor * torch.einsum("nkb,nk->nb", rows, excess)
        matrix[:, _BETAS, _BETAS] += factor * (rows.mT @ rows)

    def _add_angles(self, matrix: Float[Tensor, "n 61 61"], gradient: Float[Tensor, "n 61"], state: State) -> None:
        """On the side of a polygon only the way out counts, at a corner both directions do."""
        angles = anatomy.decompose(state.rotations, self.axes)
        excess, corner = angle_excess(angles, self.twist_limits, self.hulls)
        jacobian = anatomy.angle_jacobian(angles, self.axes)
        out = torch.nn.functional.normalize(excess[..., 1:], dim=-1)
        along = torch.where(corner[..., None, None], torch.eye(2).to(out), out[..., :, None] * out[..., None, :])
        along = along * (excess[..., 1:] != 0).any(-1)[..., None, None]
        rows = torch.cat([jacobian[..., :1, :] * (excess[..., :1, None] != 0), along @ jacobian[..., 1:, :]], -2)
        factor = 2 * self.settings.angle_weight / 15
        gradient[:, _JOINTS] += factor * torch.einsum("njac,nja->njc", jacobian, excess).flatten(1)
        blocks = matrix[:, _JOINTS, _JOINTS].unflatten(2, (15, 3)).unflatten(1, (15, 3))  # type: ignore[no-untyped-call]
        blocks.diagonal(dim1=1, dim2=3)[:] += factor * (rows.mT @ rows).permute(0, 2, 3, 1)

    def _add_prior(self, matrix: Float[Tensor, "n 61 61"], gradient: Float[Tensor, "n 61"], state: State) -> None:
        """Bone k turns with every joint j between it and the wrist: its columns G_k[:, d] move by (G_j delta) x G_k[:, d]."""
        n = len(state.root)
        bones = bone_rotations(state.rotations)
        columns = bones.reshape(n, 5, 3, 3, 3).mT  # n finger bone column xyz
        hangs = torch.ones(3, 3).triu().to(bones)[:, :, None, None, None]  # joint bone
        moved = torch.linalg.cross(columns[:, :, :, None, :, None], columns[:, :, None, :, None]) * hangs
        # n finger joint bone component column xyz
        dense = torch.zeros(n, 5, 9, 5, 27).to(bones)
        dense.diagonal(dim1=1, dim2=3)[:] = moved.permute(0, 2, 4, 3, 6, 5, 1).reshape(n, 9, 27, 5)
        rows = dense.reshape(n, 45, 135)
        weighted = rows @ self.prior.quadratic
        factor = 2 * self.settings.prior_weight
        slope = bones @ self.prior.quadratic + self.prior.linear
        gradient[:, _JOINTS] += factor * (rows @ slope[..., None])[..., 0]
        matrix[:, _JOINTS, _JOINTS] += factor * (weighted @ rows.mT)


NEAREST = 0.1
"""Of the wrist's depth: no point counts as nearer to the camera."""


def projected(state: State, posed: Points, perspective: Float[Tensor, "n"] | None = None) -> Float[Tensor, "n 21 2"]:
    """Posed joints in the image, box sides (WiLoR, eq. 2, the map pi); with `perspective`, what is behind the wrist is smaller."""
    flat = state.log_scale.exp()[:, None, None] * posed.points[..., :2] + state.shift[:, None]
    return flat if perspective is None else _shrinking(state, posed, perspective)[..., None] * flat


def _shrinking(state: State, posed: Points, perspective: Float[Tensor, "n"]) -> Float[Tensor, "n 21"]:
    """The wrist's depth over each joint's. At scale s, box sides a metre, the wrist's is 1 / (s h) with h = `perspective`."""
    return 1 / (1 + perspective[:, None] * depths(state, posed)).clamp_min(NEAREST)


def depths(state: State, posed: Points) -> Float[Tensor, "n 21"]:
    """How far posed joints lie behind the wrist, box sides."""
    return state.log_scale.exp()[:, None] * posed.points[..., 2]
