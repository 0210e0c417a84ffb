"""The stand-in hand: a procedural right hand in MANO's exact format, shipped in `assets/` and made by `python -m fitting.standin.build`.

It takes the place of MANO_RIGHT.pkl where the licensed file is absent: 778 vertices, 1538 faces, a 16-edge wrist ring, 16 joints,
10 betas and 45 pose components. It is our own work and looks like a hand; it was not measured on people.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fitting.files import STANDIN, sha256_of
from fitting.hand import anatomy
from fitting.hand.rotation import axis_angle_from_matrix
from fitting.standin import rig as standin_rig
from fitting.standin.decimate import decimate
from fitting.standin.surface import dense_mesh, skeleton

SEED = 0
GRID_SPACING = 0.0026
"""Metres: 9,262 vertices before decimation."""
NUM_POSES = 5000
"""Poses from which the pose components are taken."""


def build() -> dict[str, np.ndarray]:
    """Every array of the format, by smplx's names (about 15 s); float32 and uint16.

    Same bytes at every call on one kind of processor. Elsewhere equal within 1e-6 (components 1e-5), but for the last 18 pose components:
    no sampled pose has any variance along them, so a linear algebra library is free to turn them among themselves.
    """
    vertices, faces = decimate(*dense_mesh(GRID_SPACING), num_vertices=778, num_boundary=16)
    order = standin_rig.mano_vertex_order(vertices, faces)
    vertices, faces = vertices[order], np.argsort(order)[faces]
    weights = standin_rig.skinning_weights(vertices, faces)
    rng = np.random.default_rng(SEED)
    mean, components = _pose_components(rng)
    arrays = {
        "v_template": vertices,
        "shapedirs": standin_rig.shape_basis(vertices, weights),
        "posedirs": standin_rig.pose_correctives(vertices, rng),
        "J_regressor": standin_rig.joint_regressor(vertices),
        "weights": weights,
        "hands_components": components,
        "hands_mean": mean,
    }
    return {name: values.astype(np.float32) for name, values in arrays.items()} | {"f": faces.astype(np.uint16)}


def _pose_components(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 45 principal components of the axis-angles of sampled poses; signs fixed by the largest entry."""
    joints, tips = (torch.from_numpy(values) for values in skeleton())
    rotations = anatomy.sample_poses(NUM_POSES, anatomy.joint_axes(joints, tips), rng)
    poses = axis_angle_from_matrix(rotations).flatten(1).numpy()
    mean = poses.mean(0)
    _, vectors = np.linalg.eigh(np.cov(poses.T))
    components = vectors.T[::-1]
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)
    return mean, components * np.sign(largest)


def save(arrays: Mapping[str, np.ndarray], path: Path) -> str:
    """Write the arrays as a compressed npz without time stamps; its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return sha256_of(path)


def main() -> None:
    """Regenerate the asset and its sidecar, and print the sha256."""
    arrays = build()
    digest = save(arrays, STANDIN)
    shapes = {name: list(values.shape) for name, values in arrays.items()}
    provenance = {
        "made_by": "python -m fitting.standin.build",
        "licence": "Apache-2.0",
        "seed": SEED,
        "grid_spacing": GRID_SPACING,
        "sha256": digest,
        "arrays": shapes,
    }
    STANDIN.with_suffix(".json").write_text(json.dumps(provenance, indent=2) + "\n")
    print(f"{digest}  {STANDIN}  {STANDIN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
