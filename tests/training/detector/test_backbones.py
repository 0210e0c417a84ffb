"""The paper's other backbones: published sizes, ImageNet files in their published layouts, and every row of its Table 2."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.detectors.weights import BadWeights
from tests.training.detector.imagenet_layouts import hrnet_w32, num_parameters, resnet50
from tests.training.detector.small import random_detector
from training.detector.backbones import HRNet, ResNet50
from training.detector.inference import detections, fused
from training.detector.network import Detector, DetectorSettings
from training.detector.report import ABLATIONS
from training.recipes import DETECTORS
from training.sources import shares_of, weights_of

TRUNKS = {"resnet50": (ResNet50, resnet50), "hrnet": (HRNet, hrnet_w32)}


def state_of(layout: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) if shape else torch.tensor(1) for name, shape in layout.items()}


def test_the_layouts_have_the_published_numbers_of_parameters() -> None:
    assert num_parameters(resnet50()) == 25_557_032
    assert num_parameters(hrnet_w32()) == 41_232_680


@pytest.mark.parametrize("name", TRUNKS)
def test_an_imagenet_file_fills_the_whole_backbone(name: str, tmp_path: Path) -> None:
    trunk, layout = TRUNKS[name][0](), state_of(TRUNKS[name][1]())
    torch.save(layout, tmp_path / "imagenet.pth")
    trunk.load(tmp_path / "imagenet.pth")
    own = trunk.state_dict()
    assert set(own) <= set(layout)
    for key, values in own.items():
        assert torch.equal(values, layout[key]), key


@pytest.mark.parametrize("name", TRUNKS)
def test_another_networks_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    other = next(key for key in TRUNKS if key != name)
    torch.save(state_of(TRUNKS[other][1]()), tmp_path / "other.pth")
    with pytest.raises(BadWeights, match=r"other.pth is another network's checkpoint"):
        TRUNKS[name][0]().load(tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no weights of a darknet learned on ImageNet are known: choose resnet50 or hrnet"):
        Detector().load_backbone(tmp_path / "other.pth")


@pytest.mark.parametrize("name", TRUNKS)
def test_a_detector_on_each_backbone_says_something_of_every_anchor_and_learns_everywhere(name: str) -> None:
    network = random_detector(DetectorSettings(backbone=name)).train()  # type: ignore[arg-type]
    many, one = network(torch.rand(2, 3, 64, 96))
    anchors = 64 * 96 // 64 + 64 * 96 // 256 + 64 * 96 // 1024
    assert many.box.shape == (2, anchors, 64)
    sum(values.square().mean() for values in (*many, *one)).backward()
    still = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@pytest.mark.parametrize("name", TRUNKS)
def test_folded_norms_change_nothing(name: str) -> None:
    network = random_detector(DetectorSettings(backbone=name, one_to_one=False))  # type: ignore[arg-type]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = detections(network, image)
        after = detections(fused(network), image)
    assert not [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(after.box, before.box, atol=2e-2, rtol=1e-3)
    torch.testing.assert_close(after.score, before.score, atol=1e-3, rtol=0)


def test_the_default_network_is_as_it_was() -> None:
    assert [sum(p.numel() for p in Detector(DetectorSettings(size=size, one_to_one=False)).parameters()) for size in "sm"] == [  # type: ignore[arg-type, misc]
        3_385_253,
        11_764_405,
    ]
    assert DetectorSettings().backbone == "darknet"


def test_every_row_of_table_2_changes_one_thing_of_m() -> None:
    rows = {name: DETECTORS[name]() for name in ABLATIONS}
    full = rows["detector_m"]
    assert (full.network.size, full.share, full.network.landmarks) == ("m", 1.0, True)
    assert [rows[f"detector_{name}"].num_images for name in ("250k", "500k", "1m")] == [250_000, 500_000, 1_000_000]
    assert rows["detector_oxford_hands"].sets == ("oxford-hands",)
    assert {rows[f"detector_{name}"].network.backbone for name in ("resnet50", "hrnet")} == {"resnet50", "hrnet"}
    assert rows["detector_no_augmentation"].augmentation.mosaic == 0
    plain = rows["detector_no_landmarks"]
    assert not plain.network.landmarks
    assert plain.loss.keypoints == plain.loss.visibility == 0
    changed = {key: [name for name in full.__slots__ if getattr(row, name) != getattr(full, name)] for key, row in rows.items()}
    assert [len(names) for key, names in changed.items() if key not in ("detector_m", "detector_no_landmarks")] == [1] * 7


def test_so_many_images_are_so_many_whatever_folders_hold_them() -> None:
    shares = shares_of([1000, 333, 7], 250, 1.0)
    assert sum(round(share * count) for share, count in zip(shares, (1000, 333, 7), strict=True)) == 250
    assert shares_of([1000, 10], None, 0.5) == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"detector.num_images is 250,000, --data has 1,340: name more folders"):
        shares_of([1000, 333, 7], 250_000, 1.0)


def test_weights_of_folders_and_of_sets_are_all_told_or_none() -> None:
    assert weights_of(None, 1, [None, None]) is None
    assert weights_of([2.0], 1, [1.0, 3.0]) == [2.0, 1.0, 3.0]
    assert weights_of([2.0, 1.0, 3.0], 1, [None, None]) == [2.0, 1.0, 3.0]
    for weights, of_sets in ((None, [1.0]), ([1.0], [None]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="of 2 sets: give each folder of --data one"):
            weights_of(weights, 1, of_sets)
