"""From person boxes to poses, people and hands: the stages around ViTPose, with random weights of the published layout."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.detectors.vitpose.keypoints import views_of
from stages.detectors.weights import MissingWeights, find_weights
from stages.estimate_poses_vitpose import EstimatePoses
from stages.fuse_people import fuse_people
from stages.hands_of_poses import HandsOfPoses
from stages.media.frames import Frames
from stages.people_of_poses import PeopleOfPoses
from stages.tables import BODY_KEYPOINTS, People, PersonBoxes, PersonDetections, Poses
from tests.labelled_pictures import frames_of, labelled
from tests.stages.detectors.checkpoints import random_state
from tests.vitpose_layouts import official


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: ViTPose+ of three layers and six heads, and a body network of one layer."""
    folder = tmp_path_factory.mktemp("weights")
    for name, shapes in (("vitpose_wholebody_base", official(384, 3, 17, plus=True)), ("vitpose_base", official(384, 1, 17))):
        path = folder / find_weights(name).file
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(random_state(shapes), path) if path.suffix == ".safetensors" else torch.save({"state_dict": random_state(shapes)}, path)
    return folder


@pytest.fixture(autouse=True)
def _weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(folder))


def boxes_of(frames: Frames, *boxes: tuple[int, float, float, float, float], source: str = "rtdetr_r50", score: float = 0.9) -> PersonBoxes:
    """Rows of (position in the stretch, x1, y1, x2, y2)."""
    rows = np.array(boxes, np.float32).reshape(-1, 5)
    at = rows[:, 0].astype(int)
    return PersonBoxes(
        video=np.full(len(rows), frames.video, object),
        frame=frames.frame[at],
        time_s=frames.time_s[at],
        source=np.full(len(rows), source, object),
        box=rows[:, 1:],
        score=np.full(len(rows), score, np.float32),
    )


def estimate(frames: Frames, found: PersonBoxes, **settings: Any) -> Poses:
    chosen: dict[str, Any] = {"network": "vitpose_wholebody_base", "bf16": False} | settings
    return EstimatePoses(**chosen).build()(frames, found)


def test_poses_of_a_real_picture_have_their_columns(media: Path) -> None:
    image, _ = labelled(media, "A052")
    frames = frames_of(np.zeros_like(image), image)
    found = boxes_of(frames, (1, 100, 50, 400, 500), (1, 500, 60, 800, 520))
    poses = estimate(frames, found)
    assert poses.frame.tolist() == [1, 1]
    assert poses.person.tolist() == [0, 1]
    assert set(poses.source) == {"vitpose"}
    views = views_of(poses.box)
    for points in (poses.body, poses.left_hand, poses.right_hand):
        assert points.dtype == np.float32
        assert ((points[..., 2] >= 0) & (points[..., 2] <= 1)).all()
        low, high = views[:, None, :2] - views[:, None, 2:] / 2, views[:, None, :2] + views[:, None, 2:] / 2
        step = views[:, None, 2:] / 40  # a peak may lie two cells beyond the border
        assert ((points[..., :2] > low - step) & (points[..., :2] < high + step)).all(), "pixels of the frame"
    assert not np.allclose(poses.body[0], poses.body[1])


def test_batches_of_any_size_give_the_same_poses(media: Path) -> None:
    image, _ = labelled(media, "A052")
    frames = frames_of(image)
    found = boxes_of(frames, *((0, 20.0 * i, 40, 20 * i + 150 + 10 * i, 400) for i in range(5)))
    one, many = (estimate(frames, found, batch_size=size) for size in (1, 5))
    assert np.abs(one.body - many.body).max() < 0.02


def test_bf16_moves_points_little(media: Path) -> None:
    image, _ = labelled(media, "A052")
    frames = frames_of(image)
    found = boxes_of(frames, (0, 100, 50, 400, 500))
    exact, fast = (estimate(frames, found, bf16=bf16) for bf16 in (False, True))
    step = views_of(found.box)[0, 2] / 47
    assert np.median(np.linalg.norm(exact.body[..., :2] - fast.body[..., :2], axis=-1)) < step


def test_two_detectors_boxes_of_one_person_are_one_pose(media: Path) -> None:
    image, _ = labelled(media, "A052")
    frames = frames_of(image)
    surer = boxes_of(frames, (0, 100, 50, 400, 500))
    other = boxes_of(frames, (0, 110, 60, 410, 510), (0, 600, 50, 800, 500), source="dfine_large", score=0.7)
    poses = estimate(frames, PersonBoxes.concat([other, surer]))
    assert len(poses) == 2
    assert poses.score.tolist() == pytest.approx([0.9, 0.7])
    assert np.allclose(poses.box[0], (0.9 * surer.box[0] + 0.7 * other.box[0]) / 1.6)


def test_two_hundred_people_half_outside_and_slivers_come_through() -> None:
    frames = frames_of(np.full((200, 300, 3), 90, np.uint8))
    rng = np.random.default_rng(0)
    corner = rng.uniform(-100, 280, (200, 2))
    crowd = [(0, x, y, x + w, y + h) for (x, y), (w, h) in zip(corner, rng.uniform(1, 150, (200, 2)), strict=True)]
    poses = estimate(frames, boxes_of(frames, *crowd, (0, 50, 50, 50, 90), (0, 1, 1, np.inf, 9)), network="vitpose_base", flip=False)
    assert len(poses) == 200
    assert poses.person.tolist() == list(range(200))
    assert np.isfinite(poses.body).all()


def test_nobody_is_an_empty_table(media: Path) -> None:
    frames = frames_of(np.zeros((90, 160, 3), np.uint8))
    poses = estimate(frames, PersonBoxes.empty())
    assert len(poses) == 0
    assert len(HandsOfPoses().build()(poses, People.empty())) == 0
    assert poses.to_arrow().schema.equals(Poses.schema())


