"""The best hands, computed alone, are those that a look at every anchor finds."""

import pytest
import torch

from tests.training.detector.small import random_detector
from training.detector.fast_decode import at_cells, best_hands
from training.detector.inference import detections, fused
from training.detector.network import DetectorSettings


@pytest.mark.parametrize("settings", [DetectorSettings(), DetectorSettings(one_to_one=False), DetectorSettings(landmarks=False)], ids=str)
@pytest.mark.parametrize(("count", "folded"), [(10, True), (30, False), (150, True)])
def test_the_best_alone_are_the_best_of_all(settings: DetectorSettings, count: int, folded: bool) -> None:
    network = random_detector(settings)
    network = fused(network) if folded else network
    images = torch.rand(2, 3, 160, 128)  # 320, 80 and 20 anchors
    with torch.no_grad():
        many, one = network(images)
        all_of_them, best = detections(network, images), best_hands(network, images, count)
    score, order = (many if one is None else one).side.amax(2).sort(1, descending=True)
    pick = torch.arange(2)[:, None], order[:, :count]
    gap = -score.diff(dim=1)[:, :count]
    clear = (gap > 1e-5) & (torch.nn.functional.pad(gap, (1, 0), value=1.0)[:, :-1] > 1e-5)  # of two equals either may come first
    assert clear.float().mean() > 0.6
    for got, dense in zip(best, all_of_them, strict=True):
        torch.testing.assert_close(got[clear], dense[pick][clear], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("shape", [(7, 9), (1, 2), (4, 3)])
def test_a_cell_alone_says_what_it_says_among_all_even_at_the_edge(shape: tuple[int, int]) -> None:
    branch, x = random_detector().heads.branches["keypoints"][0], torch.randn(2, 64, *shape)  # type: ignore[index]
    cells = torch.arange(x[0, 0].numel()).flip(0).expand(2, -1)
    with torch.no_grad():
        dense, alone = branch(x).flatten(2).mT, at_cells(branch, x, cells)
    torch.testing.assert_close(alone, dense.flip(1), atol=1e-4, rtol=1e-4)
