"""Crops and truth change together: image, points and the hand in space; drawn by the sample's key; the truth is the shards'."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fitting.hand.mano import load_hand_model
from fitting.hand.rotation import matrix_from_axis_angle
from tests.training.regressor.posed import DOT, crops_of, posed_hands, shard_of
from training.data.loader import Loader
from training.detector.augment import as_floats
from training.regressor.augment import CropAugmentation, augment
from training.regressor.hand import HandLayer
from training.regressor.targets import targets_of

CPU, MARGIN = torch.device("cpu"), 1.5
GEOMETRY = CropAugmentation(turned=1.0, shift=0.05, colour=0, masking=0)


@pytest.fixture(scope="module")
def layer() -> HandLayer:
    return HandLayer(load_hand_model(dtype=torch.float32))


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, layer: HandLayer) -> Any:
    """Images half as wide again as a crop, their truth, and the plain truth of crops as they are."""
    path = shard_of(tmp_path_factory.mktemp("posed") / "train" / "train-0.parquet", posed_hands(12))
    crops = crops_of(path, size=384)
    pictures = np.empty((len(crops), *crops.shape), np.uint8)
    for row, image in enumerate(pictures):
        crops.decode(row, image)
    labels = crops.labels(range(len(crops)))
    return as_floats(torch.from_numpy(pictures)), targets_of(labels, crops.size, MARGIN, layer, CPU), labels


def dots(crops: torch.Tensor) -> torch.Tensor:
    """Middle of the bright dot of each crop, crop units."""
    light = (crops.mean(1) - 0.6).clamp_min(0)
    place = (torch.arange(crops.shape[2]) + 0.5) / crops.shape[2] - 0.5
    total = light.sum((1, 2))
    return torch.stack([(light.sum(1) * place).sum(1) / total, (light.sum(2) * place).sum(1) / total], 1)


def test_truth_of_a_shard_is_a_right_hand_in_the_crop(batch: Any, layer: HandLayer) -> None:
    """Rotations of the mirrored left hand give the mirrored joints, and points are their weak projection."""
    _images, truth, labels = batch
    hand = layer(truth.rotations, truth.betas, torch.tensor([[5.0, 0, 0]]).expand(12, 3))
    torch.testing.assert_close(hand.joints, truth.joints, atol=2e-6, rtol=0)
    torch.testing.assert_close(hand.vertices, truth.vertices, atol=2e-6, rtol=0)
    per_metre = torch.from_numpy(labels["camera"][:, :1] * labels["to_input"][:, :1])[:, None] / 384 * MARGIN
    flat = truth.points[:, :1] + per_metre * truth.joints[..., :2]
    torch.testing.assert_close(flat, truth.points, atol=1e-4, rtol=0)
    assert truth.has_mano.all()
    assert truth.has_betas.all()
    assert truth.has_joints.all()


@pytest.mark.parametrize("batch_size", [1, 12])
def test_in_a_batch_of_several_products_each_image_has_its_own_truth(tmp_path: Path, layer: HandLayer, batch_size: int) -> None:
    """All sources but one have no part in a batch of one."""
    shards = [shard_of(tmp_path / str(k) / "train" / "train-0.parquet", posed_hands(6, seed=k)) for k in range(2)]
    sources = [crops_of(path, factor=2.0) for path in shards]
    for batch in Loader(sources=sources, batch_size=batch_size, num_threads=1).epoch(0):
        in_order = np.array_equal(batch.labels["image"], np.arange(batch_size))
        assert in_order == (batch_size == 1), "labels come source by source"
        truth = targets_of(batch.labels, 256, 1.0, layer, CPU)
        torch.testing.assert_close(dots(as_floats(batch.images)), truth.points[:, DOT], atol=3e-3, rtol=0)


def test_without_augmentation_the_crop_is_the_middle_of_the_image(batch: Any) -> None:
    pictures, truth, _ = batch
    crops, same = augment(pictures, truth, torch.arange(12), CropAugmentation.none(), MARGIN)
    torch.testing.assert_close(crops, pictures[:, :, 64:-64, 64:-64], atol=1e-3, rtol=0)
    for a, b in zip(truth, same, strict=True):
        torch.testing.assert_close(a, b)


def test_images_points_and_hands_move_together(batch: Any) -> None:
    """The dot is where the moved keypoint says; the moved hand, projected by the moved camera, falls on the moved keypoints."""
    pictures, truth, _labels = batch
    crops, moved = augment(pictures, truth, torch.arange(12) * 7919 + 3, GEOMETRY, MARGIN)
    inside = (moved.points[:, DOT].abs() < 0.45).all(1)
    assert inside.sum() >= 8
    torch.testing.assert_close(dots(crops)[inside], moved.points[inside, DOT], atol=1.0 / 256, rtol=0)
    wrist, spread = moved.points[:, :1], moved.points - moved.points[:, :1]
    scale = (spread * moved.joints[..., :2]).sum((1, 2)) / (moved.joints[..., :2] ** 2).sum((1, 2))
    torch.testing.assert_close(wrist + scale[:, None, None] * moved.joints[..., :2], moved.points, atol=1e-3, rtol=0)
    assert (moved.points - truth.points).abs().amax((1, 2)).min() > 0.01


def test_mano_turned_is_the_mesh_turned(batch: Any, layer: HandLayer) -> None:
    pictures, truth, _ = batch
    _, moved = augment(pictures, truth, torch.arange(12) * 31 + 1, GEOMETRY, MARGIN)
    hand = layer(moved.rotations, moved.betas, torch.tensor([[5.0, 0, 0]]).expand(12, 3))
    torch.testing.assert_close(hand.vertices, moved.vertices, atol=2e-6, rtol=0)
    torch.testing.assert_close(hand.joints, moved.joints, atol=2e-6, rtol=0)
    torch.testing.assert_close(moved.rotations[:, 1:], truth.rotations[:, 1:])


def test_a_sample_changes_by_its_key_alone(batch: Any) -> None:
    pictures, truth, _ = batch
    key = torch.arange(12) * 97
    crops, moved = augment(pictures, truth, key, CropAugmentation(), MARGIN)
    some = [7, 2]
    again, part = augment(pictures[some], type(truth)(*(values[some] for values in truth)), key[some], CropAugmentation(), MARGIN)
    torch.testing.assert_close(crops[some], again)
    torch.testing.assert_close(moved.points[some], part.points)


def test_ranges_are_those_that_are_told(batch: Any) -> None:
    """Turns of 60 degrees at the most for six in ten, sides of 0.7 to 1.3."""
    _, truth, _ = batch
    many = type(truth)(*(values[:1].expand(4000, *values.shape[1:]) for values in truth))
    key = torch.arange(4000) * 1_000_003
    _, moved = augment(torch.zeros(4000, 3, 2, 2), many, key, CropAugmentation(shift=0), MARGIN, size=2)
    turn = moved.rotations[:, 0] @ truth.rotations[0, 0].T
    angle = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert 0.57 < (angle.abs() > 1e-3).float().mean() < 0.63
    assert 59 < angle.abs().max() <= 60.01
    side = truth.points[0].norm() / moved.points.norm(dim=(1, 2))
    assert 0.69 < side.min() < 0.72
    assert 1.28 < side.max() < 1.31


def test_unknown_truth_is_masked_and_never_a_nan(tmp_path: Path, layer: HandLayer) -> None:
    """2D landmarks alone: no MANO, no joints, landmarks as points."""
    hands = posed_hands(4)
    unknown = {name: np.full_like(hands[name], np.nan) for name in ("betas", "global_orient", "joints_3d", "joints_2d", "camera")}
    labels = crops_of(shard_of(tmp_path / "train" / "train-0.parquet", hands)).labels(range(4))
    labels |= {name: values.astype(np.float32) for name, values in unknown.items()}
    labels["hand_pose"][:] = np.nan
    labels["keypoints"][0, 5] = np.nan
    truth = targets_of(labels, 256, MARGIN, layer, CPU)
    _, moved = augment(torch.zeros(4, 3, 8, 8), truth, torch.arange(4), CropAugmentation(), MARGIN, size=8)
    assert not (moved.has_mano.any())
    assert not (moved.has_betas.any())
    assert not (moved.has_joints.any())
    assert all(values.isfinite().all() for values in moved if values.is_floating_point())
    assert moved.confidence[0, 5] == 0
    assert moved.confidence.sum() == 4 * 21 - 1
    assert (moved.points[0, 5] == 0).all()


def test_hands_whose_box_has_no_area_or_is_none_are_not_trained_on(tmp_path: Path) -> None:
    hands = posed_hands(6)
    hands["box"][1, 2:] = hands["box"][1, :2]
    hands["box"][2] = hands["box"][2, [2, 1, 0, 3]]
    hands["box"][3, 0], hands["box"][4, 3] = np.nan, np.inf
    assert crops_of(shard_of(tmp_path / "train" / "train-0.parquet", hands)).hand[:, 2].tolist() == [0, 5]


def test_hands_are_weighed_by_their_quality(tmp_path: Path, layer: HandLayer) -> None:
    path = shard_of(tmp_path / "train" / "train-0.parquet", posed_hands(3), quality=np.array([0.2, 1.0, 0.7]))
    assert targets_of(crops_of(path).labels(range(3)), 256, MARGIN, layer, CPU).weight.tolist() == pytest.approx([0.2, 1.0, 0.7])


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"augmentation\.turned is a share"):
        CropAugmentation(turned=2)
    with pytest.raises(ValueError, match=r"augmentation\.scale"):
        CropAugmentation(scale=1.0)


def test_matrices_of_the_shards_angles_are_the_truths(batch: Any) -> None:
    _, truth, labels = batch
    right = labels["side"] == 1
    wanted = matrix_from_axis_angle(torch.from_numpy(labels["global_orient"][right]))
    torch.testing.assert_close(truth.rotations[right][:, 0], wanted)
