"""A run: it learns, it is the same after a kill and on more ranks, and what goes wrong is skipped, counted, or said."""

import fcntl
import io
import json
import math
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import MeanColour, run
from training.run.checkpoint import Checkpoint, load_weights
from training.run.ema import Ema
from training.run.loop import NotFiniteError, TrainSettings


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread, as in runs of processes of their own: sums of two threads end in other digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def is_free(port: int) -> bool:
    """Look below the ports that the system hands out: there a rank that asks before the first one listens may meet itself."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def start(
    folder: Path, shards: list[Path], *, ranks: int = 1, task: Any = None, contested: bool = False, **settings: Any
) -> list[subprocess.Popen]:
    """The ranks of a run, each a process of its own."""
    what = {"task": task or {}, "contested": contested, "settings": settings}
    told = json.dumps({"shards": [str(path) for path in shards], "folder": str(folder), **what})
    port = next(port for port in random.sample(range(20_000, 32_000), 100) if is_free(port))
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-m", "tests.training.tiny", told]
    return [subprocess.Popen(command, env=shared | {"RANK": str(rank)}) for rank in range(ranks)]


def same(a: Path, b: Path, tolerance: float = 0.0) -> None:
    """Two checkpoints hold the same weights, averages and optimizer."""
    first, second = (Checkpoint.load(path) for path in (a, b))
    for one, other in ((first.network, second.network), (first.ema, second.ema)):
        for name, values in one.items():
            torch.testing.assert_close(values, other[name], atol=tolerance, rtol=0)
    if not tolerance:
        for index, state in first.optimizer["state"].items():
            assert all(torch.equal(values, second.optimizer["state"][index][name]) for name, values in state.items())
    assert first.progress.num_steps == second.progress.num_steps


def test_the_loss_falls_and_the_epochs_are_noted_drawn_and_kept(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    best = run(shards(), tmp_path / "run", MeanColour(), epochs=6).train()
    notes = [line for line in log(tmp_path / "run") if "colour" in line]
    assert notes[-1]["colour"] < 0.2 * notes[0]["colour"]
    epochs = [line for line in log(tmp_path / "run") if "minutes" in line]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5, 6]
    assert best == {"good": max(line["good"] for line in epochs)}
    assert len(list((tmp_path / "run" / "images").iterdir())) == 6
    assert Checkpoint.load(tmp_path / "run" / "last.pt").progress.epoch == 6
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_killed_run_ends_as_one_that_was_not_killed(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = shards()
    settings: dict[str, Any] = {"epochs": 2, "checkpoint_s": 1e-6}
    run(paths, tmp_path / "whole", MeanColour(), **settings).train()
    (process,) = start(tmp_path / "killed", paths, task={"stands_at": 26}, **settings)
    last = tmp_path / "killed" / "last.pt"
    while not last.exists() or Checkpoint.load(last).progress.num_steps < 20:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = Checkpoint.load(last).progress
    assert 20 <= stopped.num_steps < 30
    assert stopped.step > 0
    run(paths, tmp_path / "killed", MeanColour(), **settings).train()
    same(tmp_path / "whole" / "last.pt", last)


def test_two_ranks_train_as_one(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = shards(2)
    settings: dict[str, Any] = {"epochs": 2, "batch": 8}
    run(paths, tmp_path / "one", MeanColour(norm=False), **settings).train()
    ranks = start(tmp_path / "two", paths, ranks=2, task={"norm": False}, **settings)
    assert [process.wait(300) for process in ranks] == [0, 0]
    same(tmp_path / "one" / "last.pt", tmp_path / "two" / "last.pt", tolerance=2e-5)
    one, two = (Checkpoint.load(tmp_path / name / "last.pt").progress.best["good"] for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-4)


def test_two_ranks_agree_on_the_clock(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    ranks = start(tmp_path, shards(2), ranks=2, task={"pause_s": 0.02}, epochs=10_000, max_minutes=0.03, patience=10_000)
    assert [process.wait(300) for process in ranks] == [0, 0]
    assert Checkpoint.load(tmp_path / "last.pt").progress.minutes >= 0.03


def test_bad_batches_are_skipped_and_counted_and_leave_no_trace(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    bad = run(shards(), tmp_path, MeanColour(bad_steps=(3, 7)), epochs=1)
    bad.train()
    assert bad.progress.bad_batches == 2
    assert bad.progress.num_steps == 13
    assert [line["step"] for line in log(tmp_path) if "not_finite" in line] == [3, 7]
    saved = Checkpoint.load(tmp_path / "last.pt")
    assert saved.progress.bad_batches == 2
    assert all(values.isfinite().all() for weights in (saved.network, saved.ema) for values in weights.values())


def test_too_many_bad_batches_end_the_run_with_the_batch_saved(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"3 batches had no finite loss.*bad_batch-0.pt: lower the learning rate"):
        run(shards(), tmp_path, MeanColour(bad_steps=(3, 7, 9, 11)), max_bad_batches=2).train()
    saved = torch.load(tmp_path / "bad_batch-0.pt", weights_only=True)
    assert saved["step"] == 9
    assert saved["images"].shape == (8, 32, 32, 3)
    assert len(saved["not_finite"]) == len(saved["key"]) == 8
    assert set(saved["labels"]) >= {"image", "box", "side", "keypoints"}


def test_a_batch_that_cannot_be_kept_hides_no_loss(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    (tmp_path / "bad_batch-0.pt").mkdir()
    with pytest.raises(NotFiniteError, match=r"1 batches had no finite loss; the last one cannot be kept as .*: lower the learning rate"):
        run(shards(), tmp_path, MeanColour(bad_steps=(3,)), max_bad_batches=0).train()


def test_a_run_that_grows_no_better_ends_early_and_is_not_begun_again(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    metrics = (0.1, 0.5, 0.4, 0.5, 0.3, 0.9)
    task = MeanColour(metrics=metrics)
    assert run(shards(1), tmp_path, task, epochs=9, patience=3).train() == {"good": 0.5}
    assert task.asked == 5
    assert Checkpoint.load(tmp_path / "best.pt").progress.epoch == 2
    again = MeanColour(metrics=metrics)
    assert run(shards(1), tmp_path, again, epochs=9, patience=3).train() == {"good": 0.5}
    assert again.asked == 0


def test_without_a_measure_the_last_epoch_is_the_best(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    assert run(shards(1), tmp_path, MeanColour(metrics=None), epochs=4, patience=2).train() == {}
    assert Checkpoint.load(tmp_path / "best.pt").progress.epoch == 4


def test_a_metric_that_is_no_number_is_not_the_best(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    assert run(shards(1), tmp_path, MeanColour(metrics=(math.nan, 0.2, math.nan)), epochs=3).train() == {"good": 0.2}


def test_time_spent_counts_over_all_starts(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = shards(1)
    first = run(paths, tmp_path, MeanColour(pause_s=0.02), epochs=10_000, max_minutes=0.01)
    first.train()
    again = run(paths, tmp_path, MeanColour(), epochs=10_000, max_minutes=0.01)
    steps = again.progress.num_steps
    again.train()
    assert again.progress.num_steps == steps
    assert first.progress.num_steps == steps


def test_warm_up_and_cosine_by_hand(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    one = run(shards(1), tmp_path, MeanColour(), learning_rate=0.1, warmup_steps=10, final_share=0.2)
    assert one._learning_rate(0.0) == pytest.approx(0.1 * 0.1)
    one.progress.num_steps = 4
    assert one._learning_rate(0.0) == pytest.approx(0.1 * 0.5)
    one.progress.num_steps = 500
    assert one._learning_rate(0.0) == pytest.approx(0.1)
    assert one._learning_rate(0.5) == pytest.approx(0.1 * (0.2 + 0.8 * 0.5))
    assert one._learning_rate(1.0) == pytest.approx(0.1 * 0.2)


def test_average_by_hand() -> None:
    network = torch.nn.BatchNorm1d(1)
    ema = Ema(network, decay=0.08)
    kept, wanted = [1 / 21, 0.08], 1.0
    for n, value in enumerate((3.0, 7.0)):
        with torch.no_grad():
            network.weight.fill_(value)
            network.num_batches_tracked.fill_(n + 5)  # type: ignore[union-attr]
        ema.update(network, n + 1)
        wanted = kept[n] * wanted + (1 - kept[n]) * value
    assert ema.network.weight.item() == pytest.approx(wanted)  # type: ignore[operator]
    assert ema.network.num_batches_tracked.item() == 6  # type: ignore[operator]
    assert not ema.network.weight.requires_grad


@pytest.mark.parametrize("num_steps", [200, 1_000, 10_000])
def test_whenever_a_run_ends_the_average_holds_its_last_steps(num_steps: int) -> None:
    """The average of a weight that grows by one a step lags behind by about a twentieth of the run."""
    network = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(network)
    for n in range(1, num_steps + 1):
        with torch.no_grad():
            network.weight.fill_(n)
        ema.update(network, n)
    assert 0.02 * num_steps < num_steps - ema.network.weight.item() < 0.1 * num_steps  # type: ignore[operator]


def limited(size: int) -> Callable[[], None]:
    """No file of this process may grow longer, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_leaves_the_last_checkpoint_whole(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = shards(1)
    run(paths, tmp_path / "run", MeanColour(), epochs=1).train()
    last = tmp_path / "run" / "last.pt"
    before = last.read_bytes()
    told = json.dumps({"shards": [str(p) for p in paths], "folder": str(tmp_path / "run"), "task": {}, "settings": {"epochs": 2}})
    command = [sys.executable, "-m", "tests.training.tiny", told]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited(len(before) // 2))
    assert done.returncode != 0
    assert "make room and run again, it goes on from the last one" in done.stderr
    assert last.read_bytes() == before
    assert not list((tmp_path / "run").glob("*.partial"))
    run(paths, tmp_path / "run", MeanColour(), epochs=2).train()
    assert Checkpoint.load(last).progress.epoch == 2


def test_two_runs_never_share_a_folder(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is training in this folder"):
            run(shards(), tmp_path, MeanColour(), epochs=1).train()


def test_checkpoints_of_something_else_are_refused(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    paths = shards(2)
    run(paths[:1], tmp_path, MeanColour(), epochs=1).train()
    with pytest.raises(ValueError, match="trained on other data, seed or batch size"):
        run(paths, tmp_path, MeanColour())
    with pytest.raises(ValueError, match="trained on other data, seed or batch size"):
        run(paths[:1], tmp_path, MeanColour(), batch=4)
    with pytest.raises(ValueError, match=r"last.pt is of another network: \d+ shapes and 0 names differ, the first is 0.bias"):
        run(paths[:1], tmp_path, MeanColour(width=4))
    with pytest.raises(ValueError, match=r"is of another network: 0 shapes and 5 names differ"):
        run(paths[:1], tmp_path, MeanColour(norm=False))
    with pytest.raises(ValueError, match=r"last.pt was trained with image 416: name another folder, or train as then"):
        run(paths[:1], tmp_path, MeanColour(image=640))
    with pytest.raises(ValueError, match="holds a mean colour, not a detector"):
        Checkpoint.load(tmp_path / "last.pt", "detector")


def flipped(data: bytes) -> bytes:
    """One bit of the weights is another."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        record = max((r for r in archive.infolist() if "/data/" in r.filename), key=lambda r: r.file_size)
    damaged = bytearray(data)
    damaged[data.index(record.filename.encode()) + 300] ^= 1
    with zipfile.ZipFile(io.BytesIO(bytes(damaged))) as archive:
        assert archive.testzip()
    return bytes(damaged)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[: len(data) // 2], "cannot be read as a checkpoint"),
        (lambda data: b"", "is no checkpoint: name best.pt or last.pt of a training"),
        (lambda data: b"something else", "is no checkpoint: name best.pt or last.pt of a training"),
        (flipped, "cannot be read as a checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_named(
    shards: Callable[..., list[Path]], tmp_path: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    run(shards(1), tmp_path, MeanColour(), epochs=1).train()
    last = tmp_path / "last.pt"
    last.write_bytes(damage(last.read_bytes()))
    with pytest.raises(ValueError, match=rf"last.pt {told}"):
        run(shards(1), tmp_path, MeanColour())


def test_weights_are_all_or_nothing() -> None:
    network = torch.nn.Linear(2, 2)
    before = network.weight.clone()
    with pytest.raises(ValueError, match="0 shapes and 1 names differ, the first is bias"):
        load_weights(network, {"weight": torch.zeros(2, 2)}, Path("x.pt"))
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("name", ["epochs", "learning_rate", "clip_norm", "checkpoint_s", "patience", "max_minutes"])
def test_senseless_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"train.{name} must be more than 0"):
        TrainSettings(**{name: 0})  # type: ignore[arg-type]


def test_a_run_of_an_earlier_version_goes_on(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    """Files call the fields as the first version did, and the notes of such a run go on in one file."""
    run(shards(1), tmp_path, MeanColour(), epochs=1).train()
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert {"average", "rival"} <= saved.keys()
    assert not {"ema", "adversary"} & saved.keys()
    (tmp_path / "log.jsonl").rename(tmp_path / "journal.jsonl")
    run(shards(1), tmp_path, MeanColour(), epochs=2).train()
    assert [line["epoch"] for line in log(tmp_path) if "minutes" in line] == [1, 2]
