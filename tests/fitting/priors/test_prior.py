"""The PCA of hand meshes without meshes: exact, reproducible, and honest about where its poses come from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from fitting import files
from fitting.files import POSE_PRIOR, prior_file, prior_source, sha256_of
from fitting.hand import anatomy
from fitting.hand.mano import HandModel, pose_hand
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from fitting.losses import prior_loss
from fitting.priors.pca import NUM_POSES, SEED, second_moment
from fitting.priors.prior import bone_rotations, joint_rotations, mesh_components, mesh_map, pose_prior, read_second_moment


def poses(exact: HandModel, n: int, seed: int) -> torch.Tensor:
    return anatomy.sample_poses(n, anatomy.joint_axes(*exact.rest_joints()), np.random.default_rng(seed))


def meshes(exact: HandModel, rotations: torch.Tensor) -> torch.Tensor:
    """Meshes by linear blend skinning, without correctives, wrist at the origin."""
    plain = replace(exact, posedirs=torch.zeros_like(exact.posedirs))
    zero = torch.zeros(len(rotations), 13, dtype=torch.float64)
    hand = pose_hand(plain, zero[:, :10], zero[:, 10:], axis_angle_from_matrix(rotations).flatten(1))
    return (hand.vertices - hand.joints[:, :1]).flatten(1)


def test_mesh_is_affine_in_the_bone_rotations(exact: HandModel) -> None:
    rotations = matrix_from_axis_angle(torch.as_tensor(np.random.default_rng(0).normal(size=(8, 15, 3))))
    offset, matrix = mesh_map(exact)
    torch.testing.assert_close(offset + bone_rotations(rotations) @ matrix.T, meshes(exact, rotations), atol=1e-7, rtol=0)


def test_joints_turns_come_back_from_their_bones() -> None:
    rotations = matrix_from_axis_angle(torch.as_tensor(np.random.default_rng(1).normal(size=(15, 3))))
    torch.testing.assert_close(joint_rotations(bone_rotations(rotations).reshape(15, 3, 3)), rotations)


def test_components_are_those_of_a_pca_of_meshes(exact: HandModel) -> None:
    rotations = poses(exact, 400, 3)
    basis, _, mean = mesh_components(exact, second_moment(rotations), 12)
    cloud = meshes(exact, rotations)
    torch.testing.assert_close(mean, cloud.mean(0), atol=1e-7, rtol=0)
    _, _, wanted = torch.linalg.svd(cloud - cloud.mean(0), full_matrices=False)
    cosines = torch.linalg.svdvals(basis @ wanted[:12].T)
    assert cosines.min() > 1 - 1e-6


def test_energy_ranks_poses_as_the_full_mesh_with_correctives_does(exact: HandModel) -> None:
    """Equation 4 as printed, on what `pose_hand` makes; the prior leaves the pose correctives out."""
    plausible = poses(exact, 300, 5)
    shaken = poses(exact, 300, 6) @ matrix_from_axis_angle(0.35 * torch.as_tensor(np.random.default_rng(7).normal(size=(300, 15, 3))))
    rotations = torch.cat([plausible, shaken])
    basis, _, mean = mesh_components(exact, read_second_moment(POSE_PRIOR), 20)
    zero = torch.zeros(len(rotations), 13, dtype=torch.float64)
    hand = pose_hand(exact, zero[:, :10], zero[:, 10:], axis_angle_from_matrix(rotations).flatten(1))
    mesh = (hand.vertices - hand.joints[:, :1]).flatten(1)
    assert (mesh - meshes(exact, rotations)).abs().max() > 1e-4, "the correctives move the skin"
    full = ((mesh - mean) - (mesh - mean) @ basis.T @ basis).square().sum(1)
    ours = prior_loss(rotations, pose_prior(exact, 20, noise=0.0))
    assert spearmanr(full, ours).statistic > 0.999
    assert ((ours / full) - 1).abs().median() < 0.02


def test_held_out_poses_are_explained_better_by_more_components(exact: HandModel) -> None:
    cloud = meshes(exact, poses(exact, 300, 77))
    errors = []
    for num_components in (6, 20, 45):
        basis, _, mean = mesh_components(exact, read_second_moment(POSE_PRIOR), num_components)
        left = (cloud - mean) - (cloud - mean) @ basis.T @ basis
        errors.append(1000 * left.reshape(-1, 778, 3).norm(dim=2).mean().item())
    assert 4 < errors[0] < 6
    assert 1 < errors[1] < 1.6
    assert errors[2] < 0.4


def test_shipped_moment_is_that_of_the_sampler(exact: HandModel) -> None:
    made = second_moment(poses(exact, NUM_POSES, SEED))
    torch.testing.assert_close(read_second_moment(POSE_PRIOR), made, atol=1e-6, rtol=0)


def test_sidecar_says_that_the_poses_are_invented() -> None:
    sidecar = json.loads(POSE_PRIOR.with_suffix(".json").read_text())
    assert sidecar["sha256"] == sha256_of(POSE_PRIOR)
    assert "not measured" in sidecar["poses"]


def test_mean_pose_is_a_rotation_a_joint(exact: HandModel) -> None:
    mean = pose_prior(exact).mean_rotations
    torch.testing.assert_close(mean @ mean.mT, torch.eye(3, dtype=torch.float64).expand(15, 3, 3))
    assert (torch.linalg.det(mean) > 0).all()


def test_the_cheap_factors_are_the_whole_form(exact: HandModel) -> None:
    for noise in (0.0, 1e-3):
        prior = pose_prior(exact, noise=noise)
        whole = torch.kron(prior.inertia, torch.eye(3, dtype=torch.float64)).reshape(15, 3, 3, 15, 3, 3)
        whole = whole.permute(0, 2, 1, 3, 5, 4).reshape(135, 135)  # from (bone, axis, component) to (bone, component, axis)
        torch.testing.assert_close(whole - prior.explained.T @ prior.explained, prior.quadratic, atol=1e-10, rtol=1e-8)


def test_noise_makes_rare_poses_dearer_than_common_ones(exact: HandModel) -> None:
    """Tipping and Bishop's energy, on the mesh."""
    noise, prior = 1e-3, pose_prior(exact, 20, noise=1e-3)
    basis, variance, mean = mesh_components(exact, read_second_moment(POSE_PRIOR), 20)
    axes = anatomy.joint_axes(*exact.rest_joints())
    rotations = anatomy.sample_poses(5, axes, np.random.default_rng(3))
    offset, matrix = mesh_map(exact)
    gap = offset + bone_rotations(rotations) @ matrix.T - mean
    inside = gap @ basis.T
    wanted = (gap**2).sum(1) - (inside**2 * variance / (variance + noise)).sum(1)
    torch.testing.assert_close(prior_loss(rotations, prior), wanted, atol=1e-9, rtol=1e-6)
    assert (wanted > prior_loss(rotations, pose_prior(exact, 20, noise=0))).all()


