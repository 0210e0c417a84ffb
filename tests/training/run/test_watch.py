"""A training can be watched: loss and rate from the first step, metrics as they come, and in a service where one is wanted."""

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import whim
from tests.training.detector.small import random_detector, save
from tests.training.tiny import MeanColour, run
from training.commands.train import _recipe
from training.detector.network import DetectorSettings
from training.recipes import REGRESSORS
from training.run.watch import Follower, Screen

Shards = Callable[..., list[Path]]


def test_loss_and_rate_are_said_from_the_first_step_and_metrics_as_they_come(
    shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal: a line of the first step, no more within half a minute, one an epoch, and where the curves are."""
    run(shards(2), tmp_path, MeanColour(metrics=(0.25, 0.125)), epochs=2).train()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"curves: tensorboard --logdir {tmp_path / 'tensorboard'}; numbers: {tmp_path / 'log.jsonl'}"
    assert said[1].startswith("epoch 1 of 2, step 1 of ")
    assert "loss " in said[1]
    assert "learning rate " in said[1]
    assert said[1].endswith(" images/s")
    assert said[2:] == ["epoch 1: good 0.2500; the best so far", "epoch 2: good 0.1250"]


def test_a_terminal_has_a_bar_with_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(first=True, console=Console(force_terminal=True, width=160))
    for number, _ in enumerate(screen.bar(iter([None, None]), "epoch 1 of 1", 0, 2), 1):  # type: ignore[list-item]
        screen.step(number, 1 / 3, 1e-3, 16)
    said = capsys.readouterr().out
    assert "loss 0.3333, learning rate 0.001" in said
    assert "2/2" in said


def test_other_ranks_and_quiet_runs_say_nothing(shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(first=False)
    screen.begin(tmp_path, board=True)
    screen.step(1, 1.0, 1.0, 1)
    screen.measured(1, {"ap": 1.0}, better=True)
    assert capsys.readouterr().out == ""


def test_a_service_gets_every_number_and_never_ends_a_training(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A package of the shape that trackio and wandb share: it is begun with the settings, told of steps and metrics, and closed."""
    notes = tmp_path / "notes.txt"
    (tmp_path / "trackio.py").write_text(
        "from pathlib import Path\n"
        "def note(*words):\n"
        f"    with Path({str(notes)!r}).open('a') as file: print(*words, file=file)\n"
        "def init(project, name, config): note('init', project, name, config['epochs'])\n"
        "def log(numbers, step): note('log', step, sorted(numbers))\n"
        "def finish(): note('finish')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    trained = run(shards(2), tmp_path / "red", MeanColour(metrics=(0.25,)), epochs=1, watch="trackio")
    trained.train()
    lines = notes.read_text().splitlines()
    assert lines[0] == "init whim red 1"
    assert lines[1].startswith("log ")
    assert "'loss'" in lines[1]
    assert lines[-2].endswith("['good']")
    assert lines[-1] == "finish"
    monkeypatch.setattr(sys.modules["trackio"], "log", lambda *_, **__: 1 / 0)
    follower = Follower("trackio", tmp_path, {"epochs": 3}, Console())
    follower.write(1, {"loss": 1.0})
    follower.write(2, {"loss": 1.0})
    assert capsys.readouterr().out.count("trackio follows no longer (division by zero): the training goes on") == 1


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--watch", "wandb"], "--watch wandb: it is not installed: pip install wandb"),
        (["--watch", "mlflow"], "train.watch must be trackio or wandb, or nothing, got 'mlflow'"),
        (["--from", "nowhere.pt"], "nowhere.pt is not there"),
    ],
)
def test_what_is_not_there_is_one_line_before_anything_is_read(
    option: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("training.run.watch.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert whim.main(["train", "detector", "--data", str(tmp_path / "none"), *option]) == whim.USER_ERROR
    assert told in capsys.readouterr().err


def test_fine_tuning_begins_with_the_checkpoint_and_its_network(shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network is the checkpoint's, not the recipe's; what is said before the first step: no val, and where the curves are."""
    import torch

    from training.run.checkpoint import Checkpoint

    start = save(random_detector(DetectorSettings(image=64)), tmp_path / "start.pt")
    paths = shards(1)
    words = ["train", "detector", "--data", str(paths[0].parent), "--out", str(tmp_path / "run"), "--from", str(start), "--epochs", "1"]
    small = ["--set", "batch_size=8", "--set", "train.learning_rate=1e-12", "--minutes", "0.02"]
    assert whim.main([*words, *small]) == whim.DONE
    before, after = Checkpoint.load(start, "detector"), Checkpoint.load(tmp_path / "run" / "last.pt", "detector")
    assert after.settings == before.settings
    weights = {name: values for name, values in before.ema.items() if name.endswith("weight") and values.ndim == 4}
    assert all(torch.allclose(after.network[name], values, atol=1e-6) for name, values in weights.items())
    said = capsys.readouterr().out
    assert (
        said.index("nothing is measured") < said.index("curves: ") < said.index("step 1 of ") < said.index("best.pt: nothing was measured")
    )
    assert not logging.getLogger("ray.train.v2.api.config").isEnabledFor(logging.INFO)  # "please file a report at ..."


def test_a_regressor_is_fine_tuned_with_the_network_of_its_checkpoint(tmp_path: Path) -> None:
    import torch

    from training.regressor.network import Regressor, RegressorSettings
    from training.regressor.task import RegressorTask
    from training.run.checkpoint import Checkpoint, Progress

    torch.manual_seed(3)
    settings = RegressorSettings(size="xs")
    weights = Regressor(settings).state_dict()
    told: dict[str, Any] = {"kind": "regressor", "settings": asdict(settings), "network": weights, "ema": weights}
    Checkpoint(**told, optimizer={}, progress=Progress(), data="random").save(tmp_path / "best.pt")
    arguments = whim.parse(["train", "regressor", "--data", "x", "--from", str(tmp_path / "best.pt")])
    recipe = _recipe(arguments, REGRESSORS, "regressor")
    assert recipe.network == settings != REGRESSORS["regressor_h"]().network
    begun = RegressorTask(held_out=None, network_settings=recipe.network, start=recipe.start).network().state_dict()
    assert all(torch.equal(begun[name], values) for name, values in weights.items())


def test_a_detector_is_measured_on_val_where_there_is_no_test(shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save(random_detector(), tmp_path / "best.pt")
    paths = shards(1)
    (tmp_path / "data" / "val").mkdir(parents=True)
    (tmp_path / "data" / "val" / "val-00000-of-00001.parquet").write_bytes(paths[0].read_bytes())
    assert whim.main(["evaluate", "detector", str(checkpoint), "--data", str(tmp_path / "data"), "--image", "64"]) == whim.DONE
    said = capsys.readouterr().out
    assert "has no test split: measured on val" in said
    assert "data-val" in said
    assert whim.main(["evaluate", "detector", str(checkpoint), "--data", str(tmp_path / "data"), "--split", "test"]) == whim.USER_ERROR


def test_a_run_without_a_network_is_followed_by_wandb_itself(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real package, which needs no account so: its files lie in the run's folder and hold every metric."""
    pytest.importorskip("wandb", reason="no W&B: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", "")
    monkeypatch.delenv("WANDB_DIR")
    run(shards(2), tmp_path, MeanColour(metrics=(0.25, 0.125)), epochs=2, watch="wandb").train()
    assert "follows no longer" not in capsys.readouterr().out
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert all(name in content for name in (b"good", b"0.125", b"learning_rate", b"clip_norm"))
