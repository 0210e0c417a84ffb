"""Runs on Ray whose workers die, hang and are killed, or work in environments of their own.

One Ray serves all of these tests: to start one takes 14 s of the processor.
"""

import contextlib
import dataclasses
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.nodes.on_ray import NoWorkers, OnRay
from pipeline.engine.orders import Order
from pipeline.engine.plan.seats import Seat, seat_of
from pipeline.engine.plan.tasks import State
from pipeline.engine.run import Summary, run
from pipeline.engine.store import Store
from stages.stage import Resources
from stages.tables import Reviews
from tests.engine import toy


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def on_ray(root: Path, stages: list[Any]) -> OnRay:
    return OnRay(root, stages, [seat_of(stage) for stage in stages])


def run_on_ray(root: Path, stages: list[Any], *videos: str) -> Summary:
    return run(Graph(stages, toy.manifest(*videos), Store(root)).load(), on_ray(root, stages))


@pytest.mark.usefixtures("ray_here")
def test_a_clip_that_kills_its_worker_is_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    stages = toy.recipe(segfaults="a-0001")
    summary = run_on_ray(tmp_path, stages, "a")
    counts = toy.states(summary)
    assert (counts["count", "done"], counts["count", "failed"]) == (3, 1)
    assert (counts["after", "done"], counts["after", "blocked"]) == (3, 1)
    error = Store(tmp_path).error("reviews", "a-0001")
    assert error is not None
    assert (error.reason, error.permanent) == ("worker_died", True)
    assert re.fullmatch(r"on \S+, pid \d+, log /\S+/worker-\S+\.err", error.where)


@pytest.mark.usefixtures("ray_here")
def test_a_hanging_worker_is_killed_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run_on_ray(tmp_path, toy.hanging(monkeypatch), "a")
    assert (toy.states(summary)["count", "failed"], toy.states(summary)["after", "done"]) == (1, 1)
    assert Store(tmp_path).error("reviews", "a-0001").reason == "timeout"  # type: ignore[union-attr]


