"""Train the pose prior: `python -m fitting.pca`."""

import json

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fitting import anatomy
from fitting.files import POSE_PRIOR, STANDIN, sha256_of
from fitting.mano import load_hand_model
from fitting.prior import bone_rotations

SEED = 1
NUM_POSES = 30_000


def second_moment(rotations: Float[Tensor, "n 15 3 3"]) -> Float[Tensor, "136 136"]:
    """Mean of [g, 1][g, 1]' over poses: what a PCA of their meshes needs to know."""
    bones = bone_rotations(rotations)
    extended = torch.cat([bones, torch.ones_like(bones[:, :1])], 1)
    return extended.T @ extended / len(extended)


def main() -> None:
    """Regenerate the asset from the anatomical pose sampler, and print its sha256."""
    model = load_hand_model(STANDIN, dtype=torch.float64)
    axes = anatomy.joint_axes(*model.rest_joints())
    moment = second_moment(anatomy.sample_poses(NUM_POSES, axes, np.random.default_rng(SEED)))
    rows, columns = torch.triu_indices(136, 136)
    np.savez_compressed(POSE_PRIOR, second_moment=moment[rows, columns].numpy().astype(np.float32))
    digest = sha256_of(POSE_PRIOR)
    provenance = {
        "made_by": "python -m fitting.pca",
        "poses": "drawn by fitting.anatomy.sample_poses: invented, not measured on people; not ARCTIC's",
        "licence": "Apache-2.0",
        "num_poses": NUM_POSES,
        "seed": SEED,
        "sha256": digest,
    }
    POSE_PRIOR.with_suffix(".json").write_text(json.dumps(provenance, indent=2) + "\n")
    print(f"{digest}  {POSE_PRIOR}  {POSE_PRIOR.stat().st_size} bytes")


if __name__ == "__main__":
    main()
