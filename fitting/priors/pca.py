"""Train the pose prior: `whim learn prior --arctic FOLDER`, or without it from invented poses.

ARCTIC's poses may not be redistributed, nor what is learned from them: `--arctic` writes to weights/, where the fit looks for it. The
files that ship are made by `whim learn prior` alone from `fitting.hand.anatomy.sample_poses`, which nobody measured on people.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fitting.files import POSE_PRIOR, STANDIN, hand_of, licensed_model, model_file, sha256_of, trained_prior
from fitting.hand import anatomy
from fitting.hand.mano import HandModel, load_hand_model, pose_hand
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from fitting.priors.arctic import read_poses
from fitting.priors.prior import bone_rotations, mesh_map

SEED = 1
NUM_POSES = 30_000
BATCH = 1 << 15
MESHES = 4096
"""Meshes a step of IncrementalPCA."""
NUM_KEPT = 64
"""Components of IncrementalPCA; the fit takes the first 30."""

Rotations = Float[Tensor, "n 15 3 3"]


def second_moment(rotations: Rotations) -> Float[Tensor, "136 136"]:
    """Mean of [g, 1][g, 1]' over poses: what a PCA of their meshes needs to know, in one pass."""
    total = torch.zeros(136, 136).to(rotations)
    for batch in torch.split(rotations, BATCH):
        bones = bone_rotations(batch)
        extended = torch.cat([bones, torch.ones_like(bones[:, :1])], 1)
        total += extended.T @ extended
    return total / len(rotations)


def meshes(model: HandModel, rotations: Rotations) -> Iterator[Float[Tensor, "m 2334"]]:
    """Wrist-centred meshes of the mean shape without correctives, by linear blend skinning, in batches of at least `NUM_KEPT`."""
    plain = replace(model, posedirs=torch.zeros_like(model.posedirs))
    for batch in rotations.tensor_split(max(1, len(rotations) // MESHES)):
        zero = torch.zeros(len(batch), 13).to(rotations)
        hand = pose_hand(plain, zero[:, :10], zero[:, 10:], axis_angle_from_matrix(batch).flatten(1))
        yield (hand.vertices - hand.joints[:, :1]).flatten(1)


def incremental_moment(model: HandModel, rotations: Rotations) -> Float[Tensor, "136 136"]:
    """Second moment of bone rotations from scikit-learn's PCA of the meshes themselves: of rank `NUM_KEPT`, and some thousand times dearer.

    Meshes are affine in the bone rotations, X = N g + x0, so that the covariance U' S U of the meshes is that of N g.
    """
    from sklearn.decomposition import IncrementalPCA

    pca = IncrementalPCA(n_components=NUM_KEPT)
    for number, batch in enumerate(meshes(model, rotations), 1):
        pca.partial_fit(batch.numpy())
        print(f"{number * len(batch)} of {len(rotations)} meshes", end="\r", file=sys.stderr, flush=True)
    _, matrix = mesh_map(model)
    components = torch.linalg.lstsq(matrix, torch.as_tensor(pca.components_).T.to(matrix)).solution
    variances = torch.as_tensor(pca.explained_variance_).to(matrix) * (1 - 1 / len(rotations))
    moment = second_moment(rotations)
    mean = moment[:135, 135]
    moment[:135, :135] = components * variances @ components.T + torch.outer(mean, mean)
    return moment


def invented_poses(model: HandModel) -> tuple[Rotations, dict[str, Any]]:
    """Poses of the anatomical sampler on a model's joint axes, and where they come from."""
    rng = np.random.default_rng(SEED)
    about = {"poses": "drawn by fitting.hand.anatomy.sample_poses: invented, not measured on people; not ARCTIC's", "licence": "Apache-2.0"}
    return anatomy.sample_poses(NUM_POSES, anatomy.joint_axes(*model.rest_joints()), rng), about | {"seed": SEED}


def arctic_poses(model: HandModel, folder: Path, every: int, worst: float) -> tuple[Rotations, dict[str, Any]]:
    """ARCTIC's poses, and where they come from. What is skipped is reported on stderr."""
    read = read_poses(folder, model.hands_mean.numpy(), every=every, worst=worst)
    for name, reason in read.skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    axis_angle = torch.as_tensor(read.hand_pose).reshape(-1, 15, 3)
    rotations = torch.cat([matrix_from_axis_angle(batch.to(model.v_template)) for batch in torch.split(axis_angle, BATCH)])
    about = {
        "poses": "ARCTIC (Fan et al., CVPR 2023), raw_seqs, right hands and mirrored left ones",
        "licence": "ARCTIC's: non-commercial, not to be redistributed",
        "every": every,
        "worst": worst,
        "num_sequences": len(read.sequences),
        "num_skipped": len(read.skipped),
        "sequences": read.sequences,
    }
    return rotations, about


def write(path: Path, moment: Float[Tensor, "136 136"], about: Mapping[str, Any]) -> None:
    """Write the prior and its provenance, side by side, each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = torch.triu_indices(136, 136)
    aside = path.with_name(f".{path.name}")
    np.savez_compressed(aside, second_moment=moment[rows, columns].numpy().astype(np.float32))
    aside.replace(path)
    path.with_suffix(".json").write_text(json.dumps({**about, "sha256": sha256_of(path)}, indent=2) + "\n")


def files_for(arctic: Path | None, model: Path | None, out: Path | None, method: str) -> tuple[Path, Path]:
    """The hand model to read and the prior to write. ValueError when they do not go together."""
    if not arctic and not out and (model or method != "moment"):
        raise ValueError("only the plain command writes the prior that ships: say where to with --out")
    if arctic and not model and hand_of(model_file()) == "standin":
        raise ValueError(f"ARCTIC's poses are MANO's: put MANO_RIGHT.pkl at {licensed_model()}, or name it with --model")
    model, out = (model or model_file(), out or trained_prior()) if arctic else (model or STANDIN, out or POSE_PRIOR)
    if arctic and out.resolve().is_relative_to(POSE_PRIOR.parent):
        raise ValueError(f"{out} would ship with the code, and ARCTIC may not be redistributed: choose another --out")
    if out.suffix != ".npz":
        raise ValueError(f"--out is {out}: it must end in .npz")
    return model, out


def train(args: argparse.Namespace) -> None:
    """Learn from the poses that the command line names, and write. ValueError or OSError where it cannot be done."""
    if args.every < 1 or not 0 <= args.worst < 1:
        raise ValueError(f"--every must be 1 or more and --worst lie in [0, 1), got {args.every} and {args.worst}")
    model_path, out = files_for(args.arctic, args.model, args.out, args.method)
    model = load_hand_model(model_path, dtype=torch.float64)
    rotations, about = arctic_poses(model, args.arctic, args.every, args.worst) if args.arctic else invented_poses(model)
    if len(rotations) < 136:
        raise ValueError(f"{len(rotations)} poses are too few for a PCA of 135 numbers: give more sequences, or a smaller --every")
    moment = second_moment(rotations) if args.method == "moment" else incremental_moment(model, rotations)
    made_by = "whim learn prior" + (" --arctic" if args.arctic else "")
    about = {"made_by": made_by, **about, "num_poses": len(rotations), "method": args.method, "hand_model": sha256_of(model_path)}
    write(out, moment, about)
    print(f"{len(rotations)} poses, {about['poses']}\nlicence: {about['licence']}\n{sha256_of(out)}  {out}  {out.stat().st_size} bytes")
