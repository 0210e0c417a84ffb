"""The engine's promises, in process: resume, exactly once, quarantine, limits, a plan that says why."""

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.durable import StoreError
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.orders import Order
from pipeline.engine.plan.tasks import State, Why
from pipeline.engine.run import Pace, Summary, run
from pipeline.engine.stopping import stops_by_sigterm
from pipeline.engine.store import Store
from stages.stage import Failure, MissingVideoError, Reason
from stages.tables import Clips, Reviews
from tests.engine import toy


def load(root: Path, stages: list[Any], *videos: str) -> Graph:
    return Graph(stages, toy.manifest(*videos), Store(root)).load()


def run_local(root: Path, stages: list[Any], *videos: str) -> Summary:
    graph = load(root, stages, *videos)
    return run(graph, Local(root, stages))


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def test_a_second_run_does_nothing(tmp_path: Path, calls: Path) -> None:
    stages = toy.recipe(calls)
    first = run_local(tmp_path / "data", stages, "a", "b")
    assert toy.states(first) == {("fetch", "done"): 2, ("cut", "done"): 2, ("count", "done"): 8, ("after", "done"): 8}
    before = toy.called(calls)
    assert load(tmp_path / "data", stages, "a", "b").pending == []
    run_local(tmp_path / "data", stages, "a", "b")
    assert toy.called(calls) == before


def test_deleting_one_part_recomputes_it_and_what_depends_on_it(tmp_path: Path, calls: Path) -> None:
    stages = toy.recipe(calls)
    run_local(tmp_path / "data", stages, "a", "b")
    (tmp_path / "data/reviews/a-0002.parquet").unlink()
    pending = {(t.key, stages[t.stage].name, t.why) for t in load(tmp_path / "data", stages, "a", "b").pending}
    assert pending == {("a-0002", "count", Why.NEW), ("a-0002", "after", Why.UPSTREAM)}
    for file in calls.iterdir():
        file.unlink()
    run_local(tmp_path / "data", stages, "a", "b")
    assert toy.called(calls) == ["after.a-1000", "count.a-0002"]


def test_a_changed_setting_recomputes_its_stage_and_the_later_ones_only(tmp_path: Path) -> None:
    run_local(tmp_path, toy.recipe(), "a")
    stages = [*toy.recipe()[:-1], toy.After(factor=2)]
    assert {(stages[t.stage].name, t.why) for t in load(tmp_path, stages, "a").pending} == {("after", Why.SETTINGS)}
    stages = toy.recipe(offset=1)
    assert {(stages[t.stage].name, t.why) for t in load(tmp_path, stages, "a").pending} == {
        ("count", Why.SETTINGS),
        ("after", Why.UPSTREAM),
    }
    assert load(tmp_path, toy.recipe(raises="c"), "a").pending == []  # a field that does not decide the result


def test_a_changed_code_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_local(tmp_path, toy.recipe(), "a")
    monkeypatch.setattr(toy.Count, "version", 2)
    stages = toy.recipe()
    assert {(stages[t.stage].name, t.why) for t in load(tmp_path, stages, "a").pending} == {("count", Why.CODE), ("after", Why.UPSTREAM)}


def test_a_refused_video_blocks_only_what_needs_it(tmp_path: Path) -> None:
    summary = run_local(tmp_path, toy.recipe(), "gone1", "b")
    assert toy.states(summary)["fetch", "failed"] == 1
    assert toy.states(summary)["cut", "blocked"] == 1
    assert toy.states(summary)["after", "done"] == 4
    again = load(tmp_path, toy.recipe(), "gone1", "b")
    assert again.pending == []
    assert [t.reason for t in again.tasks if t.state is State.FAILED] == ["gone"]


