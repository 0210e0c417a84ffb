"""A plan holds numbers, not objects: what it says of its tasks is put together when it is asked, and is what it always was."""

import gc
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.scale.clips import manifest, recipe
from benchmarks.scale.planned import pretend
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.orders import Outcome
from pipeline.engine.plan.tasks import State, Task
from pipeline.engine.run import run
from pipeline.engine.store import Store
from stages.digest import fingerprint_of
from tests.engine import toy

BYTES_A_CLIP = 300
"""Of two tasks and a share of a video; 127 were measured, and more than 2,500 with an object a task."""
BYTES_A_LINE = 120
"""Of the ledger; 86 were measured."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A run of which one video is gone, one clip failed, and another one is to be made again."""
    root, stages, listed = tmp_path_factory.mktemp("run"), toy.recipe(raises="é b-0001"), toy.manifest("a", "é b", "gone")
    run(Graph(stages, listed, Store(root)).load(), Local(root, stages))
    (root / "reviews/a-0002.parquet").unlink()
    return Graph(stages, listed, Store(root)).load()


def test_every_fingerprint_is_the_sha256_of_the_whole_recipe(graph: Graph) -> None:
    assert len(graph.tasks) == 22
    for task in graph.tasks:
        made_from = {name: value for name, value in task.recipe.items() if name != "fingerprint"}
        assert task.fingerprint == task.recipe["fingerprint"] == fingerprint_of(made_from)
        assert made_from["upstream"] == {f"{need.table}/{need.key}": need.fingerprint for need in task.needs}
        if task.state is State.DONE:
            assert graph.store.made_by(task.table, task.key) == task.recipe


def test_tasks_need_those_of_their_own_clip_and_video(graph: Graph) -> None:
    names = {(graph.stages[task.stage].name, task.key): [(graph.stages[n.stage].name, n.key) for n in task.needs] for task in graph.tasks}
    assert names["fetch", "é b"] == []
    assert names["cut", "é b"] == [("fetch", "é b")]
    assert names["count", "é b-0003"] == [("cut", "é b")]
    assert names["after", "é b-0003"] == [("count", "é b-0003")]
    assert {graph.video_of(task) for task in graph.tasks if task.key.startswith("é b")} == {"é b"}


def test_counts_are_those_of_the_tasks(graph: Graph) -> None:
    for task in graph.tasks:
        told = task.reason if task.settled else str(task.why)
        assert graph.counts()[graph.stages[task.stage].name, task.state, told] > 0
    assert graph.counts().total() == graph.states().total() == graph.num_tasks.total() == len(graph.tasks)
    assert graph.num_settled.total() == len(graph.tasks) - len(graph.pending)
    assert [(task.key, str(task.why)) for task in graph.pending if task.key.startswith("a")] == [
        ("a-0002", "new"),
        ("a-0002", "upstream changed"),
    ]


def test_a_clip_list_that_is_damaged_while_a_run_goes_on_is_made_anew(tmp_path: Path) -> None:
    graph, told = Graph(toy.recipe(), toy.manifest("a"), Store(tmp_path)).load(), list[str]()

    def damage(task: Task, outcome: Outcome) -> None:
        told.append(task.key)
        if told == ["a", "a"]:
            (tmp_path / "clips/a.parquet").write_bytes(b"nothing")
            graph._contents.lists.clear()  # the lists of many videos were read since

    finish(graph, Where(local=True), on_outcome=damage)
    assert {task.state for task in graph.tasks} == {State.DONE}
    assert (told.count("a"), len(graph.tasks)) == (3, 10)


def test_memory_of_a_plan_grows_by_bytes_a_clip(tmp_path: Path) -> None:
    pretend(tmp_path, 1600)
    took = {num_clips: min(memory_of_plan(tmp_path, num_clips) for _ in range(2)) for num_clips in (800, 1600)}  # what else lives is noise
    assert (took[1600] - took[800]) / 800 < BYTES_A_CLIP
    known = Store(tmp_path).footers.ledger.known
    assert len(known) == 1600 * 2 + 1600 // 16 * 2
    assert known.nbytes / len(known) < BYTES_A_LINE


def memory_of_plan(root: Path, num_clips: int) -> int:
    """Bytes that a plan of the first clips of a folder of 1,600 holds, in Python and in Arrow."""
    gc.collect()
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    graph = Graph(recipe(1600), manifest(num_clips), Store(root)).load()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert (graph.pending, len(graph.tasks)) == ([], num_clips * 2 + num_clips // 16 * 2)
    return held
