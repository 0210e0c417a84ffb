"""Layout of all that the compiled fit reads: constants as plain float32 arrays, and where each number of a hand lies in the work array.

Everything that does not depend on the hand is worked out here once, in float64: products of constants, what is zero by structure, and the
prior about the mean pose, g = centre + h, where float32 loses no digits to cancellation.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from fitting.compiled.lanes import TILE
from fitting.compiled.machine_code import sources_sha256
from fitting.objective import NUM_UNKNOWNS, Objective
from fitting.priors.prior import bone_rotations

ROTATIONS, ROOT, BETAS, SCALE, SHIFT, STATE = 0, 135, 144, 154, 155, 157
"""Rows of a state: row-major matrices, betas, scale (not its logarithm), shift; and how many."""
KEYPOINTS, CONFIDENCE, DEPTH, DEPTH_CONFIDENCE, PERSPECTIVE, LANDMARKS = 0, 42, 63, 84, 105, 106
"""Rows of a hand's landmarks; and how many."""
WIDTH = 3 * TILE
"""Of sums that `add_scaled` holds at once."""
COLUMNS = 25
"""Of the landmarks' Jacobian of one finger: 9 of its joints, 3 of the root, 10 betas, scale, 2 of shift."""


def _starts(**sizes: int) -> dict[str, int]:
    ends = np.cumsum(list(sizes.values()))
    return dict(zip(sizes, (ends - list(sizes.values())).tolist(), strict=True)) | {"end": int(ends[-1])}


_ROWS = _starts(
    here=STATE,  # the state, and the one tried
    trial=STATE,
    seen=LANDMARKS,
    points=63,  # posed, metres
    bones=135,  # rotations relative to the wrist
    turns=135,  # the same to camera axes
    parts=60,  # each tip as the wrist and each bone of its finger would carry it
    shape=600,  # d points / d betas
    gap=63,  # projected minus seen: 21 x, 21 y, 21 depths
    near=63,  # by how much perspective shrinks the 21 points, and how fast their x and y fall with depth
    pull=42,  # roots of the weights of the 21 points and of their depths
    jacobian=12 * (COLUMNS + 1),  # of one finger's four points: x, y, depth; a row ends with its residual
    excess=220,  # of the bones' lengths: d / d betas, and the values
    away=135,  # bone rotations from those of the mean pose
    residual=135,  # whose squares the prior sums
    slope=135,  # half of d prior / d bone rotations
    moment=81,  # of the skin of two fingers' bones
    step=NUM_UNKNOWNS,
    shifts=45,  # of the mesh: what a bone's rotation leaves to be moved
    rest=15,  # a block of vertices at rest
    measures=11,
)
HERE, TRIAL, SEEN = _ROWS["here"], _ROWS["trial"], _ROWS["seen"]
POINTS, BONES, TURNS, PARTS, SHAPE = (_ROWS[name] for name in ("points", "bones", "turns", "parts", "shape"))
GAP, NEAR, PULL, JACOBIAN, EXCESS = (_ROWS[name] for name in ("gap", "near", "pull", "jacobian", "excess"))
AWAY, RESIDUAL, SLOPE, MOMENT, STEP = (_ROWS[name] for name in ("away", "residual", "slope", "moment", "step"))
SHIFTS, REST, MEASURES = (_ROWS[name] for name in ("shifts", "rest", "measures"))
COMPONENTS, COMPONENT_ROWS = _ROWS["end"], 45
"""The prior's components come last in a work array [rows, LANES]: of each, d component / d turns of the 15 joints."""


SOURCES: Shaped[np.ndarray, "0"] = np.zeros(0, [(f"sources_{sources_sha256()}", np.int8)])
"""An empty array whose type names the state of the compiled modules. Numba takes a kept function for fresh while that function's own file
does not change, whatever happens to those that it calls; but it keeps it under the types of its arguments."""


class Hand(NamedTuple):
    """Bones and tips, affine in the betas; see `fitting.hand.kinematics.JointModel`."""

    bones: Float32[np.ndarray, "5 3 3"]
    bones_shape: Float32[np.ndarray, "5 3 3 10"]
    tips: Float32[np.ndarray, "5 3"]
    """With the correctives that a joint's rotation has at zero."""
    tips_shape: Float32[np.ndarray, "5 3 10"]
    tips_carried: Float32[np.ndarray, "5 4 3 10"]
    """d tip / d betas in the frame of the wrist and of each bone, weighted."""
    tip_weights: Float32[np.ndarray, "5 4"]
    corrective_starts: Int64[np.ndarray, "6"]
    """Where the correctives of each tip begin, which are not zero by structure."""
    corrective_rows: Int64[np.ndarray, "correctives"]
    correctives: Float32[np.ndarray, "correctives 3"]


class Limits(NamedTuple):
    """Limits of bone lengths and joint angles."""

    axes: Float32[np.ndarray, "15 3 3"]
    twist: Float32[np.ndarray, "15 2"]
    hulls: Float32[np.ndarray, "15 corners 5"]
    """Corner, edge to the next corner, and the inverse square of the edge's length."""
    lengths: Float32[np.ndarray, "20 3"]
    """Shortest, longest, and the inverse of their mean."""


class Table(NamedTuple):
    """A matrix for `add_scaled`: its rows in blocks of WIDTH, of which only the columns that are not zero."""

    starts: Int64[np.ndarray, "blocks_and_1"]
    """Where the columns of each block begin."""
    columns: Int64[np.ndarray, "entries"]
    entries: Float32[np.ndarray, "entries width"]