def test_a_transient_failure_is_tried_again_by_the_next_run(tmp_path: Path, calls: Path) -> None:
    stages = toy.recipe(calls)
    assert toy.states(run_local(tmp_path / "data", stages, "flaky"))["fetch", "retry"] == 1
    pending = load(tmp_path / "data", stages, "flaky").pending
    assert [(t.key, t.why) for t in pending if stages[t.stage].name == "fetch"] == [("flaky", Why.RETRY)]
    (calls / "mended").touch()
    assert toy.states(run_local(tmp_path / "data", stages, "flaky"))["after", "done"] == 4


def test_an_exception_is_kept_with_its_traceback_and_the_rest_goes_on(tmp_path: Path) -> None:
    summary = run_local(tmp_path, toy.recipe(raises="a-0001"), "a")
    assert toy.states(summary)["count", "done"] == 3
    assert toy.states(summary)["count", "retry"] == 1
    error = Store(tmp_path).error("reviews", "a-0001")
    assert error is not None
    assert error.reason == "exception"
    assert "RuntimeError: a bug" in error.message
    assert "toy.py" in error.traceback
    assert error.where.endswith(f", pid {os.getpid()}")


def test_a_video_that_is_not_there_is_no_error_of_ours(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Looking(toy.Count):
        def build(self) -> Callable[..., Any]:
            def look(clips: Clips) -> Reviews:
                raise MissingVideoError(f"{clips.video[0]}.mp4 is not there: put it back")

            return look

    summary = run_local(tmp_path, [toy.Fetch(), toy.Cut(num_clips=1), Looking()], "a")
    assert summary.counts["count", State.RETRY, "file_missing"] == 1
    error = Store(tmp_path).error("reviews", "a-0000")
    assert error is not None
    assert error.message == "a.mp4 is not there: put it back"


def test_a_hanging_item_is_ended_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run_local(tmp_path, toy.hanging(monkeypatch), "a")
    assert (toy.states(summary)["count", "failed"], toy.states(summary)["count", "done"]) == (1, 1)


def test_a_run_that_is_to_stop_ends_what_it_is_at_begins_nothing_new_and_the_next_one_goes_on(tmp_path: Path) -> None:
    stages, ended = toy.recipe(), []
    graph = load(tmp_path, stages, "a")
    with stops_by_sigterm() as stopping:

        def ask(task: Any, outcome: Any) -> None:
            ended.append(task.key)
            if len(ended) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        run(graph, Local(tmp_path, stages), on_outcome=ask, stopping=stopping)
        assert ended == ["a", "a", "a-0000", "a-0000"]  # a clip goes through both of its stages at once
        assert graph.pending
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert set(toy.states(run_local(tmp_path, stages, "a"))) == {(stage.name, "done") for stage in stages}
    assert len(list((tmp_path / "runs").iterdir())) >= 1


def test_what_takes_many_times_as_long_as_others_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = load(tmp_path, toy.recipe(), "a")
    stragglers, executor = Pace(graph), Local(tmp_path, toy.recipe())
    stragglers.seconds[2] = [1.0, 2.0, 3.0]
    orders = {"a-0000": 9.0, "a-0001": 31.0}
    executor.at_work = lambda: [(Order(key, (2,), ({},), "a"), s, "on here, pid 1") for key, s in orders.items()]  # type: ignore[method-assign]
    for _ in range(2):
        stragglers.at = 0.0
        stragglers.tell(executor)
    assert [record.getMessage() for record in caplog.records] == ["count a-0001 has taken 31 s where 2.0 s is usual, on here, pid 1"]


def test_a_part_that_is_reported_and_does_not_lie_in_the_folder_is_not_believed(tmp_path: Path) -> None:
    here, elsewhere, stages = tmp_path / "here", tmp_path / "elsewhere", toy.recipe()
    graph, told = load(here, stages, "a"), []
    worker = Local(elsewhere, stages)  # as on a node where another folder has the path of ours
    summary = run(graph, worker, on_outcome=lambda task, outcome: told.append((outcome.state, outcome.reason, outcome.message)))
    assert (elsewhere / "videos/a.parquet").is_file()
    assert told == [(State.RETRY, "exception", f"reported done, but its part is not in {here}: does that node see the same folder?")]
    assert toy.states(summary) == {("fetch", "retry"): 1, ("cut", "blocked"): 1}
    assert (summary.num_made, summary.found_other) == (0, True)


def test_two_drivers_never_share_a_folder(tmp_path: Path) -> None:
    with Store(tmp_path).lock():
        other = Store(tmp_path)
        with pytest.raises(StoreError, match=f"in use by pid {os.getpid()}"), other.lock():
            pass
    with Store(tmp_path).lock():  # free again
        assert (tmp_path / ".lock").exists()


def test_who_only_feels_for_the_lock_keeps_no_driver_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`whim status --watch` holds it for an instant: a run that began in that very one was refused."""
    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open("rb") as watcher:
        fcntl.flock(watcher, fcntl.LOCK_SH)
        monkeypatch.setattr("pipeline.engine.files.data_folder.time.sleep", lambda _: fcntl.flock(watcher, fcntl.LOCK_UN))
        with Store(tmp_path).lock(), pytest.raises(BlockingIOError):
            fcntl.flock(watcher, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_folder_that_cannot_be_locked_is_not_told_as_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("pipeline.engine.files.data_folder.fcntl.flock", refuse)
    with pytest.raises(StoreError, match="cannot be locked: No locks available"), Store(tmp_path).lock():
        pass


def test_a_dead_driver_does_not_hold_the_lock(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from pipeline.engine.store import Store
with Store(Path({str(tmp_path)!r})).lock():
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        driver.kill()
    with Store(tmp_path).lock():
        assert Store(tmp_path).read_json("nothing") is None


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write to the data folder"), Store(tmp_path / "file" / "data").lock():
        pass
    with pytest.raises(StoreError, match="file: it is a file; choose another with --data"), Store(tmp_path / "file").lock():
        pass


def test_a_table_of_another_version_is_made_again(tmp_path: Path) -> None:
    run_local(tmp_path, toy.recipe(), "a")
    (tmp_path / "reviews/a-0000.parquet").write_bytes(b"not parquet at all")
    graph = load(tmp_path, toy.recipe(), "a")
    assert {t.key for t in graph.pending} == {"a-0000"}
    assert toy.states(run(graph, Local(tmp_path, graph.stages)))["after", "done"] == 4


def test_the_peak_of_a_process_is_its_own_and_not_that_of_whoever_started_it() -> None:
    ballast = b"\1" * (1 << 30)
    program = "from pipeline.engine.nodes.memory import peak_mb; print(peak_mb())"
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert 5 < float(told) < 900
    assert len(ballast) == 1 << 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Alike(toy.Fetch):
    """Videos of one content."""

    def build(self) -> Callable[..., Any]:
        fetch = toy.Fetch.build(self)

        def alike(row: Any) -> Any:
            found = fetch(row)
            return found if isinstance(found, Failure) else dataclasses.replace(found, sha256=toy.text("0" * 64))

        return alike


def test_what_is_left_for_the_next_run_is_not_tried_again_by_this_one(tmp_path: Path) -> None:
    """A run that found videos of one content planned anew, and asked the sites that had refused it once more."""
    (calls := tmp_path / "calls").mkdir()
    stages = [Alike(calls=str(calls)), *toy.recipe(calls)[1:]]
    graph = Graph(stages, toy.manifest("a", "b", "flaky"), Store(tmp_path / "data")).load()
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
    assert graph.duplicates == {"b": "a"}
    assert toy.called(calls).count("fetch.flaky") == 1
    assert {task.key: task.reason for task in graph.in_state(State.RETRY)} == {"flaky": Reason.TRANSIENT}
    (calls / "mended").touch()
    finish(graph.reload(), Where(local=True), on_outcome=lambda task, outcome: None)
    assert not graph.in_state(State.RETRY, State.FAILED, State.PENDING)
