"""OpenPose's hand member: official layout, its crops, its mirror, its peaks, and the stage around them."""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d, relu

from stages.detect_hands_openpose import DetectHandsOpenPose
from stages.detectors.found import FoundHands
from stages.detectors.openpose_hand import arms_of, cut_hand, find_hands, hand_network, hand_reader, peaks, scaled, to_frame
from stages.detectors.weights import BadWeights, MissingWeights, load_checkpoint
from stages.tables import BODY_KEYPOINTS, LEFT, RIGHT, People
from tests.labelled_pictures import frames_of, labelled
from tests.stages.detectors.checkpoints import Layout, random_state, save

CONVOLUTIONS = (
    "conv1_1 3 64 3, conv1_2 64 64 3, conv2_1 64 128 3, conv2_2 128 128 3, "
    "conv3_1 128 256 3, conv3_2 256 256 3, conv3_3 256 256 3, conv3_4 256 256 3, "
    "conv4_1 256 512 3, conv4_2 512 512 3, conv4_3 512 512 3, conv4_4 512 512 3, "
    "conv5_1 512 512 3, conv5_2 512 512 3, conv5_3_CPM 512 128 3, conv6_1_CPM 128 512 1, conv6_2_CPM 512 22 1"
)
"""models/hand/pose_deploy.prototxt: name, inputs, outputs, kernel."""
STAGE = "Mconv1 150 128 7, Mconv2 128 128 7, Mconv3 128 128 7, Mconv4 128 128 7, Mconv5 128 128 7, Mconv6 128 128 1, Mconv7 128 22 1"


def layers() -> list[tuple[str, int, int, int]]:
    rows = [row.split() for row in CONVOLUTIONS.split(", ")]
    rows += [[f"{name}_stage{stage}", *sizes] for stage in range(2, 7) for name, *sizes in (row.split() for row in STAGE.split(", "))]
    return [(name, int(i), int(o), int(k)) for name, i, o, k in rows]


def official_layout() -> Layout:
    shapes = {f"{name}.weight": (o, i, k, k) for name, i, o, k in layers()}
    return {**shapes, **{f"{name}.bias": (o,) for name, _, o, _ in layers()}}