@pytest.mark.usefixtures("ray_here")
def test_killed_workers_lose_and_double_nothing(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    for stage in (toy.ToyStage, toy.Count):  # kills from outside are not the item's fault, however many fall on one
        monkeypatch.setattr(stage, "resources", dataclasses.replace(stage.resources, attempts=100))
    stages = toy.recipe(calls, waits_from="a")
    killed: list[int] = []
    over = threading.Event()

    def kill_workers() -> None:
        until = time.monotonic() + 1800
        while len(killed) < 4 and time.monotonic() < until and not over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # gone between two lines
                    if process.pid not in killed and "Worker.do" in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(process.pid)
                        break
        (calls / "mended").touch()

    killer = threading.Thread(target=kill_workers)
    killer.start()
    try:
        summary = run_on_ray(tmp_path / "data", stages, "a", "b", "c")
    finally:
        over.set()
        killer.join()
    assert len(killed) == 4
    assert toy.states(summary)["after", "done"] == 12
    rows = [Store(tmp_path / "data").read(Reviews, "reviews", f"{v}-{c:04d}").frame.tolist() for v in "abc" for c in range(4)]
    assert rows == [[c * 500, c * 500 + 1, c * 500 + 2] for _ in "abc" for c in range(4)]


@dataclasses.dataclass(eq=False)
class CountingOnRay(OnRay):
    """Knows how many orders it was given at once at most."""

    most: int = 0

    def submit(self, seat: Seat, orders: Sequence[Order], limit_s: float) -> None:
        self.most = max(self.most, len(orders))
        super().submit(seat, orders, limit_s)


@pytest.mark.usefixtures("ray_here")
def test_an_item_that_kills_its_worker_takes_none_of_those_beside_it(tmp_path: Path) -> None:
    recipe: list[Any] = [toy.Fetch(), toy.Cut(num_clips=40), toy.Count(segfaults="a-0023"), toy.After()]
    graph = Graph(recipe, toy.manifest("a"), Store(tmp_path)).load()
    executor = CountingOnRay(tmp_path, recipe, graph.seats)
    counts = toy.states(run(graph, executor))
    assert executor.most > 1
    assert (counts["count", "done"], counts["count", "failed"]) == (39, 1)


@pytest.mark.usefixtures("ray_here")
def test_a_stage_that_asks_for_a_gpu_without_one_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Count, "resources", Resources(gpus=0.5))
    with pytest.raises(ValueError, match=r"asks for 0\.5 GPU a worker and the cluster has fewer"):
        on_ray(tmp_path, toy.recipe())


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A recipe whose stage `count` works in .env-other."""
    monkeypatch.setenv("WHIM_ENVIRONMENTS", str(tmp_path))
    monkeypatch.setattr(toy.Count, "resources", Resources(environment="other"))
    return toy.recipe()


def make_environment(folder: Path, script: str) -> None:
    """An environment whose Python is a shell script; $PYTHON is ours."""
    python = folder / ".env-other" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nPYTHON={sys.executable}\n{script}\n")
    python.chmod(0o755)


@pytest.mark.usefixtures("ray_here")
def test_a_stage_of_another_environment_works_by_its_python_beside_the_others(tmp_path: Path, stages: list[Any]) -> None:
    make_environment(tmp_path, f'echo "$@" >> {tmp_path}/started\nexec $PYTHON "$@"')
    graph = Graph(stages, toy.manifest("a", "b"), Store(tmp_path / "data")).load()
    run(graph, on_ray(tmp_path / "data", stages))
    assert all(task.state is State.DONE for task in graph.tasks)
    probe, *workers = (tmp_path / "started").read_text().splitlines()
    assert probe.startswith("-P -c "), "no module of the current folder is run"
    assert [Path(line.split()[0]).name for line in workers] == ["default_worker.py"]


def test_a_missing_environment_is_named_with_what_makes_it(tmp_path: Path, stages: list[Any]) -> None:
    with pytest.raises(ValueError, match=rf"^count needs \.env-other, which is not in {tmp_path}: make env-other$"):
        on_ray(tmp_path, stages)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo 3.11.0 1.13.0", r"has Python 3\.11\.0 and Ray 1\.13\.0, not"),
        (
            "exec $PYTHON -S -c 'import ray'",
            r"cannot run this code \(ModuleNotFoundError: No module named 'ray'\): remove it, then make env-other",
        ),
        ("exit 3", r"cannot run this code \(it does not say why\)"),
    ],
    ids=["another Ray", "no Ray", "broken"],
)
def test_an_environment_that_cannot_work_with_ours_says_why(tmp_path: Path, stages: list[Any], script: str, complaint: str) -> None:
    make_environment(tmp_path, script)
    with pytest.raises(ValueError, match=complaint):
        on_ray(tmp_path, stages)


def test_a_run_in_one_process_enters_no_environment(tmp_path: Path, stages: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"needs \.env-other, which a run in one process cannot enter: leave --local out"):
        Local(tmp_path, stages)


@pytest.mark.usefixtures("ray_here")
def test_workers_that_die_as_they_start_end_the_run_with_their_last_words(tmp_path: Path, stages: list[Any]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "jaxtyping.py").write_text("raise ImportError('half an environment')")
    make_environment(tmp_path, f'[ "$1" = -P ] || export PYTHONPATH={tmp_path}/broken\nexec $PYTHON "$@"')
    graph = Graph(stages, toy.manifest("a"), Store(tmp_path / "data")).load()
    with pytest.raises(NoWorkers, match=r"(?s)three workers in \.env-other died as they started.*half an environment"):
        run(graph, on_ray(tmp_path / "data", stages))


@pytest.mark.usefixtures("ray_here")
def test_too_few_cpus_for_every_kind_of_worker_is_an_error(tmp_path: Path, stages: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Count, "resources", Resources(cpus=2, environment="other"))
    make_environment(tmp_path, 'exec $PYTHON "$@"')
    with pytest.raises(ValueError, match="takes 3 CPUs, and the cluster has 2"):
        on_ray(tmp_path, stages)
