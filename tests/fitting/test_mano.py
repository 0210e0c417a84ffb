"""The hand model's forward pass is smplx's, joints without the mesh are the mesh's, and a left hand is the mirrored right one."""

import numpy as np
import pytest
import torch

from fitting.kinematics import FROM_KEYPOINTS, JointModel
from fitting.mano import (
    LEFT,
    OPENPOSE_ORDER,
    RIGHT,
    TIP_VERTICES,
    faces_of_side,
    load_hand_model,
    pose_either_hand,
    pose_hand,
    project,
)
from fitting.rotation import matrix_from_axis_angle, mirror_axis_angle


def parameters(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return tuple(torch.as_tensor(rng.normal(size=(n, k)) * s) for k, s in ((10, 1.0), (3, 1.5), (45, 0.5)))


def test_equals_smplx(exact):
    smplx = pytest.importorskip("smplx")
    from smplx.utils import Struct

    arrays = {name: getattr(exact, name).numpy() for name in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")}
    tree = np.array([[2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], list(range(16))])
    arrays |= {"f": exact.faces.numpy().astype(np.uint32), "kintree_table": tree}
    arrays |= {"hands_components": exact.hands_components.numpy(), "hands_mean": exact.hands_mean.numpy()}
    options = {"use_pca": False, "flat_hand_mean": True, "is_rhand": True, "batch_size": 32, "dtype": torch.float64}
    oracle = smplx.MANO("unused/MANO_RIGHT.pkl", data_struct=Struct(**arrays), **options)
    betas, orient, pose = parameters(32)
    wanted, got = oracle(betas=betas, global_orient=orient, hand_pose=pose), pose_hand(exact, betas, orient, pose)
    torch.testing.assert_close(got.vertices, wanted.vertices, atol=1e-5, rtol=0)
    sixteen = torch.cat([wanted.joints, wanted.vertices[:, list(TIP_VERTICES)]], 1)[:, list(OPENPOSE_ORDER)]
    torch.testing.assert_close(got.joints, sixteen, atol=1e-5, rtol=0)


def test_rest_hand_is_the_template(exact):
    zero = torch.zeros(1, 58, dtype=torch.float64)
    rest = pose_hand(exact, zero[:, :10], zero[:, 10:13], zero[:, 13:])
    torch.testing.assert_close(rest.vertices[0], exact.v_template, atol=1e-8, rtol=0)


def test_joints_without_the_mesh_are_the_meshs(exact):
    betas, orient, pose = parameters(16)
    wanted = pose_hand(exact, betas, orient, pose).joints
    joints = JointModel.of(exact).pose(matrix_from_axis_angle(orient), matrix_from_axis_angle(pose.reshape(-1, 15, 3)), betas).points
    torch.testing.assert_close(joints, (wanted - wanted[:, :1])[:, list(FROM_KEYPOINTS)], atol=1e-9, rtol=0)


def test_left_hand_is_the_mirrored_right_one(exact):
    betas, orient, pose = parameters(8)
    right = pose_either_hand(exact, torch.full((8,), RIGHT), betas, orient, pose)
    mirrored = mirror_axis_angle(pose.reshape(-1, 15, 3)).flatten(1)
    left = pose_either_hand(exact, torch.full((8,), LEFT), betas, mirror_axis_angle(orient), mirrored)
    flip = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(left.vertices, right.vertices * flip)
    torch.testing.assert_close(left.joints, right.joints * flip)


def test_both_sides_triangles_look_outward(exact):
    betas, orient, pose = parameters(1)
    for side in (LEFT, RIGHT):
        corners = pose_either_hand(exact, torch.tensor([side]), betas, orient, pose).vertices[0, faces_of_side(exact, side)]
        assert (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() > 0


def test_projection_by_hand():
    camera = torch.tensor([[1000.0, 320.0, 240.0]])
    assert project(torch.tensor([[[0.1, -0.05, 7.0]]]), camera).tolist() == [[[420.0, 190.0]]]


def test_file_named_by_the_environment_is_used_and_missed(monkeypatch, tmp_path):
    monkeypatch.setenv("WHIM_MANO", str(tmp_path / "absent.pkl"))
    with pytest.raises(FileNotFoundError, match="WHIM_MANO"):
        load_hand_model()
    (tmp_path / "text.pkl").write_text("not a model")
    monkeypatch.setenv("WHIM_MANO", str(tmp_path / "text.pkl"))
    with pytest.raises(ValueError, match=r"not a MANO_RIGHT\.pkl"):
        load_hand_model()


def test_other_dtype_keeps_integers(model):
    double = model.to(dtype=torch.float64)
    assert double.v_template.dtype == torch.float64
    assert double.faces.dtype == torch.int64
