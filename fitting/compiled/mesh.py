"""The mesh of LANES hands vertex by vertex, of which only the outline and the tips are kept: linear blend skinning, compiled.

What a hand model has zero by structure (most weights; in the stand-in most pose correctives) is left out.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64

from fitting.compiled.functions import put_point, turned
from fitting.compiled.kernel import kernel
from fitting.compiled.lanes import TILE, Lanes, Rows, everywhere, load, store, where
from fitting.compiled.layout import BETAS, POINTS, REST, ROOT, ROTATIONS, SHIFTS, STATE, TURNS, WIDTH, Hand, Table, table_of
from fitting.compiled.pose import shaped
from fitting.compiled.sums import add_scaled
from fitting.hand.anatomy import TIP_VERTICES, TIPS_IN_MANO_ORDER
from fitting.hand.mano import HandModel


class Mesh(NamedTuple):
    """Vertices relative to the wrist's rest place, next to each other those that the same joints carry, in blocks of TILE."""

    template: Float32[np.ndarray, "vertices 3"]
    """With the correctives that a joint's rotation has at zero."""
    directions: Table
    """Of the coordinates of all vertices in what the state scales: its rows."""
    weight_starts: Int64[np.ndarray, "vertices_and_1"]
    joints: Int64[np.ndarray, "weights"]
    """0 the wrist, then MANO's 15."""
    weights: Float32[np.ndarray, "weights"]
    tips: Int64[np.ndarray, "5"]
    """Which vertices are the tips, fingers in MANO's order."""


@lru_cache(maxsize=4)
def mesh_of(model: HandModel) -> Mesh:
    """The mesh of a hand model; the same object for the same model."""
    exact = model.to("cpu", torch.float64)
    order = np.argsort(exact.weights.argmax(1).numpy(), kind="stable")
    order = np.append(order, np.repeat(order[-1], -len(order) % TILE))
    wrist = exact.J_regressor[0]
    flat = torch.eye(3, dtype=torch.float64).expand(15, 3, 3).flatten()
    shape = exact.shapedirs - torch.einsum("v,vcb->cb", wrist, exact.shapedirs)
    directions = np.zeros((len(order), 3, STATE))
    directions[..., ROTATIONS : ROTATIONS + 135] = exact.posedirs.numpy()[order]
    directions[..., BETAS : BETAS + 10] = shape.numpy()[order]
    weights = exact.weights.numpy()[order]
    vertex, joint = np.nonzero(weights)
    places = {int(v): place for place, v in enumerate(order)}
    return Mesh(
        template=(exact.v_template - wrist @ exact.v_template - exact.posedirs @ flat).numpy()[order].astype(np.float32),
        directions=table_of(directions.reshape(-1, STATE)),
        weight_starts=np.searchsorted(vertex, np.arange(len(order) + 1)),
        joints=joint,
        weights=weights[vertex, joint].astype(np.float32),
        tips=np.array([places[TIP_VERTICES[k]] for k in TIPS_IN_MANO_ORDER]),
    )


@kernel
def outline(w: Rows, at: int, hand: Hand, mesh: Mesh) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """Smallest and largest x and y of the vertices, camera axes, wrist-centred, metres; needs `pose`, whose tips become the mesh's."""
    _place_shifts(w, at, hand)
    left = top = everywhere(1e30)
    right = bottom = everywhere(-1e30)
    for block in range(len(mesh.directions.starts) - 1):
        for i in range(WIDTH):
            store(w, REST + i, mesh.template[block * TILE + i // 3, i % 3])
        table = mesh.directions
        add_scaled(WIDTH, w, REST, table.entries, table.starts[block], table.starts[block + 1], table.columns, at)
        for k in range(TILE):
            vertex = block * TILE + k
            x, y, z = _skinned(w, at, mesh, vertex, REST + 3 * k)
            left, right = where(x < left, x, left), where(x > right, x, right)
            top, bottom = where(y < top, y, top), where(y > bottom, y, bottom)
            for finger in range(5):
                if mesh.tips[finger] == vertex:
                    put_point(w, POINTS + 3 * (4 + 4 * finger), x, y, z)
    return left, top, right, bottom


@kernel
def _place_shifts(w: Rows, at: int, hand: Hand) -> None:
    """Where each bone's rotation about the wrist's rest place has to be moved to."""
    for f in range(5):
        rest_x = rest_y = rest_z = everywhere(0.0)
        for k in range(3):
            mean, shape = hand.bones[f, k], hand.bones_shape[f, k]
            rest_x = rest_x + shaped(w, at, mean, shape, 0)
            rest_y = rest_y + shaped(w, at, mean, shape, 1)
            rest_z = rest_z + shaped(w, at, mean, shape, 2)
            x, y, z = turned(w, TURNS + 9 * (3 * f + k), rest_x, rest_y, rest_z)
            point = POINTS + 3 * (1 + 4 * f + k)
            put_point(w, SHIFTS + 3 * (3 * f + k), load(w, point) - x, load(w, point + 1) - y, load(w, point + 2) - z)


@kernel
def _skinned(w: Rows, at: int, mesh: Mesh, vertex: int, rest: int) -> tuple[Lanes, Lanes, Lanes]:
    """A vertex, posed, from its rest place at rows `rest`."""
    rest_x, rest_y, rest_z = load(w, rest), load(w, rest + 1), load(w, rest + 2)
    x = y = z = everywhere(0.0)
    for k in range(mesh.weight_starts[vertex], mesh.weight_starts[vertex + 1]):
        joint, weight = mesh.joints[k] - 1, mesh.weights[k]
        if joint < 0:
            part_x, part_y, part_z = turned(w, at + ROOT, rest_x, rest_y, rest_z)
        else:
            part_x, part_y, part_z = turned(w, TURNS + 9 * joint, rest_x, rest_y, rest_z)
            shift = SHIFTS + 3 * joint
            part_x, part_y, part_z = part_x + load(w, shift), part_y + load(w, shift + 1), part_z + load(w, shift + 2)
        x, y, z = x + part_x * weight, y + part_y * weight, z + part_z * weight
    return x, y, z
