"""`whim train regressor`: on shards, on shards and FreiHAND mixed, on FreiHAND alone; what cannot be trained on is said."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import whim
from fitting.hand.mano import load_hand_model
from tests.training.data.sets.hand_sets import freihand_folder, posed
from tests.training.regressor.posed import posed_hands, shard_of
from training.regressor.evaluate import shards_benchmark
from training.regressor.network import hand_in_use
from training.run.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("posed")
    shard_of(folder / "train" / "train-0.parquet", posed_hands(8))
    shard_of(folder / "val" / "val-0.parquet", posed_hands(4, seed=1))
    return folder


@pytest.fixture(scope="module")
def freihand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_hand_model(dtype=torch.float64)
    hands = posed(4, model, seed=1), posed(1, model, seed=2)
    return freihand_folder(tmp_path_factory.mktemp("sets") / "freihand", *hands, hands_mean=model.hands_mean.numpy())


def train(out: Path, *words: object) -> tuple[Checkpoint, list[dict]]:
    """The best checkpoint and the journal of an epoch."""
    small = ["--set", "network.size=xs", "--set", "batch_size=8", "--epochs", "1", "--out", out]
    assert whim.main(["train", "regressor", *map(str, [*words, *small])]) == 0
    return Checkpoint.load(out / "best.pt", "regressor"), [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_shards_alone_are_enough(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    saved, notes = train(tmp_path, "--data", shards, "--held-out-hands", 3)
    assert saved.adversary["network"], "the discriminator takes part"
    assert notes[-1]["pa_mpjpe_mm"] > 0


def test_a_row_of_table_5_on_shards_and_freihand_mixed(shards: Callable[..., list[Path]], freihand: Path, tmp_path: Path) -> None:
    words = ["--data", shards, "--sets", f"freihand={freihand}:3", "--weights", 1, "--recipe", "regressor_no_refinement"]
    words += ["--set", "adversary=false", "--set", "sets=none", "--set", "begins=either"]
    saved, notes = train(tmp_path, *words)
    assert saved.settings["refine_steps"] == 0
    assert json.loads(saved.data)[1] == [8, 16]
    assert saved.progress.num_steps == 24 // 8
    assert "coarse_pa_mpjpe_mm" not in notes[-1]


def test_freihand_alone_is_enough_and_nothing_is_measured(freihand: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sets", f"freihand={freihand}", "--recipe", "regressor_freihand"]
    assert whim.main(["train", "regressor", *map(str, words), "--out", str(tmp_path)]) == 1
    assert "this recipe begins with ViTPose's weights: --set vitpose=FILE" in capsys.readouterr().err
    _, notes = train(tmp_path, *words, "--set", "begins=random")
    assert "nothing is measured" in capsys.readouterr().out
    assert "pa_mpjpe_mm" not in notes[-1]


def test_hands_of_another_model_and_no_hands_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = hand_in_use()
    other = "mano" if mine == "standin" else "standin"
    (tmp_path / "index.json").write_text(json.dumps({"hand_model": other, "shards": []}))
    theirs = f"told in the {other} model's parameters, the model in use is {mine}"
    for words, told in (["--data", str(tmp_path)], theirs), ([], "nothing to train on: name --data DIR"):
        assert whim.main(["train", "regressor", "--out", str(tmp_path / "run"), *words]) == 1
        assert told in capsys.readouterr().err
    with pytest.raises(ValueError, match=theirs):
        shards_benchmark(tmp_path, "val")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("loss.vertexes=1", "no setting 'regressor.loss.vertexes': did you mean 'regressor.loss.vertices'?"),
        ("loss.points=much", "regressor.loss.points must be a number, got 'much'"),
        ("turned=2", "augmentation.turned is a share in [0, 1], got 2.0"),
        ("network.size=xl", "regressor.network.size must be xs | s | b | l | h, got 'xl'"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_field_value_and_range(capsys: pytest.CaptureFixture[str], asked: str, told: str) -> None:
    assert whim.main(["train", "regressor", "--set", asked]) == 1
    assert told in capsys.readouterr().err


def test_a_recipe_of_ones_own_trains(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    mine = tmp_path / "my.py"
    mine.write_text(
        "from dataclasses import replace\nfrom training.recipes import regressor_xs\n"
        "def mine():\n    return replace(regressor_xs(), adversary=False, batch_size=4)\n"
    )
    words = ["--data", str(shards), "--recipe", f"{mine}:mine", "--set", "refine_steps=0", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert whim.main(["train", "regressor", "--held-out-hands", "3", *words]) == 0
    saved = Checkpoint.load(tmp_path / "run" / "best.pt", "regressor")
    assert (saved.settings["size"], saved.settings["refine_steps"]) == ("xs", 0)
    assert not saved.adversary
    assert saved.progress.num_steps == 2


def test_what_is_no_recipe_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["train", "regressor", "--recipe", "regressor_g"]) == 1
    assert "no regressor recipe 'regressor_g': did you mean 'regressor_" in capsys.readouterr().err
    (tmp_path / "my.py").write_text("def mine():\n    return 3\n")
    assert whim.main(["train", "regressor", "--recipe", f"{tmp_path}/my.py:mine"]) == 1
    assert "must return a RegressorRecipe, got int" in capsys.readouterr().err
    assert whim.main(["train", "detector", "--recipe", f"{tmp_path}/none.py:mine"]) == 1
    assert "none.py is not there" in capsys.readouterr().err


def test_settings_of_a_recipe_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["train", "detector", "--recipe", "detector_hrnet", "--set", "image_px=64", "--settings"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"network\.backbone +hrnet +Network below the", told)
    assert re.search(r"image_px +64 ", told)
