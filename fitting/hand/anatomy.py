"""Anatomical axes of the 15 finger joints, their limits, and a sampler of plausible poses.

Frame: every joint turns about three axes of its own, fixed in the rest hand: twist (along the bone), bend (flexion, positive
towards the palm) and splay (sideways). Joints are MANO's 1..15: index, middle, little, ring, thumb, three each.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fitting.hand.rotation import matrix_from_axis_angle, safe_atan2

FINGERS = ("index", "middle", "little", "ring", "thumb")
"""MANO's order of the fingers."""

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
"""MANO's kinematic tree."""

TIPS_IN_MANO_ORDER = (1, 2, 4, 3, 0)
"""Of each finger in `FINGERS`, its row among tips ordered thumb, index, middle, ring, little."""

TIP_VERTICES = (744, 320, 443, 554, 671)
"""Fingertip vertices of smplx's MANO (also HaMeR's and WiLoR's): thumb, index, middle, ring, little."""

WRIST_RING = (108, 79, 78, 121, 214, 215, 279, 239, 234, 92, 38, 122, 118, 117, 119, 120)
"""The open ring of MANO's wrist, in the order in which ARCTIC closes it."""

LIMITS_DEG: Mapping[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "finger1": ((-8, 8), (-25, 95), (-22, 22)),
    "finger2": ((-4, 4), (-8, 115), (-4, 4)),
    "finger3": ((-4, 4), (-8, 90), (-4, 4)),
    "thumb1": ((-25, 25), (-30, 45), (-40, 40)),
    "thumb2": ((-8, 8), (-15, 65), (-12, 12)),
    "thumb3": ((-5, 5), (-20, 90), (-5, 5)),
}
"""Feasible ranges of twist, bend and splay, degrees. Ours, between the ranges that published constraint sets use: the 90 degrees of
bend and 5 of splay of manotorch's anatomy loss, MobileHand's -20..30 of splay and HOnnotate's 103..115 of bend."""


def limits() -> Float[np.ndarray, "15 3 2"]:
    """`LIMITS_DEG` in radians for joints 1..15: twist, bend, splay; low, high."""
    names = [f"{'thumb' if finger == 'thumb' else 'finger'}{k}" for finger in FINGERS for k in (1, 2, 3)]
    return np.radians(np.array([LIMITS_DEG[name] for name in names], dtype=np.float64))


KNUCKLE_FAN_DEG = ((45.0, 22.0), (95.0, 10.0))
"""Bend and the splay left at it, degrees: the collateral ligaments of the knuckles tighten as they bend, so that a fist cannot fan out
(Neumann, Kinesiology of the Musculoskeletal System, ch. 8). The numbers are ours."""


