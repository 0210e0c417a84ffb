"""Muon takes the matrices inside a transformer, AdamW the rest; together they are one optimizer to a run."""

import copy

import pytest
import torch

from training.regressor.network import Regressor, RegressorSettings
from training.regressor.pretrained import layer_decay_groups
from training.run.optimizer import Both, optimizer_of, plain_groups

RATE = 1e-2


def both(weights: dict[str, torch.Tensor]) -> Both:
    groups = [
        {"params": [weights["inner"]], "weight_decay": 0.0, "inner": True},
        {"params": [weights["outer"]], "weight_decay": 0.0},
    ]
    made = optimizer_of("muon", groups, RATE)
    assert isinstance(made, Both)
    return made


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(24, 8, requires_grad=True) for name in ("inner", "outer")}


def step(optimizer: Both, of: dict[str, torch.Tensor], seed: int) -> None:
    for values in of.values():
        values.grad = torch.randn(24, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.step()


def test_the_inner_matrix_moves_along_an_orthogonal_one_as_far_as_by_adamw() -> None:
    of = weights()
    before = {name: values.detach().clone() for name, values in of.items()}
    step(both(of), of, 1)
    moved = {name: (of[name] - values).detach() / RATE for name, values in before.items()}
    stretch = torch.linalg.svdvals(moved["inner"].double()) / (0.2 * 24**0.5)
    assert stretch.min() > 0.6
    assert stretch.max() < 1.3
    assert moved["outer"].abs().allclose(torch.ones(24, 8), atol=1e-3)  # AdamW's first step
    assert 0.1 < moved["inner"].square().mean().sqrt() < 0.3


def test_what_was_saved_goes_on_as_if_it_had_not_been() -> None:
    of = weights()
    optimizer = both(of)
    step(optimizer, of, 1)
    kept = copy.deepcopy(optimizer.state_dict())
    again = {name: values.detach().clone().requires_grad_() for name, values in of.items()}
    later = both(again)
    later.load_state_dict(kept)
    step(optimizer, of, 2)
    step(later, again, 2)
    for name in of:
        assert torch.equal(of[name], again[name])


def test_the_blocks_matrices_and_nothing_else_are_inner() -> None:
    network = Regressor(RegressorSettings(size="xs"))
    inner = {id(p) for group in layer_decay_groups(network) if group["inner"] for p in group["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in inner}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert names == {f"backbone.blocks.{k}.{layer}.weight" for k in range(6) for layer in layers}


def test_a_network_without_a_transformer_is_refused() -> None:
    with pytest.raises(ValueError, match="this network has none: take adamw"):
        optimizer_of("muon", plain_groups(torch.nn.Linear(2, 2), 0.0), RATE)
