"""Where a fit starts: the palm under weak perspective, in closed form, with both its tilts, and the best bends of each finger."""

from functools import lru_cache
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from fitting.hand.anatomy import compose
from fitting.losses import prior_loss
from fitting.objective import Landmarks, Objective, State

_PALM = (0, 1, 5, 9, 13, 17)
"""Wrist and the first joint of each finger."""

_FINGER_WEIGHT = 0.01
"""Of a point of a finger beside one of the palm: counts only where the palm is hidden."""

_FINGER_BENDS_DEG = tuple((first, second, 2 / 3 * second) for first, second in product((-5, 20, 45, 75), (5, 35, 65, 95)))
"""From straight to hook and fist; the last joint follows the second (Lin, Wu and Huang 2000)."""

_THUMB_BENDS_DEG = tuple(product((0, 20), (0, 40), (0, 15, 35, 50)))
"""As many: one table holds both."""


def two_tilts(objective: Objective, seen: Landmarks) -> tuple[State, State]:
    """The mean palm laid over the landmarks, tilted towards the camera and away: the image of a flat palm cannot tell which.

    A weighted least-squares map of the palm's plane to the image gives scale and both rotations (Huttenlocher and Ullman, 1990). Fingers
    begin at the bends that suit the landmarks best: one that begins bent and should be straight often stays bent.
    """
    mean = objective.prior.mean_rotations
    template = objective.joints.pose(torch.eye(3).to(mean)[None], mean[None], torch.zeros(1, 10).to(mean)).points[0]
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
    fingers = [_best_bends(objective, seen, scale[:, None, None] * root[:, :2], shift) for root, shift in zip(roots, shifts, strict=True)]
    first, second = (State(f, r, template.new_zeros(len(f), 10), scale.log(), s) for f, r, s in zip(fingers, roots, shifts, strict=True))
    return first, second


def rebent(objective: Objective, seen: Landmarks, state: State) -> State:
    """The state with every finger at the bends that suit its palm and the landmarks best."""
    camera = state.log_scale.exp()[:, None, None] * state.root[:, :2]
    return state._replace(rotations=_best_bends(objective, seen, camera, state.shift))


def _best_bends(
    objective: Objective, seen: Landmarks, camera: Float[Tensor, "n 2 3"], shift: Float[Tensor, "n 2"]
) -> Float[Tensor, "n 15 3 3"]:
    """Each finger at those bends that cost least: squared reprojection, and the prior with all other fingers in the mean pose.

    sum_j w_j |A p_j + t - y_j|^2 is, but for a constant, linear in p p' and p: one product for all bends of all hands.
    """
    n, (bent, table, rarity) = len(shift), _bends(objective)
    weight = seen.confidence[:, 1:, None]
    pull = (seen.keypoints[:, 1:] - shift[:, None]) @ camera
    features = torch.cat([weight * (camera.mT @ camera).reshape(n, 1, 9), -2 * weight * pull], 2).reshape(n, 5, 48)
    misses = torch.einsum("nfc,kfc->nkf", features, table) / (2 * objective.settings.robust_scale)
    best = (misses + objective.settings.prior_weight * rarity).argmin(1)
    return bent[best, torch.arange(5, device=best.device)].reshape(n, 15, 3, 3)


@lru_cache(maxsize=4)
def _bends(objective: Objective) -> tuple[Float[Tensor, "k 5 3 3 3"], Float[Tensor, "k 5 48"], Float[Tensor, "k 5"]]:
    """All bends of each finger; the p p' and p of its four points there; and the prior's loss of them: the same for all hands."""
    mean = objective.prior.mean_rotations
    degrees = torch.tensor([_FINGER_BENDS_DEG] * 4 + [_THUMB_BENDS_DEG]).to(mean).transpose(0, 1).flatten(1)  # bends 15
    bent = compose(torch.nn.functional.pad(degrees.deg2rad()[..., None], (1, 1)), objective.axes)
    k = len(bent)
    points = objective.joints.pose(torch.eye(3).to(mean).expand(k, 3, 3), bent, torch.zeros(k, 10).to(mean)).points[:, 1:]
    table = torch.cat([(points[..., None] * points[..., None, :]).flatten(2), points], 2).reshape(k, 5, 48)
    own = torch.eye(5).repeat_interleave(3, 1).to(mean)[:, :, None, None] > 0  # finger joint
    alone = torch.where(own, bent[:, None], mean)
    rarity = prior_loss(alone.flatten(0, 1), objective.prior).reshape(k, 5)
    return bent.reshape(k, 5, 3, 3, 3), table, rarity


def _inverse(matrix: Float[Tensor, "n 2 2"]) -> Float[Tensor, "n 2 2"]:
    """Inverses of symmetric matrices, square metres, kept regular where all weight lies on one line."""
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
