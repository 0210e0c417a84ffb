"""Augmentation moves images, boxes, keypoints and sides together, the same way wherever it runs."""

import math
from typing import Any

import pytest
import torch

from training.data.keyed_random import uniform
from training.detector.augment import Augmentation, augment, of_training

SIZE = 128
STILL: dict[str, Any] = {
    "rotation_deg": 0,
    "shift": 0,
    "scale": (1, 1),
    "flip": 0,
    "mosaic": 0,
    "mixup": 0,
    "masking": 0,
    "hue": 0,
    "saturation": 0,
    "value": 0,
}


def case(b: int = 8, seed: int = 0) -> Any:
    """A hand an image; each keypoint is a bright blob on black, the box the blobs' hull and 6 pixels."""
    generator = torch.Generator().manual_seed(seed)
    keypoints = 44 + 40 * torch.rand(b, 21, 2, generator=generator)
    place = torch.arange(SIZE) + 0.5
    away = (place[None, None, None, :] - keypoints[..., 0, None, None]) ** 2 + (
        place[None, None, :, None] - keypoints[..., 1, None, None]
    ) ** 2
    images = torch.exp(-away / 8).amax(1, keepdim=True).expand(b, 3, SIZE, SIZE).contiguous()
    box = torch.cat([keypoints.amin(1) - 6, keypoints.amax(1) + 6], 1)
    labels = {
        "image": torch.arange(b),
        "box": box,
        "side": torch.arange(b) % 2,
        "keypoints": torch.cat([keypoints, torch.ones(b, 21, 1)], 2),
        "ignore_image": torch.tensor([0]),
        "ignore": torch.tensor([[10.0, 20, 30, 50]]),
        "shown": torch.tensor([[0.0, 0, SIZE, SIZE]]).repeat(b, 1),
    }
    return images, labels, torch.arange(1000, 1000 + b)


def brightness(image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    grid = (2 * points / SIZE - 1)[None, None]
    return torch.nn.functional.grid_sample(image[None], grid, align_corners=False)[0, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"flip": 1.0},
        {"rotation_deg": 60.0},
        {"scale": (0.7, 1.3), "shift": 0.1},
        {"mosaic": 1.0},
        {"mosaic": 1.0, "rotation_deg": 60.0, "flip": 0.5, "scale": (0.6, 1.2), "shift": 0.1},
    ],
    ids=str,
)
def test_what_is_painted_on_a_keypoint_is_found_on_the_moved_keypoint(change: Any) -> None:
    images, labels, key = case()
    seen, moved = augment(images, labels, key, Augmentation(**STILL | change))
    found = 0
    for i, keypoints, box in zip(moved["image"], moved["keypoints"], moved["box"], strict=True):
        visible = keypoints[:, 2] > 0
        inner = visible & ((keypoints[:, :2] > 2) & (keypoints[:, :2] < SIZE - 2)).all(1)
        assert (brightness(seen[i], keypoints[inner, :2]) > 0.6).float().mean() > 0.95 if inner.any() else True
        assert (keypoints[inner, :2] > box[:2] - 1).all()
        assert (keypoints[inner, :2] < box[2:] + 1).all()
        found += int(inner.sum())
    assert found > 60


def test_turns_reach_60_degrees_and_shifts_a_tenth_of_the_image() -> None:
    """The paper's ranges (sec. 5.1), as the labels tell them: both are drawn evenly, and neither is exceeded."""
    images, labels, key = case(128)
    chosen = Augmentation()
    _, turned = augment(images, labels, key, Augmentation(**STILL | {"rotation_deg": chosen.rotation_deg}))
    before, after = (of["keypoints"][:, 8, :2] - of["keypoints"][:, 0, :2] for of in (labels, turned))
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    degrees = torch.rad2deg(torch.atan2(cross, (before * after).sum(1)))
    assert 56 < degrees.max() <= 60.01
    assert -56 > degrees.min() >= -60.01
    assert 25 < degrees.abs().mean() < 35
    _, shifted = augment(images, labels, key, Augmentation(**STILL | {"shift": chosen.shift}))
    moved = (shifted["keypoints"][:, 0, :2] - labels["keypoints"][:, 0, :2]) / SIZE
    assert (moved.amax(0) > 0.095).all()
    assert (moved.amin(0) < -0.095).all()
    assert moved.abs().max() <= 0.1001


def test_nothing_asked_nothing_changed() -> None:
    images, labels, key = case()
    seen, moved = augment(images, labels, key, Augmentation.none())
    torch.testing.assert_close(seen, images, atol=1e-4, rtol=0)
    assert set(moved) == set(labels) - {"shown"}
    for name, values in moved.items():
        torch.testing.assert_close(values, labels[name], atol=1e-3, rtol=0)


