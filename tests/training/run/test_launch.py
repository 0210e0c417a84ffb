"""Ray Train starts the ranks: in this process, or as workers that are started again."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.engine.nodes.cluster import join
from tests.training.tiny import MeanColour, run
from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.samples import Frames
from training.run.checkpoint import Checkpoint
from training.run.launch import launch
from training.run.loop import NotFiniteError, TrainSettings

SETTINGS = TrainSettings(epochs=2, learning_rate=1e-2, warmup_steps=5)


def loader(paths: list[Path]) -> Loader:
    return Loader(sources=[Frames(dataset=Dataset.of(paths, paths[0].parents[1] / "cache"), size=32)], batch_size=8, num_threads=1)


def test_in_this_process_it_is_the_loop_itself(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = shards(1)
    metrics = launch(MeanColour(norm=False), loader(paths), SETTINGS, tmp_path / "ray")
    alone = run(paths, tmp_path / "alone", MeanColour(norm=False))
    assert metrics == pytest.approx(dict(alone.train()))
    assert Checkpoint.load(tmp_path / "ray" / "last.pt").progress.num_steps == alone.progress.num_steps


def test_an_error_of_a_user_comes_out_as_itself(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    settings = TrainSettings(max_bad_batches=1)
    with pytest.raises(NotFiniteError, match="2 batches had no finite loss"):
        launch(MeanColour(bad_steps=(0, 1, 2)), loader(shards(1)), settings, tmp_path)


@pytest.mark.long  # it wants a process in which no Ray of another address ran
def test_two_workers_train_as_one_and_listen_on_loopback_alone(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths, doors = shards(1), tmp_path / "doors"
    launch(MeanColour(norm=False, doors=doors), loader(paths), SETTINGS, tmp_path / "two", num_workers=2, join_ray=join)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "Ray's own answer to Ctrl-C ends a program with 0"
    lines = [line.split() for line in doors.read_text().splitlines()]
    assert len({process for process, *_ in lines}) == 2
    assert {address for _, *found in lines for address in found} == {"127.0.0.1"}, "torch's store and gloo's sockets ask nobody for a token"
    alone = run(paths, tmp_path / "alone", MeanColour(norm=False))
    alone.train()
    saved = Checkpoint.load(tmp_path / "two" / "last.pt")
    assert saved.progress.num_steps == alone.progress.num_steps
    assert saved.progress.best["good"] == pytest.approx(alone.progress.best["good"], abs=1e-4)
