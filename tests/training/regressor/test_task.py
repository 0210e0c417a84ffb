"""The regressor in the loop: it learns, plays against its discriminator, is the same after a stop, and says how good it is."""

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.regressor.posed import crops_of, posed_hands, shard_of
from training.data.loader import Loader
from training.regressor.augment import CropAugmentation
from training.regressor.evaluate import shards_benchmark
from training.regressor.network import RegressorSettings
from training.regressor.objective import RegressorLossWeights
from training.regressor.task import METRICS, AdversarialRegressorTask, RegressorTask
from training.regressor.vit import SHAPES
from training.run.adversary import Adversarial
from training.run.checkpoint import Checkpoint
from training.run.loop import Layered, Run, Task, TrainSettings

TINY = RegressorSettings(size="xs", drop_path=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("posed")
    shard_of(made / "train" / "train-0.parquet", posed_hands(8))
    shard_of(made / "val" / "val-0.parquet", posed_hands(4, seed=1))
    return made


def run(folder: Path, out: Path, task: Any, batch: int = 4, steps: int | None = None, **settings: Any) -> Run:
    """A run over the eight hands; `steps` of an epoch, else as many as go through them once."""
    crops = crops_of(folder / "train" / "train-0.parquet", size=384)
    often: dict[str, Any] = {"weights": [1.0], "num_samples": steps * batch} if steps else {}
    loader = Loader(sources=[crops], batch_size=batch, num_threads=1, **often)
    chosen = {"epochs": 1, "learning_rate": 3e-4, "warmup_steps": 2, "clip_norm": 1.0} | settings
    return Run(task, loader, TrainSettings(**chosen), out)


def test_the_tasks_are_what_the_loop_asks_for() -> None:
    plain, contested = RegressorTask(held_out=None), AdversarialRegressorTask(held_out=None)
    assert isinstance(plain, Task)
    assert isinstance(plain, Layered)
    assert not isinstance(plain, Adversarial)
    assert isinstance(contested, Adversarial)


def test_a_run_measures_draws_and_keeps_network_and_discriminator(folder: Path, tmp_path: Path) -> None:
    task = AdversarialRegressorTask(held_out=shards_benchmark(folder, "val"), network_settings=TINY)
    best = run(folder, tmp_path, task).train()
    assert set(best) == {*METRICS, *(f"coarse_{name}" for name in METRICS)}
    assert all(math.isfinite(value) for value in best.values())
    saved = Checkpoint.load(tmp_path / "best.pt", "regressor")
    assert saved.adversary["optimizer"]["state"][0]["step"] == 2
    assert RegressorSettings(**saved.settings) == TINY
    notes = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"discriminator", "adversarial", "coarse_adversarial", "vertices", "coarse_points"} <= set(notes[0])
    assert (tmp_path / "images" / "epoch-0001.jpg").stat().st_size > 10_000


def test_what_the_discriminator_says_reaches_the_whole_network_and_not_itself(folder: Path, tmp_path: Path) -> None:
    """Its term alone is weighed; it sees poses and shapes, so that the camera's head learns nothing of it."""
    nothing: dict[str, Any] = dict.fromkeys(("vertices", "joints", "points", "rotations", "betas"), 0.0)
    task = AdversarialRegressorTask(held_out=None, network_settings=TINY, weights=RegressorLossWeights(**nothing, adversarial=1.0))
    one = run(folder, tmp_path, task)
    batches = one.loader.epoch(0)
    assert one.adversary
    one.adversary.plain.requires_grad_(False)
    terms, poses = task.loss_against(one.plain, one.adversary.plain, next(batches), one.device, 0.0)
    batches.close()
    sum(terms.values()).backward()  # type: ignore[union-attr]
    felt = {name for name, p in one.plain.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {
        "backbone.patch_embed.proj.weight",
        "tokens.learned",
        "heads.pose.weight",
        "heads.shape.weight",
        "refinement.say.weight",
    } <= felt
    assert not {name for name in felt if name.startswith("heads.camera")}
    assert all(p.grad is None for p in one.adversary.plain.parameters())
    assert not poses.pose.requires_grad, "nor does what it learns from reach the network"


def test_stopped_and_taken_up_it_ends_the_same_to_the_bit(folder: Path, tmp_path: Path) -> None:
    task = AdversarialRegressorTask(held_out=None, network_settings=TINY)
    torch.set_num_threads(1)
    run(folder, tmp_path / "whole", task, epochs=2).train()
    stopped = run(folder, tmp_path / "stopped", task, epochs=2)
    stopped._epoch()
    stopped._measure()
    run(folder, tmp_path / "stopped", task, epochs=2).train()
    one, other = (Checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "stopped"))
    for name, values in one.network.items():
        assert torch.equal(values, other.network[name]), name
    for name, values in one.adversary["network"].items():
        assert torch.equal(values, other.adversary["network"][name]), name