class Prior(NamedTuple):
    """E = |residual h|^2 + 2 linear'h + constant with h the bone rotations minus `centre`; Q = inertia (x) I_3 - explained' explained."""

    centre: Float32[np.ndarray, "135"]
    linear: Float32[np.ndarray, "135"]
    constant: float
    residual: Table
    """An upper triangle with residual' residual = Q: squares lose no digits to each other, as the parts of Q do."""
    slope: Table
    """The same, transposed."""
    explained: Float32[np.ndarray, "components 135"]
    pairs: Int64[np.ndarray, "couplings 2"]
    """Bones that share skin, in both orders, by pair of fingers."""
    inertia: Float32[np.ndarray, "couplings 3 3"]
    finger_starts: Int64[np.ndarray, "26"]
    """Where the couplings of each of the 5 x 5 pairs of fingers begin."""
    reach: Int64[np.ndarray, "5 5"]
    """One more than the outermost bone of the first finger that shares skin with the second."""


class Weights(NamedTuple):
    """Weights of the losses, and where the robust ones turn linear: see `fitting.settings.FitSettings`."""

    bone: float
    angle: float
    prior: float
    shape: float
    depth: float
    robust_scale: float
    depth_scale: float
    perspective: bool
    """Whether hands are seen by true rays; without, not one operation is another than in a fit that knows weak perspective alone."""


class Constants(NamedTuple):
    """Constants of an objective."""

    hand: Hand
    limits: Limits
    prior: Prior
    weights: Weights


@lru_cache(maxsize=4)
def constants(objective: Objective, perspective: bool) -> Constants:
    """The constants of an objective; the same object for the same objective."""
    settings = objective.settings
    scales = {name: float(getattr(settings, name)) for name in ("robust_scale", "depth_scale")}
    own = {name: float(getattr(settings, f"{name}_weight")) for name in ("bone", "angle", "prior", "shape", "depth")}
    weights = Weights(**own, **scales, perspective=perspective)
    return Constants(_hand(objective), _limits(objective), _prior(objective), weights)


def _float32(values: Float[Tensor, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    return np.ascontiguousarray(values.cpu().numpy(), dtype=np.float32)


def _hand(objective: Objective) -> Hand:
    joints = objective.joints.to("cpu", torch.float64)
    flat = torch.eye(3, dtype=torch.float64).expand(15, 3, 3).flatten()
    rest = torch.cat([torch.zeros(5, 1, 3, 10, dtype=torch.float64), joints.bones_shape.cumsum(1)], 1)
    finger, row = torch.nonzero((joints.tips_pose != 0).any(1), as_tuple=True)
    return Hand(
        bones=_float32(joints.bones),
        bones_shape=_float32(joints.bones_shape),
        tips=_float32(joints.tips - joints.tips_pose @ flat),
        tips_shape=_float32(joints.tips_shape),
        tips_carried=_float32(joints.tip_weights[:, :, None, None] * (joints.tips_shape[:, None] - rest)),
        tip_weights=_float32(joints.tip_weights),
        corrective_starts=np.searchsorted(finger.numpy(), np.arange(6)),
        corrective_rows=row.numpy(),
        correctives=_float32(joints.tips_pose[finger, :, row]),
    )


def _limits(objective: Objective) -> Limits:
    hulls, lengths = objective.hulls.double(), objective.length_limits.double()
    edges = hulls.roll(-1, 1) - hulls
    inverse = 1 / (edges**2).sum(-1, keepdim=True).clamp_min(1e-12)
    return Limits(
        axes=_float32(objective.axes),
        twist=_float32(objective.twist_limits),
        hulls=_float32(torch.cat([hulls, edges, inverse], 2)),
        lengths=_float32(torch.cat([lengths, 1 / lengths.mean(1, keepdim=True)], 1)),
    )


def _prior(objective: Objective) -> Prior:
    prior = objective.prior
    inertia, explained = prior.inertia.cpu().double(), prior.explained.cpu().double()
    quadratic = prior.quadratic.cpu().double()
    values, vectors = torch.linalg.eigh(quadratic)
    residual = torch.linalg.qr((vectors * values.clamp_min(0).sqrt()).T, mode="r").R
    centre = bone_rotations(prior.mean_rotations.cpu().double())
    linear = prior.linear.cpu().double() + quadratic @ centre
    constant = prior.constant.cpu().double() + centre @ (linear + prior.linear.cpu().double())
    blocks = inertia.reshape(5, 3, 3, 5, 3, 3).permute(0, 3, 1, 4, 2, 5)  # finger finger bone bone axis axis
    first, second, bone, other = torch.nonzero((blocks != 0).any(-1).any(-1), as_tuple=True)
    reach = np.zeros((5, 5), np.int64)
    np.maximum.at(reach, (first.numpy(), second.numpy()), bone.numpy() + 1)
    return Prior(
        centre=_float32(centre),
        linear=_float32(linear),
        constant=float(constant),
        residual=table_of(residual.numpy()),
        slope=table_of(residual.T.numpy()),
        explained=_float32(explained),
        pairs=torch.stack([3 * first + bone, 3 * second + other], 1).numpy(),
        inertia=_float32(blocks[first, second, bone, other]),
        finger_starts=np.searchsorted((5 * first + second).numpy(), np.arange(26)),
        reach=reach,
    )


def table_of(matrix: Float[np.ndarray, "rows columns"]) -> Table:
    """A matrix, whose number of rows is a multiple of WIDTH, without what is zero in a whole block of rows."""
    blocks = matrix.reshape(-1, WIDTH, matrix.shape[1])
    block, column = np.nonzero((blocks != 0).any(1))
    return Table(np.searchsorted(block, np.arange(len(blocks) + 1)), column.copy(), blocks[block, :, column].astype(np.float32))
