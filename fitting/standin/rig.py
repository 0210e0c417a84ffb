"""From the stand-in's mesh to a MANO hand: vertex order, skinning, joint regressor, shape basis and pose correctives."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import nnls

from fitting.hand.anatomy import TIP_VERTICES, WRIST_RING
from fitting.standin.surface import CHAINS, distance_to_bones, skeleton

MANOPTH_TIPS = (745, 317, 444, 556, 673)
"""Fingertip vertices of manopth's MANO, which differ from smplx's: `fitting.hand.anatomy.TIP_VERTICES`."""

Vertices = Float64[np.ndarray, "778 3"]
Weights = Float64[np.ndarray, "778 16"]
Faces = Int64[np.ndarray, "1538 3"]


def skinning_weights(vertices: Vertices, faces: Faces) -> Weights:
    """Soft assignment to bones by distance, with smooth steps across each joint along its finger."""
    joints, _ = skeleton()
    distance = distance_to_bones(vertices)
    nearest = np.stack([distance[:, chain].min(1) for chain in CHAINS.values()], 1).argmin(1)
    weights = np.zeros((len(vertices), 16))
    for finger, (name, chain) in enumerate(CHAINS.items()):
        rows = np.flatnonzero(nearest == finger)
        columns = np.array([0, *chain])
        gap = distance[rows[:, None], columns]
        soft = np.exp(-(gap - gap.min(1, keepdims=True)) / 0.0028)
        for k in (1, 2):
            step = _step(vertices[rows], joints[chain[k - 1]], joints[chain[k]], joints[chain[k]], 0.011)
            both = soft[:, k] + soft[:, k + 1]
            soft[:, k], soft[:, k + 1] = both * (1 - step), both * step
        step = _step(vertices[rows], joints[chain[0]], joints[chain[1]], joints[chain[0]], 0.030 if name == "thumb" else 0.020)
        step[gap[:, 0] - gap.min(1) > 0.012] = 1.0
        total, phalanges = soft.sum(1), soft[:, 1:].sum(1)
        soft[:, 1:] *= (step * total / np.maximum(phalanges, 1e-12))[:, None]
        soft[:, 0] = (1 - step) * total
        weights[rows[:, None], columns] = soft / soft.sum(1, keepdims=True)
    weights = _smoothed_on_palm(weights, distance[:, 0], faces)
    weights[weights < 0.004] = 0
    normalised: Weights = weights / weights.sum(1, keepdims=True)
    return normalised


def _smoothed_on_palm(weights: Weights, palm_distance: Float64[np.ndarray, "778"], faces: Faces, rounds: int = 4) -> Weights:
    """Averages over neighbours where flesh is palm, so that the skin does not tear where the nearest finger changes."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    adjacent = np.zeros((len(weights), len(weights)))
    adjacent[edges[:, 0], edges[:, 1]] = adjacent[edges[:, 1], edges[:, 0]] = 1
    adjacent /= adjacent.sum(1, keepdims=True)
    share = 0.7 * np.clip(1 - palm_distance / 0.004, 0, 1)[:, None]
    for _ in range(rounds):
        weights = (1 - share) * weights + share * (adjacent @ weights)
    return weights


def _step(points: np.ndarray, start: np.ndarray, end: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
    """A smooth step from 0 to 1 along start -> end, one half at `centre`, `width` metres wide."""
    axis = (end - start) / np.linalg.norm(end - start)
    share = np.clip(0.5 + ((points - centre) @ axis) / width, 0, 1)
    step: np.ndarray = share * share * (3 - 2 * share)
    return step


def _boundary_ring(faces: Faces) -> list[int]:
    """Vertices of the open ring, in the direction in which its faces run along it."""
    edges = [(int(face[k]), int(face[(k + 1) % 3])) for face in faces for k in range(3)]
    present = set(edges)
    following = {a: b for a, b in edges if (b, a) not in present}
    ring = [min(following)]
    while following[ring[-1]] != ring[0]:
        ring.append(following[ring[-1]])
    return ring


def mano_vertex_order(vertices: Vertices, faces: Faces) -> Int64[np.ndarray, "778"]:
    """Old indices in the new order, in which the ids that the field knows by heart (tips, wrist ring) mean the same places."""
    _, tips = skeleton()
    fixed: dict[int, int] = {}
    for tip, smplx_id, manopth_id in zip(tips, TIP_VERTICES, MANOPTH_TIPS, strict=True):
        first, second = np.argsort(np.linalg.norm(vertices - tip, axis=1))[:2]
        fixed[smplx_id], fixed[manopth_id] = int(first), int(second)
    fixed.update(zip(WRIST_RING, reversed(_boundary_ring(faces)), strict=True))
    used = set(fixed.values())
    others = iter(v for v in range(len(vertices)) if v not in used)
    return np.array([fixed[i] if i in fixed else next(others) for i in range(len(vertices))])


def joint_regressor(vertices: Vertices) -> Float64[np.ndarray, "16 778"]:
    """Few non-negative weights a joint that sum to one and place it exactly (non-negative least squares on its nearest vertices)."""
    joints, _ = skeleton()
    regressor = np.zeros((16, len(vertices)))
    for j, joint in enumerate(joints):
        near = np.argsort(np.linalg.norm(vertices - joint, axis=1))[: 32 if j else 60]
        weights, _ = nnls(100 * np.vstack([vertices[near].T, np.ones(len(near))]), 100 * np.append(joint, 1.0))
        regressor[j, near] = weights / weights.sum()
    return regressor


def shape_basis(vertices: Vertices, weights: Weights) -> Float64[np.ndarray, "778 3 10"]:
    """Ten displacements (metres a unit of beta): size, width, thickness, finger length (all, then each), finger girth."""
    joints, tips = skeleton()
    centred = vertices - joints[0]
    basis = np.zeros((len(vertices), 3, 10))
    basis[:, :, 0] = 0.06 * centred
    basis[:, 2, 1] = 0.05 * centred[:, 2]
    basis[:, 1, 2] = 0.07 * centred[:, 1]
    columns = {"thumb": (4,), "index": (3, 5), "middle": (3, 6), "ring": (3, 7), "little": (3, 8)}
    for finger, (name, chain) in enumerate(CHAINS.items()):
        own = weights[:, chain].sum(1, keepdims=True)
        ends = (joints[chain[1]], joints[chain[2]], tips[finger])
        for joint, end in zip(chain, ends, strict=True):
            axis = end - joints[joint]
            along = np.clip(((vertices - joints[joint]) @ axis) / (axis @ axis), 0, 1)[:, None]
            for column in columns[name]:
                basis[:, :, column] += 0.06 * own * along * axis
            basis[:, :, 9] += 0.02 * own * (vertices - joints[joint] - along * axis)
    return basis


def pose_correctives(vertices: Vertices, rng: np.random.Generator) -> Float64[np.ndarray, "778 3 135"]:
    """Small bulges about each joint, linear in the entries of R - I: synthetic, for the format's sake, about 1 mm at 90 degrees."""
    joints, _ = skeleton()
    correctives = np.zeros((len(vertices), 3, 15, 9))
    for j in range(1, 16):
        outward = vertices - joints[j]
        distance = np.linalg.norm(outward, axis=1, keepdims=True)
        bulge = 0.0006 * np.exp(-((distance / 0.012) ** 2)) * outward / distance
        correctives[:, :, j - 1] = bulge[:, :, None] * rng.normal(size=9)
    correctives[np.abs(correctives) < 2e-5] = 0
    return correctives.reshape(len(vertices), 3, 135)
