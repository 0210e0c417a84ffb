"""Where a fit starts: the rigid palm under weak perspective, in closed form, with its two possible tilts."""

import torch
from jaxtyping import Float
from torch import Tensor

from fitting.objective import Landmarks, Objective, State

_PALM = (0, 1, 5, 9, 13, 17)
"""Wrist and the first joint of each finger."""

_FINGER_WEIGHT = 0.01
"""Of a point of a finger beside one of the palm: counts only where the palm is hidden."""


def two_tilts(objective: Objective, seen: Landmarks) -> tuple[State, State]:
    """The mean pose laid over the landmarks, tilted towards the camera and away: the image of a flat palm cannot tell which.

    A weighted least-squares map of the palm's plane to the image gives scale and both rotations (Huttenlocher and Ullman, 1990).
    """
    n = len(seen.keypoints)
    rotations = objective.prior.mean_rotations.expand(n, 15, 3, 3)
    betas = seen.keypoints.new_zeros(n, 10)
    flat = torch.eye(3).to(betas).expand(1, 3, 3)
    template = objective.joints.pose(flat, rotations[:1], betas[:1]).points[0]
    plane = _axes_of_plane(template[list(_PALM)])

    weight = seen.confidence.clone()
    weight[:, [k for k in range(21) if k not in _PALM]] *= _FINGER_WEIGHT
    weight = weight / weight.sum(1, keepdim=True)
    centre, middle = weight @ template, (weight[:, None] @ seen.keypoints)[:, 0]
    source = template @ plane[:, :2] - (centre @ plane[:, :2])[:, None]
    target = seen.keypoints - middle[:, None]
    weighted = weight[..., None] * source
    linear = target.mT @ weighted @ _inverse(source.mT @ weighted)
    tilted, scale = _tilted(linear)
    roots = [root @ plane.T for root in tilted]
    shifts = [middle - scale[:, None] * (root @ centre[..., None])[:, :2, 0] for root in roots]
    first, second = (State(rotations.clone(), root, betas.clone(), scale.log(), shift) for root, shift in zip(roots, shifts, strict=True))
    return first, second


def _inverse(matrix: Float[Tensor, "n 2 2"]) -> Float[Tensor, "n 2 2"]:
    """Of symmetric matrices, square metres, kept regular where all weight lies on one line."""
    a, b, d = matrix[:, 0, 0] + 1e-7, matrix[:, 0, 1], matrix[:, 1, 1] + 1e-7
    return torch.stack([d, -b, -b, a], 1).reshape(-1, 2, 2) / (a * d - b * b)[:, None, None]


def _axes_of_plane(points: Float[Tensor, "k 3"]) -> Float[Tensor, "3 3"]:
    """Columns: two directions in the plane nearest to points, and its normal, right-handed."""
    _, _, vt = torch.linalg.svd(points - points.mean(0))
    return torch.stack([vt[0], vt[1], torch.linalg.cross(vt[0], vt[1])], 1)


def _tilted(linear: Float[Tensor, "n 2 2"]) -> tuple[list[Float[Tensor, "n 3 3"]], Float[Tensor, "n"]]:
    """Both rotations whose first two columns, cut to the image and scaled, are `linear`; and the scale."""
    a, b = linear[..., 0], linear[..., 1]
    aa, bb, ab = (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)
    squared = 0.5 * (aa + bb + ((aa - bb) ** 2 + 4 * ab**2).sqrt())
    scale = squared.sqrt().clamp_min(1e-3)
    depth_a = (squared - aa).clamp_min(0).sqrt()
    depth_b = (squared - bb).clamp_min(0).sqrt() * torch.where(ab > 0, -1.0, 1.0)
    roots = []
    for sign in (1.0, -1.0):
        first = torch.nn.functional.normalize(torch.cat([a, sign * depth_a[:, None]], 1), dim=1)
        second = torch.cat([b, sign * depth_b[:, None]], 1)
        second = torch.nn.functional.normalize(second - (first * second).sum(1, keepdim=True) * first, dim=1)
        roots.append(torch.stack([first, second, torch.linalg.cross(first, second)], 2))
    return roots, scale
