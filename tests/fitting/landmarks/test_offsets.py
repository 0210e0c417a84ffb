"""A detector's landmarks are brought onto the model's joints, whichever way the hand lies; what is missing is left alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import whim
from fitting.files import STANDIN, sha256_of
from fitting.hand import anatomy
from fitting.hand.mano import load_hand_model, pose_hand
from fitting.hand.rotation import axis_angle_from_matrix
from fitting.landmarks.learn_offsets import LabelledHands, learn, read_labelled, to_json, write_labelled
from fitting.landmarks.offsets import LANDMARK_OFFSETS, Offsets, corrected, load_offsets

WRIST, MIDDLE1 = 0, 9


@pytest.fixture(scope="module")
def labelled() -> LabelledHands:
    """600 posed hands of all sizes and turns, seen by a detector whose wrist lies a fifth of the palm too far and whose depths are flat."""
    rng = np.random.default_rng(0)
    model = load_hand_model(STANDIN)
    pose = axis_angle_from_matrix(anatomy.sample_poses(600, anatomy.joint_axes(*model.rest_joints()), rng)).flatten(1)
    betas, orient = (torch.as_tensor(rng.normal(size=(600, k)), dtype=torch.float32) for k in (10, 3))
    joints = pose_hand(model, betas, orient, pose).joints.double().numpy()
    true_2d = rng.uniform(200, 3000, (600, 1, 1)) * joints[..., :2] + rng.uniform(0, 900, (600, 1, 2))
    size = np.ptp(true_2d, axis=1).max(1)[:, None, None]
    found = true_2d + rng.normal(0, 0.01, true_2d.shape) * size
    found[:, WRIST] -= 0.2 * (true_2d[:, MIDDLE1] - true_2d[:, WRIST])
    world = joints * [1, 1, 0.7] + rng.normal(0, 0.001, joints.shape)
    keypoints = np.concatenate([found, np.full((600, 21, 1), 0.9)], 2)
    return LabelledHands(detector=np.full(600, "toy"), keypoints=keypoints, world=world, joints_2d=true_2d, joints_3d=joints)


@pytest.fixture(scope="module")
def offsets(labelled: LabelledHands) -> Offsets:
    return learn(labelled.take(np.arange(400)))


def depth_error(world: np.ndarray, joints: np.ndarray) -> float:
    """Error of depth of hands brought to one scale by the image's plane."""
    a, b = (points - points.mean(1, keepdims=True) for points in (world, joints))
    scale = (a[..., :2] * b[..., :2]).sum((1, 2)) / (a[..., :2] ** 2).sum((1, 2))
    return float(np.abs(scale[:, None] * a[..., 2] - b[..., 2]).mean())


def test_a_constant_offset_is_learned_and_taken_off_unseen_hands(labelled: LabelledHands, offsets: Offsets) -> None:
    unseen = labelled.take(np.arange(400, 600))
    keypoints, world = corrected(unseen.keypoints, unseen.world, offsets)
    before, after = unseen.error(unseen.keypoints).mean(0), unseen.error(keypoints).mean(0)
    assert before[WRIST] > 0.05
    assert after[WRIST] < 0.02
    assert (after < 1.1 * before).all()
    assert depth_error(world, unseen.joints_3d) < 0.5 * depth_error(unseen.world, unseen.joints_3d)


def test_the_offset_turns_grows_moves_and_mirrors_with_the_hand(labelled: LabelledHands, offsets: Offsets) -> None:
    some = labelled.take(np.arange(20))
    keypoints, world = corrected(some.keypoints, some.world, offsets)
    turn = 3.0 * np.array([[0.6, -0.8], [0.8, 0.6]]) @ np.diag([-1, 1])
    elsewhere = np.concatenate([some.keypoints[..., :2] @ turn.T + [5000, -70], some.keypoints[..., 2:]], 2)
    moved, mirrored = corrected(elsewhere, some.world * [-1, 1, 1], offsets)
    np.testing.assert_allclose(moved[..., :2], keypoints[..., :2] @ turn.T + [5000, -70], atol=1e-6)
    np.testing.assert_array_equal(moved[..., 2], some.keypoints[..., 2])
    np.testing.assert_allclose(mirrored, world * [-1, 1, 1], atol=1e-12)


