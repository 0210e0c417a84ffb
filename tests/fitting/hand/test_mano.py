"""The hand model's forward pass is smplx's, joints without the mesh are the mesh's, and a left hand is the mirrored right one."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fitting.hand import anatomy
from fitting.hand.kinematics import FROM_KEYPOINTS, JointModel
from fitting.hand.mano import (
    LEFT,
    OPENPOSE_ORDER,
    RIGHT,
    HandModel,
    closed_faces,
    faces_of_side,
    load_hand_model,
    pose_either_hand,
    pose_hand,
    project,
)
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle, mirror_axis_angle


def parameters(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    betas, orient, pose = (torch.as_tensor(rng.normal(size=(n, k)) * s) for k, s in ((10, 1.0), (3, 1.5), (45, 0.5)))
    return betas, orient, pose


def smplx_of(model: HandModel, **options: Any) -> Any:
    """smplx.MANO over a model's arrays."""
    smplx = pytest.importorskip("smplx")
    struct = smplx.utils.Struct(**model.for_smplx())
    return smplx.MANO("unused/MANO_RIGHT.pkl", data_struct=struct, batch_size=32, dtype=model.v_template.dtype, **options)


def openpose(output: Any) -> torch.Tensor:
    """21 joints in OpenPose's order from what smplx returns: 16, and vertices."""
    return torch.cat([output.joints[:, :16], output.vertices[:, list(anatomy.TIP_VERTICES)]], 1)[:, list(OPENPOSE_ORDER)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("flat_hand_mean", [True, False])
@pytest.mark.parametrize("num_pca_comps", [None, 6, 45])
def test_equals_smplx(exact: HandModel, num_pca_comps: Any, flat_hand_mean: Any, dtype: Any) -> None:
    """With smplx's own pose parameters: 45 angles or PCA coefficients, to which it adds the mean pose or not."""
    model = exact.to(dtype=dtype)
    options = {"use_pca": True, "num_pca_comps": num_pca_comps} if num_pca_comps else {"use_pca": False}
    oracle = smplx_of(model, flat_hand_mean=flat_hand_mean, is_rhand=True, **options)
    betas, orient, pose = (values.to(dtype) for values in parameters(32))
    given = pose[:, : num_pca_comps or 45]
    ours = given @ model.hands_components[:num_pca_comps] if num_pca_comps == 6 else given  # at 45 smplx drops its PCA without a word
    ours = ours if flat_hand_mean else ours + model.hands_mean
    wanted, got = oracle(betas=betas, global_orient=orient, hand_pose=given), pose_hand(model, betas, orient, ours)
    torch.testing.assert_close(got.vertices, wanted.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.joints, openpose(wanted), atol=1e-5, rtol=0)


def test_left_hand_equals_smplx_of_the_mirrored_model(exact: HandModel) -> None:
    """A MANO_LEFT.pkl that is the mirror image of the right one, shapedirs included."""
    flip = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    of_rotations = torch.outer(flip, flip).flatten().repeat(15)  # M R M, entry by entry
    mirrored = replace(
        exact,
        v_template=exact.v_template * flip,
        shapedirs=exact.shapedirs * flip[:, None],
        posedirs=exact.posedirs * flip[:, None] * of_rotations,
        faces=exact.faces.flip(1),
    )
    betas, orient, pose = parameters(32)
    wanted = smplx_of(mirrored, use_pca=False, flat_hand_mean=True, is_rhand=False)(betas=betas, global_orient=orient, hand_pose=pose)
    got = pose_either_hand(exact, torch.full((32,), LEFT), betas, orient, pose)
    joints = openpose(wanted)
    torch.testing.assert_close(got.joints, joints - joints[:, :1], atol=1e-6, rtol=0)
    torch.testing.assert_close(got.vertices, wanted.vertices - joints[:, :1], atol=1e-6, rtol=0)
    assert torch.equal(faces_of_side(exact, LEFT), mirrored.faces)


def test_standin_is_taken_by_smplx_as_manos_file(exact: HandModel) -> None:
    """Everything that smplx.MANO asks of MANO_RIGHT.pkl is there, and its pose components are a basis whose first ones say most."""
    oracle = smplx_of(exact)  # smplx's defaults: 6 components and the mean pose
    zero = oracle()
    torch.testing.assert_close(zero.vertices[0], pose_hand(exact, *rest(exact.hands_mean)).vertices[0], atol=1e-5, rtol=0)
    components = exact.hands_components
    torch.testing.assert_close(components @ components.T, torch.eye(45, dtype=torch.float64), atol=1e-5, rtol=0)
    rotations = anatomy.sample_poses(2000, anatomy.joint_axes(*exact.rest_joints()), np.random.default_rng(21))
    spread = ((axis_angle_from_matrix(rotations).flatten(1) - exact.hands_mean) @ components.T).var(0)
    assert spread[:10].sum() > 0.8 * spread.sum()
    assert spread[0] == spread.max()


def rest(pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.zeros(1, 10, dtype=pose.dtype), torch.zeros(1, 3, dtype=pose.dtype), pose[None]


def test_rest_hand_is_the_template(exact: HandModel) -> None:
    zero = torch.zeros(1, 58, dtype=torch.float64)
    rest = pose_hand(exact, zero[:, :10], zero[:, 10:13], zero[:, 13:])
    torch.testing.assert_close(rest.vertices[0], exact.v_template, atol=1e-8, rtol=0)


def test_joints_without_the_mesh_are_the_meshs(exact: HandModel) -> None:
    betas, orient, pose = parameters(16)
    wanted = pose_hand(exact, betas, orient, pose).joints
    joints = JointModel.of(exact).pose(matrix_from_axis_angle(orient), matrix_from_axis_angle(pose.reshape(-1, 15, 3)), betas).points
    torch.testing.assert_close(joints, (wanted - wanted[:, :1])[:, list(FROM_KEYPOINTS)], atol=1e-9, rtol=0)


def test_left_hand_is_the_mirrored_right_one(exact: HandModel) -> None:
    betas, orient, pose = parameters(8)
    right = pose_either_hand(exact, torch.full((8,), RIGHT), betas, orient, pose)
    mirrored = mirror_axis_angle(pose.reshape(-1, 15, 3)).flatten(1)
    left = pose_either_hand(exact, torch.full((8,), LEFT), betas, mirror_axis_angle(orient), mirrored)
    flip = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(left.vertices, right.vertices * flip, atol=1e-6, rtol=0)
    torch.testing.assert_close(left.joints, right.joints * flip, atol=1e-6, rtol=0)


def test_both_sides_triangles_look_outward(exact: HandModel) -> None:
    betas, orient, pose = parameters(1)
    for side in (LEFT, RIGHT):
        corners = pose_either_hand(exact, torch.tensor([side]), betas, orient, pose).vertices[0, faces_of_side(exact, side)]
        assert (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() > 0


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_closed_wrist_leaves_no_gap(exact: HandModel, side: Any) -> None:
    faces = closed_faces(exact, side)
    edges = Counter((int(face[k]), int(face[(k + 1) % 3])) for face in faces for k in range(3))
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)
    corners = pose_either_hand(exact, torch.tensor([side]), *parameters(1)).vertices[0, faces]
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert 150e-6 < volume < 700e-6, "cubic metres, the triangles looking outward"


def test_projection_by_hand() -> None:
    camera = torch.tensor([[1000.0, 320.0, 240.0]])
    assert project(torch.tensor([[[0.1, -0.05, 7.0]]]), camera).tolist() == [[[420.0, 190.0]]]


def test_file_named_by_the_environment_is_used_and_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHIM_MANO", str(tmp_path / "absent.pkl"))
    with pytest.raises(FileNotFoundError, match="WHIM_MANO"):
        load_hand_model()
    (tmp_path / "text.pkl").write_text("not a model")
    monkeypatch.setenv("WHIM_MANO", str(tmp_path / "text.pkl"))
    with pytest.raises(ValueError, match=r"not a MANO_RIGHT\.pkl"):
        load_hand_model()


def test_other_dtype_keeps_integers(model: HandModel) -> None:
    double = model.to(dtype=torch.float64)
    assert double.v_template.dtype == torch.float64
    assert double.faces.dtype == torch.int64
