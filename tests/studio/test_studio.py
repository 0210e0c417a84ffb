"""The studio's promise: what it writes about its pictures is what is in them."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fitting.hand.mano import LEFT, RIGHT, pose_either_hand
from stages.media.frames import decode
from studio.hand import studio_model
from studio.poses import glide
from studio.render import SUPERSAMPLE, Camera, Mesh, Renderer
from studio.scene import MIRROR, Track, make_shot
from studio.truth import TRUTH, read_truth
from studio.video import Film, PosedTrack, make_videos, pose_track, render_film, write_video

FILM = Film(seed=1, seconds=4.0, frames_per_second=5.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studio")
    make_videos(out, 1, FILM)
    return out


@pytest.fixture(scope="module")
def pictures() -> list:
    return list(render_film(FILM))


@pytest.fixture(scope="module")
def truth(folder: Path) -> dict[str, np.ndarray]:
    return read_truth(folder / "studio-1.truth.parquet")


def test_same_seed_same_bytes_and_another_seed_another_film(folder: Path, tmp_path: Path) -> None:
    short = Film(seed=1, seconds=1.0, frames_per_second=5.0)
    for name in ("a", "b"):
        make_videos(tmp_path / name, 1, short)
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert written == ["labels.json", "studio-1.mp4", "studio-1.truth.parquet"]
    for name in written:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    other = next(iter(render_film(Film(seed=2, seconds=1.0, frames_per_second=5.0))))[0]
    assert not np.array_equal(other.image, next(iter(render_film(short)))[0].image)


def test_video_holds_every_frame_of_the_truth_at_its_time(folder: Path, truth: dict[str, np.ndarray]) -> None:
    times = [time_s for time_s, _ in decode(folder / "studio-1.mp4")]
    assert len(times) == 20
    frames, first = np.unique(truth["frame"], return_index=True)
    assert frames.tolist() == list(range(20))
    np.testing.assert_allclose(truth["time_s"][first], times, atol=1e-6)
    assert sorted(truth) == sorted(TRUTH.names)


def test_joints_and_box_fit_the_drawn_hand(pictures: list) -> None:
    on_hand, boxes = [], 0
    for picture, rows in pictures:
        for row in rows:
            if row["visible"] < 0.97 or row["inside"] < 0.999:
                continue
            y, x = np.nonzero(picture.part_at == row["side"])
            drawn = (np.array([x.min(), y.min(), x.max(), y.max()]) + 0.5) / SUPERSAMPLE
            np.testing.assert_allclose(drawn, row["box"], atol=1.0)
            boxes += 1
            sample = np.floor(row["keypoints"] * SUPERSAMPLE).astype(int)
            near = [(picture.part_at[max(v - 3, 0) : v + 4, max(u - 3, 0) : u + 4] == row["side"]).any() for u, v in sample]
            on_hand.append(np.mean(near))
    assert boxes >= 10
    assert np.mean(on_hand) > 0.98


def test_parameters_and_camera_give_the_joints_and_keypoints(truth: dict[str, np.ndarray]) -> None:
    columns = [torch.from_numpy(truth[name].astype(np.float64)) for name in ("betas", "global_orient", "hand_pose")]
    posed = pose_either_hand(studio_model(), torch.from_numpy(truth["side"].astype(np.int64)), *columns)
    np.testing.assert_allclose(posed.joints.numpy(), truth["joints_3d"], atol=1e-6)
    before_camera = truth["joints_3d"].astype(np.float64) + truth["transl"][:, None]
    np.testing.assert_allclose(Camera().project(before_camera), truth["keypoints"], atol=1e-2)
    weak = truth["camera"][:, None, :1] * truth["joints_3d"][..., :2] + truth["camera"][:, None, 1:]
    length = (truth["box"][:, 2:] - truth["box"][:, :2]).max(1)
    assert np.median(np.linalg.norm(weak - truth["keypoints"], axis=2).mean(1) / length) < 0.05, "perspective is mild"


def test_left_hand_is_the_right_one_in_a_mirror() -> None:
    shot = make_shot("close", 5, 5.0, np.random.default_rng(0))
    right = next(track for track in shot.tracks if track.side == RIGHT)
    fields = {name: getattr(right, name) for name in ("dress", "betas", "angles", "orient")}
    left = Track(side=LEFT, wrist=right.wrist * MIRROR, elbow=right.elbow * MIRROR, **fields)
    a, b = (pose_track(studio_model(), track) for track in (right, left))
    assert isinstance(b, PosedTrack)
    np.testing.assert_allclose(a.vertices * MIRROR, b.vertices, atol=1e-9)
    np.testing.assert_allclose(a.joints * MIRROR, b.joints, atol=1e-9)
    np.testing.assert_allclose(
        a.hand.mesh(a.vertices[0], right.elbow[0]).vertices[:778] * MIRROR, b.hand.mesh(b.vertices[0], left.elbow[0]).vertices[:778]
    )


def test_nearer_surface_hides_the_farther_one() -> None:
    def square(depth: float, part: int, shift: float) -> Mesh:
        corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 0.1 + [shift, 0, depth]
        return Mesh(
            vertices=corners, faces=np.array([[0, 1, 2], [0, 2, 3]]), albedo=np.full((4, 3), 0.5), texture=np.zeros((4, 3)),
            detail=np.zeros((4, 2)), material=np.zeros((4, 3)), part=np.full(2, part, np.int32),
        )  # fmt: skip

    from studio.render import join

    renderer = Renderer(Camera(), np.random.default_rng(0))
    background = np.zeros((480, 640, 3), np.float32)
    for meshes in ([square(1.0, 7, 0.0), square(0.8, 9, 0.1)], [square(0.8, 9, 0.1), square(1.0, 7, 0.0)]):
        part_at = renderer.draw(join(meshes), background).part_at
        middle = part_at[480, ::1]
        assert middle[640 + 10] == 9
        assert middle[640 - 60] == 7
        assert middle[5] == -1
    edge = np.flatnonzero(middle == 9).min() / SUPERSAMPLE
    assert abs(edge - 320) < 1, "the near square begins on the optical axis"


def test_hidden_and_absent_hands_are_told_apart(pictures: list, folder: Path, truth: dict[str, np.ndarray]) -> None:
    for picture, rows in pictures:
        for row in rows:
            seen = (picture.part_at == row["side"]).any()
            assert seen == (row["visible"] > 0)
            assert 0 <= row["visible"] <= row["inside"] <= 1
    assert (truth["inside"] < 0.01).any(), "a hand leaves the picture"
    assert (truth["inside"] > 0.99).any()
    labels = json.loads((folder / "labels.json").read_text())
    assert labels["format"] == "handmedia-bench/1"
    assert len(labels["images"]) == 20
    labelled = sum(len(image["hands"]) for image in labels["images"])
    ignored = sum(len(image["ignore"]) for image in labels["images"])
    assert labelled == (truth["visible"] >= 0.5).sum()
    assert ignored == ((truth["visible"] < 0.5) & (truth["inside"] > 0)).sum()


def test_shots_are_cut_hard(pictures: list) -> None:
    change = [np.abs(a[0].image.astype(float) - b[0].image).mean() for a, b in itertools.pairwise(pictures)]
    cut = int(np.argmax(change))
    assert cut == 9
    assert change[cut] > 3 * np.median(change)


def test_movement_rests_at_its_keys_and_never_jumps() -> None:
    keys, moments = np.array([[0.0], [1.0], [-1.0]]), np.array([0.0, 1.0, 2.0])
    values = glide(keys, moments, np.linspace(0, 2.5, 251))
    assert values[[0, 100, 200, 250], 0].tolist() == [0.0, 1.0, -1.0, -1.0]
    assert np.abs(np.diff(values[:, 0])).max() < 0.07


def test_a_film_that_cannot_be_made_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"film\.width"):
        Film(width=641)
    with pytest.raises(ValueError, match=r"film\.seconds"):
        Film(seconds=0.1)


def test_detectors_find_the_hands_and_the_person(pictures: list) -> None:
    from stages.detect_hands_mediapipe import DetectHands
    from stages.detect_people_blazepose import DetectPeople
    from stages.detectors.mediapipe.models import find
    from stages.media.frames import Frames
    from stages.tables import People

    try:
        find("palm_detection_full")
    except (FileNotFoundError, ValueError) as error:
        pytest.skip(f"the MediaPipe networks are not here: {error}")
    frames = Frames(video="studio-1", frame=np.arange(20), time_s=np.arange(20) / 5.0, images=[picture.image for picture, _ in pictures])
    found = DetectHands().build()(frames, People.empty())
    people = DetectPeople().build()(frames)
    assert np.isin(np.arange(10), people.frame).all(), "the signer is a person to BlazePose"
    right_place, right_side, errors, total = 0, 0, [], 0
    for number, (_, rows) in enumerate(pictures):
        here = found.take(found.frame == number)
        for row in rows:
            if row["visible"] < 0.8:
                continue
            total += 1
            length = (row["box"][2:] - row["box"][:2]).max()
            away = np.linalg.norm(here.keypoints[..., :2] - row["keypoints"], axis=2).mean(1) / length
            if len(away) and away.min() < 0.25:
                right_place += 1
                right_side += (here.p_right[away.argmin()] > 0.5) == (row["side"] == RIGHT)
                errors.append(away.min())
    assert total >= 20
    assert right_place >= 0.9 * total
    assert right_side >= 0.9 * right_place
    assert np.median(errors) < 0.06


def test_a_film_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """Half a film lay there as `x.part.mp4`, and a run over the folder took it for a video."""

    def images() -> Iterator[np.ndarray]:
        yield np.zeros((64, 64, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "x.mp4", images(), Film(width=64, height=64))
    assert list(tmp_path.iterdir()) == []
