"""FastViT: shapes of the transformer's, and folded convolutions that answer what the sums did."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.regressor.fastvit import FastViT, RepConv, RepMixer, folded
from training.regressor.inference import read
from training.regressor.network import Regressor, RegressorSettings
from training.run.checkpoint import Checkpoint, Progress


def trained(network: Any) -> Any:
    """Norms as after training: fresh ones hide mistakes."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias)
    return network.eval()


@pytest.mark.parametrize(
    "module",
    [RepConv(8, 8, 3), RepConv(8, 16, 3, 2), RepConv(8, 16, 7, 2, 8, small=3), RepConv(8, 8, 1), RepConv(8, 8, 7, 1, 8), RepMixer(8)],
)
def test_a_sum_of_convolutions_folds_into_one(module: nn.Module) -> None:
    x = torch.randn(2, 8, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(trained(module).fold()(x), module(x), atol=1e-4, rtol=1e-4)


def test_the_whole_folded_network_answers_the_same() -> None:
    network = trained(FastViT())
    images, tokens = torch.randn(1, 3, 256, 192), torch.randn(1, 18, FastViT.width)
    with torch.no_grad():
        wanted = network(images, tokens)
        said = folded(network)(images, tokens)
    assert not any(isinstance(module, RepConv | RepMixer) for module in network.modules())
    for mine, theirs in zip(said, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_a_checkpoint_is_read_folded_and_answers_as_the_network_that_was_trained(tmp_path: Path) -> None:
    network = trained(Regressor(RegressorSettings(backbone="fastvit")))
    weights = network.state_dict()
    made: dict[str, Any] = {"settings": asdict(network.settings), "network": weights, "ema": weights}
    Checkpoint(kind="regressor", **made, optimizer={}, progress=Progress(), data="").save(tmp_path / "best.pt")
    ready = read(tmp_path / "best.pt")
    assert not any(isinstance(module, RepConv | RepMixer) for module in ready.modules())
    pictures = torch.rand(2, 3, 256, 256)
    with torch.no_grad():
        for mine, theirs in zip(ready(pictures)[-1], network(pictures)[-1], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_it_has_the_parameters_of_sa12_and_the_two_blocks() -> None:
    """FastViT-SA12 has 10.9 million in its paper (table 1), classifier included."""
    network = FastViT()
    blocks = sum(p.numel() for p in network.blocks.parameters())
    rest = sum(p.numel() for p in folded(network.eval()).parameters()) - blocks
    assert 10.0 < rest / 1e6 < 11.0


def test_tokens_read_the_image() -> None:
    network = trained(FastViT())
    tokens = torch.randn(1, 18, FastViT.width)
    with torch.no_grad():
        one, other = (network(torch.randn(1, 3, 256, 192), tokens)[0] for _ in range(2))
    assert (one - other).abs().amax(-1).min() > 1e-3
