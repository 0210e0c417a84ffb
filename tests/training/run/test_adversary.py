"""A network and its adversary: each learns in its turn while the other stands still; kills and ranks change nothing."""

import copy
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.run.test_loop import one_thread, same, start  # noqa: F401
from tests.training.tiny import ContestedColour, MeanColour, run
from training.run.checkpoint import Checkpoint
from training.run.loop import Run


def weights(network: torch.nn.Module) -> list[torch.Tensor]:
    return [values.clone() for values in network.parameters()]


def batch_of(one: Run) -> Any:
    batches = one.loader.epoch(0)
    return next(batches), batches


def test_each_learns_in_its_turn_from_its_own_terms_alone(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    """The network's gradient is that of its terms with a fixed adversary; the adversary's that of its own with the answers as data."""
    task = ContestedColour(frozen="")
    one = run(shards(1), tmp_path, task)
    assert one.adversary
    batch, batches = batch_of(one)
    judge, network = copy.deepcopy(one.adversary.plain), copy.deepcopy(one.plain)
    one._step(batch, 0.0)
    batches.close()
    torch.manual_seed(torch.initial_seed())
    terms, said = task.loss_against(network, judge, batch, one.device, 0.0)
    wanted = torch.autograd.grad(sum(terms.values()), list(network.parameters()))  # type: ignore[arg-type]
    for parameter, gradient in zip(one.plain.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    wanted = torch.autograd.grad(task.adversary_loss(judge, said)["adversary"], list(judge.parameters()))
    for parameter, gradient in zip(one.adversary.plain.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert all(not torch.equal(a, b) for a, b in zip(weights(judge), weights(one.adversary.plain), strict=True))


def test_a_bad_batch_moves_neither(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    task = ContestedColour(frozen="")
    one = run(shards(1), tmp_path, task)
    assert one.adversary
    task.loss_against = lambda *args: ({"colour": one.plain(torch.full((2, 3, 32, 32), torch.nan)).mean()}, None)  # type: ignore[method-assign]
    before = weights(one.plain) + weights(one.adversary.plain)
    batch, batches = batch_of(one)
    assert one._step(batch, 0.0) == {}
    batches.close()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(one.plain) + weights(one.adversary.plain), strict=True))


def test_a_killed_run_ends_as_one_that_was_not_killed_adversary_and_random_numbers_included(
    shards: Callable[..., list[Path]], tmp_path: Path
) -> None:
    paths = shards()
    settings: dict[str, Any] = {"epochs": 2, "checkpoint_s": 1e-6}
    run(paths, tmp_path / "whole", ContestedColour(), **settings).train()
    (process,) = start(tmp_path / "killed", paths, task={"stands_at": 26}, contested=True, **settings)
    last = tmp_path / "killed" / "last.pt"
    while not last.exists() or Checkpoint.load(last).progress.num_steps < 20:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Checkpoint.load(last).progress.num_steps < 30
    run(paths, tmp_path / "killed", ContestedColour(), **settings).train()
    same(tmp_path / "whole" / "last.pt", last)
    one, other = (Checkpoint.load(path).adversary for path in (tmp_path / "whole" / "last.pt", last))
    assert all(torch.equal(values, other["network"][name]) for name, values in one["network"].items())
    assert one["optimizer"]["state"][0]["step"] == 30
    torch.testing.assert_close(one["optimizer"]["state"], other["optimizer"]["state"], atol=0, rtol=0)


def test_two_ranks_train_one_adversary(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    ranks = start(tmp_path, shards(2), ranks=2, task={"norm": False}, contested=True, epochs=1)
    assert [process.wait(300) for process in ranks] == [0, 0]
    assert Checkpoint.load(tmp_path / "last.pt").adversary["optimizer"]["state"][0]["step"] == 10


def test_what_has_no_share_of_the_rate_stays_and_the_rest_learns(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    one = run(shards(1), tmp_path, ContestedColour(), epochs=1)
    before = {name: values.clone() for name, values in one.plain.named_parameters()}
    one.train()
    for name, values in one.plain.named_parameters():
        assert torch.equal(values, before[name]) == name.startswith("0."), name


@pytest.mark.parametrize("task", [MeanColour(), ContestedColour()])
def test_a_run_with_an_adversary_keeps_it_and_is_not_gone_on_with_without_one(
    shards: Callable[..., list[Path]], tmp_path: Path, task: MeanColour
) -> None:
    run(shards(1), tmp_path, task, epochs=1).train()
    assert bool(Checkpoint.load(Path(tmp_path / "last.pt")).adversary) == isinstance(task, ContestedColour)
    other = MeanColour() if isinstance(task, ContestedColour) else ContestedColour(frozen="")
    with pytest.raises(ValueError, match=r"trained with(out)? an adversary"):
        run(shards(1), tmp_path, other, epochs=2)