@pytest.mark.parametrize(("depth", "steps", "left"), [(2, 30, 0.75), pytest.param(6, 120, 0.6, marks=pytest.mark.long)])
def test_eight_crops_are_learnt_by_heart(
    depth: int, steps: int, left: float, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the crops as they are falls to a fraction of what it was: by two fifths after thirty steps, give or take a processor."""
    monkeypatch.setitem(SHAPES, "xs", SHAPES["xs"]._replace(depth=depth))
    settings = RegressorSettings(size="xs")
    task = RegressorTask(held_out=None, network_settings=settings, augmentation=CropAugmentation.none())
    one = run(folder, tmp_path, task, batch=8, steps=steps, learning_rate=1e-3, warmup_steps=5, precision="auto")
    with closing(one.loader.epoch(0)) as batches, torch.no_grad():
        batch = next(batches)
        before = sum(task.loss(one.plain, batch, one.device, 0.0).values())
    one.train()
    with torch.no_grad():
        after = sum(task.loss(one.plain, batch, one.device, 1.0).values())
    assert after < left * before


def test_a_run_by_muon_goes_on_by_muon_alone(folder: Path, tmp_path: Path) -> None:
    task = RegressorTask(held_out=None, network_settings=TINY)
    run(folder, tmp_path, task, batch=8, optimizer="muon").train()
    run(folder, tmp_path, task, batch=8, optimizer="muon", epochs=2).train()
    assert Checkpoint.load(tmp_path / "last.pt").progress.num_steps == 2
    with pytest.raises(ValueError, match=r"last.pt was trained by another optimizer: name another folder"):
        run(folder, tmp_path, task, batch=8, epochs=2)


def test_layer_decay_slows_the_first_blocks(folder: Path, tmp_path: Path) -> None:
    one = run(folder, tmp_path, RegressorTask(held_out=None, network_settings=TINY, layer_decay=0.5))
    shares = {group["share"] for group in one.optimizer.param_groups}
    assert min(shares) == pytest.approx(0.5**7)
    assert max(shares) == 1.0


def test_hands_with_landmarks_alone_teach_their_points(folder: Path, tmp_path: Path) -> None:
    task = AdversarialRegressorTask(held_out=None, network_settings=TINY)
    one = run(folder, tmp_path, task)
    batches = one.loader.epoch(0)
    batch = next(batches)
    for name in ("betas", "global_orient", "hand_pose", "joints_3d"):
        batch.labels[name][:] = np.nan
    assert one.adversary
    one.adversary.plain.requires_grad_(False)
    terms, poses = task.loss_against(one.plain, one.adversary.plain, batch, one.device, 0.0)
    batches.close()
    assert terms["points"] > 0
    assert all(terms[name] == 0 for name in ("vertices", "joints", "rotations", "betas"))
    one.adversary.plain.requires_grad_(True)
    assert task.adversary_loss(one.adversary.plain, poses)["discriminator"] == 0
