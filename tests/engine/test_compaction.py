"""Compaction moves, counts and removes parts of a folder without a run: what others wrote or cannot read just now stays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.engine.bundles.bundle import Bundle, Part, write_bundle
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.durable import StoreError
from pipeline.engine.store import Store
from pipeline.engine.verify import files_of, verify_files
from stages.digest import fingerprint_of
from stages.tables import People

KEYS = tuple(f"v{number}-0001" for number in range(8))


def commit(store: Store, table: str, keys: Sequence[str]) -> None:
    for key in keys:
        recipe = {"stage": "x", "key": key, "item": {}}
        store.commit(table, key, People.empty(), {**recipe, "fingerprint": fingerprint_of(recipe)})


def bundled(root: Path, table: str, keys: Sequence[str] = KEYS) -> Store:
    """A folder with a table whose parts lie in one bundle, and a ledger."""
    store = Store(root)
    with store.lock(), store.bundles.sole():
        commit(store, table, keys)
        Compaction(store, most_loose=0).end([(table, keys)])
        store.footers.write_ledger()
    assert store.loose(table) == {}
    return store


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.parquet*"))


def test_bundles_of_people_are_no_detector_of_before(tmp_path: Path) -> None:
    store = bundled(tmp_path, "people")
    commit(store, "people/blazepose", ["old"])
    with Store(tmp_path).lock():
        pass
    left = Store(tmp_path)
    assert left.keys("people") == list(KEYS)
    assert left.keys("person_detections/blazepose") == ["old"]


@pytest.mark.parametrize("later", [(), ("w0-0001",)])
def test_bundles_of_people_that_were_moved_away_come_back(tmp_path: Path, later: Sequence[str]) -> None:
    bundled(tmp_path, "people")
    (tmp_path / "person_detections").mkdir()
    (tmp_path / "people/bundles").rename(tmp_path / "person_detections/bundles")
    if later:  # a run of the version that moved them went on
        commit(store := Store(tmp_path), "people", later)
        Compaction(store, most_loose=0).end([("people", later)])
    with Store(tmp_path).lock():
        pass
    left = Store(tmp_path)
    assert left.keys("people") == sorted({*KEYS, *later})
    assert [left.read(People, "people", key).to_arrow().num_rows for key in left.keys("people")] == [0] * (8 + len(later))


def test_a_bundle_that_cannot_be_read_just_now_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled(tmp_path, "hands")
    before, store = files(tmp_path), Store(tmp_path)
    assert store.keys("hands") == list(KEYS)

    def refused(*args: Any) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(pa, "memory_map", refused)
        with pytest.raises(StoreError, match=r"cannot be read.*run again.*Too many open files"):
            Compaction(store).leave("hands", lambda key: key == KEYS[0])
    assert files(tmp_path) == before
    assert Compaction(Store(tmp_path)).leave("hands", lambda key: key == KEYS[0]) == [KEYS[0]]
    assert Store(tmp_path).keys("hands") == list(KEYS[1:])


def test_a_bundle_with_a_wrong_footer_goes_and_its_parts_are_named(tmp_path: Path) -> None:
    bundled(tmp_path, "hands")
    commit(Store(tmp_path), "hands", [KEYS[3]])  # stands by itself
    (bundle,) = (tmp_path / "hands/bundles").iterdir()
    content = bytearray(bundle.read_bytes())
    content[content.index(b'"v2-0001"') + 2] ^= 1
    bundle.write_bytes(content)
    assert Bundle.is_damaged(bundle)
    gone = Compaction(Store(tmp_path)).leave("hands", lambda key: key == KEYS[0])
    assert gone == [f"bundles/{bundle.stem}", *(key for key in KEYS if key != KEYS[3])]
    assert Store(tmp_path).keys("hands") == [KEYS[3]]


def test_a_corrupt_part_of_another_video_stops_no_removal(tmp_path: Path) -> None:
    store = bundled(tmp_path, "hands")
    commit(store, "hands", [KEYS[1]])
    part = store.part("hands", KEYS[1])
    part.write_bytes(part.read_bytes()[:-20])
    assert Compaction(Store(tmp_path)).leave("hands", lambda key: key == KEYS[0]) == [KEYS[0]]
    assert Store(tmp_path).keys("hands") == list(KEYS[2:])
    assert Store(tmp_path).corrupt("hands") == [KEYS[1]]


def test_a_check_beside_a_run_does_not_tell_what_was_moved_into_a_bundle(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_json("run.json", {})
    commit(store, "hands", KEYS)
    listed = files_of(tmp_path)
    compaction = Compaction(store, most_loose=0, parts=len(KEYS))
    compaction.end([("hands", KEYS)])
    verdict = verify_files(tmp_path, [*listed, store.part("hands", "nowhere")])
    assert verdict.corrupt == {"hands/nowhere.parquet": "it is not there"}
    listed = files_of(tmp_path)
    commit(store, "hands", KEYS[1:])
    compaction.end([("hands", KEYS)])
    assert len([path for path in listed if not path.exists()]) == 1
    assert verify_files(tmp_path, listed).corrupt == {}


def test_the_ledger_is_written_twice_after_a_bundle_went(tmp_path: Path) -> None:
    bundled(tmp_path, "hands")
    later = [f"w{number}-0001" for number in range(4)]
    with Store(tmp_path).lock():
        commit(store := Store(tmp_path), "hands", later)
        Compaction(store, most_loose=0, parts=4).end([("hands", later)])  # killed before the ledger was written
    store = Store(tmp_path)
    with store.lock(), store.bundles.sole():
        for key in (*KEYS, *later):
            store.footers.fingerprint("hands", key, People.schema())
        store.footers.write_ledger()
        store.corrupt_file("hands", later[0]).write_bytes(b"")
        Compaction(store).mend(["hands"])
        store.footers.write_ledger()
        store.footers.fingerprint("hands", later[1], People.schema())
        store.footers.write_ledger()
    assert Store(tmp_path).keys("hands") == [*KEYS, *later[1:]]


def test_small_bundles_of_many_runs_become_fewer(tmp_path: Path) -> None:
    keys, store = [f"v{number:02d}-0001" for number in range(16)], Store(tmp_path)
    with store.bundles.sole():
        for key in keys:
            commit(store, "hands", [key])
            Compaction(store, most_loose=0, parts=1).end([("hands", [key])])
        Compaction(store, parts=4).end([("hands", keys[:15])])
        assert len(list((tmp_path / "hands/bundles").iterdir())) == 4
    assert Store(tmp_path).keys("hands") == keys
    with store.bundles.sole():
        for key in keys[:8]:
            commit(store, "people", [key])
            Compaction(store, most_loose=0, parts=1).end([("people", [key])])
        Compaction(store, parts=4).end([("people", keys[:8])])
    assert len(list((tmp_path / "people/bundles").iterdir())) == 8  # too few to be worth it


def test_earlier_bundles_go_while_new_ones_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose bundles are all written anew takes little more of the disk meanwhile."""
    keys, store, there = [f"v{number:02d}-0001" for number in range(16)], Store(tmp_path), list[int]()
    folder = tmp_path / "hands/bundles"

    def counted(parts: Sequence[Part], path: Path) -> None:
        there.append(len(list(folder.glob("[!.]*"))))
        write_bundle(parts, path)

    with store.bundles.sole():
        for key in keys:
            commit(store, "hands", [key])
            Compaction(store, most_loose=0, parts=1).end([("hands", [key])])
        monkeypatch.setattr("pipeline.engine.bundles.compaction.write_bundle", counted)
        monkeypatch.setattr("pipeline.engine.bundles.compaction._AT_ONCE", 1)
        Compaction(store, parts=4).end([("hands", keys)])
    assert there == [16, 13, 10, 7]
    assert len(list(folder.iterdir())) == 4
    assert Store(tmp_path).keys("hands") == keys


def test_every_table_is_compacted_while_a_run_goes_on(tmp_path: Path) -> None:
    compaction, tables = Compaction(store := Store(tmp_path), most_loose=2, parts=2), ("clips", "hands", "reviews")
    with store.bundles.sole():
        for number in range(9):
            for table in tables:
                keys = [f"v{number}-000{clip}" for clip in range(2)]
                commit(store, table, keys)
                for key in keys:
                    compaction.note([table], key)
            compaction.step(lambda: ())
    left = [len(store.loose_keys(table)) for table in tables]
    assert (sum(left), max(left) - min(left)) == (3 * 18 - 8 * 2, 2)  # of what came, and what eight steps took
