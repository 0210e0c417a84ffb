"""The stand-in hand is a hand in MANO's format, and the code in the repository is what made it."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fitting.files import STANDIN, sha256_of
from fitting.hand import anatomy
from fitting.hand.anatomy import TIP_VERTICES, WRIST_RING
from fitting.hand.mano import HandModel, pose_hand
from fitting.hand.rotation import axis_angle_from_matrix
from fitting.standin.surface import signed_distance, skeleton


@pytest.fixture(scope="module")
def edges(model: HandModel) -> Counter[tuple[int, int]]:
    """How many triangles run along each directed edge."""
    return Counter((int(f[k]), int(f[(k + 1) % 3])) for f in model.faces for k in range(3))


NUM_DEGREES = 27
"""Of freedom of the sampled poses. The other 18 components have no variance, so no basis of their own: any rotation of them is as right."""


def test_regenerating_gives_the_shipped_asset(tmp_path: Path) -> None:
    made = tmp_path / "made.npz"  # in a process of its own: with checked annotations the decimation takes five times as long
    code = "import sys, pathlib; from fitting.standin.build import build, save; save(build(), pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(made)], check=True, cwd=STANDIN.parents[2])
    with np.load(STANDIN, allow_pickle=False) as shipped, np.load(made, allow_pickle=False) as again:
        assert shipped.files == again.files
        for name in set(shipped.files) - {"hands_components"}:
            np.testing.assert_allclose(again[name], shipped[name], atol=1e-6, err_msg=name)
        ours, theirs = again["hands_components"], shipped["hands_components"]
    np.testing.assert_allclose(ours[:NUM_DEGREES], theirs[:NUM_DEGREES], atol=1e-5)
    for components in (ours, theirs):
        np.testing.assert_allclose(components @ components.T, np.eye(45), atol=1e-6)


def test_components_beyond_the_degrees_of_freedom_have_no_variance() -> None:
    axes = anatomy.joint_axes(*map(torch.from_numpy, skeleton()))
    poses = axis_angle_from_matrix(anatomy.sample_poses(2000, axes, np.random.default_rng(6))).flatten(1)
    with np.load(STANDIN, allow_pickle=False) as shipped:
        spread = ((poses - poses.mean(0)).numpy() @ shipped["hands_components"].T).std(0)
    assert spread[NUM_DEGREES - 1] > 0.01
    assert spread[NUM_DEGREES:].max() < 1e-6


def test_sidecar_names_the_shipped_file() -> None:
    sidecar = json.loads(STANDIN.with_suffix(".json").read_text())
    assert sidecar["sha256"] == sha256_of(STANDIN)
    assert STANDIN.stat().st_size < 200_000


def test_counts_and_topology_are_manos(model: HandModel, edges: Counter[tuple[int, int]]) -> None:
    assert (len(model.v_template), len(model.faces)) == (778, 1538)
    assert max(edges.values()) == 1, "an edge is used twice in one direction"
    open_edges = {(a, b) for a, b in edges if (b, a) not in edges}
    assert len(open_edges) == 16
    num_edges = (len(edges) + len(open_edges)) // 2
    assert 778 - num_edges + 1538 == 1


def test_open_ring_is_the_wrist_ring_of_the_format(edges: Counter[tuple[int, int]]) -> None:
    boundary = {a for a, b in edges if (b, a) not in edges}
    assert boundary == set(WRIST_RING)
    for a, b in pairwise(WRIST_RING):
        assert (b, a) in edges


def test_triangles_look_outward(model: HandModel) -> None:
    corners = model.v_template[model.faces].double()
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert 250e-6 < volume < 400e-6


def test_vertices_lie_on_the_implicit_surface(model: HandModel) -> None:
    assert np.abs(signed_distance(model.v_template.double().numpy())).max() < 0.6e-3


def test_regressor_and_tips_give_the_skeleton(model: HandModel) -> None:
    joints, tips = model.rest_joints()
    wanted_joints, wanted_tips = skeleton()
    np.testing.assert_allclose(joints, wanted_joints, atol=1e-6)
    np.testing.assert_allclose(tips, wanted_tips, atol=3e-3)
    assert len(set(TIP_VERTICES)) == 5


def test_weights_are_shares(model: HandModel) -> None:
    assert (model.weights >= 0).all()
    np.testing.assert_allclose(model.weights.sum(1), 1, atol=1e-6)


def test_skin_does_not_tear_in_plausible_poses(exact: HandModel) -> None:
    rotations = anatomy.sample_poses(64, anatomy.joint_axes(*exact.rest_joints()), np.random.default_rng(5))
    zero = torch.zeros(64, 13, dtype=torch.float64)
    posed = pose_hand(exact, zero[:, :10], zero[:, 10:], axis_angle_from_matrix(rotations).flatten(1)).vertices
    stretch = _edge_lengths(posed, exact) - _edge_lengths(exact.v_template[None], exact)
    assert stretch.max() < 0.020, "an edge of the mesh grew by more than 20 mm"
    assert (stretch > 0.012).double().mean() < 5e-4


def _edge_lengths(vertices: torch.Tensor, model: HandModel) -> torch.Tensor:
    corners = vertices[:, model.faces]
    return (corners - corners.roll(1, 2)).norm(dim=-1)