def test_prior_named_by_the_environment_is_used_and_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHIM_PRIOR", str(tmp_path / "absent.npz"))
    with pytest.raises(FileNotFoundError, match=r"WHIM_PRIOR .* whim learn prior"):
        prior_file()
    (tmp_path / "mine.npz").touch()
    monkeypatch.setenv("WHIM_PRIOR", str(tmp_path / "mine.npz"))
    assert prior_file() == tmp_path / "mine.npz"


def test_source_of_the_prior_is_what_its_sidecar_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WHIM_PRIOR", raising=False)
    assert "invented, not measured on people" in prior_source()
    monkeypatch.setenv("WHIM_PRIOR", str(tmp_path / "mine.npz"))
    (tmp_path / "mine.npz").touch()
    for sidecar in (None, "cut short {", "[]", "{}"):
        if sidecar is not None:
            (tmp_path / "mine.json").write_text(sidecar)
        assert prior_source() == "of unknown poses (licence: not stated)"
    (tmp_path / "mine.json").write_text(json.dumps({"poses": "ARCTIC", "licence": "non-commercial"}))
    assert prior_source() == "ARCTIC (licence: non-commercial)"


def test_trained_prior_goes_with_manos_own_file_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its poses are turns of MANO's joints; the stand-in's have other axes."""
    for variable in ("WHIM_PRIOR", "WHIM_MANO"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    assert tmp_path in files.trained_prior().parents
    for file in (files.trained_prior(), files.licensed_model()):
        file.parent.mkdir()
    files.trained_prior().touch()
    assert prior_file() == POSE_PRIOR
    files.licensed_model().touch()
    assert prior_file() == files.trained_prior()
    files.trained_prior().unlink()
    assert prior_file() == POSE_PRIOR


@pytest.mark.parametrize(
    "arrays",
    [{}, {"second_moment": np.zeros(9)}, {"second_moment": np.full(9316, np.nan)}, {"second_moment": np.zeros(9316, int)}],
    ids=["absent", "another shape", "NaN", "integers"],
)
def test_file_without_a_prior_is_named(exact: HandModel, arrays: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(ValueError, match=rf"{tmp_path}/other.npz holds no pose prior: .* whim learn prior"):
        pose_prior(exact, path=tmp_path / "other.npz")


def test_damaged_prior_is_named(exact: HandModel, tmp_path: Path) -> None:
    content = POSE_PRIOR.read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{tmp_path}/cut.npz is no npz, or cut short"):
        pose_prior(exact, path=tmp_path / "cut.npz")
