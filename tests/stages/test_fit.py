"""The stage fits every hand of a clip, of either side, keeps every row, and refuses settings without sense."""

import dataclasses
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.fit.tracks import jitter_mm, landmarks, studio_motion
from fitting.files import STANDIN, sha256_of
from fitting.hand.mano import load_hand_model, pose_either_hand, project
from fitting.settings import FitSettings
from pipeline.engine.plan.tasks import identity_of
from stages.fit import Fit
from stages.tables import LEFT, RIGHT, Clips, Fits, Hands

NUMBERS = ("betas", "global_orient", "hand_pose", "transl", "camera", "joints_3d", "joints_2d", "box", "error_px", "loss_prior")


@pytest.fixture(scope="module")
def fit() -> Any:
    return Fit(device="cpu").build()


def table(kind: Any, n: int, **known: Any) -> Any:
    """A table of n rows: known columns as given, the rest blank."""
    columns = {}
    for name, column in vars(kind.empty()).items():
        value = np.array(known.get(name, "" if column.dtype == object else 0), column.dtype)
        columns[name] = np.broadcast_to(value, (n, *column.shape[1:])).copy()
    return kind(**columns)


CLIP = table(Clips, 1, clip="v-0000", video="v", end_s=2.0, num_frames=20)


def hands_of(keypoints: np.ndarray, side: Any, world: Any = np.nan, track: Any = -1) -> Hands:
    n = len(keypoints)
    known = {"video": "v", "frame": np.arange(n), "time_s": np.arange(n) / 5, "width": 1600, "height": 1200, "track": track}
    return table(Hands, n, **known, side=side, keypoints=keypoints, world=world)


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twelve hands, left and right by turns: sides, keypoints, wrist-centred joints in metres."""
    import torch

    from fitting.hand import anatomy
    from fitting.hand.rotation import axis_angle_from_matrix, mirror_axis_angle

    model = load_hand_model(STANDIN)
    rng = np.random.default_rng(4)
    side = np.arange(12) % 2
    pose = axis_angle_from_matrix(anatomy.sample_poses(12, anatomy.joint_axes(*model.rest_joints()), rng))
    pose[side == LEFT] = mirror_axis_angle(pose[side == LEFT])
    betas, orient = (torch.as_tensor(rng.normal(size=(12, k)), dtype=torch.float32) for k in (10, 3))
    joints = pose_either_hand(model, torch.as_tensor(side), betas, orient, pose.flatten(1)).joints.numpy()
    pixels = rng.uniform(700, 1300, (12, 1, 1)) * joints[..., :2] + rng.uniform(300, 900, (12, 1, 2))
    return side, np.concatenate([pixels, np.ones((12, 21, 1))], 2).astype(np.float32), joints


def test_both_sides_are_found_again(fit: Any, seen: Any) -> None:
    side, keypoints, joints = seen
    fits = fit(CLIP, hands_of(keypoints, side))
    assert set(fits.outcome) == {"converged"}
    assert (fits.error_share < 0.02).all()
    np.testing.assert_allclose(fits.joints_2d, keypoints[..., :2], atol=25)
    size = np.sqrt((joints**2).sum((1, 2)) / (fits.joints_3d**2).sum((1, 2)))  # which weak perspective cannot see
    error = np.linalg.norm(size[:, None, None] * fits.joints_3d - joints, axis=2).mean(1)
    assert np.median(error) < 0.007
    assert (error < 0.012).mean() > 0.9
    assert (fits.num_points == 21).all()
    assert fits.frame.tolist() == list(range(12))


def test_a_clip_may_hold_one_hand(fit: Any, seen: Any) -> None:
    side, keypoints, _ = seen
    hands = hands_of(keypoints[:1], side[:1])
    for track in (-1, 3):
        assert fit(CLIP, dataclasses.replace(hands, track=np.array([track], np.int32))).outcome.tolist() == ["converged"]


def test_left_equals_the_mirrored_right(fit: Any, seen: Any) -> None:
    _, keypoints, joints = seen
    mirrored = keypoints * np.array([-1, 1, 1], np.float32)
    right = fit(CLIP, hands_of(keypoints, RIGHT, joints))
    left = fit(CLIP, hands_of(mirrored, LEFT, joints * np.array([-1, 1, 1], np.float32)))
    for name in ("outcome", "error_px", "violation_deg", "loss_prior", "betas"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    np.testing.assert_array_equal(left.camera, right.camera * [1, -1, 1])
    np.testing.assert_array_equal(left.joints_3d, right.joints_3d * np.array([-1, 1, 1]))
    np.testing.assert_array_equal(left.box, right.box[:, [2, 1, 0, 3]] * [-1, 1, -1, 1])
    np.testing.assert_array_equal(left.global_orient, right.global_orient * [1, -1, -1])
    np.testing.assert_array_equal(left.hand_pose.reshape(-1, 15, 3), right.hand_pose.reshape(-1, 15, 3) * [1, -1, -1])


def test_parameters_give_the_joints_and_the_box_on_both_sides(fit: Any, seen: Any) -> None:
    import torch

    side, keypoints, _ = seen
    fits = fit(CLIP, hands_of(keypoints, side))
    model = load_hand_model(STANDIN)
    parameters = (torch.tensor(values) for values in (fits.side, fits.betas, fits.global_orient, fits.hand_pose))
    posed = pose_either_hand(model, *parameters)
    outline = project(posed.vertices, torch.tensor(fits.camera)).numpy()
    np.testing.assert_allclose(fits.box, np.concatenate([outline.min(1), outline.max(1)], 1), atol=0.02)
    np.testing.assert_allclose(fits.joints_3d, posed.joints, atol=1e-5)
    projected = fits.camera[:, None, :1] * fits.joints_3d[..., :2] + fits.camera[:, None, 1:]
    np.testing.assert_allclose(fits.joints_2d, projected, atol=0.02)


def test_translation_puts_the_hand_where_the_camera_shows_it(fit: Any, seen: Any) -> None:
    side, keypoints, _ = seen
    fits = fit(CLIP, hands_of(keypoints, side))
    points = fits.joints_3d.astype(float) + fits.transl[:, None]
    pinhole = Fit().focal_share * 1600 * points[..., :2] / points[..., 2:] + [800, 600]
    assert np.abs(pinhole - fits.joints_2d).max() < 6


def test_unfitted_hand_keeps_its_row_and_says_why(fit: Any, seen: Any) -> None:
    side, keypoints, _ = seen
    spoiled = keypoints.copy()
    spoiled[2] = np.nan
    spoiled[5, :, :2] = 40
    fits = fit(CLIP, hands_of(spoiled, side))
    assert fits.outcome[[2, 5]].tolist() == ["too_few_points", "no_extent"]
    fitted = np.isin(fits.outcome, ["converged", "stalled"])
    assert fitted.sum() == 10
    for name in NUMBERS:
        values = getattr(fits, name)
        assert np.isfinite(values[fitted]).all(), name
        assert np.isnan(values[~fitted]).all(), name
    assert fits.num_points[2] == 0


@pytest.fixture(scope="module")
def moving() -> tuple[np.ndarray, np.ndarray]:
    """Two right hands of one person for a second, noisy; by frame: keypoints and tracks."""
    motion = studio_motion(1, 1.0, seed=2)
    order = np.lexsort((motion.track, motion.time_s))
    return landmarks(motion, 0.02, "fresh", seed=0)[order].astype(np.float32), motion.track[order]


def test_a_track_is_smooth_and_has_one_shape_and_rows_keep_their_order(fit: Any, moving: Any) -> None:
    keypoints, track = moving
    time_s = np.repeat(np.arange(30) / 30, 2)
    tied, free = (fit(CLIP, replace(hands_of(keypoints, RIGHT, track=t), time_s=time_s)) for t in (track, -1))
    assert jitter_mm(tied.joints_3d[track == 0], track[track == 0]) < 0.5 * jitter_mm(free.joints_3d[track == 0], track[track == 0])
    assert np.abs(tied.joints_2d - keypoints[..., :2]).mean() < 10
    for number in (0, 1):
        assert (tied.betas[track == number] == tied.betas[number]).all()
    assert (tied.betas[0] != tied.betas[1]).any()
    assert tied.frame.tolist() == list(range(60))
    assert (free.betas[2:4] != free.betas[:2]).any()


def test_a_side_that_changes_breaks_a_track(fit: Any, moving: Any) -> None:
    keypoints, track = (values[::2] for values in moving)
    side = np.where(np.arange(30) < 15, RIGHT, LEFT)
    swapped = np.where((side == LEFT)[:, None, None], keypoints * np.array([-1, 1, 1], np.float32), keypoints)
    fits = fit(CLIP, replace(hands_of(swapped, side, track=track), time_s=np.arange(30) / 30))
    assert (fits.betas[0] == fits.betas[14]).all()
    assert (fits.betas[15] == fits.betas[29]).all()
    assert (fits.betas[14] != fits.betas[15]).any()


def test_table_without_hands(fit: Any) -> None:
    fits = fit(CLIP, Hands.empty())
    assert len(fits) == 0
    assert Fits.from_arrow(fits.to_arrow()).to_arrow().schema == Fits.schema()


def test_table_survives_arrow(fit: Any, seen: Any) -> None:
    side, keypoints, _ = seen
    fits = fit(CLIP, hands_of(keypoints, side))
    again = Fits.from_arrow(fits.to_arrow())
    for column in dataclasses.fields(Fits):
        np.testing.assert_array_equal(getattr(again, column.name), getattr(fits, column.name), err_msg=column.name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("prior_weight", -1.0), ("angle_weight", float("nan")), ("robust_scale", 0.0), ("num_iterations", 0), ("num_components", 136),
     ("smooth_weight", -1.0), ("max_gap_s", 0.0), ("device", "tpu"), ("batch_size", 0), ("focal_share", float("inf"))],
)  # fmt: skip
def test_senseless_setting_is_named(name: str, value: Any) -> None:
    make: Any = Fit if name in ("device", "focal_share") else lambda **changed: Fit(settings=FitSettings(**changed))
    with pytest.raises(ValueError, match=f"fit.{name}"):
        make(**{name: value})


def test_weights_name_the_model_and_the_prior_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WHIM_MANO", raising=False)
    ours = Fit().weights
    assert set(ours) == {"hand_model", "pose_prior", "landmark_offsets"}
    other = tmp_path / "MANO_RIGHT.pkl"
    other.write_bytes(b"another model")
    monkeypatch.setenv("WHIM_MANO", str(other))
    assert Fit().weights["hand_model"] == sha256_of(other) != ours["hand_model"]
    monkeypatch.setenv("WHIM_PRIOR", str(other))
    assert Fit().weights["pose_prior"] == sha256_of(other) != ours["pose_prior"]


FIT_FILE = """
import hashlib, sys
import pyarrow.parquet as pq
from stages.fit import Fit
from stages.tables import Clips, Hands
fits = Fit(device="cpu").build()(Clips.empty(), Hands.from_arrow(pq.read_table(sys.argv[1])))
print(hashlib.sha256(fits.hand_pose.tobytes() + fits.joints_2d.tobytes()).hexdigest())
"""


def test_fits_are_the_same_bytes_with_one_core_and_with_two(seen: Any, tmp_path: Path) -> None:
    """A worker on Ray has one, a run in this process all of the machine's; the prior, too, is worked out on one."""
    side, keypoints, _ = seen
    noisy = keypoints.repeat(20, 0) + np.random.default_rng(1).normal(0, 4, (240, 21, 3)) * [1, 1, 0]
    hands = hands_of(noisy, side.repeat(20), track=np.arange(240) // 20)
    pq.write_table(hands.to_arrow(), tmp_path / "hands.parquet")
    command = [sys.executable, "-c", FIT_FILE, str(tmp_path / "hands.parquet")]
    begun = [
        subprocess.Popen(command, cwd=STANDIN.parents[2], env={**os.environ, "OMP_NUM_THREADS": threads}, stdout=subprocess.PIPE, text=True)
        for threads in ("1", "2")
    ]
    one, two = (process.communicate()[0] for process in begun)
    assert one == two != ""


def test_settings_of_the_fit_count_as_the_stages_own() -> None:
    """Data folders name them flat; younger settings count once they are not their defaults, speed never."""
    settings = identity_of(Fit())
    assert set(settings) == {
        "bone_weight", "angle_weight", "prior_weight", "prior_noise", "shape_weight", "robust_scale", "num_components", "num_iterations",
        "tolerance", "world_weight", "landmark_offsets", "depth_weight", "smooth_weight", "share_shape", "jump_weight", "max_gap_s",
        "focal_share",
    }  # fmt: skip
    assert settings["prior_weight"] == 300
    assert identity_of(Fit(settings=FitSettings(batch_size=7, num_threads=2, backend="torch"))) == settings
    changed = identity_of(Fit(settings=FitSettings(prior_weight=30, track_iterations=9)))
    assert changed == settings | {"prior_weight": 30, "track_iterations": 9}


def test_a_hand_of_unknown_side_is_fitted_as_both_and_the_better_one_is_told(fit: Any, seen: Any) -> None:
    side, keypoints, joints = seen
    known = fit(CLIP, hands_of(keypoints, side, joints, track=np.arange(12)))
    unknown = fit(CLIP, hands_of(keypoints, np.where(np.arange(12) < 8, -1, side), joints, track=np.arange(12)))
    assert (unknown.side == side).mean() > 0.9
    assert (unknown.side[8:] == side[8:]).all()
    told = unknown.side == side
    np.testing.assert_allclose(unknown.joints_3d[told], known.joints_3d[told], atol=2e-3)
    assert unknown.frame.tolist() == known.frame.tolist()


def test_a_hint_stands_in_for_the_detectors_depths(seen: Any) -> None:
    side, keypoints, joints = seen
    flat = joints * [1, 1, 0.3]
    hint = np.concatenate([joints, np.full((12, 21, 1), 0.005)], 2).astype(np.float32)
    hands = replace(hands_of(keypoints, side, flat), hint=hint)
    told = [Fit(device="cpu", hint=hint).build()(CLIP, hands) for hint in (True, False)]
    gap = [np.abs(fits.joints_3d[..., 2] - joints[..., 2]).mean() for fits in told]
    assert gap[0] < 0.7 * gap[1], "left and right"
    unknown = replace(hands, hint=np.full_like(hint, np.nan))
    np.testing.assert_array_equal(Fit(device="cpu").build()(CLIP, unknown).hand_pose, told[1].hand_pose)


def test_clips_that_are_fitted_at_once_are_what_each_is_alone_to_the_bit(fit: Any, seen: Any) -> None:
    """Hands of tracks and without, of unknown side, none at all, and one whose landmarks are lost."""
    side, keypoints, _ = seen
    lost = keypoints.copy()
    lost[4] = np.nan
    clips = [
        hands_of(keypoints[[0] * 7 + [1]], [0] * 7 + [1], track=[3] * 7 + [-1]),
        hands_of(keypoints[:0], side[:0]),
        hands_of(lost, side, track=side),
        hands_of(keypoints[::-1].copy(), np.where(side == LEFT, -1, side)[::-1], track=np.arange(12) // 4),
    ]
    together = fit.many([(CLIP, hands) for hands in clips])
    for hands, fits in zip(clips, together, strict=True):
        alone = fit(CLIP, hands)
        assert len(fits) == len(hands)
        for name, column in vars(alone).items():
            np.testing.assert_array_equal(getattr(fits, name), column, err_msg=name)
