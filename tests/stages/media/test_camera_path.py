"""Where a camera stood on each frame, in COLMAP's files and in JSON, and hands in the world by it."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.spatial.transform import Rotation

from fitting.hand.mano import load_hand_model, pose_either_hand
from pipeline.dataset.oddities import path_lines
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.plan.inputs import _camera_identity
from pipeline.engine.store import Store
from pipeline.exports.glb import PLACED, standing
from pipeline.exports.source import hand_columns
from pipeline.manifest import read_manifest
from pipeline.report.status import odd_of
from stages.cameras.path import poses_at, poses_said
from stages.cameras.said import CameraError, cameras_of, views_said
from stages.cameras.views import camera_of_view
from stages.download import Download
from stages.fit import Fit
from stages.pack import ClipTables, Pack
from stages.shards import HAND, Shards
from stages.split import Split
from stages.stage import Stage
from stages.tables import CameraPoses, Clips, Hands
from tests.small_tables import clip_row, columns, render_video, source_of, video_row

CAMERA = {"model": "PINHOLE", "width": 640, "height": 480, "params": [600, 600, 320, 240]}
RNG = np.random.default_rng(3)
TURNS, PLACES = Rotation.random(4, random_state=7), RNG.normal(size=(4, 3))


def world_from_camera(number: int) -> np.ndarray:
    return np.concatenate([TURNS[number].as_matrix(), PLACES[number][:, None]], 1)


def write_json(folder: Path, **more: Any) -> None:
    poses = [{"frame": 10 * k, "world_from_camera": world_from_camera(k).tolist()} for k in range(3)]
    (folder / "camera.json").write_text(json.dumps(CAMERA | {"poses": poses} | more))


def colmap(number: int) -> tuple[list[float], list[float]]:
    """Quaternion, w first, and translation of camera from world."""
    inverse = TURNS[number].inv()
    return np.roll(inverse.as_quat(), 1).tolist(), (-inverse.apply(PLACES[number])).tolist()


def write_txt(folder: Path, names: str = "frame_{:04d}.png", points: str = "1 2 -1 3 4 -1") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "cameras.txt").write_text("# cameras\n4 PINHOLE 640 480 600 600 320 240\n9 PINHOLE 64 48 60 60 32 24\n")
    lines = ["# IMAGE_ID, QW, ...", "#   POINTS2D[] as (X, Y, POINT3D_ID)"]
    for k in range(3):
        quaternion, shift = colmap(k)
        lines += [f"{k + 1} {' '.join(map(str, quaternion + shift))} 4 {names.format(10 * k + 1)}", points if k % 2 else ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")


def write_bin(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 4, 1, 640, 480, 600, 600, 320, 240))
    data = struct.pack("<Q", 3)
    for k in range(3):
        quaternion, shift = colmap(k)
        data += struct.pack("<i7di", k + 1, *quaternion, *shift, 4) + f"sub/frame_{10 * k + 1:04d}.png".encode() + b"\0"
        data += struct.pack("<Q", k) + struct.pack("<ddq", 1, 2, 3) * k
    (folder / "images.bin").write_bytes(data)


def said(folder: Path, words: str) -> str:
    (folder / "list.txt").write_text(f"./a.mp4 {words}\n")
    return str(read_manifest(folder / "list.txt").camera[0])


def test_all_files_say_one_path(tmp_path: Path) -> None:
    write_json(tmp_path)
    write_txt(tmp_path / "text")
    write_bin(tmp_path / "model" / "sparse" / "0")
    words = ["camera=camera.json", "camera=text pose_first=1", "camera=text/images.txt pose_first=1", "camera=model pose_first=1"]
    told = [said(tmp_path, one) for one in words]
    assert len({json.dumps({k: v for k, v in json.loads(one).items() if k != "poses"}) for one in told}) == 1
    for one in map(poses_said, told):
        assert one.frame.tolist() == [0, 10, 20]
        np.testing.assert_allclose(one.world_from_camera, [world_from_camera(k) for k in range(3)], atol=1e-9)
    assert views_said(told[0]) == ""
    far = poses_said(said(tmp_path, "camera=text pose_first=1 pose_unit=0.5"))
    np.testing.assert_allclose(far.world_from_camera[:, :, 3], PLACES[:3] / 2, atol=1e-9)
    at_five = poses_said(said(tmp_path, "camera=text pose_first=1 pose_fps=5"))
    assert (at_five.time_s.tolist(), at_five.frame.tolist()) == ([0, 2, 4], [-1] * 3)


def test_a_path_that_moved_is_the_same_and_one_that_changed_another(tmp_path: Path) -> None:
    write_json(tmp_path)
    before = said(tmp_path, "camera=camera.json")
    (tmp_path / "other.json").write_bytes((tmp_path / "camera.json").read_bytes())
    assert _camera_identity(Fit(), before) == _camera_identity(Fit(), said(tmp_path, "camera=other.json"))
    assert "poses" not in json.dumps(_camera_identity(Fit(), said(tmp_path, "focal=900")))
    write_json(tmp_path, more=1)
    assert _camera_identity(Fit(), before) != _camera_identity(Fit(), said(tmp_path, "camera=camera.json"))
    with pytest.raises(CameraError, match="start the run again"):
        poses_said(before)


def test_nothing_is_made_up_between_poses() -> None:
    pose = np.stack([world_from_camera(k) for k in range(4)])
    poses = CameraPoses(
        frame=np.array([3, -1, -1, 8]), time_s=np.array([np.nan, 0.4, 0.2, np.nan]), world_from_camera=pose
    )  # fmt: skip
    found = poses_at(poses, np.array([3, 4, 5, 8, 9]), np.array([0.3, 0.4005, 0.45, 0.8, 0.1985]))
    np.testing.assert_array_equal(found, [pose[0], pose[1], np.full((3, 4), np.nan), pose[3], pose[2]])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("pose_first=1", "speaks of the poses of a camera="),
        ("camera=plain.json pose_unit=2", "and it has none"),
        ("camera=camera.json pose_fps=5", "frame or time_s"),
        ("camera=text pose_unit=0", "must be more than 0"),
        ("camera=text pose_fps=0", "must be more than 0"),
        ("camera=text pose_first=50", "say pose_first=1 or less"),
        ("camera=nowhere/images.txt", "are not both there"),
        ("camera=empty", "are not both there"),
        ("camera=nameless", "no number in its name"),
        ("camera=one_line", "lacks the line of points"),
        ("camera=cut", "ends in the middle of image 1"),
        ("camera=zero.json", "are no rotation"),
        ("camera=both.json", "frame or time_s"),
        ("camera=twice.json", "frame 0 has two poses"),
        ("camera=none.json", "holds no pose"),
        ("camera=word.json", "must be a list"),
        ("camera=huge.json", "4 finite numbers"),
        ("camera=late.json", "must be seconds from 0 to 1e+09"),
        ("camera=far.json", "frame must be a whole number from 0"),
        ("camera=unknown", "names camera 4"),
    ],
)
def test_a_bad_path_is_named_in_one_line(tmp_path: Path, words: str, told: str) -> None:
    write_json(tmp_path)
    write_txt(tmp_path / "text")
    write_txt(tmp_path / "nameless", names="first{0!s:.0}.png")
    write_txt(tmp_path / "one_line", points="2 1 0 0 0 0 0 0 4 frame_0002.png")
    write_txt(tmp_path / "unknown")
    (tmp_path / "unknown" / "cameras.txt").write_text("9 PINHOLE 64 48 60 60 32 24\n")
    write_bin(tmp_path / "cut")
    (tmp_path / "cut" / "images.bin").write_bytes(struct.pack("<Q", 3) + b"\0" * 20)
    (tmp_path / "empty").mkdir()
    pose = {"frame": 0, "world_from_camera": world_from_camera(0).tolist()}
    poses: dict[str, Any] = {
        "zero": [pose | {"world_from_camera": np.zeros((3, 4)).tolist()}],
        "both": [pose | {"time_s": 0.1}],
        "twice": [pose, pose],
        "none": [],
        "word": "file",
        "huge": [pose | {"world_from_camera": [[1, 0, 0, 10**400], [0, 1, 0, 0], [0, 0, 1, 0]]}],
        "late": [{"time_s": 10**400, "world_from_camera": pose["world_from_camera"]}],
        "far": [pose | {"frame": 10**400}],
    }
    for name, value in poses.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(CAMERA | {"poses": value}))
    (tmp_path / "plain.json").write_text(json.dumps(CAMERA))
    with pytest.raises(ValueError, match=r"list\.txt:1: ") as error:
        said(tmp_path, words)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


SPHERE = json.dumps({"from": "manifest", "projection": "equirectangular"})
PINHOLE = json.dumps({"from": "manifest", "projection": "rectilinear", "focal_px": [600, 600], "size": [640, 480]})


@pytest.mark.parametrize(("told", "size"), [(PINHOLE, (640, 480)), (SPHERE, (2400, 1200))])
def test_a_hand_that_rests_in_the_world_rests_there_before_a_camera_that_moves(told: str, size: tuple[int, int]) -> None:
    """One hand, held still, seen from six places; the fit knows only pixels. Of frame 4 nobody knows where the camera stood."""
    model = load_hand_model(dtype=torch.float64)
    orient = torch.tensor([[0.2, 0.4, 1.3]]).double()
    hand = pose_either_hand(model, torch.tensor([1]), torch.zeros(1, 10).double(), orient, torch.zeros(1, 45).double())
    wrist = np.array([0.4, -0.2, 2.0])
    joints = hand.joints[0].numpy() + wrist
    cameras = cameras_of(told, *size)
    view = 0 if len(cameras) == 1 else 1
    looks = Rotation.from_matrix(cameras.rotation[int(np.flatnonzero(cameras.view == view)[0])])
    turns = [Rotation.from_euler("yx", [8 * k - 20, 3 * k], degrees=True) for k in range(6)]
    places = [wrist - turn.apply([0.03 * k, 0.02, 0.55 + 0.02 * k]) for k, turn in enumerate(turns)]
    pose = np.stack([np.concatenate([(turn * looks).as_matrix(), place[:, None]], 1) for turn, place in zip(turns, places, strict=True)])
    camera = camera_of_view(cameras, view)
    pixels = np.stack([camera.project(turn.inv().apply(joints - place)) for turn, place in zip(turns, places, strict=True)])
    keypoints = np.concatenate([pixels, np.full((6, 21, 1), 0.99)], 2)
    world = np.stack([turn.inv().apply(hand.joints[0].numpy()) for turn in turns])
    frame = {"frame": np.arange(6), "time_s": np.arange(6) / 5, "width": camera.width, "height": camera.height, "view": view}
    hands = columns(Hands, 6, **frame, side=1, track=0, keypoints=keypoints, world=world, person=-1)
    assert isinstance(hands, Hands)
    poses = CameraPoses(frame=np.array([0, 1, 2, 3, 5]), time_s=np.full(5, np.nan), world_from_camera=pose[[0, 1, 2, 3, 5]])
    fits = Fit(landmark_offsets=False).build()(Clips.empty(), hands, cameras=cameras, poses=poses)
    known = np.arange(6) != 4
    assert np.isfinite(fits.transl_world).all(1).tolist() == np.isfinite(fits.global_orient_world).all(1).tolist() == known.tolist()
    assert np.linalg.norm(fits.transl_world[known] - wrist, axis=1).max() < 0.03
    turned = Rotation.from_rotvec(fits.global_orient_world[known]) * Rotation.from_rotvec(orient[0].numpy()).inv()
    assert np.degrees(turned.magnitude()).max() < 12
    assert np.ptp(fits.transl[known], axis=0).max() > 0.05
    assert np.isnan(Fit(landmark_offsets=False).build()(Clips.empty(), hands, cameras=cameras).transl_world).all()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ClipTables:
    """A clip whose camera stood somewhere on frames 0 to 19 of 40."""
    folder = tmp_path_factory.mktemp("path")
    made = source_of(video_row(render_video(folder / "a.mp4"), "a"), clip_row("a"))
    n = len(made.fits)
    fits = replace(made.fits, transl_world=np.ones((n, 3), np.float32), global_orient_world=np.ones((n, 3), np.float32))
    pose = np.tile(world_from_camera(0), (20, 1, 1))
    poses = CameraPoses(frame=np.arange(20), time_s=np.full(20, np.nan), world_from_camera=pose)
    return replace(made, fits=fits, poses=poses, cameras=cameras_of(PINHOLE, 640, 480))


def test_shards_say_where_the_camera_stood_and_hands_are_in_the_world(source: ClipTables) -> None:
    box_only = np.arange(len(source.reviews)) % 2 == 0
    source = replace(source, reviews=replace(source.reviews, box_only=box_only))
    (batch,) = Pack(negatives=1.0, max_side=160).build()([source])
    shard = Shards.from_arrow(pa.Table.from_batches([batch]))
    known = shard.frame < 20
    np.testing.assert_array_equal(shard.world_from_camera[known], np.tile(world_from_camera(0), (known.sum(), 1, 1)))
    assert np.isnan(shard.world_from_camera[~known]).all()
    assert known.any()
    assert (~known).any()
    hands = [hand for listed in shard.hands for hand in listed]
    assert {hand["box_only"] for hand in hands} == {True, False}
    for hand in hands:
        assert np.isnan(hand["transl_world"]).all() == np.isnan(hand["global_orient_world"]).all() == hand["box_only"]


def test_frames_without_a_pose_are_counted() -> None:
    clips = Clips.concat([clip_row("a"), clip_row("a", number=1, start_s=4.0, end_s=8.0, first_frame=40)])
    poses = CameraPoses(frame=np.arange(30, 90), time_s=np.full(60, np.nan), world_from_camera=np.zeros((60, 3, 4)))
    (line,) = path_lines({"a": (poses, clips)})
    assert (
        line == "the camera's place is known on 50 of 80 frames of a; hands on the others have none in the world; 10 poses are of no frame"
    )
    whole = CameraPoses(frame=np.arange(80), time_s=np.full(80, np.nan), world_from_camera=np.zeros((80, 3, 4)))
    assert path_lines({"a": (whole, clips)}) == ["the camera's place is known on 80 of 80 frames of a"]


def test_animations_stand_in_the_world_where_it_is_known(source: ClipTables) -> None:
    size = np.array([[640.0, 480.0]] * 2)
    hands = {name: getattr(source.fits, name)[:2].copy() for name in PLACED}
    assert standing(hands, size)[0] == "image"
    hands["focal_px"][:] = 600
    assert standing(hands, size)[0] == "world"
    hands["transl_world"][0] = np.nan
    axes, wrist, _ = standing(hands, size)
    assert axes == "camera"
    np.testing.assert_array_equal(wrist, hands["transl"])


def test_hands_of_older_shards_have_no_place_in_the_world(source: ClipTables) -> None:
    lacking = [field for field in HAND if field.name != "transl_world"]
    (batch,) = Pack(negatives=0.0).build()([source])
    hands = batch.column("hands").flatten()
    older = pa.StructArray.from_arrays([hands.field(field.name) for field in lacking], fields=lacking)
    found = hand_columns(older)
    assert found["transl_world"].shape == (len(older), 3)
    assert np.isnan(found["transl_world"]).all()


def test_plan_and_status_count_frames_with_a_pose_while_their_file_is_there(tmp_path: Path) -> None:
    render_video(tmp_path / "a.mp4")
    write_json(tmp_path)
    said(tmp_path, "camera=camera.json")
    manifest = read_manifest(tmp_path / "list.txt")
    stages: list[Stage] = [Download(folder=tmp_path / "media"), Split()]
    store = Store(tmp_path / "data")
    finish(Graph(stages, manifest, store).load(), Where(local=True), on_outcome=lambda *_: None)
    line = "the camera's place is known on 3 of 40 frames of a; hands on the others have none in the world"
    assert line in odd_of(Graph(stages, manifest, store).load())
    (tmp_path / "camera.json").unlink()
    assert not [one for one in odd_of(Graph(stages, manifest, store).load()) if "place is known" in one]
