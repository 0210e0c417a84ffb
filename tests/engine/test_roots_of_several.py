"""A data folder in an object store and several processes: workers with mirrors of their own, drivers that are killed or stand still."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.engine.durable import MIRRORS
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.on_ray import OnRay
from pipeline.engine.plan.seats import seat_of
from pipeline.engine.plan.tasks import State
from pipeline.engine.roots.opening import opened
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.engine.verdicts import change_verdicts, read_verdicts
from stages.tables import Verdicts
from tests.engine import toy
from tests.engine.roots import on_another_machine, parts, run_at
from tests.object_store import ObjectStore

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import sys
from tests.engine import toy
from tests.engine.roots import run_at
run_at(sys.argv[1], "a", "b", stages=toy.recipe(sys.argv[2], waits_from="b-0001"))
"""


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


@pytest.fixture
def driver(store: ObjectStore, folder: str, tmp_path: Path, calls: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Starts a driver on another machine, whose lease lasts five seconds and which does not end, and waits until it has made some clips."""
    started = []

    def start() -> "subprocess.Popen[str]":
        environment = os.environ | {"WHIM_CACHE": str(tmp_path / "elsewhere"), "WHIM_LEASE_S": "5", "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", DRIVER, store.address(folder), str(calls)]
        process = subprocess.Popen(words, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        started.append(process)
        while sum(m == "PUT" and "/reviews/a-" in name for m, name in store.requests) < 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def test_a_driver_that_is_killed_has_a_successor_within_its_lease(
    store: ObjectStore, folder: str, tmp_path: Path, calls: Path, driver: Callable[[], "subprocess.Popen[str]"]
) -> None:
    run_at(tmp_path / "disk", "a", "b")
    driver().kill()
    start = time.monotonic()
    with Store(opened(store.address(folder))).lock():
        assert time.monotonic() - start < 60, "where nothing else is said, a lease lasts a minute"
    stored = {name for name in store.names(folder) if name.endswith(".parquet")}
    before = len(toy.called(calls))
    run_at(store.address(folder), "a", "b", stages=toy.recipe(calls))
    near = parts(tmp_path / "disk")
    assert {name: store.content(folder, name) for name in near} == near
    assert stored
    assert len(toy.called(calls)) - before == len(near.keys() - stored), "what is stored is not made again"


def test_a_driver_that_stood_still_beyond_its_lease_stops_and_writes_nothing(
    store: ObjectStore, folder: str, calls: Path, driver: Callable[[], "subprocess.Popen[str]"]
) -> None:
    first = driver()
    first.send_signal(signal.SIGSTOP)
    run_at(store.address(folder), "a", "b", stages=toy.recipe(calls))
    before = {name: store.content(folder, name) for name in store.names(folder)}
    (calls / "mended").touch()
    first.send_signal(signal.SIGCONT)
    said = first.communicate()[1]
    assert first.returncode == 1
    assert f"StoreError: s3://hands/{folder}: this run no longer holds it" in said
    assert {name: store.content(folder, name) for name in store.names(folder)} == before


def test_workers_with_a_mirror_of_their_own(
    store: ObjectStore, folder: str, tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    run_at(tmp_path / "disk", "a", "gone")
    store.fails_with(drop=19, lost=29, **{"503": 11})
    stages = toy.recipe(calls, raises="a-0003")
    with monkeypatch.context() as there:
        there.setenv("WHIM_CACHE", str(tmp_path / "elsewhere"))  # workers see what Ray saw when it started
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        here = Store(opened(store.address(folder)))
        with here.lock():
            graph = Graph(stages, toy.manifest("a", "gone"), here).load()
            counts = run(graph, OnRay(here.root, stages, [seat_of(stage) for stage in stages])).counts
            assert [task.key for task in graph.tasks if task.state is State.RETRY] == ["a-0003"], counts
            graph.reload()
            reasons = {(task.stage, task.key): task.reason for task in graph.pending}
            assert reasons[2, "a-0003"] == "exception", "the failure that a worker wrote down"
            again = toy.recipe(calls)
            graph = Graph(again, toy.manifest("a", "gone"), here).load()
            counts = run(graph, OnRay(here.root, again, [seat_of(stage) for stage in again])).counts
            assert {state for _, state, _ in counts} == {State.DONE, State.FAILED, State.BLOCKED}, counts
    finally:
        ray.shutdown()
    near = parts(tmp_path / "disk")
    assert {name: store.content(folder, name) for name in near} == near
    assert parts(here.root) == near, "the driver has seen them all"
    theirs = next((tmp_path / "elsewhere/roots").glob("*/"))
    assert (theirs / "reviews/a-0003.parquet").is_file()
    assert not [name for name in store.names(folder) if name.startswith("reviews/") and name.endswith(".error.json")]


def test_verdicts_of_two_machines_are_all_kept(store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Store(opened(store.address(folder)))

    numbers = itertools.count()

    def one_more(known: Verdicts) -> Verdicts:
        return Verdicts.concat([known, dataclasses.replace(toy.filled(Verdicts, 1), frame=np.array([next(numbers)]))])

    def while_another_decides(known: Verdicts) -> Verdicts:
        if len(known) == 1:
            mirrors = dict(MIRRORS)
            with monkeypatch.context() as patch:
                on_another_machine(patch, tmp_path / "other")
                change_verdicts(Store(opened(store.address(folder))), "a", one_more)
            MIRRORS.clear()
            MIRRORS.update(mirrors)
        return one_more(known)

    change_verdicts(here, "a", one_more)
    change_verdicts(here, "a", while_another_decides)
    assert len(read_verdicts(here, "a")) == 3
    lost: list[str] = []
    store.fault = lambda number, method, name: "lost" if method == "PUT" and not lost and not lost.append(name) else ""  # type: ignore[func-returns-value]
    change_verdicts(here, "a", one_more)
    assert lost == [f"{folder}/verdicts/a.parquet"]
    assert len(read_verdicts(here, "a")) == 4, "once, though the answer was lost"
