"""The pose prior of WiLoR's eq. 4: a PCA of hand meshes, evaluated exactly without the mesh.

Meshes are aligned at the wrist, with the root's rotation and the betas at zero and no pose correctives. Such a mesh is affine in the 15
bone rotations G (135 numbers), X = N g + x0, so that ||(I - U'U)(X - mu)||^2 is a quadratic form in g. The same
holds for training: all that a PCA needs of the poses is the second moment of [g, 1], a 136 x 136 matrix, which is
what the asset holds (`fitting.priors.pca` makes it).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fitting.files import prior_file, read_arrays
from fitting.hand.anatomy import PARENTS
from fitting.hand.mano import HandModel

NUM_COMPONENTS = 30
"""Of the PCA, d in eq. 4. Ours: 36 to 64 are as exact, 20 is 0.2 mm worse under landmark noise; the paper does not say."""

NOISE = 2e-5
"""Square metres, see `pose_prior`. Ours: under landmark noise of 3 % of the box worth 1.2 of 6.4 mm; half and twice as much cost 0.1."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class PosePrior:
    """E(g) = g'Qg + 2 b'g + c, square metres summed over the 778 vertices."""

    quadratic: Float[Tensor, "135 135"]
    linear: Float[Tensor, "135"]
    constant: Float[Tensor, ""]
    mean_rotations: Float[Tensor, "15 3 3"]
    """The joint rotations of the mean pose: where a fit starts."""
    inertia: Float[Tensor, "45 45"]
    """Second moment of the skin over (bone, axis): Q = inertia (x) I_3 - explained' explained, cheaper than Q's dense products."""
    explained: Float[Tensor, "components 135"]
    """What the components take away: N'U', each row times sqrt(variance / (variance + noise))."""


def bone_rotations(rotations: Float[Tensor, "*batch 15 3 3"]) -> Float[Tensor, "*batch 135"]:
    """Rotation of every bone relative to the wrist, row by row, from the rotation of every joint relative to its parent."""
    bones: list[Tensor] = []
    for j in range(15):
        parent = PARENTS[j + 1] - 1
        bones.append(rotations[..., j, :, :] if parent < 0 else bones[parent] @ rotations[..., j, :, :])
    return torch.stack(bones, -3).flatten(-3)


def mesh_map(model: HandModel) -> tuple[Float[Tensor, "2334"], Float[Tensor, "2334 135"]]:
    """x0 and N of X = x0 + N g: the wrist-centred mesh of the mean shape without correctives, from bone rotations."""
    joints = model.J_regressor @ model.v_template
    parents = torch.tensor(PARENTS[1:])
    linear = torch.zeros(778, 15, 3).to(joints)
    for j in range(1, 16):
        linear[:, j - 1] += model.weights[:, j, None] * (model.v_template - joints[j])
        ancestor, child = int(parents[j - 1]), j
        while ancestor > 0:
            linear[:, ancestor - 1] += model.weights[:, j, None] * (joints[child] - joints[ancestor])
            ancestor, child = int(parents[ancestor - 1]), ancestor
    chain_start = torch.tensor([0, *(1 + 3 * ((j - 1) // 3) for j in range(1, 16))])
    offset = model.weights[:, :1] * (model.v_template - joints[0]) + model.weights[:, 1:] @ (joints[chain_start[1:]] - joints[0])
    matrix = torch.einsum("vkb,ac->vakcb", linear, torch.eye(3).to(joints))
    return offset.flatten(), matrix.reshape(2334, 135)


def mesh_components(
    model: HandModel, moment: Float[Tensor, "136 136"], num_components: int
) -> tuple[Float[Tensor, "d 2334"], Float[Tensor, "d"], Float[Tensor, "2334"]]:
    """U and mu of eq. 4: principal directions (rows), their variances and mean of the meshes of the poses behind `moment`."""
    offset, matrix = mesh_map(model)
    mean = moment[:135, 135]
    values, vectors = torch.linalg.eigh(moment[:135, :135] - torch.outer(mean, mean))
    spread = matrix @ (vectors * values.clamp_min(0).sqrt())
    directions, deviations, _ = torch.linalg.svd(spread, full_matrices=False)
    return directions[:, :num_components].T, deviations[:num_components] ** 2, offset + matrix @ mean


def read_second_moment(path: Path) -> Float[Tensor, "136 136"]:
    """The second moment of a file that `fitting.priors.pca` wrote, float64. ValueError that names the file when it is another's."""
    values = read_arrays(path, ["second_moment"]).get("second_moment")
    if values is None or values.shape != (136 * 137 // 2,) or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ValueError(f"{path} holds no pose prior: make one by whim learn prior, or unset WHIM_PRIOR for the shipped one")
    upper = torch.as_tensor(values.astype(np.float64))
    rows, columns = torch.triu_indices(136, 136)
    moment = torch.zeros(136, 136, dtype=torch.float64)
    moment[rows, columns] = moment[columns, rows] = upper
    return moment


def pose_prior(model: HandModel, num_components: int = NUM_COMPONENTS, noise: float = NOISE, path: Path | None = None) -> PosePrior:
    """The prior of `path` (default: `prior_file()`) on a hand model, in its dtype and on its device; computed in float64.

    `noise` (square metres) is the variance that a mesh has beside its components, in every direction: the energy is then
    noise x'(C + noise I)^-1 x with C the covariance in the d components (Tipping and Bishop 1999), which makes rare poses dearer than
    common ones. At 0 the components are free, as in eq. 4.
    """
    moment = read_second_moment(path or prior_file())
    exact = model.to(dtype=torch.float64)
    basis, variance, mean = mesh_components(exact, moment, num_components)
    offset, matrix = mesh_map(exact)
    kept = (variance / (variance + noise)).sqrt()[:, None] * basis
    explained, at_zero = kept @ matrix, offset - mean
    inertia = matrix.reshape(778, 3, 15, 3, 3)[:, 0, :, 0].flatten(1)
    inertia = inertia.T @ inertia
    like = model.v_template
    return PosePrior(
        quadratic=(matrix.T @ matrix - explained.T @ explained).to(like),
        linear=(matrix.T @ at_zero - explained.T @ (kept @ at_zero)).to(like),
        constant=(at_zero @ at_zero - ((kept @ at_zero) ** 2).sum()).to(like),
        mean_rotations=joint_rotations(moment[:135, 135].reshape(15, 3, 3)).to(like),
        inertia=inertia.to(like),
        explained=explained.to(like),
    )


def joint_rotations(mean_bones: Float[Tensor, "15 3 3"]) -> Float[Tensor, "15 3 3"]:
    """Joint rotations whose bones are nearest to averaged ones (averages of rotations are none)."""
    u, _, vt = torch.linalg.svd(mean_bones)
    signs = torch.ones(15, 3).to(mean_bones)
    signs[:, 2] = torch.linalg.det(u @ vt)
    bones = u * signs[:, None] @ vt
    return torch.stack([bones[j] if PARENTS[j + 1] == 0 else bones[PARENTS[j + 1] - 1].T @ bones[j] for j in range(15)])
