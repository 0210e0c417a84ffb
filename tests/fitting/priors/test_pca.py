"""The prior's training: both routes learn one subspace, files say what they are made of, and what ARCTIC gives is kept apart."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import whim
from fitting.files import POSE_PRIOR, STANDIN, sha256_of
from fitting.hand import anatomy
from fitting.hand.mano import HandModel
from fitting.hand.rotation import axis_angle_from_matrix
from fitting.losses import prior_loss
from fitting.priors import pca
from fitting.priors.prior import mesh_components, pose_prior, read_second_moment


def sampled(exact: HandModel, n: int, seed: int) -> torch.Tensor:
    return anatomy.sample_poses(n, anatomy.joint_axes(*exact.rest_joints()), np.random.default_rng(seed))


@pytest.fixture
def raw_seqs(exact: HandModel, tmp_path: Path) -> Path:
    """Three sequences in ARCTIC's format, of poses that we know: right hands, and left hands that mirror them."""
    folder = tmp_path / "arctic" / "raw_seqs"
    poses = axis_angle_from_matrix(sampled(exact, 600, 4)).flatten(1) - exact.hands_mean
    for number, part in enumerate(poses.numpy().reshape(3, 200, 45)):
        path = folder / f"s0{number + 1}" / "box_grab_01.mano.npy"
        path.parent.mkdir(parents=True)
        frames = {name: np.zeros((200, 3)) for name in ("rot", "trans")} | {"fitting_err": np.zeros(200), "shape": np.zeros(10)}
        mirrored = (part.reshape(200, 15, 3) * [1, -1, -1]).reshape(200, 45)
        both = {"right": frames | {"pose": part}, "left": frames | {"pose": mirrored}}
        np.save(path, np.array(both), allow_pickle=True)
    return folder


def trained(*arguments: object) -> Path:
    """What the command writes."""
    assert whim.main(["learn", "prior", *map(str, arguments)]) == 0
    return Path(str(arguments[-1]))


