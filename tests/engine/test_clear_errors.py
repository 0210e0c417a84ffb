"""What the engine refuses, and in which words."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.plan.tasks import State, Why
from pipeline.engine.run import run
from pipeline.engine.store import ErrorRecord, Store
from stages.detect_hands_mediapipe import DetectHands
from stages.detect_people_blazepose import DetectPeople
from stages.fuse_people import FusePeople
from tests.engine import toy


def load(root: Path, stages: list[Any], *videos: str) -> Graph:
    return Graph(stages, toy.manifest(*videos), Store(root)).load()


@pytest.mark.parametrize("change", ["a column less", "another type", "another version"])
def test_a_part_of_another_schema_is_made_again(tmp_path: Path, change: str) -> None:
    stages = toy.recipe()
    run(load(tmp_path, stages, "a"), Local(tmp_path, stages))
    part = tmp_path / "reviews/a-0002.parquet"
    table = pq.read_table(part)
    if change == "a column less":
        table = table.drop_columns(["quality"])
    elif change == "another type":
        table = table.set_column(2, "time_s", table["time_s"].cast(pa.float32()))
    else:
        table = table.replace_schema_metadata({**table.schema.metadata, b"schema_version": b"0"})
    pq.write_table(table, part)
    graph = load(tmp_path, stages, "a")
    assert {(t.key, stages[t.stage].name, t.why) for t in graph.pending} == {
        ("a-0002", "count", Why.CODE),
        ("a-0002", "after", Why.UPSTREAM),
    }
    run(graph, Local(tmp_path, stages))
    assert all(task.state is State.DONE for task in graph.tasks)
    assert load(tmp_path, stages, "a").pending == []


def test_a_failure_leaves_the_part_that_another_made_meanwhile(tmp_path: Path) -> None:
    stages = toy.recipe()
    graph = load(tmp_path, stages, "a")
    run(graph, Local(tmp_path, stages))
    task = next(task for task in graph.tasks if task.key == "a-0001")
    record = ErrorRecord(task.fingerprint, "exception", "a worker of a killed run, late", permanent=False, attempts=1)
    graph.store.fail("reviews", task.key, record)
    assert load(tmp_path, stages, "a").pending == []


def test_a_video_that_vanished_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    stages = [*toy.recipe()[:2], DetectPeople(), FusePeople(), DetectHands()]
    graph = Graph(stages, toy.manifest("a"), Store(tmp_path)).load()  # its path leads nowhere
    counts = run(graph, Local(tmp_path, stages)).counts
    assert counts["detect-people", State.RETRY, "exception"] == 4
    assert counts["detect-hands", State.BLOCKED, "upstream failed"] == 4
    error = Store(tmp_path).error("person_detections/blazepose", "a-0000")
    assert error is not None
    assert "FileNotFoundError" in error.message
