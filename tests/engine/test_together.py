"""Small items go to a worker together and their parts reach the disk at once; what fails is still one item's."""

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline.engine import durable
from pipeline.engine.durable import Writer
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local, Lost
from pipeline.engine.orders import Order, Receipt
from pipeline.engine.plan.seats import Seat
from pipeline.engine.run import Pace, Summary, run
from pipeline.engine.store import Store
from pipeline.engine.worker import Worker
from stages.digest import CorruptFileError
from tests.engine import toy


@dataclass(eq=False)
class Counting(Local):
    """Writes down how many orders it is given at once, by stage."""

    at_once: list[tuple[int, int]] = field(default_factory=list)

    def submit(self, seat: Seat, orders: Sequence[Order], limit_s: float) -> None:
        self.at_once.append((orders[0].stages[0], len(orders)))
        super().submit(seat, orders, limit_s)


def stages(**count: Any) -> list[Any]:
    fetch, _, *rest = toy.recipe(**count)
    return [fetch, toy.Cut(num_clips=40), *rest]


def run_in(root: Path, recipe: list[Any], executor: type[Local] = Counting) -> tuple[Summary, Any]:
    given = executor(root, recipe)
    return run(Graph(recipe, toy.manifest("a"), Store(root)).load(), given), given


def parts(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet")}


def ended(summary: Summary, stage: str) -> dict[str, int]:
    return {state: n for (name, state, _), n in summary.counts.items() if name == stage}


def test_small_items_of_tables_go_together_and_give_the_bytes_of_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    true_flush = durable.flush

    def flush(path: Path) -> None:
        flushed.append(path)
        true_flush(path)

    monkeypatch.setattr(durable, "flush", flush)
    _, together = run_in(tmp_path / "together", stages())
    at_once, num_flushed = {p: max(n for q, n in together.at_once if q == p) for p in range(3)}, len(flushed)
    assert at_once[0] == at_once[1] == 1  # of a video
    assert at_once[2] > 5  # with what follows on the same clip
    monkeypatch.setattr("pipeline.engine.run.TOGETHER_S", 0.0)
    _, alone = run_in(tmp_path / "alone", stages())
    assert {n for _, n in alone.at_once} == {1}
    assert parts(tmp_path / "together") == parts(tmp_path / "alone")
    assert len(parts(tmp_path / "alone")) == 2 + 2 * 40
    assert len(flushed) - num_flushed == 2 * (2 + 2 * 40)
    assert 2 + 2 * 40 < num_flushed < 1.6 * (2 + 2 * 40)  # every part still is, most folders with others


def test_a_part_that_cannot_be_flushed_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_flush = durable.flush

    def flush(path: Path) -> None:
        if path.name.startswith(".a-0023.parquet") and path.parent.name == "reviews":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        true_flush(path)

    monkeypatch.setattr(durable, "flush", flush)
    summary, executor = run_in(tmp_path, stages())
    assert max(n for _, n in executor.at_once) > 5
    assert ended(summary, "count") == {"done": 39, "retry": 1}
    error = Store(tmp_path).error("reviews", "a-0023")
    assert error is not None
    assert error.message.startswith("OSError: [Errno 5] Input/output error")
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_call_that_ends_before_its_first_receipt_is_begun_by_one_item_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that gave nothing back would be given again, and again."""
    whole = Worker._do

    def do(self: Worker, orders: Sequence[Order]) -> list[Receipt]:
        if self.store.together_now:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(self, orders)

    monkeypatch.setattr(Worker, "_do", do)
    summary, executor = run_in(tmp_path, stages(), Moving)
    assert max(n for _, n in executor.at_once) > 5
    assert ended(summary, "after") == {"done": 40}


@dataclass(eq=False)
class Moving(Counting):
    """Sees that each call brings something about."""

    def wait(self) -> list[tuple[Order, Receipt | Lost | None]]:
        found = super().wait()
        assert any(result for _, result in found)
        return found


class Reading(toy.After):
    """Finds a file of the folder damaged."""

    def build(self) -> Any:
        def read(reviews: Any) -> Any:
            raise CorruptFileError(Path(self.calls, "hands/a-0000.parquet"), "it was damaged")

        return read


def test_a_damaged_file_that_cannot_be_set_aside_is_one_items_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(store: Store, path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("pipeline.engine.worker.set_corrupt_aside", refused)
    summary, _ = run_in(tmp_path, [*stages()[:3], Reading(calls=str(tmp_path))])
    assert ended(summary, "count") == {"done": 40}
    assert ended(summary, "after") == {"retry": 40}


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_flush = durable.flush

    def flush(path: Path) -> None:
        if path.parent.name == "reviews" and path.name.startswith(".a-0023"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true_flush(path)

    monkeypatch.setattr(durable, "flush", flush)
    with pytest.raises(durable.StoreError, match=r"no room left in .*reviews"):
        run_in(tmp_path, stages())
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.setattr(durable, "flush", true_flush)
    summary, _ = run_in(tmp_path, stages())
    assert ended(summary, "after") == {"done": 40}


class Sleepy(toy.Count):
    """Quick until it is not."""

    def build(self) -> Any:
        count = toy.Count.build(self)

        def slow(clips: Any) -> Any:
            time.sleep(0.3 if str(clips.clip[0]) > "a-0020" else 0.0)
            return count(clips)

        return slow


def test_items_that_take_longer_than_was_thought_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.worker.TOGETHER_S", 0.1)
    fetch, cut, _, after = stages()
    summary, executor = run_in(tmp_path, [fetch, cut, Sleepy(), after])
    assert max(n for p, n in executor.at_once if p == 2) > 5
    assert sum(n for p, n in executor.at_once if p == 2) > 40  # some were asked for again
    assert ended(summary, "count") == ended(summary, "after") == {"done": 40}


class AtOnce(toy.Count):
    """Counts several clips in one call, and fails at one of them."""

    at_once = 8

    def build(self) -> Any:
        return Counted(toy.Count.build(self))


@dataclass
class Counted:
    one: Any
    several: list[list[str]] = field(default_factory=list)

    def __call__(self, clips: Any) -> Any:
        if str(clips.clip[0]) == "a-0023":
            raise ValueError("this clip cannot be counted")
        return self.one(clips)

    def many(self, items: Sequence[tuple[Any, ...]]) -> list[Any]:
        self.several.append([str(clips.clip[0]) for (clips,) in items])
        return [self(*item) for item in items]


def test_a_stage_is_given_several_items_in_one_call_and_one_that_fails_costs_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch, cut, count, after = stages()
    summary, executor = run_in(tmp_path / "at once", [fetch, cut, AtOnce(), after])
    several = executor.worker.functions[2].several
    assert max(map(len, several)) == 8
    assert max(n for p, n in executor.at_once if p == 2) >= 8
    assert ended(summary, "count") == {"done": 39, "retry": 1}
    error = Store(tmp_path / "at once").error("reviews", "a-0023")
    assert error is not None
    assert error.message == "ValueError: this clip cannot be counted"
    assert "items in one call failed (this clip cannot be counted), each is done alone" in caplog.text
    run_in(tmp_path / "alone", [fetch, cut, count, after])
    alone = {name: content for name, content in parts(tmp_path / "alone").items() if "a-0023" not in name}
    assert parts(tmp_path / "at once") == alone


def test_items_that_cost_less_together_go_so_where_one_takes_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is given what the stage does at once, though fewer fill the second: on a busy machine that would be one clip."""
    monkeypatch.setattr("pipeline.engine.run.TOGETHER_S", 0.45)

    def slow(self: Counted, clips: Any) -> Any:
        time.sleep(0.06)
        return self.one(clips)

    monkeypatch.setattr(Counted, "__call__", slow)
    fetch, cut, _, after = stages()
    _, executor = run_in(tmp_path, [fetch, cut, AtOnce(), after])
    assert max(n for p, n in executor.at_once if p == 2) == 8


@pytest.mark.parametrize(("seconds", "together"), [(1 / 15, 15), (1 / 16, 64), (1 / 90, 64), (1 / 100, 128)])
def test_a_call_of_a_quarter_of_a_bundle_and_more_is_whole_bundles(seconds: float, together: int, tmp_path: Path) -> None:
    """Calls hold whole bundles: the rest of one would be a small bundle, which the end of the run reads and writes anew."""
    graph = Graph(stages(), toy.manifest("a"), Store(tmp_path)).load()
    pace = Pace(graph)
    pace.seconds[graph.group_of(2)] = [seconds]
    assert pace.most_at_once(graph.group_of(2), 1000) == together


def test_a_block_that_ends_in_an_exception_names_nothing(tmp_path: Path) -> None:
    writer = Writer()
    (before := tmp_path / "before").touch()

    def begin() -> None:
        with writer.together():
            with writer.aside(tmp_path / "one") as temporary:
                temporary.write_text("1")
            writer.leave([before])
            assert not (tmp_path / "one").exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        begin()
    assert list(tmp_path.iterdir()) == [before], "nor does what it was to take the place of leave"
    with writer.aside(tmp_path / "two") as temporary:
        temporary.write_text("2")
    assert (tmp_path / "two").read_text() == "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads(toy.Count):
    """Counts the threads by which matrices are multiplied."""

    def build(self) -> Any:
        count = super(Threads, self).build()

        def counted(clips: Any) -> Any:
            threads = {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}
            assert threads == {1}, threads
            return count(clips)

        return counted


@pytest.mark.parametrize("num_clips", [1, 40])
def test_matrices_are_multiplied_by_one_thread_whatever_the_process_may_use(num_clips: int, tmp_path: Path) -> None:
    """Sums of another order end in other bits: a run in this process would not give the bytes of one on Ray."""
    fetch, *_ = toy.recipe()
    with threadpool_limits(2, "blas"):
        summary, _ = run_in(tmp_path, [fetch, toy.Cut(num_clips=num_clips), Threads()])
        assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {2}
    assert ended(summary, "count") == {"done": num_clips}
