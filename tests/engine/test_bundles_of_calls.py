"""Parts of one call come into one file a table: none is lost or counted twice, whatever ends it, and readers see no difference."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.engine.bundles.bundle import Bundle, write_bundle
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.files.footers import Footers
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.store import Store
from pipeline.engine.verify import verify, verify_files
from tests.engine import toy
from tests.engine.test_bundles import bundles, contents, loose

NUM_CLIPS = 40


def plan(root: Path, **count: Any) -> Graph:
    fetch, _, *rest = toy.recipe(**count)
    return Graph([fetch, toy.Cut(num_clips=NUM_CLIPS), *rest], toy.manifest("a"), Store(root)).load()


def end(root: Path, most_loose: int = 4, **count: Any) -> None:
    graph = plan(root, **count)
    with graph.store.lock(), pytest.MonkeyPatch.context() as patched:
        for module in ("run", "worker"):  # all clips but the first go together, however busy the machine is
            patched.setattr(f"pipeline.engine.{module}.TOGETHER_S", 1000.0)
        finish(graph, Where(local=True), on_outcome=lambda task, outcome: None, most_loose=most_loose)
    assert plan(root, **count).pending == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of these clips with a file for each part."""
    root = tmp_path_factory.mktemp("alone") / "data"
    end(root, most_loose=1000)
    assert bundles(root, "reviews") == []
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    end(root)
    Store(root).write_json("run.json", {"recipe": "whim", "videos": "/videos"})
    return root


def held(root: Path, table: str) -> list[str]:
    return sorted(part.key for path in bundles(root, table) for part in Bundle.open(path).parts)


def test_a_call_writes_one_file_a_table_and_the_parts_are_those_of_files_of_their_own(data: Path, alone: Path) -> None:
    assert contents(data) == contents(alone)
    assert verify(data).corrupt == {}
    for table in ("reviews", "hands"):
        assert [len(Bundle.open(path).parts) for path in bundles(data, table)] == [NUM_CLIPS - 1, 1]  # nobody knew how long one takes
    lines = [json.loads(line) for log in (data / "runs").iterdir() for line in log.read_text().splitlines()]
    told = {(table, name) for line in lines for table, name in line["bundles"].items()}
    assert told == {(table, bundles(data, table)[0].name) for table in ("reviews", "hands")}


