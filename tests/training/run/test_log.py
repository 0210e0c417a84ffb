"""A training can do without its log, its curves and its images: what cannot be written is told in one line, and it goes on."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.training.tiny import MeanColour, run
from training.run.checkpoint import Checkpoint
from training.run.log import Log


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Every write beyond a size fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_numbers_become_lines_and_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path, first=True)
    for step in (1, 2):
        log.write(step, {"loss": step / 4, "names": ["a"], "none": float("inf")})
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert curves.Tags()["scalars"] == ["loss"]
    assert [(one.step, one.value) for one in curves.Scalars("loss")] == [(1, 0.25), (2, 0.5)]


def test_what_the_disk_refuses_is_told_once_and_noted_again_when_it_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path, first=True)
    log.write(1, {"loss": 1.0})
    size_bytes = (tmp_path / "log.jsonl").stat().st_size + 5
    with files_of_at_most(size_bytes):
        for step in (2, 3):
            log.write(step, {"loss": 2.0})
    log.write(4, {"loss": 4.0})
    said = capsys.readouterr().err
    assert said.splitlines() == [
        f"whim: cannot write {tmp_path / name} (File too large): the training goes on without it" for name in ("log.jsonl", "tensorboard")
    ]
    *_, last = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(last) == {"num_steps": 4, "loss": 4.0}


def test_a_training_ends_well_without_its_log_curves_and_images(
    shards: Callable[..., list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").touch()
    (tmp_path / "images").touch()
    (tmp_path / "log.jsonl").mkdir()
    run(shards(), tmp_path, MeanColour(), epochs=2).train()
    assert Checkpoint.load(tmp_path / "last.pt").progress.epoch == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot write" in line]
    assert [line.split("(")[0].split("/")[-1].strip() for line in said] == ["tensorboard", "log.jsonl", "images"]
