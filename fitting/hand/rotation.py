"""Rotations: axis-angle (radians) and matrices, with finite values and gradients everywhere, zero and half turns included."""

import torch
from jaxtyping import Float
from torch import Tensor

AxisAngle = Float[Tensor, "*batch 3"]
Matrix = Float[Tensor, "*batch 3 3"]


def cross_matrix(vector: Float[Tensor, "*batch 3"]) -> Matrix:
    """The matrix K of a vector k with K x = k x x."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vector.shape, 3)


def matrix_from_axis_angle(axis_angle: AxisAngle) -> Matrix:
    """Rodrigues' formula; near zero its series, so that the gradient at zero is exact."""
    squared = (axis_angle**2).sum(-1)
    small = squared < 1e-8
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    linear = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    quadratic = torch.where(small, 0.5 - squared / 24, (1 - torch.cos(angle)) / safe)
    k = cross_matrix(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + linear[..., None, None] * k + quadratic[..., None, None] * (k @ k)


def axis_angle_from_matrix(matrix: Matrix) -> AxisAngle:
    """Axis-angle with an angle in [0, pi], exact at half turns: through the unit quaternion's largest component."""
    m = matrix
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    diagonal = torch.stack([trace, m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], -1)
    largest = diagonal.argmax(-1)
    w, x, y, z = (2 * m[..., i, i] - trace if i >= 0 else trace for i in (-1, 0, 1, 2))
    yz, zy = m[..., 2, 1], m[..., 1, 2]
    xz, zx = m[..., 0, 2], m[..., 2, 0]
    xy, yx = m[..., 1, 0], m[..., 0, 1]
    candidates = torch.stack(
        [
            torch.stack([1 + w, yz - zy, xz - zx, xy - yx], -1),
            torch.stack([yz - zy, 1 + x, xy + yx, xz + zx], -1),
            torch.stack([xz - zx, xy + yx, 1 + y, yz + zy], -1),
            torch.stack([xy - yx, xz + zx, yz + zy, 1 + z], -1),
        ],
        -2,
    )
    quaternion = torch.take_along_dim(candidates, largest[..., None, None], -2).squeeze(-2)
    quaternion = torch.nn.functional.normalize(quaternion, dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    vector = quaternion[..., 1:]
    sine = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    factor = torch.where(sine < 1e-7, torch.full_like(sine, 2.0), angle / sine.clamp_min(1e-30))
    return vector * factor


def matrix_from_six(six: Float[Tensor, "*batch 6"]) -> Matrix:
    """The rotation whose first two columns these are, made orthonormal in order (Zhou et al., CVPR 2019, eq. 15)."""
    first = torch.nn.functional.normalize(six[..., :3], dim=-1)
    second = six[..., 3:] - (first * six[..., 3:]).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def six_from_matrix(matrix: Matrix) -> Float[Tensor, "*batch 6"]:
    """The first two columns, one after the other."""
    return matrix[..., :2].mT.flatten(-2)


def mirror_axis_angle(axis_angle: AxisAngle) -> AxisAngle:
    """The rotation seen in a mirror across x: (x, -y, -z)."""
    return axis_angle * axis_angle.new_tensor([1.0, -1.0, -1.0])


def safe_atan2(y: Float[Tensor, "*batch"], x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """atan2 with a zero instead of an infinite gradient at the origin."""
    origin = x**2 + y**2 < 1e-10
    return torch.atan2(torch.where(origin, 0, y), torch.where(origin, 1, x))
