"""The fit stage brings a detector's landmarks onto the model's joints, and leaves those of detectors it knows nothing about."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from fitting.files import sha256_of
from fitting.landmarks.offsets import LANDMARK_OFFSETS, Offsets, load_offsets
from stages.fit import Fit
from stages.fitted import on_joints
from stages.tables import Clips, Hands
from tests.small_tables import columns


def hands_of(sources: list[list[str]], parts: list[int]) -> Hands:
    """Random landmarks; `parts` are the masks of who they are from."""
    n, rng = len(sources), np.random.default_rng(0)
    points = rng.uniform(100, 300, (n, 21, 2))
    keypoints = np.concatenate([points, np.ones((n, 21, 1))], 2).astype(np.float32)
    world = np.concatenate([points, rng.uniform(-50, 50, (n, 21, 1))], 2).astype(np.float32) / 1000
    mask = np.repeat(np.array(parts, np.int16)[:, None], 21, 1)
    known = {"frame": np.arange(n), "width": 640, "height": 480, "keypoints": keypoints, "world": world, "keypoint_sources": mask}
    hands = columns(Hands, n, video="v", **known, sources=sources)
    assert isinstance(hands, Hands)
    return hands


def shrinking(share: float) -> Offsets:
    """Every landmark goes towards the hand's centre."""
    return Offsets(image=-share * np.eye(21), world=-share * np.eye(21), depth=np.zeros((21, 21)))


def extent(hands: Hands) -> np.ndarray:
    return np.ptp(hands.keypoints[..., 0], axis=1)


def test_each_landmark_takes_the_offset_of_the_detector_it_is_from() -> None:
    names = [["a", "boxes"], ["a", "b"], ["boxes", "a"], ["other", "a"], ["other"], []]
    hands = hands_of(names, [0b01, 0b10, 0b10, 0b01, 0b1, 0])
    moved = on_joints(hands, {"a": shrinking(0.5), "b": shrinking(0.1)})
    np.testing.assert_allclose(extent(moved) / extent(hands), [0.5, 0.9, 0.5, 1, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(np.ptp(moved.world[0, :, 0]), 0.5 * np.ptp(hands.world[0, :, 0]), rtol=1e-5)
    np.testing.assert_array_equal(moved.world[4:], hands.world[4:])
    np.testing.assert_array_equal(moved.world[..., 2], hands.world[..., 2])
    assert (moved.keypoints[..., 2] == 1).all()


def test_a_landmark_averaged_from_two_takes_half_of_each_offset() -> None:
    hands = hands_of([["a", "b"], ["a", "other"]], [0b11, 0b11])
    hands.keypoint_sources[1, 3] = 0b10
    moved = on_joints(hands, {"a": shrinking(0.5), "b": shrinking(0.1)})
    middle = hands.keypoints[..., :2].mean(1, keepdims=True)
    share = (moved.keypoints[..., :2] - middle) / (hands.keypoints[..., :2] - middle)
    np.testing.assert_allclose(share[0], 0.7, rtol=1e-3)
    np.testing.assert_allclose(np.delete(share[1], 3, 0), 0.75, rtol=1e-3)
    np.testing.assert_allclose(share[1, 3], 1, rtol=1e-3)


def test_the_setting_decides_and_the_file_is_in_the_fingerprint() -> None:
    clip: Any = columns(Clips, 1, clip="v-0000", video="v")
    hands = hands_of([["mediapipe"]] * 2, [1, 1])
    with_offsets, without = (Fit(device="cpu", landmark_offsets=known).build()(clip, hands) for known in (True, False))
    by_hand = Fit(device="cpu", landmark_offsets=False).build()(clip, on_joints(hands, load_offsets()))
    np.testing.assert_array_equal(with_offsets.joints_2d, by_hand.joints_2d)
    assert not np.allclose(with_offsets.joints_2d, without.joints_2d, atol=0.5)
    assert Fit().weights["landmark_offsets"] == sha256_of(LANDMARK_OFFSETS)


@pytest.mark.parametrize("side", [0, 1])
def test_a_mirrored_hand_moves_as_its_mirror_image(side: int) -> None:
    hands = dataclasses.replace(hands_of([["mediapipe"]], [1]), side=np.array([side], np.int8))
    flip = np.array([-1, 1, 1], np.float32)
    mirrored = dataclasses.replace(hands, keypoints=hands.keypoints * flip, world=hands.world * flip)
    moved, image = on_joints(hands, load_offsets()), on_joints(mirrored, load_offsets())
    np.testing.assert_allclose(image.keypoints, moved.keypoints * flip, atol=1e-3)
    np.testing.assert_allclose(image.world, moved.world * flip, atol=1e-6)