def test_network_of_the_body_alone_leaves_the_hands_unknown() -> None:
    frames = frames_of(np.full((200, 300, 3), 90, np.uint8))
    poses = estimate(frames, boxes_of(frames, (0, 50, 20, 150, 180)), network="vitpose_base")
    assert np.isfinite(poses.body).all()
    assert np.isnan(poses.left_hand).all()
    assert np.isnan(poses.right_hand).all()
    assert len(HandsOfPoses().build()(poses, People.empty())) == 0


def test_weights_are_part_of_the_stages_identity_and_missing_ones_are_named(folder: Path) -> None:
    stage = EstimatePoses(network="vitpose_wholebody_base")
    assert set(stage.weights) == {"vitpose_wholebody_base"}
    with pytest.raises(MissingWeights, match="vitpose_wholebody_huge"):
        _ = EstimatePoses().weights


def poses_with(left: np.ndarray, right: np.ndarray, source: str = "vitpose") -> Poses:
    """One person; hands as [21, 3]."""
    body = np.arange(17 * 3, dtype=np.float32).reshape(1, 17, 3)
    one = {"video": np.array(["v"], object), "frame": np.array([7]), "time_s": np.array([1.4]), "source": np.array([source], object)}
    box = np.array([[0, 0, 100, 200]], np.float32)
    person, score = np.array([3], np.int16), np.array([0.8], np.float32)
    return Poses(**one, person=person, box=box, score=score, body=body, left_hand=left[None], right_hand=right[None])


def hand(num_sure: int, sure: float = 0.9) -> np.ndarray:
    """Sure joints on a line from (10, 20) to (30, 60); the rest far away and unsure."""
    points = np.full((21, 3), (500, 500, 0.1), np.float32)
    points[:num_sure] = np.column_stack([np.linspace(10, 30, num_sure), np.linspace(20, 60, num_sure), np.full(num_sure, sure)])
    return points


def test_hands_need_more_than_three_sure_joints() -> None:
    found = HandsOfPoses().build()(poses_with(hand(3), hand(4)), People.empty())
    assert len(found) == 1
    assert found.p_right[0] > 0.5
    assert found.person.tolist() == [-1], "nobody is listed"
    assert found.frame.tolist() == [7]
    assert len(HandsOfPoses().build()(poses_with(hand(9, sure=0.5), hand(9, sure=0.51)), People.empty())) == 1, "more than 0.5, not 0.5"


def test_box_is_the_hull_of_the_sure_joints_and_the_crop_twice_that() -> None:
    found = HandsOfPoses(extent_width=1.0, extent_height=1.0).build()(poses_with(hand(9), hand(9)), People.empty())
    assert np.allclose(found.box, [10, 20, 30, 60])
    assert np.allclose(found.crop, [0, 0, 40, 80])
    assert found.p_right[0] < 0.5 < found.p_right[1], "left, then right"
    assert np.allclose(found.score, hand(9)[:, 2].mean())
    assert (found.source == "vitpose").all()
    assert (found.route == "person").all()


def test_people_carry_the_arms_on_and_other_networks_poses_are_left_alone() -> None:
    mine, others = poses_with(hand(9), hand(9)), poses_with(hand(9), hand(9), source="another")
    people = PeopleOfPoses().build()(Poses.concat([others, mine]))
    assert len(people) == 1
    assert np.array_equal(people.keypoints, mine.body)
    assert people.keypoints.shape[1] == len(BODY_KEYPOINTS)
    assert people.score.tolist() == pytest.approx([0.8])
    assert len(HandsOfPoses(detector="another").build()(Poses.concat([others, mine]), People.empty())) == 2
    assert PeopleOfPoses(detector="another").detector == "another"


def test_a_hand_names_its_person_whatever_the_networks_own_number() -> None:
    poses = poses_with(hand(9), hand(9))
    one = PeopleOfPoses().build()(poses)  # number 3 of its own network
    nearby = {"box": one.box + 2, "score": np.array([0.7], np.float32), "person": np.array([3], np.int16)}
    again = replace(one, **nearby, source=np.array(["another"], object))  # as another detector has them
    far = {"box": one.box + 400, "keypoints": one.keypoints + 400, "score": np.array([0.9], np.float32)}
    other = replace(one, **far, person=np.array([1], np.int16))
    stranger = replace(again, **{**far, "box": one.box + 800, "keypoints": one.keypoints + 800})  # the other detector's number 3 as well
    later = replace(one, frame=one.frame + 1)
    people = fuse_people(PersonDetections.concat([again, stranger, later, other, one]))
    found = HandsOfPoses().build()(poses, people)
    assert found.person.tolist() == [2, 2]
    here = people.take(people.frame == 7)
    assert (here.person.tolist(), len(people)) == ([0, 1, 2], 4)
    np.testing.assert_allclose(here.box[found.person[0]], one.box[0] + 2 * 0.7 / 1.5, rtol=1e-5)


def test_bad_settings_are_named() -> None:
    for settings, name in (({"network": "hrnet"}, "network"), ({"person_iou": 1.0}, "person_iou"), ({"batch_size": -1}, "batch_size")):
        with pytest.raises(ValueError, match=rf"estimate_poses_vitpose\.{name}"):
            EstimatePoses(**settings)
    for settings, name in (({"min_keypoint": 1.0}, "min_keypoint"), ({"more_than": 0}, "more_than"), ({"crop_scale": 0.0}, "crop_scale")):
        with pytest.raises(ValueError, match=rf"hands_of_poses\.{name}"):
            HandsOfPoses(**settings)
