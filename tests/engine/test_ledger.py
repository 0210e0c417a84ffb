"""The ledger saves a plan the reading of footers, and decides nothing: a plan with it is the plan without it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.plan.tasks import Why
from pipeline.engine.store import Store
from pipeline.engine.verify import verify
from stages.tables import Reviews, Videos
from tests.engine import toy

Footers = Callable[[], list[str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    finish(plan(root, "a", "b"), Where(local=True), on_outcome=lambda task, outcome: None)
    return root


@pytest.fixture
def footers(monkeypatch: pytest.MonkeyPatch) -> Footers:
    """Names of the parts whose footers were read since it was asked last."""
    read, real = list[str](), pq.read_schema

    def read_schema(path: Path, *rest: Any) -> Any:
        read.append(f"{Path(path).parent.name}/{Path(path).stem}")
        return real(path, *rest)

    def since() -> list[str]:
        found = read.copy()
        read.clear()
        return found

    monkeypatch.setattr(pq, "read_schema", read_schema)
    return since


def plan(root: Path, *videos: str, **count: Any) -> Graph:
    return Graph(toy.recipe(**count), toy.manifest(*videos), Store(root)).load()


def pending(graph: Graph) -> set[tuple[str, str, Why | None]]:
    return {(graph.stages[task.stage].name, task.key, task.why) for task in graph.pending}


def test_a_plan_reads_no_footer_that_the_ledger_knows(data: Path, footers: Footers) -> None:
    graph = plan(data, "a", "b")
    assert (graph.pending, len(graph.tasks), footers()) == ([], 20, [])
    assert (data / "ledger.parquet").is_file()
    (data / "ledger.parquet").unlink()  # a folder made before there was one
    assert plan(data, "a", "b").pending == []
    assert len(footers()) == 20


def test_a_part_that_is_replaced_or_gone_is_noticed(data: Path, footers: Footers) -> None:
    store = Store(data)
    part, other = store.part("reviews", "a-0001"), store.part("reviews", "a-0002")
    before = part.stat()
    part.unlink()
    assert ("count", "a-0001", Why.NEW) in pending(plan(data, "a", "b"))
    part.write_bytes(other.read_bytes())  # of the same length and time, made from something else
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert part.stat().st_size == before.st_size
    footers()
    assert ("count", "a-0001", Why.UPSTREAM) in pending(plan(data, "a", "b"))
    assert set(footers()) == {"reviews/a-0001"}
    part.write_bytes(b"cut short")
    assert ("count", "a-0001", Why.NEW) in pending(plan(data, "a", "b"))


def test_settings_that_changed_are_noticed(data: Path) -> None:
    graph = plan(data, "a", "b", offset=1)
    assert {(graph.stages[task.stage].name, task.why) for task in graph.pending} == {("count", Why.SETTINGS), ("after", Why.UPSTREAM)}


def test_a_damaged_ledger_costs_time_alone_and_is_named(data: Path, footers: Footers) -> None:
    ledger = data / "ledger.parquet"
    Store(data).write_json("run.json", {"recipe": "whim", "videos": "/videos"})
    lines = pq.read_table(ledger)
    spoilt = pa.array([0, *lines["size_bytes"].to_pylist()[1:]], pa.int64())
    place = lines.schema.get_field_index("size_bytes")
    pq.write_table(lines.set_column(place, lines.schema.field(place), spoilt), ledger)  # it no longer is what its digest says
    assert verify(data).corrupt.keys() == {"ledger.parquet"}
    graph = plan(data, "a", "b")
    assert (graph.pending, len(footers())) == ([], 20)
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
    assert verify(data).corrupt == {}
    footers()
    assert (plan(data, "a", "b").pending, footers()) == ([], [])


def test_a_ledger_that_cannot_be_written_ends_no_run(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = data / "ledger.parquet"
    ledger.unlink()
    ledger.mkdir()
    graph = plan(data, "a", "b", offset=1)
    assert len(graph.pending) > 0
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
    assert plan(data, "a", "b", offset=1).pending == []
    assert all(str(ledger) in record.getMessage() and "\n" not in record.getMessage() for record in caplog.records)
    assert caplog.records


def test_parts_of_a_driver_that_died_are_taken_in_and_earlier_lines_stay(data: Path, footers: Footers) -> None:
    (data / "ledger.parquet").rename(data / "kept")
    finish(plan(data, "a", "b", offset=1), Where(local=True), on_outcome=lambda task, outcome: None)
    (data / "kept").rename(data / "ledger.parquet")  # as if the driver had died before it wrote its own
    footers()
    graph = plan(data, "a", "b", offset=1)
    assert (graph.pending, len(footers())) == ([], 16)
    graph.remember()
    assert (plan(data, "a", "b", offset=1).pending, footers()) == ([], [])
    lines = pq.read_table(data / "ledger.parquet")
    assert len(lines) == 20
    assert len(set(zip(lines["table"].to_pylist(), lines["key"].to_pylist(), strict=True))) == 20


def test_a_line_of_another_schema_stands_for_nothing(data: Path, footers: Footers) -> None:
    store = Store(data)
    narrower = Reviews.schema().remove(0)
    assert store.footers.fingerprint("reviews", "a-0001", narrower)
    assert footers() == ["reviews/a-0001"]
    assert store.footers.fingerprint("reviews", "a-0001", Reviews.schema().append(narrower.field("frame").with_name("new"))) == ""


def test_lines_name_the_columns_that_a_part_lacks(data: Path) -> None:
    store, part = Store(data), Store(data).part("videos", "a")
    assert not store.footers.lacks("videos", "a", Videos.schema(), ["camera"])
    table = pq.read_table(part)
    kept = {key: value for key, value in table.schema.metadata.items() if key != b"digest"}
    pq.write_table(table.drop_columns(["camera"]).replace_schema_metadata(kept), part)
    for again in (store, Store(data)):
        assert again.footers.lacks("videos", "a", Videos.schema(), ["camera"])
        assert not again.footers.lacks("videos", "a", Videos.schema(), ["extra"])