def test_both_routes_learn_one_subspace(exact: HandModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps of scikit-learn's IncrementalPCA on posed meshes, and one pass over bone rotations."""
    monkeypatch.setattr(pca, "MESHES", 500)
    rotations = sampled(exact, 3000, 8)
    basis, variance, mean = mesh_components(exact, pca.second_moment(rotations), 20)
    others = mesh_components(exact, pca.incremental_moment(exact, rotations), 20)
    assert torch.linalg.svdvals(basis @ others[0].T).min() > 1 - 1e-6
    torch.testing.assert_close(others[1], variance, rtol=1e-4, atol=0)
    torch.testing.assert_close(others[2], mean, atol=1e-9, rtol=0)


def test_batches_make_no_difference(exact: HandModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rotations = sampled(exact, 500, 8)
    whole = pca.second_moment(rotations)
    monkeypatch.setattr(pca, "BATCH", 70)
    torch.testing.assert_close(pca.second_moment(rotations), whole)


def test_prior_of_arctic_is_that_of_its_poses(exact: HandModel, raw_seqs: Path, tmp_path: Path) -> None:
    out = trained("--arctic", raw_seqs, "--model", STANDIN, "--every", 1, "--worst", 0, "--out", tmp_path / "mine" / "prior.npz")
    wanted = pca.second_moment(sampled(exact, 600, 4))
    torch.testing.assert_close(read_second_moment(out), wanted, atol=1e-6, rtol=0)
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")], "written aside, then renamed"


def test_provenance_of_arctic(raw_seqs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw_seqs / "s03" / "box_grab_01.mano.npy").write_bytes(b"cut")
    out = trained("--arctic", raw_seqs, "--model", STANDIN, "--every", 2, "--out", tmp_path / "prior.npz")
    about = json.loads(out.with_suffix(".json").read_text())
    assert "non-commercial, not to be redistributed" in about["licence"]
    assert about["sequences"] == ["s01/box_grab_01", "s02/box_grab_01"]
    assert (about["num_poses"], about["num_skipped"], about["every"], about["worst"]) == (2 * 2 * 100, 1, 2, 0.02)
    assert about["sha256"] == sha256_of(out)
    assert about["hand_model"] == sha256_of(STANDIN)
    said = capsys.readouterr()
    assert "skipped s03/box_grab_01" in said.err
    assert "not to be redistributed" in said.out


def test_incremental_route_writes_the_same_kind_of_file(exact: HandModel, raw_seqs: Path, tmp_path: Path) -> None:
    arguments = ("--arctic", raw_seqs, "--model", STANDIN, "--every", 1)
    one = trained(*arguments, "--out", tmp_path / "one.npz")
    other = trained(*arguments, "--method", "incremental", "--out", tmp_path / "other.npz")
    poses = sampled(exact, 50, 9)
    first, second = (prior_loss(poses, pose_prior(exact, path=path)) for path in (one, other))
    torch.testing.assert_close(second, first, rtol=1e-2, atol=1e-6)
    assert json.loads(other.with_suffix(".json").read_text())["method"] == "incremental"


def test_plain_command_makes_what_ships(tmp_path: Path) -> None:
    """In a process of its own: with checked annotations it takes minutes."""
    command = [sys.executable, "-m", "pipeline", "learn", "prior", "--model", str(STANDIN), "--out", str(tmp_path / "made.npz")]
    said = subprocess.run(command, check=True, cwd=STANDIN.parents[2], capture_output=True, text=True).stdout
    assert "invented, not measured on people" in said
    with np.load(tmp_path / "made.npz") as new, np.load(POSE_PRIOR) as old:
        np.testing.assert_allclose(new["second_moment"], old["second_moment"], atol=1e-5)


def test_sidecar_names_the_shipped_prior_and_the_hand_behind_it() -> None:
    about = json.loads(POSE_PRIOR.with_suffix(".json").read_text())
    assert about["sha256"] == sha256_of(POSE_PRIOR)
    assert about["hand_model"] == sha256_of(STANDIN)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--arctic", "ABSENT"], r"ABSENT holds no \*\.mano\.npy: get raw_seqs\.zip"),
        (["--arctic", "ARCTIC", "--every", "100"], "12 poses are too few"),
        (["--arctic", "ARCTIC", "--out", str(POSE_PRIOR)], "ARCTIC may not be redistributed: choose another --out"),
        (["--arctic", "ARCTIC", "--out", "prior.txt"], "it must end in .npz"),
        (["--arctic", "ARCTIC", "--model", "ABSENT.npz"], "ABSENT.npz"),
        (["--arctic", "ARCTIC", "--every", "0"], "--every: must be 1 or more, got 0"),
        (["--arctic", "ARCTIC", "--worst", "1"], r"--worst lie in \[0, 1\), got 4 and 1.0"),
        (["--method", "incremental"], "say where to with --out"),
        (["--model", str(STANDIN)], "say where to with --out"),
    ],
)
def test_senseless_command_is_refused(
    arguments: list[str], reason: str, raw_seqs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sha256_of(POSE_PRIOR)
    arguments = [str(raw_seqs) if argument == "ARCTIC" else argument for argument in arguments]
    elsewhere = [] if "--out" in arguments or "--arctic" not in arguments else ["--out", "prior.npz"]
    model = [] if "--model" in arguments or "--arctic" not in arguments else ["--model", str(STANDIN)]
    assert whim.main(["learn", "prior", *arguments, *elsewhere, *model]) == 1
    assert re.search(f"whim: .*{reason}", capsys.readouterr().err)
    assert sha256_of(POSE_PRIOR) == before
    assert not (tmp_path / "prior.npz").exists()


def test_arctic_wants_manos_own_model(
    raw_seqs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its poses are relative to MANO's mean pose; the stand-in's is another."""
    monkeypatch.setenv("WHIM_MANO", str(STANDIN))
    assert whim.main(["learn", "prior", "--arctic", str(raw_seqs), "--out", str(tmp_path / "prior.npz")]) == 1
    assert re.search(r"put MANO_RIGHT\.pkl at .*, or name it with --model", capsys.readouterr().err)