def hulls() -> Float[np.ndarray, "15 6 2"]:
    """Feasible (bend, splay) of joints 1..15 as convex polygons, radians, counter-clockwise: the box of `LIMITS_DEG`, for the knuckles
    with the corners of `KNUCKLE_FAN_DEG` cut off. Corners may repeat."""
    boxes = np.degrees(limits())[:, 1:]
    (bend, fan), (full, left) = KNUCKLE_FAN_DEG
    polygons = []
    for joint, ((low, high), (inward, outward)) in enumerate(boxes):
        knuckle = joint % 3 == 0 and FINGERS[joint // 3] != "thumb"
        top = [(bend, -fan), (full, -left), (full, left), (bend, fan)] if knuckle else [(high, inward)] * 2 + [(high, outward)] * 2
        polygons.append([(low, inward), *top, (low, outward)])
    return np.radians(np.array(polygons, dtype=np.float64))


def joint_axes(joints: Float[Tensor, "16 3"], tips: Float[Tensor, "5 3"]) -> Float[Tensor, "15 3 3"]:
    """Columns twist, bend, splay of each joint in the rest frame, from rest joints and tips (thumb, index, middle, ring, little).

    Fingers bend about the line across the knuckles, the thumb about one turned from it towards the palm's normal, so that a positive
    bend closes every finger: the four into the palm, the thumb across it.
    """
    knuckle = _unit(joints[4] - joints[0])
    side = joints[1] - joints[7]
    side = _unit(side - knuckle * (side @ knuckle))
    opposition = 0.35 * side - 0.85 * torch.linalg.cross(knuckle, side)
    axes = []
    for joint in range(1, 16):
        finger, k = divmod(joint - 1, 3)
        end = tips[TIPS_IN_MANO_ORDER[finger]] if k == 2 else joints[joint + 1]
        twist = _unit(end - joints[joint])
        hinge = opposition if FINGERS[finger] == "thumb" else side
        bend = _unit(hinge - twist * (hinge @ twist))
        axes.append(torch.stack([twist, bend, torch.linalg.cross(twist, bend)], 1))
    return torch.stack(axes)


def _unit(vector: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    unit: Tensor = vector / vector.norm()
    return unit


def compose(angles: Float[Tensor, "*batch 15 3"], axes: Float[Tensor, "15 3 3"]) -> Float[Tensor, "*batch 15 3 3"]:
    """Joint rotations in the rest frame from twist, bend, splay (radians): bend first, then splay, then twist."""
    basis = torch.eye(3, dtype=angles.dtype, device=angles.device)
    twist, bend, splay = (matrix_from_axis_angle(angles[..., k, None] * basis[k]) for k in range(3))
    return axes @ twist @ splay @ bend @ axes.mT


def decompose(rotations: Float[Tensor, "*batch 15 3 3"], axes: Float[Tensor, "15 3 3"]) -> Float[Tensor, "*batch 15 3"]:
    """Twist, bend, splay (radians) of joint rotations: the inverse of `compose` for splay in (-90, 90) degrees.

    Gradients are finite everywhere; at exactly 90 degrees of splay, where twist and bend have no unique value, they are zero.
    """
    local = axes.mT @ rotations @ axes
    twist = safe_atan2(local[..., 2, 1], local[..., 1, 1])
    bend = safe_atan2(local[..., 0, 2], local[..., 0, 0])
    cosine = (local[..., 0, 0] ** 2 + local[..., 0, 2] ** 2 + 1e-12).sqrt()
    splay = torch.atan2(-local[..., 0, 1], cosine)
    return torch.stack([twist, bend, splay], -1)


def angle_jacobian(angles: Float[Tensor, "*batch 15 3"], axes: Float[Tensor, "15 3 3"]) -> Float[Tensor, "*batch 15 3 3"]:
    """Derivatives of twist, bend, splay (rows) in a right perturbation R exp([delta]x) of a joint's rotation; bounded near 90° of splay.

    From delta = Be'Sp' x twist' + y bend' + Be' z splay' in the joint's own axes, solved for the three rates.
    """
    _, bend, splay = angles.unbind(-1)
    cos_bend, sin_bend = torch.cos(bend), torch.sin(bend)
    cos_splay = torch.cos(splay)
    cos_splay = torch.where(cos_splay.abs() < 0.05, torch.full_like(cos_splay, 0.05), cos_splay)
    zero, one = torch.zeros_like(bend), torch.ones_like(bend)
    ratio = torch.sin(splay) / cos_splay
    twist_row = torch.stack([cos_bend / cos_splay, zero, sin_bend / cos_splay], -1)
    bend_row = torch.stack([ratio * cos_bend, one, ratio * sin_bend], -1)
    splay_row = torch.stack([-sin_bend, zero, cos_bend], -1)
    return torch.stack([twist_row, bend_row, splay_row], -2) @ axes.mT


def sample_angles(num_poses: int, rng: np.random.Generator) -> Float[np.ndarray, "num_poses 15 3"]:
    """Random plausible twist, bend, splay (radians): from fingers that curl as one to fingers that each go their own way.

    About 28 degrees of freedom; the ranges are ours and lie inside `LIMITS_DEG` but for rare tails.
    """
    degrees = np.zeros((num_poses, 15, 3))
    curl, together = rng.uniform(0, 1, (2, num_poses))
    for finger in range(4):
        own = together * curl + (1 - together) * rng.uniform(0, 1, num_poses)
        for k, (low, high, spread) in enumerate(((-15, 85, 0.12), (0, 105, 0.12), (0, 70, 0.05))):
            share = np.clip(own + rng.normal(0, spread, num_poses), 0, 1)
            degrees[:, 3 * finger + k, 1] = low + (high - low) * share
        degrees[:, 3 * finger, 2] = rng.normal(0, 7, num_poses)
        degrees[:, 3 * finger, 0] = rng.normal(0, 3, num_poses)
    degrees[:, 12] = rng.normal(0, 1, (num_poses, 3)) * [10, 18, 18] + [0, 8, 0]
    degrees[:, 13, 1] = rng.uniform(-15, 60, num_poses)
    degrees[:, 13, 2] = rng.normal(0, 5, num_poses)
    degrees[:, 14, 1] = rng.uniform(-20, 80, num_poses)
    return degrees * (math.pi / 180)


def sample_poses(num_poses: int, axes: Float[Tensor, "15 3 3"], rng: np.random.Generator) -> Float[Tensor, "num_poses 15 3 3"]:
    """Joint rotations of random plausible poses, in the dtype and on the device of `axes`."""
    angles = torch.as_tensor(sample_angles(num_poses, rng)).to(axes)
    return compose(angles, axes)
