"""A stage of two tables: its parts are one task, there together or made again, whenever a run is killed."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.plan.tasks import State, Why
from pipeline.engine.run import run
from pipeline.engine.store import Store
from stages.tables import Fits, Hands, RefusedHands
from tests.engine import toy

ROOT = Path(__file__).resolve().parents[2]
HANDS, REFUSED = "hands/a-0001.parquet", "refused_hands/a-0001.parquet"


def load(root: Path, stages: list[Any]) -> Graph:
    return Graph(stages, toy.manifest("a"), Store(root)).load()


def run_all(root: Path, stages: list[Any]) -> Graph:
    graph = load(root, stages)
    run(graph, Local(root, stages))
    return graph


def pending(graph: Graph) -> set[tuple[str, str, Why | None]]:
    return {(t.key, graph.stages[t.stage].name, t.why) for t in graph.pending}


def test_both_parts_carry_the_tasks_fingerprint_and_a_later_stage_reads_the_second(tmp_path: Path) -> None:
    graph = run_all(tmp_path, toy.sorting())
    store = Store(tmp_path)
    (task,) = (t for t in graph.tasks if t.key == "a-0001" and graph.stages[t.stage].name == "sort")
    for table, kind, num_rows in (("hands", Hands, 2), ("refused_hands", RefusedHands, 1), ("fits", Fits, 10)):
        assert len(store.read(kind, table, "a-0001")) == num_rows
    assert [(store.made_by(table, "a-0001") or {})["fingerprint"] for table in ("hands", "refused_hands")] == [task.fingerprint] * 2
    assert pending(load(tmp_path, toy.sorting())) == set()


@pytest.mark.parametrize("lost", [HANDS, REFUSED])
def test_losing_either_part_makes_the_task_again(tmp_path: Path, lost: str) -> None:
    (calls := tmp_path / "calls").mkdir()
    run_all(tmp_path / "data", toy.sorting(calls))
    before = len(toy.called(calls))
    (tmp_path / "data" / lost).unlink()
    again = {("a-0001", "sort", Why.NEW), ("a-0001", "after-sort", Why.UPSTREAM)}
    assert pending(load(tmp_path / "data", toy.sorting(calls))) == again
    run_all(tmp_path / "data", toy.sorting(calls))
    assert len(toy.called(calls)) == before + 1
    assert pending(load(tmp_path / "data", toy.sorting(calls))) == set()


KILL = """
import os, signal, sys
from pathlib import Path
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.run import run
from pipeline.engine.store import Store
from tests.engine import toy

rename, named = Path.replace, []

def rename_one_and_die(self, target):
    if Path(target).name == "a-0001.parquet" and Path(target).parent.name in ("hands", "refused_hands"):
        if named:
            os.kill(os.getpid(), signal.SIGKILL)
        named.append(target)
    return rename(self, target)

Path.replace = rename_one_and_die
root, stages = Path(sys.argv[1]), toy.sorting(factor=int(sys.argv[2]))
with Store(root).lock():
    run(Graph(stages, toy.manifest("a"), Store(root)).load(), Local(root, stages))
"""


@pytest.mark.parametrize("made_before", [False, True])
def test_a_kill_between_the_two_names_leaves_a_task_to_do_and_nothing_half(tmp_path: Path, made_before: bool) -> None:
    if made_before:
        run_all(tmp_path, toy.sorting(factor=1))
    killed = subprocess.run([sys.executable, "-c", KILL, tmp_path, "2"], env={"PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    there = [name for name in (HANDS, REFUSED) if (tmp_path / name).exists()]
    assert len(there) == (2 if made_before else 1), "one has its name, the other is what it was"
    stages = toy.sorting(factor=2)
    with Store(tmp_path).lock():
        assert not list(tmp_path.rglob("*.tmp"))
        graph = load(tmp_path, stages)
        why = Why.SETTINGS if made_before else Why.NEW
        assert ("a-0001", "sort", why) in pending(graph)
        run(graph, Local(tmp_path, stages))
    fingerprints = [(Store(tmp_path).made_by(table, "a-0001") or {})["fingerprint"] for table in ("hands", "refused_hands")]
    assert len(set(fingerprints)) == 1
    assert pending(load(tmp_path, stages)) == set()


def test_a_failure_is_one_error_file_and_blocks_what_reads_either_table(tmp_path: Path) -> None:
    graph = run_all(tmp_path, toy.sorting(refuses="a-0001"))
    states = {graph.stages[t.stage].name: t.state for t in graph.tasks if t.key == "a-0001"}
    assert (states["sort"], states["after-sort"]) == (State.FAILED, State.BLOCKED)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.error.json")] == ["hands/a-0001.error.json"]
    assert not any((tmp_path / name).exists() for name in (HANDS, REFUSED))
    assert pending(load(tmp_path, toy.sorting(refuses="a-0001"))) == set()
    (tmp_path / "hands/a-0001.error.json").unlink()
    run_all(tmp_path, toy.sorting())
    assert all((tmp_path / name).exists() for name in (HANDS, REFUSED))


def test_a_stage_that_reads_what_nobody_makes_is_refused_by_name(tmp_path: Path) -> None:
    fetch, cut, count, sort, after = toy.sorting()
    with pytest.raises(ValueError, match=r"^after-sort reads RefusedHands, which no stage before it in the recipe makes$"):
        load(tmp_path, [fetch, cut, count, after, sort])
