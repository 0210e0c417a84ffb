"""Both sides of `make bench-regressor` say the same hands, and the operations counted are the paper's network's."""

import numpy as np
import pytest
import torch

from benchmarks.networks.regressor import Bench
from benchmarks.networks.regressor_release import EagerAttention, flops_of_hand, release_style
from training.regressor.network import Regressor, RegressorSettings


def test_the_releases_style_gives_the_same_hands_in_the_frame() -> None:
    bench = Bench("xs", "cpu", 3)
    assert bench.network.refinement is not None
    torch.nn.init.normal_(bench.network.refinement.say.weight, std=0.01)
    bench.peer.load_state_dict(bench.network.state_dict())
    bench.right[:] = [1, 0, 1]
    vertices, joints, shift = bench.forward()
    for n, theirs in enumerate(bench.forward_release()):
        for mine, other, tolerance in zip((vertices[n], joints[n], shift[n]), theirs, (1e-3, 1e-3, 0.05), strict=True):
            np.testing.assert_allclose(mine, other, atol=tolerance)
    assert np.sign(vertices[0].mean(0)[0]) == np.sign(bench.forward_release()[0][0].mean(0)[0])


def test_the_peer_is_eager_and_learns_as_ours() -> None:
    bench = Bench("xs", "cpu", 2)
    assert sum(isinstance(module, EagerAttention) for module in bench.peer.modules()) == 6
    weight = bench.peer.get_parameter("backbone.blocks.0.attn.qkv.weight")
    before = weight.clone()
    rates = bench.rates(num_forward=1, num_train=1)
    assert (weight != before).any()
    assert rates["forward_vs_release_style"] == pytest.approx(rates["forward_hands_per_s"] / rates["forward_hands_per_s_release_style"])
    assert min(rates.values()) > 0


def test_operations_of_a_hand_are_those_of_vit_s() -> None:
    network = release_style(Regressor(RegressorSettings(size="s", refine_steps=0)).eval())
    assert flops_of_hand(network) / 1e9 == pytest.approx(9.7, abs=0.3)
