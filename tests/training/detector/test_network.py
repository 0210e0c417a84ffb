"""The network is the size that the paper says, and every part of it learns."""

from typing import Literal

import pytest
import torch

from training.detector.network import Detector, DetectorSettings


@pytest.mark.parametrize(("size", "millions", "megabytes"), [("s", 3.385, 6.77), ("m", 11.764, 23.53)])
def test_parameters_are_those_of_the_paper(size: Literal["s", "m"], millions: float, megabytes: float) -> None:
    count = sum(p.numel() for p in Detector(DetectorSettings(size=size, one_to_one=False)).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=1e-3)
    assert 2 * count / 1e6 == pytest.approx(megabytes, abs=1e-2)


def test_the_one_to_one_head_does_not_shape_the_features() -> None:
    network = Detector()
    many, one = network(torch.rand(1, 3, 64, 64))
    sum(x.square().mean() for x in one).backward()
    assert all(p.grad is None for p in network.backbone.parameters())
    assert all(p.grad is not None for p in network.single.parameters())  # type: ignore[union-attr]
    sum(x.square().mean() for x in many).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_first_guess_is_that_there_is_no_hand() -> None:
    network = Detector().eval()
    with torch.no_grad():
        many, _ = network(torch.rand(1, 3, 128, 128))
    assert many.side.sigmoid().max() < 0.05


def test_without_landmarks_there_is_no_branch_for_them() -> None:
    network = Detector(DetectorSettings(landmarks=False, one_to_one=False))
    many, one = network(torch.rand(1, 3, 64, 64))
    assert one is None
    assert (many.keypoints == 0).all()
    assert not any("keypoints" in name for name, _ in network.named_parameters())