def test_no_part_is_moved_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker put into a bundle the driver reads once, by its footer."""
    read: list[str] = []
    real = Bundle.read

    def noted(self: Bundle, group: int, columns: Any = None) -> Any:
        read.append(self.parts[group].key)
        return real(self, group, columns)

    monkeypatch.setattr(Bundle, "read", noted)
    end(tmp_path)
    assert set(read) == {"a-0000"}  # that was alone, and comes into a bundle at the end


KILLS = {
    "no bundle is whole": ("pipeline.engine.store", "write_bundle", "before"),
    "one is written aside": ("pipeline.engine.store", "write_bundle", "after"),
    "all have their names and nobody knows of them": ("pipeline.engine.bundles.all_bundles.AllBundles", "take_in", "before"),
    "one is counted, the other not": ("pipeline.engine.bundles.all_bundles.AllBundles", "take_in", "after"),
}


@pytest.mark.parametrize("kill", KILLS)
def test_a_kill_between_file_and_ledger_loses_and_doubles_nothing(tmp_path: Path, alone: Path, kill: str) -> None:
    owner, name, when = KILLS[kill]
    root = tmp_path / "data"
    program = f"""
        import os, signal
        from pathlib import Path
        from pydoc import locate
        from tests.engine.test_bundles_of_calls import end
        owner = locate({owner!r})
        real = getattr(owner, {name!r})
        def killed(*args, **kwargs):
            if {when!r} == "after":
                real(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(owner, {name!r}, killed)
        end(Path({str(root)!r}))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    there = held(root, "reviews")
    assert len(there) == (NUM_CLIPS - 1 if name == "take_in" else 0)
    assert bool(list(root.rglob("*.tmp"))) is (name == "write_bundle")
    assert contents(root).items() <= contents(alone).items()
    assert len(plan(root).pending) == 2 * (NUM_CLIPS - 1) * (name == "write_bundle")
    end(root)
    assert contents(root) == contents(alone)
    assert sorted({*held(root, "reviews"), *(one.split("/")[1] for one in loose(root) if one.startswith("reviews"))}) == sorted(
        key for table, key in contents(alone) if table == "reviews"
    )
    assert list(root.rglob("*.tmp")) == []
    assert verify_files(root, [path for table in ("reviews", "hands") for path in bundles(root, table)]).corrupt == {}


def test_a_clip_that_is_removed_leaves_the_others_of_its_bundle(data: Path) -> None:
    before, key = contents(data), held(data, "reviews")[7]
    with Store(data).lock():
        store = Store(data)
        assert Compaction(store).leave("reviews", lambda one: one == key) == [key]
        store.footers.write_ledger()
    assert contents(data) == {one: said for one, said in before.items() if one != ("reviews", key)}
    assert verify(data).corrupt == {}


def test_parts_that_are_made_again_win_over_earlier_bundles_and_over_files_of_their_own(data: Path, alone: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    end(again, most_loose=1000, offset=7)
    wanted = contents(again)
    end(data, offset=7)
    assert contents(data) == wanted != contents(alone)
    end(again)  # into bundles, by the driver
    end(again, most_loose=1000, offset=9)  # files of their own beside them
    end(again, offset=7)
    assert contents(again) == wanted
    (data / "ledger.parquet").unlink()
    assert contents(data) == wanted
    assert plan(data, offset=7).pending == []


def test_a_worker_reads_where_the_driver_says_and_opens_no_ledger(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in bundles(data, "hands"):
        path.unlink()
    graph = plan(data)
    assert {graph.stages[task.stage].name for task in graph.pending} == {"after"}
    opened: list[Path] = []

    class Counted(Footers):
        @property
        def ledger(self) -> Any:
            opened.append(self.store.root)
            return Store(self.store.root).footers.ledger

    class Watched(Store):
        def __init__(self, root: Path) -> None:
            super().__init__(root)
            self.footers = Counted(self)

    monkeypatch.setattr("pipeline.engine.worker.Store", Watched)
    with graph.store.lock():
        finish(graph, Where(local=True), on_outcome=lambda task, outcome: None, most_loose=4)
    assert plan(data).pending == []
    assert opened == []


def test_a_bundle_of_the_first_version_reads_on_and_is_what_was_written(data: Path) -> None:
    before = contents(data)
    for path in bundles(data, "reviews"):
        bundle = Bundle.open(path)
        parts = [bundle.part(group) for group in range(len(bundle.parts))]
        write_bundle(parts, path, "")
        assert Bundle.open(path).footer.row_group(0).column(0).compression == "ZSTD"
    assert contents(data) == before
    assert verify(data).corrupt == {}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), pa.ArrowNotImplementedError("no such column")])
def test_a_bundle_that_cannot_be_written_costs_no_part(
    tmp_path: Path, alone: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is then written by itself."""

    def refused(*args: Any) -> None:
        raise error

    monkeypatch.setattr("pipeline.engine.store.write_bundle", refused)
    graph = plan(tmp_path)
    with graph.store.lock():
        finish(graph, Where(local=True), on_outcome=lambda task, outcome: None, most_loose=NUM_CLIPS - 1)
    assert contents(tmp_path) == contents(alone)


def test_a_folder_of_bundles_that_cannot_be_written_costs_no_part(tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts have files of their own, and nothing is made twice."""
    root, calls = tmp_path / "data", tmp_path / "calls"
    for table in ("reviews", "hands"):
        (root / table / "bundles").mkdir(parents=True)
    calls.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "bundles")  # root may write anywhere
    end(root, most_loose=NUM_CLIPS - 1, calls=calls)
    lines = [json.loads(line) for log in (root / "runs").iterdir() for line in log.read_text().splitlines()]
    assert [line["bundles"] for line in lines] == [{}] * (NUM_CLIPS + 2)
    assert len(toy.called(calls)) == 1 + 2 * NUM_CLIPS
    assert contents(root) == contents(alone)
