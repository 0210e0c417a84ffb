"""The three losses of WiLoR's fit, one value a hand, unreduced and unweighted. All are finite with finite gradients for finite input."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fitting.hand.anatomy import decompose
from fitting.priors.prior import PosePrior, bone_rotations


def reprojection_loss(
    projected: Float[Tensor, "n points 2"],
    keypoints: Float[Tensor, "n points 2"],
    confidence: Float[Tensor, "n points"],
    robust_scale: float,  # in the unit of the points
) -> Float[Tensor, "n"]:
    """Distance of projected joints to landmarks, weighted by confidence and summed (WiLoR, eq. 2).

    The L1 norm of the paper, taken of the distance so that turning the image changes nothing, with a smooth core (Huber):
    d - robust_scale / 2, and d^2 / (2 robust_scale) below robust_scale.
    """
    squared = ((projected - keypoints) ** 2).sum(-1)
    core = squared < robust_scale**2
    distance = torch.where(core, torch.ones_like(squared), squared).sqrt()
    robust = torch.where(core, squared / (2 * robust_scale), distance - robust_scale / 2)
    return (confidence * robust).sum(-1)


def beyond(values: Float[Tensor, "*shape"], low: Float[Tensor, "..."], high: Float[Tensor, "..."]) -> Float[Tensor, "*shape"]:
    """How far values lie outside [low, high], signed; zero inside (I of Spurr et al. 2020, eq. 1)."""
    return torch.relu(values - high) - torch.relu(low - values)


def bone_lengths(points: Float[Tensor, "n 21 3"]) -> Float[Tensor, "n 20"]:
    """Length of the bone that ends at each point but the wrist; fingers in the order of the points."""
    fingers = points[:, 1:].reshape(-1, 5, 4, 3)
    starts = torch.cat([points[:, None, :1].expand(-1, 5, -1, -1), fingers[:, :, :3]], 2)
    return ((fingers - starts) ** 2).sum(-1).clamp_min(1e-18).sqrt().flatten(1)


def bone_length_loss(points: Float[Tensor, "n 21 3"], limits: Float[Tensor, "20 2"]) -> Float[Tensor, "n"]:
    """Mean over the 20 bones of the squared excess over the feasible range, as a share of the range's middle (WiLoR, eq. 3, L_BL).

    Spurr et al. 2020, section 3.1, with a squared interval loss, which a second-order method can use.
    """
    excess = beyond(bone_lengths(points), limits[:, 0], limits[:, 1])
    return ((excess / limits.mean(1)) ** 2).mean(1)


def outside_hulls(
    points: Float[Tensor, "*batch joints 2"], hulls: Float[Tensor, "joints corners 2"]
) -> tuple[Float[Tensor, "*batch joints 2"], Bool[Tensor, "*batch joints"]]:
    """From the nearest point of each joint's convex polygon to a point, zero inside; and whether that nearest point is a corner."""
    edge = hulls.roll(-1, 1) - hulls
    gap = points[..., None, :] - hulls  # *batch joints corners 2
    inside = (edge[..., 0] * gap[..., 1] - edge[..., 1] * gap[..., 0] >= 0).all(-1)
    share = ((gap * edge).sum(-1) / (edge**2).sum(-1).clamp_min(1e-12)).clamp(0, 1)
    offset = gap - share[..., None] * edge
    nearest = (offset**2).sum(-1).argmin(-1, keepdim=True)
    corner = torch.take_along_dim((share == 0) | (share == 1), nearest, -1)[..., 0]
    offset = torch.take_along_dim(offset, nearest[..., None], -2)[..., 0, :]
    return torch.where(inside[..., None], 0, offset), corner


def angle_excess(
    angles: Float[Tensor, "*batch 15 3"], twist_limits: Float[Tensor, "15 2"], hulls: Float[Tensor, "15 corners 2"]
) -> tuple[Float[Tensor, "*batch 15 3"], Bool[Tensor, "*batch 15"]]:
    """Excess of twist over its range, of (bend, splay) over their polygon, radians, signed; and whether a polygon's corner is nearest."""
    twist = beyond(angles[..., 0], twist_limits[:, 0], twist_limits[:, 1])
    offset, corner = outside_hulls(angles[..., 1:], hulls)
    return torch.cat([twist[..., None], offset], -1), corner


def joint_angle_loss(
    rotations: Float[Tensor, "n 15 3 3"],
    axes: Float[Tensor, "15 3 3"],
    twist_limits: Float[Tensor, "15 2"],
    hulls: Float[Tensor, "15 corners 2"],
) -> Float[Tensor, "n"]:
    """Mean over the 15 joints of the squared radians by which twist, bend and splay leave what is feasible (WiLoR, eq. 3, L_A).

    Spurr et al. 2020, section 3.1, bound the angles between bones by convex hulls; these are the hand model's own angles, which also
    see a twist.
    """
    excess, _ = angle_excess(decompose(rotations, axes), twist_limits, hulls)
    return (excess**2).sum(-1).mean(-1)


def depth_loss(
    depth: Float[Tensor, "n points"], cue: Float[Tensor, "n points"], confidence: Float[Tensor, "n points"], robust_scale: float
) -> Float[Tensor, "n"]:
    """Difference of the joints' depths to a detector's, behind the wrist, weighted and summed: L1 with a smooth core. Ours."""
    gap = (depth - cue).abs()
    robust = torch.where(gap < robust_scale, gap**2 / (2 * robust_scale), gap - robust_scale / 2)
    return (confidence * robust).sum(-1)


def prior_loss(rotations: Float[Tensor, "n 15 3 3"], prior: PosePrior) -> Float[Tensor, "n"]:
    """Squared error of the mesh after projection on the PCA of hand poses, square metres summed over vertices (WiLoR, eq. 4).

    With `PosePrior.noise` above 0 the components too cost something: see there.
    """
    bones = bone_rotations(rotations)
    energy = ((bones @ prior.quadratic) * bones).sum(-1) + 2 * bones @ prior.linear + prior.constant
    return energy.clamp_min(0)