def reference(state: dict[str, Tensor], crops: Tensor) -> Tensor:
    """The prototxt, line by line."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    x = crops
    for name, *_ in layers()[:15]:
        x = relu(conv(x, name))
        if name in ("conv1_2", "conv2_2", "conv3_4"):
            x = max_pool2d(x, 2, 2)
    maps = conv(relu(conv(x, "conv6_1_CPM")), "conv6_2_CPM")
    for stage in range(2, 7):
        y = torch.cat([maps, x], 1)
        for i in range(1, 7):
            y = relu(conv(y, f"Mconv{i}_stage{stage}"))
        maps = conv(y, f"Mconv7_stage{stage}")
    return maps


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save(random_state(official_layout()), folder / "openpose" / "hand_pose_model.pth")
    return folder


def somebody(
    *, wrist: tuple[float, float], elbow: tuple[float, float], shoulder: tuple[float, float], side: str, score: float = 0.9
) -> People:
    """One person of whom one arm is seen."""
    keypoints = np.zeros((1, 17, 3), np.float32)
    for joint, at in (("wrist", wrist), ("elbow", elbow), ("shoulder", shoulder)):
        keypoints[0, BODY_KEYPOINTS.index(f"{side}_{joint}")] = *at, score
    return People(
        video=np.array(["v"], object),
        frame=np.zeros(1, np.int64),
        time_s=np.zeros(1),
        person=np.array([4], np.int16),
        box=np.array([[0, 0, 200, 300]], np.float32),
        score=np.array([0.9], np.float32),
        keypoints=keypoints,
        sources=np.fromiter([["a"]], object),
        source_persons=np.fromiter([[0]], object),
    )


def test_the_official_layout_loads_whole_and_gives_the_prototxts_maps(weights: Path) -> None:
    file = weights / "openpose" / "hand_pose_model.pth"
    state = load_checkpoint(file)
    network = hand_network(state, file).eval()
    assert sum(p.numel() for p in network.parameters()) == 36_832_324
    crops = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(network(crops), reference(state, crops), rtol=1e-4, atol=1e-4)


def test_pytorch_openposes_prefixes_load_as_well(weights: Path) -> None:
    file = weights / "openpose" / "hand_pose_model.pth"
    state = load_checkpoint(file)
    home = {
        "conv6_1_CPM": "model1_1",
        "conv6_2_CPM": "model1_1",
        **{f"Mconv{i}_stage{s}": f"model{s}" for i in range(1, 8) for s in range(2, 7)},
    }
    prefixed = {f"{home.get(name.split('.')[0], 'model1_0')}.{name}": value for name, value in state.items()}
    plain, other = (hand_network(s, file).state_dict() for s in (state, prefixed))
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_another_networks_checkpoint_is_refused_by_name(weights: Path) -> None:
    state = load_checkpoint(weights / "openpose" / "hand_pose_model.pth")
    del state["Mconv7_stage6.weight"]
    with pytest.raises(BadWeights, match=r"body\.pth.*1 missing: Mconv7_stage6\.weight"):
        hand_network(state, Path("body.pth"))


def test_the_square_of_a_hand_lies_beyond_the_wrist_along_the_forearm() -> None:
    arms = arms_of([People.empty(), somebody(wrist=(100, 50), elbow=(40, 50), shoulder=(40, 10), side="right")])
    assert (arms.picture.tolist(), arms.person.tolist(), arms.side.tolist()) == ([1], [4], [RIGHT])
    np.testing.assert_allclose(arms.square, [[100 + 0.33 * 60 - 45, 50 - 45, 90]], rtol=1e-6)
    long_upper_arm = arms_of([somebody(wrist=(100, 50), elbow=(40, 50), shoulder=(40, -150), side="left")])
    assert long_upper_arm.side.tolist() == [LEFT]
    np.testing.assert_allclose(long_upper_arm.square[:, 2], [1.5 * 0.9 * 200], rtol=1e-6)


def test_hidden_and_folded_arms_have_no_square() -> None:
    folded = somebody(wrist=(40, 50), elbow=(40, 50), shoulder=(40, 50), side="left")
    hidden = somebody(wrist=(100, 50), elbow=(40, 50), shoulder=(40, 10), side="left", score=0.02)
    unknown = somebody(wrist=(100, float("nan")), elbow=(40, 50), shoulder=(40, 10), side="left")
    assert len(arms_of([folded, hidden, unknown, People.empty()]).square) == 0
    assert len(arms_of([]).square) == 0


def test_scaled_squares_keep_their_centre() -> None:
    np.testing.assert_allclose(scaled(np.array([[10.0, 20.0, 100.0]]), 1.2), [[0, 10, 120]])


def test_a_crop_shows_what_its_coordinates_say_in_bgr_and_black_outside() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[12, 21] = 255, 128, 64
    square = np.array([5.0, 4.0, 32.0])
    for mirror, column in ((False, 16), (True, 16)):
        crop = cut_hand(image, square, 32, mirror=mirror)
        np.testing.assert_allclose(crop[:, 8, column], np.array([64, 128, 255]) / 256 - 0.5)
        shown = to_frame(np.array([[column, 8.0]]), square, 32, mirror=mirror)
        np.testing.assert_allclose(shown, [[21, 12]])
    image[12, 21], image[12, 23] = 0, 255
    assert cut_hand(image, square, 32, mirror=False)[0, 8, 18] == cut_hand(image, square, 32, mirror=True)[0, 8, 14] > 0.49
    assert (cut_hand(np.full((4, 4, 3), 255, np.uint8), np.array([-20.0, 0.0, 32.0]), 32, mirror=False)[:, :, :16] == -0.5).all()


@pytest.mark.parametrize(("x", "y"), [(20.0, 9.0), (20.375, 9.625), (33.5, 30.25)])
def test_a_peak_between_cells_is_found_to_a_pixel(x: float, y: float) -> None:
    cells = torch.arange(46.0)
    bump = torch.exp(-((cells[None] - x) ** 2 + (cells[:, None] - y) ** 2) / 2)
    maps = torch.zeros(1, 22, 46, 46)
    maps[0, 7], maps[0, 21] = 0.8 * bump, 5.0  # the background is nobody's joint
    found = peaks(maps)
    assert found.shape == (1, 21, 3)
    middle_of_cell = 8 * torch.tensor([x, y]) + 3.5  # of cell c among the enlarged pixels
    assert (found[0, 7, :2] - middle_of_cell).abs().max() <= 1
    assert found[0, 7, 2] == pytest.approx(0.8, abs=0.02)
    assert found[0, :, 2].argmax() == 7


def test_enlarging_is_opencvs_bicubic() -> None:
    maps = np.random.default_rng(0).random((46, 46)).astype(np.float32)
    ours = interpolate(torch.from_numpy(maps)[None, None], scale_factor=8, mode="bicubic", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(ours, cv2.resize(maps, (368, 368), interpolation=cv2.INTER_CUBIC), atol=2e-3)


def test_a_left_hand_is_the_right_hand_of_the_mirrored_picture(weights: Path, media: Path) -> None:
    image, _ = labelled(media, "A000")
    width = image.shape[1]
    file = weights / "openpose" / "hand_pose_model.pth"
    read = hand_reader(hand_network(load_checkpoint(file), file), device="cpu", bf16=False, batch_size=4, size=96)
    find = find_hands(read, scales=(1.0,), sure_wrist=0.0, min_joints=0, min_score=-1.0, extent=(1.0, 1.0))
    arm: dict[str, Any] = {"wrist": (300.0, 200.0), "elbow": (250.0, 280.0), "shoulder": (240.0, 180.0)}
    mirrored: dict[str, Any] = {joint: (width - 1 - x, y) for joint, (x, y) in arm.items()}
    left = find([image], [somebody(**arm, side="left")])
    right = find([np.ascontiguousarray(image[:, ::-1])], [somebody(**mirrored, side="right")])
    np.testing.assert_allclose(left.keypoints[..., 2], right.keypoints[..., 2], atol=1e-4)
    np.testing.assert_allclose(left.keypoints[..., 0], width - 1 - right.keypoints[..., 0], atol=0.02)
    np.testing.assert_allclose(left.keypoints[..., 1], right.keypoints[..., 1], atol=0.02)
    plain = find([image], [somebody(**arm, side="right")])
    assert np.abs(plain.keypoints - left.keypoints).max() > 1


def test_of_several_scales_the_surest_counts() -> None:
    def read(looks: Any) -> np.ndarray:  # taller peaks in the crop of 1.2
        joints = np.full((len(looks), 21, 3), 0.3, np.float32)
        for row, (_, square, _) in zip(joints, looks, strict=True):
            row[:, :2] = square[:2]
            row[:, 2] = 0.9 if square[2] > 100 else 0.3
        return joints

    find = find_hands(read, scales=(0.8, 1.0, 1.2), sure_wrist=0.0, min_joints=10, min_score=0.2, extent=(1.0, 1.0))
    hands = find([np.zeros((300, 300, 3), np.uint8)], [somebody(wrist=(100, 50), elbow=(40, 50), shoulder=(40, 10), side="left")])
    assert hands.score.tolist() == pytest.approx([0.9])
    np.testing.assert_allclose(hands.crop[0, 2:] - hands.crop[0, :2], 108, rtol=1e-6)


def test_a_doubtful_arms_hand_is_looked_at_both_ways_and_the_surer_look_is_half_a_vote() -> None:
    def read(looks: Any) -> np.ndarray:  # it is a right hand: mirrored crops show less
        joints = np.full((len(looks), 21, 3), 10, np.float32)
        for row, (_, square, mirrored) in zip(joints, looks, strict=True):
            row[:, 0], row[:, 2] = square[0] + mirrored, 0.2 if mirrored else 0.8
        return joints

    find = find_hands(read, scales=(1.0, 1.2), sure_wrist=0.5, min_joints=10, min_score=0.1, extent=(1.0, 1.0))
    sure, right_arm = (somebody(wrist=(100, 50), elbow=(40, 50), shoulder=(40, 10), side=side) for side in ("left", "right"))
    faint = np.array([1, 1, 0.3], np.float32)
    people = [sure, *(dataclasses.replace(person, keypoints=person.keypoints * faint) for person in (sure, right_arm))]
    believed, asked, of_right_arm = (find([np.zeros((300, 300, 3), np.uint8)], [person]) for person in people)
    assert (believed.score.tolist(), np.isnan(believed.p_right).all()) == (pytest.approx([0.2]), True)
    assert asked.score.tolist() == pytest.approx([0.8])
    assert asked.keypoints[0, 0, 0] == believed.keypoints[0, 0, 0] - 1
    np.testing.assert_allclose(np.log(asked.p_right / (1 - asked.p_right)), 0.5 * np.log(0.8 / 0.2), rtol=1e-5)
    np.testing.assert_allclose(of_right_arm.p_right, asked.p_right, rtol=1e-6)


def test_weak_hands_are_not_listed_and_the_box_is_the_hull_of_what_is_seen() -> None:
    def read(looks: Any) -> np.ndarray:
        joints = np.zeros((len(looks), 21, 3), np.float32)
        joints[:, :12, 2] = 0.6
        joints[:, :12, 0], joints[:, :12, 1] = np.arange(12) + 50, 3 * np.arange(12) + 60
        joints[:, 12:, :2] = 900
        return joints

    person = somebody(wrist=(100, 50), elbow=(40, 50), shoulder=(40, 10), side="left")
    image = np.zeros((300, 300, 3), np.uint8)

    def find(**settings: Any) -> FoundHands:
        fixed = {"min_joints": 10, "min_score": 0.2, "sure_wrist": 0.0, **settings}
        return find_hands(read, scales=(1.0,), extent=(1.2, 1.0), **fixed)([image], [person])

    np.testing.assert_allclose(find().box, [[55.5 - 6.6, 60, 55.5 + 6.6, 93]], rtol=1e-6)
    assert find().score.tolist() == pytest.approx([0.6 * 12 / 21])
    assert len(find(min_joints=13).score) == len(find(min_score=0.5).score) == 0


def test_the_stage_reads_the_file_and_fills_its_table(weights: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(weights))
    image, _ = labelled(media, "A000")
    person = somebody(wrist=(300, 200), elbow=(250, 280), shoulder=(240, 180), side="left")
    stage = DetectHandsOpenPose(resolution=64, min_joints=0, min_score=0.0)
    hands = stage.build()(frames_of(image, image), person)
    assert set(stage.weights) == {"openpose_hand"}
    assert (hands.source.tolist(), hands.route.tolist(), hands.frame.tolist()) == (["openpose"], ["wrist"], [0])
    assert hands.person.tolist() == [4]
    assert np.isnan(hands.p_right).all()
    assert np.isnan(hands.world).all()
    np.testing.assert_allclose(hands.score, hands.keypoints[..., 2].mean(1), rtol=1e-5)
    assert hands.to_arrow().num_rows == 1
    assert len(stage.build()(frames_of(image), People.empty())) == 0


def test_missing_weights_say_which_where_from_and_which_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"openpose_hand.*hand_pose_model\.pth.*non-commercial"):
        _ = DetectHandsOpenPose().weights


def test_bad_settings_are_named() -> None:
    for settings, name in (
        ({"resolution": 100}, "resolution"),
        ({"scales": ()}, "scales"),
        ({"min_score": 2.0}, "min_score"),
        ({"device": "tpu"}, "device"),
    ):
        with pytest.raises(ValueError, match=rf"detect_hands_openpose\.{name}"):
            DetectHandsOpenPose(**settings)


def test_one_arm_in_two_tables_of_people_is_one_hand_and_a_crowd_has_as_many_as_arms(
    weights: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(weights))
    image, _ = labelled(media, "A000")
    detect = DetectHandsOpenPose(resolution=16, min_joints=0, min_score=0.0, batch_size=64).build()
    person = somebody(wrist=(300, 200), elbow=(250, 280), shoulder=(240, 180), side="left")
    assert len(detect(frames_of(image), People.concat([person, person]))) == 1
    crowd = []
    for x, y in np.random.default_rng(0).uniform(-200, 800, (200, 2)):  # many half outside, some wholly
        member = somebody(wrist=(x + 9, y), elbow=(x, y + 9), shoulder=(x, y - 9), side="right")
        crowd.append(dataclasses.replace(member, box=np.array([[x - 5, y - 12, x + 15, y + 12]], np.float32)))
    hands = detect(frames_of(image), People.concat(crowd))
    assert 150 < len(hands) <= 200
    assert np.isfinite(hands.box).all()
