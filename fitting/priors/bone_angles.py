"""Angles between the bones of 21 points, and how far they leave the hulls of what hands do: L_A of the biomechanical constraints.

Spurr et al. 2020, "Weakly Supervised 3D Hand Pose Estimation via Biomechanical Constraints", section 3.1.

Convention: points in OpenPose's order, in any unit and in any right-handed frame, of right hands; left ones are mirrored first, which
turns the sign of every flexion. The 15 bones are those beyond the palm, thumb to little finger, from the palm outward.

The fit itself limits the hand model's own joint angles (`fitting.losses.joint_angle_loss`), which also see a twist; these need no model.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fitting.files import hulls_file, read_arrays
from fitting.hand.mano import LEFT
from fitting.hand.rotation import safe_atan2
from fitting.losses import outside_hulls
from fitting.priors.hulls import padded

Angles = Float[Tensor, "*batch 15 2"]
Hulls = Float[Tensor, "15 corners 2"]
Vectors = Float[Tensor, "*batch 5 3"]


def bone_angles(points: Float[Tensor, "*batch 21 3"], side: Int[Tensor, "*batch"] | None = None) -> Angles:
    """Flexion (towards the palm) and abduction (towards the thumb's side) of each bone, radians, in its parent bone's frame.

    A finger's first frame has z along its bone of the palm and -x along the palm's normal there; each further one is carried on by the
    smallest rotation that takes z to the next bone. `side` (0 left, 1 right) mirrors left hands. Gradients are finite everywhere.
    """
    if side is not None:
        flip = torch.where(side == LEFT, -1, 1).to(points)
        points = torch.stack([points[..., 0] * flip[..., None], points[..., 1], points[..., 2]], -1)
    fingers = points[..., 1:, :].reshape(*points.shape[:-2], 5, 4, 3)
    bones = _unit(torch.cat([fingers[..., :1, :] - points[..., None, :1, :], fingers.diff(dim=-2)], -2))
    x, y, z = _palm_frames(bones[..., 0, :])
    angles = []
    for k in (1, 2, 3):
        bone = bones[..., k, :]
        in_x, in_y, in_z = ((bone * axis).sum(-1) for axis in (x, y, z))
        flexion, across = safe_atan2(in_x, in_z), (in_x**2 + in_z**2 + 1e-12).sqrt()
        angles.append(torch.stack([flexion, torch.atan2(in_y, across)], -1))
        x, y, z = _carried(x, z, bone), _carried(y, z, bone), bone
    return torch.stack(angles, -2).flatten(-3, -2)


def _palm_frames(roots: Vectors) -> tuple[Vectors, Vectors, Vectors]:
    """Axes of the frames on the five bones of the palm (unit vectors), from the normals between neighbours."""
    normals = _unit(torch.linalg.cross(roots[..., 1:, :], roots[..., :-1, :]))
    thumb, index, middle, ring = normals.unbind(-2)
    x = -torch.stack([thumb, index, _unit(index + middle), _unit(middle + ring), ring], -2)
    y = _unit(torch.linalg.cross(roots, x))
    return torch.linalg.cross(y, roots), y, roots


def _unit(vector: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
    """Vectors of length one; shorter ones than 1e-6 stay as they are, for the gradient's sake."""
    squared = (vector**2).sum(-1, keepdim=True)
    return vector / torch.where(squared < 1e-12, 1, squared).sqrt()


def _carried(vector: Vectors, start: Vectors, end: Vectors) -> Vectors:
    """Vectors turned by the smallest rotation that takes unit `start` to unit `end`, by Rodrigues' formula without angle or axis."""
    turn = torch.linalg.cross(start, end)
    cosine = (start * end).sum(-1, keepdim=True)
    along = (turn * vector).sum(-1, keepdim=True) / (1 + cosine).clamp_min(1e-4)
    return vector * cosine + torch.linalg.cross(turn, vector) + turn * along


def hull_distance(angles: Angles, hulls: Hulls) -> Float[Tensor, "*batch 15"]:
    """D of Spurr et al. 2020, L_A: zero in the hull, else |cos a - cos p| + |sin a - sin p| to the nearest p of those on its edges.

    Summed over flexion and abduction; p is the angles' foot on an edge, or that edge's end. `hulls` are counter-clockwise.
    """
    edge = hulls.roll(-1, 1) - hulls
    gap = angles[..., None, :] - hulls
    inside = (edge[..., 0] * gap[..., 1] - edge[..., 1] * gap[..., 0] >= 0).all(-1)
    share = ((gap * edge).sum(-1) / (edge**2).sum(-1).clamp_min(1e-12)).clamp(0, 1)
    foot, here = hulls + share[..., None] * edge, angles[..., None, :]
    distance = ((here.cos() - foot.cos()).abs() + (here.sin() - foot.sin()).abs()).sum(-1).amin(-1)
    return torch.where(inside, 0, distance)


def bone_angle_loss(
    points: Float[Tensor, "*batch 21 3"], hulls: Hulls, side: Int[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch"]:
    """Mean over the 15 bones of their distance to the hulls (Spurr et al. 2020, L_A; WiLoR, eq. 3). It does not feel size or place."""
    return hull_distance(bone_angles(points, side), hulls).mean(-1)


def hull_excess_deg(angles: Angles, hulls: Hulls) -> Float[Tensor, "*batch 15"]:
    """Degrees by which each bone's angles lie outside its hull, in the plane of the two."""
    return torch.rad2deg(outside_hulls(angles, hulls)[0].norm(dim=-1))


def read_hulls(path: Path | None = None) -> Float[Tensor, "15 corners 2"]:
    """The hulls of `path` (default: those of the prior in use), float64. ValueError that names the file when it holds none."""
    path = path or hulls_file()
    hulls = read_arrays(path, ["hulls"]).get("hulls")
    try:
        if hulls is None or hulls.ndim != 3 or len(hulls) != 15:
            raise ValueError("15 convex polygons are wanted")
        return torch.as_tensor(padded(list(hulls.astype("f8"))))
    except ValueError as error:
        raise ValueError(f"{path} holds no hulls of bone angles: {error}; make them with python -m fitting.priors.pca") from error
