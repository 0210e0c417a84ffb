"""Hands come out in the pixels of the image that went in, once each."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.detector.small import random_detector, save
from training.detector.inference import HandDetector, detections, fused, letterboxed, unduplicated
from training.detector.network import Detections, DetectorSettings


@pytest.mark.parametrize("shape", [(64, 64), (37, 111), (211, 53), (1, 9), (720, 1281)])
def test_a_place_in_the_image_and_its_place_in_the_square_are_one(shape: tuple[int, int]) -> None:
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    y0, y1, x0, x1 = height // 3, max(2 * height // 3, height // 3 + 1), width // 2, max(3 * width // 4, width // 2 + 1)
    image[y0:y1, x0:x1] = 255
    square, (scale, dx, dy) = letterboxed(image, 192)
    assert square.shape == (192, 192, 3)
    weight = np.where(square == 114, 0, square)[..., 0].astype(float)
    y, x = np.indices(weight.shape) + 0.5
    middle = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    assert middle == pytest.approx([(x0 + x1) / 2 * scale + dx, (y0 + y1) / 2 * scale + dy], abs=0.6)


def test_boxes_and_keypoints_come_back_in_the_pixels_of_each_image() -> None:
    detector = HandDetector(random_detector(), size=96, threshold=0.2)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (h, w, 3), np.uint8) for h, w in ((96, 96), (50, 131), (301, 77))]
    answers = detector(images)
    for image, hands in zip(images, answers, strict=True):
        square, (scale, dx, dy) = letterboxed(image, 96)
        (same,) = detector([square])
        assert len(hands.score) > 3
        np.testing.assert_allclose(hands.score, same.score, atol=1e-5)
        gaps = -np.diff(hands.score, prepend=2, append=-1)
        clear = np.minimum(gaps[:-1], gaps[1:]) > 1e-4  # where rounding cannot change the order
        assert clear.sum() > 3
        np.testing.assert_allclose((hands.box * scale + [dx, dy, dx, dy])[clear], same.box[clear], atol=1e-2)
        np.testing.assert_allclose((hands.keypoints[..., :2] * scale + [dx, dy])[clear], same.keypoints[clear, :, :2], atol=1e-2)


def test_an_answer_has_the_shapes_and_ranges_it_promises() -> None:
    detector = HandDetector(random_detector(), size=64, threshold=0.4, max_hands=7)
    (hands,) = detector([np.full((64, 64, 3), 90, np.uint8)])
    n = len(hands.score)
    assert 0 < n <= 7
    assert hands.box.shape == (n, 4)
    assert hands.keypoints.shape == (n, 21, 3)
    assert (np.diff(hands.score) <= 0).all()
    assert (hands.score >= 0.4).all()
    assert set(hands.side.tolist()) <= {0, 1}
    assert ((hands.side_score >= 0.5) & (hands.side_score <= 1)).all()
    assert (hands.box[:, 2:] >= hands.box[:, :2]).all()
    assert ((hands.keypoints[..., 2] >= 0) & (hands.keypoints[..., 2] <= 1)).all()
    assert detector([]) == []


@pytest.mark.parametrize("settings", [DetectorSettings(), DetectorSettings(one_to_one=False, landmarks=False)], ids=str)
def test_folded_norms_change_nothing(settings: DetectorSettings) -> None:
    network = random_detector(settings)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        before = detections(network, images)
        after = detections(fused(network), images)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def slow_unduplicated(box: np.ndarray, max_iou: float) -> list[int]:
    """Greedy non-maximum suppression, pair by pair."""
    kept: list[int] = []
    for k, (x0, y0, x1, y1) in enumerate(box):
        for j in kept:
            u0, v0, u1, v1 = box[j]
            shared = max(min(x1, u1) - max(x0, u0), 0) * max(min(y1, v1) - max(y0, v0), 0)
            if shared / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared) > max_iou:
                break
        else:
            kept.append(k)
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_doubles_are_dropped_as_a_slow_reference_drops_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (60, 2))
    box = np.concatenate([low, low + rng.uniform(10, 40, (60, 2))], 1)
    wanted = slow_unduplicated(box, 0.4)
    assert 5 < len(wanted) < 55
    assert unduplicated(box.astype(np.float32), 0.4).tolist() == wanted
    assert unduplicated(np.zeros((0, 4), np.float32), 0.4).tolist() == []


def test_only_the_one_to_many_head_needs_its_doubles_dropped() -> None:
    box = torch.tensor([[0.0, 0, 40, 40], [1, 1, 41, 41], [50, 50, 60, 60]])
    said = Detections(box, torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.1, 0.7]]), torch.zeros(3, 21, 3))
    still = np.array([1.0, 0, 0], np.float32)
    for one_to_one, count in ((True, 3), (False, 2)):
        detector = HandDetector(random_detector(DetectorSettings(one_to_one=one_to_one)), size=64)
        hands = detector._hands(said, still)
        assert len(hands.box) == count
        assert hands.side.tolist()[-1] == 1


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    network = random_detector()
    loaded = HandDetector.load(save(network, tmp_path / "best.pt"), size=64, threshold=0.2)
    image = np.random.default_rng(1).integers(0, 255, (80, 60, 3), np.uint8)
    (one,), (other,) = loaded([image]), HandDetector(network, size=64, threshold=0.2)([image])
    np.testing.assert_allclose(one.box, other.box, atol=1e-2)
