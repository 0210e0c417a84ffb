"""Shards in an object store: who plans knows them by name, size and ETag; footers and rows come to who wants them, and of what it wants."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.browse.index_tables import _places
from pipeline.dataset.index import renew_index
from pipeline.engine.durable import MIRRORS, StoreError
from pipeline.engine.files.shard import clips_in, open_shard
from pipeline.engine.finish import Where, finish, shard_files
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.plan.tasks import State
from pipeline.engine.roots.opening import opened
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.engine.verify import verify
from pipeline.exports.source import open_source
from pipeline.remove import remove
from stages import pack
from stages.pack import Pack
from stages.stage import Stage
from tests.engine import toy
from tests.engine.roots import on_another_machine
from tests.engine.test_pieces import FRAMES, Cut, Found, See
from tests.object_store import BUCKET, ObjectStore
from tests.small_tables import render_video

VIDEOS = "anna", "long"
Run = Callable[..., Graph]


def plan(films: Path, root: Path, **settings: Any) -> Graph:
    stages: list[Stage] = [Found(folder=str(films)), Cut(), See(), Pack(num_shards=1, negatives=1.0, shard_mb=1, **settings)]
    return Graph(stages, toy.manifest(*VIDEOS), Store(root)).load()


def run_here(films: Path, address: str, **settings: Any) -> Graph:
    here = Store(opened(address))
    with here.lock():
        graph = plan(films, here.root, **settings)
        finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
        assert renew_index(shard_files(graph)) == []
    return graph


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    films = tmp_path_factory.mktemp("films")
    for name in VIDEOS:
        render_video(films / f"{name}.mp4", num_frames=FRAMES[name], seed=len(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "_BYTES_PER_PIXEL", 150_000 / (320 * 240))
        yield films


@pytest.fixture(scope="module")
def made(server: ObjectStore, films: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data folder of several shards in the store, made by another machine; its name."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        on_another_machine(patch, tmp_path_factory.mktemp("first"))
        run_here(films, server.address("made"))
        MIRRORS.clear()
    return "made"


@pytest.fixture
def packed(made: str, films: Path, store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of that folder; gives a run on this machine, which has seen nothing of it."""
    for name in sorted(store.names(made), key=lambda name: name == "shards/index.json"):
        store.client().copy_object(Bucket=BUCKET, Key=f"{folder}/{name}", CopySource={"Bucket": BUCKET, "Key": f"{made}/{name}"})
    return partial(run_here, films, store.address(folder))


def again_here(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    """Go on as a machine that has an empty cache."""
    on_another_machine(monkeypatch, tmp_path / machine)
    store.reads.clear()


def shards(store: ObjectStore, folder: str) -> dict[str, bytes]:
    return {name: store.content(folder, name) for name in sorted(store.names(folder)) if name.startswith("shards/train/")}


def read(store: ObjectStore, folder: str, *, by_range: bool) -> list[str]:
    """Shards of which something was read."""
    return [name.removeprefix(f"{folder}/") for name, ranged, _ in store.reads if "/shards/train/" in name and ranged is by_range]


def images(root: Path) -> dict[str, bytes]:
    rows = [row for path in root.glob("shards/train/*.parquet") for row in pq.read_table(path, columns=["sample", "image"]).to_pylist()]
    return {row["sample"]: row["image"] for row in rows}


def test_a_plan_and_a_run_with_nothing_to_do_read_no_shard(packed: Run, store: ObjectStore, folder: str, films: Path) -> None:
    before = {name: store.content(folder, name) for name in store.names(folder) if name.startswith("shards/")}
    root = opened(store.address(folder))
    assert plan(films, root).pending == []
    assert packed().pending == []
    assert [name for name, *_ in store.reads if "/shards/train/" in name] == []
    assert {name: store.content(folder, name) for name in before} == before
    here = list(root.glob("shards/train/*.parquet"))
    assert len(here) == len(shards(store, folder)) > 4
    assert sum(path.stat().st_blocks for path in here) == 0, "they take no room"


def test_footers_that_the_ledger_does_not_know_are_read_by_ranges(packed: Run, store: ObjectStore, folder: str, films: Path) -> None:
    store.client().delete_object(Bucket=BUCKET, Key=f"{folder}/ledger.parquet")
    root = opened(store.address(folder))
    assert plan(films, root).pending == []
    assert set(read(store, folder, by_range=True)) == set(shards(store, folder))
    assert read(store, folder, by_range=False) == []
    packed()
    store.reads.clear()
    assert plan(films, opened(store.address(folder))).pending == []
    assert [name for name, *_ in store.reads if "/shards/train/" in name] == [], "the ledger knows them now"


@pytest.mark.parametrize("how", ["another one", "a footer cut short", "damaged rows"])
def test_a_shard_that_is_not_the_one_recorded_is_noticed_and_made_again(
    packed: Run, store: ObjectStore, folder: str, films: Path, how: str
) -> None:
    before = shards(store, folder)
    name, other = list(before)[:2]
    if how == "another one":
        content = before[other]
    elif how == "a footer cut short":
        content = before[name][:-8] + bytes(8)
    else:
        row_group = pq.read_metadata(BytesIO(before[name])).row_group(0)
        columns = {one.path_in_schema: one for one in map(row_group.column, range(row_group.num_columns))}
        at = columns["hands.list.element.box.list.element"].data_page_offset
        content = before[name][:at] + bytes(64) + before[name][at + 64 :]
    index = store.client().head_object(Bucket=BUCKET, Key=f"{folder}/shards/index.json")
    while time.time() < index["LastModified"].timestamp() + 1:  # an object store's clock tells seconds
        time.sleep(0.05)
    store.client().put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=content)
    if how == "damaged rows":
        here = Store(opened(store.address(folder)))
        with here.lock():
            assert renew_index(shard_files(plan(films, here.root))) == [here.root / name]
    else:
        graph = plan(films, opened(store.address(folder)))
        assert [task.key for task in graph.pending] == [name.removeprefix("shards/").removesuffix(".parquet")]
    packed()
    assert shards(store, folder) == before
    assert verify(opened(store.address(folder), whole=True)).corrupt == {}


