"""Bundles in an object store: parts are few objects, whoever reads them from wherever, and nothing that goes wrong loses or doubles one."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import finish as finishing
from pipeline.engine.bundles.bundle import Bundle
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.durable import StoreError, mirror_of
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.on_ray import OnRay
from pipeline.engine.plan.seats import seat_of
from pipeline.engine.roots.mirror import Mirror
from pipeline.engine.roots.opening import opened
from pipeline.engine.store import Store
from pipeline.engine.verify import set_damaged_aside, verify
from tests.engine import toy
from tests.engine.roots import on_another_machine
from tests.engine.test_bundles import Contents, bundles, contents
from tests.object_store import BUCKET, ObjectStore

NUM_CLIPS = 40


def stages_of(**count: Any) -> list[Any]:
    fetch, _, *rest = toy.recipe(**count)
    return [fetch, toy.Cut(num_clips=NUM_CLIPS), *rest]


def plan(root: str | Path, **count: Any) -> Graph:
    return Graph(stages_of(**count), toy.manifest("a"), Store(opened(root))).load()


def end(root: str | Path, most_loose: int = 4, **count: Any) -> int:
    """Run as a driver, in process; all clips but the first go together. Gives how many parts were made."""
    graph = plan(root, **count)
    with graph.store.lock(), pytest.MonkeyPatch.context() as patched:
        for module in ("run", "worker"):
            patched.setattr(f"pipeline.engine.{module}.TOGETHER_S", 1000.0)
        return finish(graph, Where(local=True), on_outcome=lambda task, outcome: None, most_loose=most_loose).num_made


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Contents of the parts of a folder on a disk, each in a file of its own."""
    root = tmp_path_factory.mktemp("near") / "data"
    end(root, most_loose=1000)
    return contents(root)


def parts_of(store: ObjectStore, folder: str) -> list[str]:
    """Objects that hold parts of the tables of clips."""
    return sorted(name for name in store.names(folder) if name.startswith(("reviews/", "hands/")))


def damaged(bundle: Path) -> bytes:
    """A bundle of which one part has lost a bit."""
    content = bytearray(bundle.read_bytes())
    content[Bundle.open(bundle).footer.row_group(7).column(0).data_page_offset + 30] ^= 1
    return bytes(content)


