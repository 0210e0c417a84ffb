"""The regressor at work: hands of images of either side and any size, whatever the boxes; tracks that hold and are smooth."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from fitting.hand.mano import load_hand_model, pose_either_hand
from fitting.hand.rotation import matrix_from_axis_angle
from training.data.samples import cut, squared
from training.regressor.hand import HandLayer
from training.regressor.inference import HandReconstructor, ReconstructedHands, crop_of, usable
from training.regressor.network import Regressor, RegressorSettings
from training.regressor.tracks import FoundHands, TrackSettings, follow, nearest_rotations, over_time, smooth

SETTINGS = TrackSettings()


@pytest.fixture(scope="module")
def reconstructor() -> HandReconstructor:
    """A reconstructor of random weights whose answers depend on the image."""
    torch.manual_seed(0)
    network = Regressor(RegressorSettings(size="xs"))
    for head in (network.heads.pose, network.heads.shape, network.heads.camera):
        torch.nn.init.normal_(head.weight, std=0.03)
    return HandReconstructor(network, batch_size=3)


def picture(seed: int = 0, height: int = 120, width: int = 160) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((height // 8, width // 8, 1), np.uint8))


BOX = np.array([[30.0, 40, 80, 90]])


def test_a_mirrored_image_gives_the_mirrored_hand(reconstructor: HandReconstructor) -> None:
    image = picture()
    flipped = np.ascontiguousarray(image[:, ::-1])
    mirrored_box = BOX[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [160, 0, 160, 0]
    (right,) = [reconstructor([image], np.zeros(1, int), BOX, np.array([1]))]
    (left,) = [reconstructor([flipped], np.zeros(1, int), mirrored_box, np.array([0]))]
    flip = np.array([-1.0, 1, 1])
    np.testing.assert_allclose(left.vertices, right.vertices * flip, atol=1e-5)
    np.testing.assert_allclose(left.transl, right.transl * flip, atol=1e-4)
    np.testing.assert_allclose(left.joints_2d, right.joints_2d * [-1, 1] + [160, 0], atol=1e-2)
    np.testing.assert_allclose(left.rotations, right.rotations * flip[:, None] * flip, atol=1e-5)


def test_parameters_are_smplx_s_of_the_hands_side(reconstructor: HandReconstructor) -> None:
    hands = reconstructor([picture(1)], np.zeros(2, int), np.repeat(BOX, 2, 0), np.array([0, 1]))
    orient, pose = map(torch.from_numpy, hands.parameters())
    model = load_hand_model(dtype=torch.float32)
    posed = pose_either_hand(model, torch.from_numpy(hands.side), torch.from_numpy(hands.betas), orient, pose)
    np.testing.assert_allclose(posed.vertices, hands.vertices, atol=2e-5)
    np.testing.assert_allclose(posed.joints, hands.joints, atol=2e-5)


def test_hands_of_many_images_in_one_batch_are_those_of_each_alone(reconstructor: HandReconstructor) -> None:
    images = [picture(seed) for seed in range(3)]
    of, side = np.array([2, 0, 1, 0]), np.array([1, 0, 1, 1])
    box = BOX + np.arange(4)[:, None] * 3.0
    together = reconstructor(images, of, box, side)
    for row in range(4):
        alone = reconstructor([images[of[row]]], np.zeros(1, int), box[row : row + 1], side[row : row + 1])
        np.testing.assert_allclose(alone.vertices[0], together.vertices[row], atol=1e-5)
        np.testing.assert_allclose(alone.joints_2d[0], together.joints_2d[row], atol=1e-2)


def test_the_pinhole_of_the_frame_sees_what_the_crop_sees(reconstructor: HandReconstructor) -> None:
    hands = reconstructor([picture(2)], np.zeros(1, int), BOX, np.array([1]))
    focal = 5000 / 256 * 160
    seen = hands.joints + hands.transl[:, None]
    pixels = focal * seen[..., :2] / seen[..., 2:] + [80, 60]
    np.testing.assert_allclose(pixels[:, 0], hands.joints_2d[:, 0], atol=1e-2)
    np.testing.assert_allclose(pixels, hands.joints_2d, atol=1.0)


def test_a_known_focal_length_moves_the_hand_and_an_absurd_one_is_refused(reconstructor: HandReconstructor) -> None:
    far = reconstructor([picture()], np.zeros(1, int), BOX, np.array([1]))
    near = reconstructor([picture()], np.zeros(1, int), BOX, np.array([1]), focal_px=150.0)
    assert near.transl[0, 2] < 0.1 * far.transl[0, 2]
    np.testing.assert_allclose(near.vertices, far.vertices)
    for focal in (0.0, -3.0, 1e9, float("nan")):
        with pytest.raises(ValueError, match="focal length"):
            reconstructor([picture()], np.zeros(1, int), BOX, np.array([1]), focal_px=focal)


def test_boxes_without_area_beyond_the_image_or_not_finite_are_not_usable() -> None:
    box = np.array(
        [[30, 40, 80, 90], [30, 40, 30, 90], [50, 40, 30, 20], [-90, 10, -5, 60], [170, 10, 200, 60], [np.nan, 0, 9, 9], [-20, -20, 10, 10]]
    )
    assert usable(box.astype(float), 160, 120).tolist() == [True, False, False, False, False, False, True]


def test_whatever_the_box_the_answer_is_finite(reconstructor: HandReconstructor) -> None:
    """Without area, outside, far too large, two hands in one box."""
    box = np.array([[40.0, 40, 40, 40], [-900, -900, -800, -800], [-1e4, -1e4, 1e4, 1e4], [0, 0, 160, 120]])
    hands = reconstructor([picture()], np.zeros(4, int), box, np.array([0, 1, 0, 1]))
    assert all(np.isfinite(getattr(hands, field.name)).all() for field in dataclasses.fields(hands))


def test_no_hands_and_no_images_are_no_hands(reconstructor: HandReconstructor) -> None:
    assert len(reconstructor([picture()], np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int))) == 0
    assert len(reconstructor([], np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int))) == 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_large_hands_are_averaged_and_stay_in_place(mirrored: bool) -> None:
    """A crop of 1600 pixels: fine stripes become grey, a dot stays where it is."""
    image = np.zeros((2000, 2000, 3), np.uint8)
    image[:, ::2] = 200
    image[900:1000, 700:780] = 255
    to_input = np.array([256 / 1600, -200 * 256 / 1600, -300 * 256 / 1600], np.float32)
    crop = np.empty((256, 256, 3), np.uint8)
    crop_of(image, to_input, crop, mirrored=mirrored)
    corner = crop[:40, :40].astype(float)
    assert abs(corner.mean() - 100) < 4
    assert corner.std() < 12
    y, x = np.nonzero(crop[..., 0] > 200)
    middle = (740 - 200) * 256 / 1600
    assert abs((x.mean() + 0.5) - (256 - middle if mirrored else middle)) < 0.6
    assert abs((y.mean() + 0.5) - (950 - 300) * 256 / 1600) < 0.6


def test_small_hands_are_cut_as_training_cuts_them() -> None:
    to_input = squared(BOX[0], 256, 2.0)
    mine, theirs = (np.empty((256, 256, 3), np.uint8) for _ in range(2))
    crop_of(picture(), to_input, mine, mirrored=True)
    cut(picture(), (160, 120), to_input, theirs, mirrored=True)
    assert np.array_equal(mine, theirs)


def found(rows: list[tuple[int, float, int, float]]) -> FoundHands:
    """frame, left edge, side, score of boxes 40 wide."""
    frame, x, side, score = (np.array(values) for values in zip(*rows, strict=True))
    box = np.stack([x, np.full(len(x), 10.0), x + 40, np.full(len(x), 50.0)], 1)
    return FoundHands(frame=frame, box=box, side=side, score=score, track=np.full(len(frame), -1))


def test_two_hands_that_move_are_two_tracks_and_a_gap_is_filled() -> None:
    rows = [(k, 10.0 + 15 * k, 1, 0.9) for k in (0, 1, 2, 5, 6)] + [(k, 300.0 - 5 * k, 0, 0.8) for k in range(7)]
    hands = follow(found(sorted(rows)), np.arange(7) / 25, SETTINGS)
    assert sorted(np.bincount(hands.track).tolist()) == [7, 7]
    right = hands.side == 1
    np.testing.assert_allclose(hands.box[right, 0], 10 + 15 * np.arange(7))
    assert hands.score[right].tolist() == [0.9, 0.9, 0.9, 0, 0, 0.9, 0.9]
    assert (np.diff(hands.frame) >= 0).all()


def test_the_side_of_a_track_is_what_was_said_most_surely() -> None:
    rows = [(k, 10.0, 1, 0.9) for k in range(5)] + [(5, 10.0, 0, 0.95), (6, 10.0, 1, 0.9)]
    hands = follow(found(rows), np.arange(7) / 25, SETTINGS)
    assert set(hands.track.tolist()) == {0}
    assert set(hands.side.tolist()) == {1}


def test_a_long_absence_ends_a_track() -> None:
    hands = follow(found([(0, 10.0, 1, 0.9), (20, 10.0, 1, 0.9)]), np.arange(21) / 25, SETTINGS)
    assert hands.track.tolist() == [0, 1]
    assert len(hands.frame) == 2


def test_nobody_found_is_nobody_followed() -> None:
    nothing = FoundHands(frame=np.zeros(0, int), box=np.zeros((0, 4)), side=np.zeros(0, int), score=np.zeros(0), track=np.zeros(0, int))
    assert len(follow(nothing, np.arange(3) / 25, SETTINGS).frame) == 0


def test_means_of_rotations_are_rotations_and_of_two_the_middle() -> None:
    turns = matrix_from_axis_angle(torch.tensor([[0.0, 0, 0.4], [0.0, 0, -0.2]])).numpy()
    middle = nearest_rotations(turns.mean(0))
    np.testing.assert_allclose(middle, matrix_from_axis_angle(torch.tensor([0.0, 0, 0.1])).numpy(), atol=1e-6)
    noisy = nearest_rotations(np.random.default_rng(0).normal(size=(50, 3, 3)))
    np.testing.assert_allclose(noisy @ noisy.transpose(0, 2, 1), np.tile(np.eye(3), (50, 1, 1)), atol=1e-5)
    assert np.linalg.det(noisy).min() > 0.99


@pytest.mark.parametrize("side", [0, 1])
def test_smoothing_takes_noise_away_and_leaves_a_still_hand_where_it_is(reconstructor: HandReconstructor, side: int) -> None:
    still = reconstructor([picture(5)] * 30, np.arange(30), np.repeat(BOX, 30, 0), np.full(30, side))
    layer: HandLayer = reconstructor.network.hand
    told: dict[str, Any] = {"track": np.zeros(30, int), "time_s": np.arange(30) / 25, "layer": layer, "size": (160, 120), "focal_px": None}
    same = smooth(still, settings=SETTINGS, **told)
    for name in ("vertices", "transl", "joints_2d", "rotations"):
        np.testing.assert_allclose(getattr(same, name), getattr(still, name), atol=2e-3 * np.abs(getattr(still, name)).max())
    rng = np.random.default_rng(0)
    turns = matrix_from_axis_angle(torch.from_numpy(rng.normal(0, 0.1, (30, 16, 3)))).numpy().astype(np.float32)
    noisy = dataclasses.replace(
        still, rotations=turns @ still.rotations, camera=still.camera * rng.normal(1, 0.02, (30, 3)).astype(np.float32)
    )
    calm = smooth(noisy, settings=SETTINGS, **told)

    def unrest(hands: ReconstructedHands) -> float:
        return float(np.abs(np.diff(hands.rotations, 2, axis=0)).mean())

    assert unrest(calm) < 0.2 * unrest(noisy)
    assert np.abs(calm.rotations - still.rotations).mean() < 0.6 * np.abs(noisy.rotations - still.rotations).mean()
    assert (
        np.abs(np.diff(calm.transl[:, 2], 2)).mean()
        < 0.3 * np.abs(np.diff(noisy.camera[:, 0], 2)).mean() / noisy.camera[:, 0].mean() * calm.transl[0, 2]
    )
    assert smooth(noisy, settings=TrackSettings(smooth_s=0), **told) is noisy


def test_neighbours_in_time_weigh_as_a_gaussian_and_a_long_track_takes_little_memory() -> None:
    time_s = np.cumsum(np.random.default_rng(0).uniform(0.005, 0.08, 60))
    dense = np.exp(-0.5 * ((time_s[:, None] - time_s) / 0.05) ** 2)
    np.testing.assert_allclose(over_time(time_s, 0.05).toarray(), dense / dense.sum(1, keepdims=True), atol=1e-5)
    hour = over_time(np.arange(108_000) / 30, 0.05)
    assert hour.nnz < 20 * 108_000
    np.testing.assert_allclose(hour.sum(1), 1)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"track\.match_iou"):
        TrackSettings(match_iou=0)
    with pytest.raises(ValueError, match=r"track\.smooth_s"):
        TrackSettings(smooth_s=-1)