@pytest.fixture
def put_away(films: Path) -> Iterator[Callable[[], object]]:
    """Puts the videos away."""
    away = films.with_name("away")
    yield lambda: films.rename(away)
    if away.exists():
        away.rename(films)


def test_frames_of_videos_that_are_gone_are_packed_again_from_the_store(
    packed: Run, store: ObjectStore, folder: str, tmp_path: Path, put_away: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, kept = len(shards(store, folder)), images(opened(store.address(folder), whole=True))
    again_here(store, tmp_path, monkeypatch, "second")
    put_away()
    packed(min_quality=0.01)
    again_here(store, tmp_path, monkeypatch, "third")
    assert len(shards(store, folder)) == before
    assert len(kept) == 36
    assert images(opened(store.address(folder), whole=True)) == kept


def test_a_worker_with_a_mirror_of_its_own_reads_the_shards_that_it_writes_anew_and_no_others(
    packed: Run,
    store: ObjectStore,
    folder: str,
    films: Path,
    tmp_path: Path,
    put_away: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = images(opened(store.address(folder), whole=True))
    again_here(store, tmp_path, monkeypatch, "worker")
    worker = opened(store.address(folder), asks=True)
    monkeypatch.setenv("WHIM_CACHE", str(tmp_path / "driver"))
    here = Store(opened(store.address(folder)))
    put_away()
    with here.lock():
        graph = plan(films, here.root, min_quality=0.01)
        one = graph.pending[0]
        for task in graph.pending[1:]:
            graph.settle(task, State.FAILED)
        store.reads.clear()
        run(graph, Local(worker, graph.stages))
        assert one.state is State.DONE
    assert read(store, folder, by_range=False) == [f"shards/{one.key}.parquet"], "by the worker; its driver reads the footer"
    assert sum(path.stat().st_blocks for path in here.root.glob("shards/train/*.parquet")) == 0
    assert images(opened(store.address(folder), whole=True)) == kept


def test_a_driver_does_not_count_a_shard_as_gone_that_is_replaced_under_its_hands(
    packed: Run, store: ObjectStore, folder: str, films: Path
) -> None:
    here, name = Store(opened(store.address(folder))), next(iter(shards(store, folder)))
    with here.lock():
        assert open_shard(here.root / name).metadata.num_rows
        footer = read(store, folder, by_range=True)
        assert clips_in(here.root / name)
        assert read(store, folder, by_range=True) == 2 * footer, "it names its clips"
        store.client().put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=b"another one")
        with pytest.raises(StoreError, match=f"{name} was replaced while it was read: run again"):
            clips_in(here.root / name)
    assert clips_in(here.root / name) == set(), "who looks on sees none just now"


def test_what_is_removed_costs_the_shards_that_hold_it(packed: Run, store: ObjectStore, folder: str, films: Path) -> None:
    before = shards(store, folder)
    here = Store(opened(store.address(folder)))
    (holds,) = [name for name in before if ("anna", "anna-0000") in clips_in(here.root / name)]
    store.reads.clear()
    with here.lock():
        gone = remove(here, ["anna"])
    assert set(gone.shards) == {holds}
    assert set(read(store, folder, by_range=False)) == {holds}
    after = shards(store, folder)
    assert {name: after.get(name) for name in before if name != holds} == {name: before[name] for name in before if name != holds}
    assert not any(b"anna" in content for content in after.values())


def test_who_reads_rows_has_them(packed: Run, store: ObjectStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = opened(store.address(folder))
    paths = sorted(root.glob("shards/train/*.parquet"))
    assert sum(len(rows) for path in paths for rows in _places(path)) == 36
    held = [open_shard(path, memory_map=True, page_checksum_verification=True).read_row_group(0, ["image"]) for path in paths]
    assert all(table["image"][0].as_py().startswith(b"\xff\xd8") for table in held)
    assert read(store, folder, by_range=False) == []
    assert open_source(root).num_rows == 36
    assert {path.relative_to(root).as_posix(): path.read_bytes() for path in paths} == shards(store, folder)
    again_here(store, tmp_path, monkeypatch, "third")
    assert verify(opened(store.address(folder), whole=True)).corrupt == {}