def test_a_flip_makes_left_hands_right_ones() -> None:
    images, labels, key = case()
    _, moved = augment(images, labels, key, Augmentation(**STILL | {"flip": 1.0}))
    assert torch.equal(moved["side"], 1 - labels["side"])
    torch.testing.assert_close(moved["keypoints"][..., 0], SIZE - labels["keypoints"][..., 0])
    torch.testing.assert_close(moved["ignore"], torch.tensor([[SIZE - 30.0, 20, SIZE - 10, 50]]))
    _, some = augment(images, labels, key, Augmentation(**STILL | {"flip": 0.5}))
    mirrored = (some["keypoints"][..., 0] - labels["keypoints"][..., 0]).abs().amax(1) > 1e-3
    assert torch.equal(some["side"] != labels["side"], mirrored)
    assert 0 < mirrored.sum() < 8


def test_a_turned_box_fits_its_hand_and_not_its_old_corners() -> None:
    images, labels, key = case()
    _, moved = augment(images, labels, key, Augmentation(**STILL | {"rotation_deg": 45.0}))
    points = moved["keypoints"][..., :2]
    hull = torch.cat([points.amin(1) - 6, points.amax(1) + 6], 1)
    torch.testing.assert_close(moved["box"], hull.clamp(0, SIZE), atol=1e-2, rtol=0)
    labels["keypoints"] = labels["keypoints"] * torch.tensor([1.0, 1, 0])
    _, blind = augment(images, labels, key, Augmentation(**STILL | {"rotation_deg": 45.0}))
    old = labels["box"][:, 2:] - labels["box"][:, :2]
    new = blind["box"][:, 2:] - blind["box"][:, :2]
    assert (new <= old.norm(dim=1, keepdim=True) + 1e-3).all()


def test_ignored_areas_are_cut_to_their_tile_of_a_mosaic() -> None:
    images, labels, key = case(4)
    labels |= {"ignore_image": torch.arange(4), "ignore": torch.tensor([[0.0, 0, SIZE, SIZE]]).repeat(4, 1)}
    _, moved = augment(images, labels, key, Augmentation(**STILL | {"mosaic": 1.0}))
    box = moved["ignore"].clamp(0, SIZE)
    areas = torch.zeros(4).index_add(0, moved["ignore_image"], (box[:, 2:] - box[:, :2]).prod(1))
    torch.testing.assert_close(areas, torch.full((4,), float(SIZE * SIZE)))  # the four tiles cover the image, none the other
    _, alone = augment(images, labels, key, Augmentation(**STILL | {"mosaic": 0.5}))
    assert (torch.bincount(alone["ignore_image"], minlength=4) <= 4).all()
    assert 1 in torch.bincount(alone["ignore_image"], minlength=4)


def test_a_hand_of_which_little_is_left_is_dropped() -> None:
    images, labels, key = case(4)
    labels["box"] += 115
    labels["keypoints"][..., :2] += 115
    _, moved = augment(images, labels, key, Augmentation.none())
    assert len(moved["image"]) < 4


@pytest.mark.parametrize("change", [{}, {"flip": 1.0}, {"mosaic": 1.0}, {"mosaic": 1.0, "scale": (0.5, 0.7), "shift": 0.1}], ids=str)
def test_no_box_reaches_beyond_what_is_shown_of_its_image(change: Any) -> None:
    """Images white, twice as wide as high, in grey squares; hands that reach over every border."""
    _, labels, key = case(16)
    images = torch.full((16, 3, SIZE, SIZE), 114 / 255)
    images[:, :, 32:96] = 1
    middle = torch.rand(16, 1, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([128.0, 64]) + torch.tensor([0.0, 32])
    points = middle + 0.4 * (labels["keypoints"][..., :2] - 64)
    labels |= {"keypoints": torch.cat([points, torch.ones(16, 21, 1)], 2), "shown": torch.tensor([[0.0, 32, 128, 96]]).repeat(16, 1)}
    labels["box"] = torch.cat([points.amin(1) - 4, points.amax(1) + 4], 1)
    seen, moved = augment(images, labels, key, Augmentation(**STILL | change))
    assert len(moved["box"]) > 10
    for i, box, keypoints in zip(moved["image"], moved["box"], moved["keypoints"], strict=True):
        x0, y0, x1, y1 = box.tolist()
        inside = seen[i, 0, math.ceil(y0) : math.floor(y1), math.ceil(x0) : math.floor(x1)]
        assert inside.min() > 0.9
        visible = keypoints[keypoints[:, 2] > 0]
        assert ((visible[:, :2] > box[:2] - 1) & (visible[:, :2] < box[2:] + 1)).all()


def test_a_batch_without_hands_is_augmented_too() -> None:
    images, labels, key = case(4)
    for name in ("image", "box", "side", "keypoints", "ignore_image", "ignore"):
        labels[name] = labels[name][:0]
    _, moved = augment(images, labels, key, Augmentation(mixup=1.0))
    assert {name: tuple(values.shape) for name, values in moved.items()} == {
        **{"image": (0,), "box": (0, 4), "side": (0,), "keypoints": (0, 21, 3)},
        **{"ignore_image": (0,), "ignore": (0, 4)},
    }


@pytest.mark.parametrize("part", [4, 8])
def test_the_result_does_not_depend_on_how_ranks_share_a_batch(part: int) -> None:
    images, labels, key = case(16)
    chosen = Augmentation(mixup=0.5)
    whole, _ = augment(images, labels, key, chosen)
    pieces = []
    for start in range(0, 16, part):
        rows = slice(start, start + part)
        mine = (labels["image"] >= start) & (labels["image"] < start + part)
        own = {name: labels[name][mine] for name in ("box", "side", "keypoints")} | {"image": labels["image"][mine] - start}
        own |= {"ignore_image": torch.zeros(0, dtype=torch.int64), "ignore": torch.zeros(0, 4), "shown": labels["shown"][rows]}
        pieces.append(augment(images[rows], own, key[rows], chosen)[0])
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-6, rtol=0)