def test_a_hand_with_a_missing_point_keeps_its_places(labelled: LabelledHands, offsets: Offsets) -> None:
    keypoints, world = labelled.keypoints[:3].copy(), labelled.world[:3].copy()
    keypoints[0, 4, :2] = np.nan
    keypoints[1, 4, 2] = 0
    world[:2] = np.nan
    moved, turned = corrected(keypoints, world, offsets)
    np.testing.assert_array_equal(moved[:2, :, :2], keypoints[:2, :, :2])
    assert np.isnan(turned[:2]).all()
    assert np.isfinite(turned[2]).all()
    assert not np.allclose(moved[2], keypoints[2])


def test_wild_landmarks_do_not_move_the_offsets(labelled: LabelledHands, offsets: Offsets) -> None:
    wild = labelled.keypoints.copy()
    wild[::20, :, :2] += 1e4
    wild[1::20, 7] = np.nan
    wild[2::20, WRIST, :2] = labelled.joints_2d[2::20, 4]
    rest = {name: getattr(labelled, name) for name in ("detector", "world", "joints_2d", "joints_3d")}
    robust = learn(LabelledHands(keypoints=wild, **rest))
    unseen = labelled.take(np.arange(400, 600))
    error = unseen.error(corrected(unseen.keypoints, unseen.world, robust)[0])
    assert error.mean() < 1.1 * unseen.error(corrected(unseen.keypoints, unseen.world, offsets)[0]).mean()


def test_without_world_landmarks_depth_has_no_offsets(labelled: LabelledHands) -> None:
    rest = {name: getattr(labelled, name) for name in ("detector", "keypoints", "joints_2d", "joints_3d")}
    flat = learn(LabelledHands(world=np.full_like(labelled.world, np.nan), **rest))
    assert not flat.world.any()
    assert not flat.depth.any()
    assert flat.image.any()


def test_too_few_hands_near_the_truth_are_refused(labelled: LabelledHands) -> None:
    with pytest.raises(ValueError, match="150 of 150 hands have landmarks near the truth, 200 are needed"):
        learn(labelled.take(np.arange(150)))


def test_the_command_writes_what_is_loaded(
    labelled: LabelledHands, offsets: Offsets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "labelled.npz", tmp_path / "offsets.json"
    write_labelled(table, labelled.take(np.arange(400)), "posed for a test")
    out.write_text(json.dumps({"detectors": {"other": to_json(labelled, offsets, "0" * 64, "elsewhere")}}))
    assert whim.main(["learn", "offsets", str(table), "--out", str(out)]) == 0
    assert "toy: 400 hands" in capsys.readouterr().out
    loaded = load_offsets(out)
    assert sorted(loaded) == ["other", "toy"]
    np.testing.assert_allclose(loaded["toy"].image, offsets.image, atol=1e-5)
    entry = json.loads(out.read_text())["detectors"]["toy"]
    assert (entry["data"], entry["num_hands"], entry["data_sha256"]) == ("posed for a test", 400, sha256_of(table))


def test_a_table_or_file_that_is_none_is_named(labelled: LabelledHands, tmp_path: Path) -> None:
    table, out = tmp_path / "labelled.npz", tmp_path / "offsets.json"
    np.savez(table, keypoints=labelled.keypoints)
    with pytest.raises(ValueError, match=r"labelled.npz holds no labelled hands: .*detector.* missing"):
        read_labelled(table)
    out.write_text('{"detectors": {"toy": {"image": [1, 2]}}}')
    with pytest.raises(ValueError, match=r"offsets.json holds no landmark offsets .*whim learn offsets"):
        load_offsets(out)


def test_shipped_offsets_are_of_mediapipe_and_say_where_they_come_from() -> None:
    assert set(load_offsets()) == {"mediapipe"}
    entry = json.loads(LANDMARK_OFFSETS.read_text())["detectors"]["mediapipe"]
    assert "studio renders" in entry["data"]
    assert entry["num_hands"] > 2000
    assert np.mean(entry["error_after"]) < 0.7 * np.mean(entry["error_before"])
