"""`whim train-regressor`: on shards, on shards and FreiHAND mixed, on FreiHAND alone; what cannot be trained on is said."""

import json
import sys
from pathlib import Path

import pytest
import torch

import whim
from fitting.hand.mano import load_hand_model
from tests.training.data.readers.hand_sets import freihand_folder, posed
from tests.training.regressor.posed import posed_hands, shard_of
from training.regressor.ablations import ABLATIONS
from training.regressor.evaluate import shards_benchmark
from training.regressor.network import hand_in_use
from training.run.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("posed")
    shard_of(folder / "train" / "train-0.parquet", posed_hands(8))
    shard_of(folder / "val" / "val-0.parquet", posed_hands(4, seed=1))
    return folder


@pytest.fixture(scope="module")
def freihand(tmp_path_factory) -> Path:
    model = load_hand_model(dtype=torch.float64)
    hands = posed(4, model, seed=1), posed(1, model, seed=2)
    return freihand_folder(tmp_path_factory.mktemp("sets") / "freihand", *hands, hands_mean=model.hands_mean.numpy())


def train(monkeypatch, out: Path, *words: object) -> tuple[Checkpoint, list[dict]]:
    """The best checkpoint and the journal of an epoch."""
    small = ["--size", "xs", "--batch", "8", "--epochs", "1", "--out", out]
    monkeypatch.setattr(sys, "argv", ["whim", "train-regressor", *map(str, [*words, *small])])
    whim.main()
    return Checkpoint.load(out / "best.pt", "regressor"), [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_shards_alone_are_enough(shards, tmp_path, monkeypatch):
    saved, notes = train(monkeypatch, tmp_path, "--data", shards, "--held-out-hands", 3)
    assert saved.adversary["network"], "the discriminator takes part"
    assert notes[-1]["pa_mpjpe_mm"] > 0


def test_a_row_of_table_5_on_shards_and_freihand_mixed(shards, freihand, tmp_path, monkeypatch):
    words = ["--data", shards, "--freihand", freihand, "--weights", 1, 3, "--ablation", "no_refinement", "--no-adversary"]
    saved, notes = train(monkeypatch, tmp_path, *words)
    assert saved.settings["refine_steps"] == ABLATIONS["no_refinement"].network["refine_steps"] == 0
    assert json.loads(saved.data)[1] == [8, 16]
    assert saved.progress.num_steps == 24 // 8
    assert "coarse_pa_mpjpe_mm" not in notes[-1]


def test_freihand_alone_is_enough_and_nothing_is_measured(freihand, tmp_path, monkeypatch, capsys):
    _, notes = train(monkeypatch, tmp_path, "--freihand", freihand, "--ablation", "data_3")
    assert "nothing is measured" in capsys.readouterr().out
    assert "pa_mpjpe_mm" not in notes[-1]


def test_hands_of_another_model_and_no_hands_are_refused(tmp_path, monkeypatch, capsys):
    mine = hand_in_use()
    other = "mano" if mine == "standin" else "standin"
    (tmp_path / "index.json").write_text(json.dumps({"hand_model": other, "shards": []}))
    theirs = f"told in the {other} model's parameters, the model in use is {mine}"
    for words, told in (["--data", tmp_path], theirs), ([], "nothing to train on: name --data DIR"):
        with pytest.raises(SystemExit):
            train(monkeypatch, tmp_path / "run", *words)
        assert told in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match=theirs):
        shards_benchmark(tmp_path, "val")


@pytest.mark.parametrize("words", [["--loss", '{"vertexes": 1}'], ["--loss", "3"], ["--augmentation", '{"turned": "often"}']])
def test_settings_that_are_none_are_named_beside_those_that_are(shards, tmp_path, monkeypatch, capsys, words):
    with pytest.raises(SystemExit):
        train(monkeypatch, tmp_path, "--data", shards, "--held-out-hands", 1, *words)
    told = " ".join(capsys.readouterr().out.split())
    assert "expected a JSON object of numbers by some of these names: " in told
    assert f"got {words[1]}" in told