def test_masking_hides_a_part_and_keeps_the_labels() -> None:
    images, labels, key = case(16)
    seen, moved = augment(images, labels, key, Augmentation(**STILL | {"masking": 1.0}))
    changed = ((seen - images).abs().amax(1) > 1e-3).float().mean((1, 2))
    assert ((changed > 0.005) & (changed < 0.25)).all()
    torch.testing.assert_close(moved["keypoints"], labels["keypoints"])


def test_colours_turn_about_the_grey_axis() -> None:
    images = torch.full((4, 3, SIZE, SIZE), 0.4)
    _, labels, key = case(4)
    seen, _ = augment(images, labels, key, Augmentation(**STILL | {"hue": 0.5, "saturation": 0.7}))
    torch.testing.assert_close(seen, images, atol=1e-5, rtol=0)
    images[:, 0] = 0.6
    seen, _ = augment(images, labels, key, Augmentation(**STILL | {"hue": 0.5}))
    torch.testing.assert_close(seen.mean(1), images.mean(1), atol=1e-3, rtol=0)
    assert (seen - images).abs().amax() > 0.05


def test_mixup_blends_about_half_and_keeps_all_hands() -> None:
    images, labels, key = case(8)
    seen, moved = augment(images, labels, key, Augmentation(**STILL | {"mixup": 1.0}))
    assert torch.bincount(moved["image"], minlength=8).tolist() == [2] * 8
    share = torch.stack([(seen[i] * images[i]).sum() / (images[i] ** 2).sum() for i in range(8)])
    assert ((share > 0.3) & (share < 0.9)).all()


def test_mosaic_refuses_a_batch_that_it_cannot_group() -> None:
    images, labels, key = case(6)
    with pytest.raises(ValueError, match="multiple of 4"):
        augment(images, labels, key, Augmentation())


def test_random_numbers_are_even_and_hang_on_key_and_stream_only() -> None:
    key = torch.arange(20_000) * 7919
    numbers = uniform(key, 3, 4)
    assert torch.equal(uniform(key[5:9], 3, 2), numbers[5:9, :2])
    assert not torch.equal(uniform(key, 4, 4), numbers)
    counts = torch.histc(numbers, 20, 0, 1)
    assert ((counts - 4000) ** 2 / 4000).sum() < 60  # chi square of 19 degrees of freedom: 99.999 % lie below 57
    assert torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max() < 4 / math.sqrt(20_000)


def test_hands_that_were_not_kept_are_ignored_and_unknown_keypoints_count_for_nothing() -> None:
    _, labels, _ = case(4)
    labels |= {"keep": torch.tensor([True, False, True, True]), "to_input": torch.tensor([[0.2, 0, 16], [0.2, 16, 0]]).repeat(2, 1)}
    labels["keypoints"][2, 5] = torch.nan
    columns = of_training(labels, torch.tensor([0, 2, 1, 3]), SIZE)
    assert columns["image"].tolist() == [0, 2, 3]
    assert columns["ignore_image"].tolist() == [0, 1]
    assert torch.equal(columns["ignore"][1], labels["box"][1])
    assert columns["keypoints"][1, 5].tolist() == [0, 0, 0]
    assert columns["keypoints"].isfinite().all()
    wide, high = [0.0, 16, SIZE, SIZE - 16], [16.0, 0, SIZE - 16, SIZE]
    assert columns["shown"].tolist() == [wide, wide, high, high]