def test_parts_are_few_objects_wherever_they_are_read(
    store: ObjectStore, folder: str, near: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.address(folder)
    end(root)
    names = parts_of(store, folder)
    assert len(names) == 2 * 2, names  # the first clip comes alone, and into a bundle at the end
    assert all("/bundles/" in name for name in names)
    put = {name.removeprefix(f"{folder}/") for method, name in store.requests if method == "PUT"}
    assert {name for name in put if name.startswith("reviews/a-")} == {"reviews/a-0000.parquet"}
    assert contents(opened(root)) == near
    on_another_machine(monkeypatch, tmp_path / "other")
    assert plan(root).pending == []
    assert contents(opened(root)) == near
    assert end(root) == 0
    assert parts_of(store, folder) == names
    Store(opened(root)).write_json("run.json", {"recipe": "whim", "videos": "/videos"})
    assert verify(opened(root)).corrupt == {}


def test_faults_on_the_way_lose_and_double_nothing(
    store: ObjectStore, folder: str, near: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.address(folder)
    end(root, most_loose=1000)
    assert len(parts_of(store, folder)) == 2 * NUM_CLIPS
    store.fails_with(drop=23, lost=13, cut=19, **{"503": 11})
    end(root)
    assert len(parts_of(store, folder)) == 2
    on_another_machine(monkeypatch, tmp_path / "other")
    assert contents(opened(root)) == near
    assert plan(root).pending == []


def test_files_of_a_bundle_stay_where_the_store_has_another_content_of_it(
    store: ObjectStore, folder: str, near: Contents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its disk took it and lost a bit: the object is read back before anything goes that it stands for."""
    root = store.address(folder)
    end(root, most_loose=1000)
    names, whole = parts_of(store, folder), Mirror.put

    def damaging(self: Mirror, files: Any) -> None:
        whole(self, files)
        for name, path in [(self.name_of(final), temporary) for temporary, final in files if final.parent.name == "bundles"]:
            store.client().put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=damaged(path))

    monkeypatch.setattr(Mirror, "put", damaging)
    end(root)
    assert parts_of(store, folder) == names, "nothing went, and what was not whole did"
    assert "what was read there is not what was written" in caplog.text


class Killed(BaseException):
    """Stands for a death: nothing that the code does about exceptions helps."""


@pytest.mark.parametrize("most_loose", [4, 1000])
def test_a_kill_after_the_bundle_is_put_loses_and_doubles_nothing(
    store: ObjectStore, folder: str, near: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_loose: int
) -> None:
    """Whether it holds what was just made, or stands for objects that were there."""
    root = store.address(folder)
    if most_loose == 1000:
        end(root, most_loose)
    whole = Mirror.put

    def put_and_die(self: Mirror, files: Any) -> None:
        whole(self, files)
        if any(written.final.parent.name == "bundles" for written in files):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "put", put_and_die)
        with pytest.raises(Killed):
            end(root)
    on_another_machine(monkeypatch, tmp_path / "other")
    assert end(root) < NUM_CLIPS, "what was put is taken up"
    assert contents(opened(root)) == near
    held = [part.key for path in bundles(opened(root), "reviews") for part in Bundle.open(path).parts]
    assert sorted(held) == sorted({key for table, key in near if table == "reviews"})
    assert not [name for name in parts_of(store, folder) if "/bundles/" not in name]


def test_a_driver_that_lost_the_folder_takes_nothing_away(
    store: ObjectStore, folder: str, near: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.address(folder)
    end(root, most_loose=1000)
    names, first = set(parts_of(store, folder)), Store(opened(root))
    with first.lock():
        packing, real = Compaction(first, 1), Compaction._unlink

        def lost(self: Compaction, table: str, read: Any) -> None:
            mirror = mirror_of(first.root)
            assert isinstance(mirror, Mirror)
            assert mirror.lease
            monkeypatch.setattr(mirror.lease, "check", _no_longer)
            real(self, table, read)

        monkeypatch.setattr(Compaction, "_unlink", lost)
        packing.end([("reviews", first.keys("reviews"))])
    assert names < set(parts_of(store, folder)), "the bundle is there beside all that it stands for"


def _no_longer() -> None:
    raise StoreError("this run no longer holds it")


def test_workers_read_bundles_that_another_machine_wrote(
    store: ObjectStore, folder: str, near: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with a mirror of its own fetches the bundles that it is told of, and no other."""
    import ray

    root = store.address(folder)
    end(root)
    of_hands = [name for name in parts_of(store, folder) if name.startswith("hands/")]
    for name in of_hands:
        store.client().delete_object(Bucket=BUCKET, Key=f"{folder}/{name}")
    store.fails_with(drop=29, lost=31, **{"503": 23})
    with monkeypatch.context() as there:
        there.setenv("WHIM_CACHE", str(tmp_path / "elsewhere"))  # workers see what Ray saw when it started
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    stages = stages_of()
    try:
        graph = plan(root)
        assert {graph.stages[task.stage].name for task in graph.pending} == {"after"}
        with graph.store.lock():
            monkeypatch.setattr(finishing, "_executor", lambda graph, where: OnRay(graph.store.root, stages, [seat_of(s) for s in stages]))
            finish(graph, on_outcome=lambda task, outcome: None, most_loose=4)
    finally:
        ray.shutdown()
    assert contents(opened(root)) == near, "the driver has seen them all"
    assert len(parts_of(store, folder)) <= 2 + 2, parts_of(store, folder)
    theirs = next((tmp_path / "elsewhere/roots").glob("*/"))
    assert bundles(theirs, "reviews"), "they were fetched"
    assert not list((theirs / "reviews").glob("*.parquet")), "and no part by itself"


def test_a_part_that_is_damaged_in_the_store_is_made_again(
    store: ObjectStore, folder: str, near: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.address(folder)
    end(root)
    path = max(bundles(opened(root), "reviews"), key=lambda one: one.stat().st_size)
    name = f"reviews/bundles/{path.name}"
    store.client().put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=damaged(path))
    on_another_machine(monkeypatch, tmp_path / "other")
    there = opened(root)
    Store(there).write_json("run.json", {"recipe": "whim", "videos": "/videos"})
    found = verify(there)
    assert list(found.corrupt) == [name]
    set_damaged_aside(there, found)
    assert 1 <= end(root) <= 4
    assert contents(opened(root)) == near
    assert verify(opened(root)).corrupt == {}


def test_a_clip_that_is_removed_is_in_no_object(store: ObjectStore, folder: str, near: Contents) -> None:
    root = store.address(folder)
    end(root)
    here = Store(opened(root))
    with here.lock():
        assert Compaction(here).leave("reviews", lambda key: key == "a-0007") == ["a-0007"]
        here.footers.write_ledger()
    assert contents(opened(root)) == {one: said for one, said in near.items() if one != ("reviews", "a-0007")}
    for name in parts_of(store, folder):
        assert b"a-0007" not in store.content(folder, name) or name.startswith("hands/")


def test_a_command_beside_a_run_misses_no_part_that_is_moved_while_it_looks(
    store: ObjectStore, folder: str, near: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.address(folder)
    end(root, most_loose=1000)
    here = Store(opened(root))
    mirror = mirror_of(here.root)
    assert isinstance(mirror, Mirror)
    on_another_machine(monkeypatch, tmp_path / "other")
    listed, moved = Mirror._sync_once, list[int]()

    def moving(self: Mirror, media: bool) -> bool:
        whole = self.objects.listed

        def then_move(below: str = "") -> Any:
            found = whole(below)
            if not moved:
                moved.append(1)
                monkeypatch.setattr("pipeline.engine.durable.MIRRORS", {here.root: mirror})
                with here.lock():
                    Compaction(here, 1).end([("reviews", here.keys("reviews"))])
            return found

        with monkeypatch.context() as patch:
            patch.setattr(self.objects, "listed", then_move)
            return listed(self, media)

    monkeypatch.setattr(Mirror, "_sync_once", moving)
    assert contents(opened(root)) == near
    assert moved
