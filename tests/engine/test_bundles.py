"""Bundles: many parts in one file lose and double nothing, whatever is killed, damaged, made again or removed."""

import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.engine.bundles import compaction
from pipeline.engine.bundles.bundle import Bundle, parts_of, write_bundle
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.files.corrupt import set_corrupt_aside
from pipeline.engine.files.part import part_of, read_sealed
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.plan.tasks import Why
from pipeline.engine.store import Store
from pipeline.engine.verify import set_damaged_aside, verify, verify_files
from stages.digest import CorruptFileError, fingerprint_of
from stages.tables import Hands, Reviews
from tests.engine import toy

TABLES = ("videos", "clips", "reviews", "hands")
Contents = dict[tuple[str, str], tuple[Any, Any]]


def plan(root: Path, *videos: str, **count: Any) -> Graph:
    return Graph(toy.recipe(**count), toy.manifest(*(videos or ("a", "b"))), Store(root)).load()


def end(graph: Graph, most_loose: int) -> None:
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: None, most_loose=most_loose)


def contents(root: Path) -> Contents:
    """What every part holds and was made from, as readers have it; a key twice in a table would be a row too many in `plain`."""
    store = Store(root)
    return {(t, key): (store.read_arrow(t, key).to_pylist(), store.made_by(t, key)) for t in TABLES for key in store.keys(t)}


def loose(root: Path) -> list[str]:
    return sorted(f"{table}/{path.stem}" for table in TABLES for path in (root / table).glob("*.parquet"))


def bundles(root: Path, table: str) -> list[Path]:
    return sorted((root / table / "bundles").glob("*.parquet"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    end(plan(root), most_loose=1000)
    Store(root).write_json("run.json", {"recipe": "whim", "videos": "/videos"})
    return root


@pytest.fixture
def bundled(data: Path) -> Path:
    end(plan(data), most_loose=1)
    return data


def test_a_folder_of_before_is_compacted_and_says_the_same(data: Path) -> None:
    before = contents(data)
    assert len(before) == 20
    end(plan(data), most_loose=1)
    assert loose(data) == []
    assert [len(bundles(data, table)) for table in TABLES] == [1, 1, 1, 1]
    assert contents(data) == before
    assert verify(data).corrupt == {}
    plain = pq.read_table(bundles(data, "reviews")[0])  # any reader sees one table
    assert plain.num_rows == sum(len(rows) for (table, _), (rows, _) in before.items() if table == "reviews")
    with_ledger = plan(data)
    (data / "ledger.parquet").unlink()
    assert (with_ledger.pending, plan(data).pending) == ([], [])


def test_small_tables_stay_as_they_are(data: Path) -> None:
    end(plan(data), most_loose=4)  # two videos, eight clips
    assert [len(bundles(data, table)) for table in TABLES] == [0, 0, 1, 1]
    assert [one for one in loose(data) if one.startswith(("reviews", "hands"))] == []


def test_a_plan_with_the_ledger_opens_no_bundle(bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(Bundle, "open", classmethod(lambda cls, path: opened.append(path)))
    graph = Graph(toy.recipe(), toy.manifest("a", "b"), Store(bundled))
    for table, schema in (("reviews", Reviews.schema()), ("hands", Hands.schema())):
        assert all(graph.store.footers.fingerprint(table, key, schema) for key in graph.store.keys(table))
    assert opened == []


def test_bundles_are_written_while_a_run_goes_on(tmp_path: Path) -> None:
    root, seen = tmp_path / "data", list[int]()
    graph = plan(root, "a", "b", "c", "d")
    real = Compaction.step

    def step(self: Compaction, busy: Any) -> None:
        self.parts = 2
        real(self, busy)
        seen.append(len(bundles(root, "reviews")))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Compaction, "step", step)
        patched.setattr("pipeline.engine.run.TOGETHER_S", 0.0)  # clip by clip
        end(graph, most_loose=2)
    assert len(set(seen)) > 2  # not at the end alone
    assert graph.pending == []
    assert plan(root, "a", "b", "c", "d").pending == []
    assert loose(root) == []


def test_parts_of_running_items_stay(data: Path) -> None:
    packing = Compaction(Store(data), most_loose=1, parts=2)
    keys = [f"a-{n:04d}" for n in range(4)]
    for key in keys:
        packing.note(["reviews"], key)
    packing.step(lambda: {"a-0000", "a-0002"})
    assert [one for one in loose(data) if one.startswith("reviews/a")] == ["reviews/a-0000", "reviews/a-0002"]
    packing.step(lambda: {"a-0000"})
    assert "reviews/a-0002" in loose(data)  # too few of them that are at rest


def test_a_part_made_again_wins_and_the_next_compaction_holds_it(bundled: Path) -> None:
    before = contents(bundled)
    end(plan(bundled, offset=7), most_loose=1000)  # all of `reviews`, and what follows, once more
    assert sorted({one.split("/")[0] for one in loose(bundled)}) == ["hands", "reviews"]
    again = contents(bundled)
    assert again.keys() == before.keys()
    assert again != before
    assert plan(bundled, offset=7).pending == []
    old = bundles(bundled, "reviews")
    end(plan(bundled, offset=7), most_loose=1)
    assert loose(bundled) == []
    assert contents(bundled) == again
    assert len(bundles(bundled, "reviews")) == 1  # the other one was dead
    assert bundles(bundled, "reviews") != old
    (bundled / "ledger.parquet").unlink()
    assert contents(bundled) == again
    assert plan(bundled, offset=7).pending == []


def test_a_bundle_of_which_more_than_half_is_dead_is_written_anew(bundled: Path) -> None:
    before, store = contents(bundled), Store(bundled)
    keys = store.keys("reviews")
    for key in keys[:5]:
        store.commit("reviews", key, store.read(Reviews, "reviews", key), store.made_by("reviews", key) or {})
    with store.bundles.sole():
        Compaction(store, 1000).end([("reviews", keys[5:])])
    assert [parts_of(path.name) for path in bundles(bundled, "reviews")] == [3]
    assert loose(bundled) == [f"reviews/{key}" for key in keys[:5]]
    assert contents(bundled) == before


def test_a_ledger_of_before_the_last_compaction_is_no_guide_to_later_bundles(bundled: Path) -> None:
    store = Store(bundled)
    keys, ledger = store.keys("reviews"), (bundled / "ledger.parquet").read_bytes()
    again = {"made": "again", "fingerprint": fingerprint_of({"made": "again"})}
    for key in keys[:3]:
        store.commit("reviews", key, store.read(Reviews, "reviews", keys[4]), again)
    with store.bundles.sole():
        Compaction(store, 1, parts=8).end([("reviews", keys)])
    assert [parts_of(path.name) for path in bundles(bundled, "reviews")] == [8, 3]
    assert [one for one in loose(bundled) if one.startswith("reviews")] == []
    for known in (ledger, b""):
        (bundled / "ledger.parquet").write_bytes(known)
        after = Store(bundled)
        assert [after.made_by("reviews", key) == again for key in keys] == [True] * 3 + [False] * 5
        rows = [after.read_arrow("reviews", key).to_pylist() for key in keys]
        assert rows[0] == rows[1] == rows[2] == rows[4] != rows[3]


def test_a_ledger_written_by_a_plan_of_some_videos_loses_no_other(bundled: Path) -> None:
    keys = Store(bundled).keys("reviews")
    (bundled / "ledger.parquet").unlink()
    plan(bundled, "a").remember()
    assert (bundled / "ledger.parquet").exists()
    assert Store(bundled).keys("reviews") == keys
    assert plan(bundled).pending == []


def test_a_bundle_that_is_not_what_was_written_goes_and_no_other_file(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(data)

    def write(parts: Any, path: Path) -> None:
        write_bundle(parts, path)
        spoil(path, 1)

    monkeypatch.setattr("pipeline.engine.bundles.compaction.write_bundle", write)
    end(plan(data), most_loose=1)
    assert (
        len([one for one in loose(data) if not one.startswith("hands")]) == 12
    )  # the clips' tables of hands are empty: nothing can be lost
    assert [path for table in TABLES[:3] for path in bundles(data, table)] == []
    assert contents(data) == before
    assert "is the disk sound?" in caplog.text


def test_a_bundle_is_not_taken_away_before_all_of_its_parts_stand_elsewhere(bundled: Path) -> None:
    store, name = Store(bundled), bundles(bundled, "reviews")[0].name
    compaction.take_away(store, "reviews", name, lambda key: False)
    compaction.take_away(store, "reviews", name, lambda key: key.startswith("a"))
    assert (bundled / "reviews" / "bundles" / name).exists()
    compaction.take_away(store, "reviews", name, lambda key: True)
    assert bundles(bundled, "reviews") == []


KILLS = {
    "bundle written aside": ("pipeline.engine.bundles.compaction", "write_bundle", "after"),
    "bundle renamed": ("pipeline.engine.bundles.compaction", "_same", "before"),
    "first loose file gone": ("pipeline.engine.bundles.compaction.Compaction", "_unlink", "after"),
    "before the dead bundle goes": ("pipeline.engine.bundles.places.Bundles", "leave", "before"),
    "before the ledger is written": ("pipeline.engine.files.footers.Footers", "write_ledger", "before 2"),
}


@pytest.mark.parametrize("kill", KILLS)
def test_a_kill_loses_and_doubles_nothing(data: Path, kill: str) -> None:
    offset, (owner, name, when) = 0, KILLS[kill]
    if kill == "before the dead bundle goes":
        offset = 7
        end(plan(data), most_loose=1)
    shutil.copytree(data, data.with_name("unharmed"))
    end(plan(data.with_name("unharmed"), offset=offset), most_loose=1000)
    before = contents(data.with_name("unharmed"))
    program = f"""
        import os, signal
        from pathlib import Path
        from pydoc import locate
        from tests.engine.test_bundles import end, plan
        owner, times = locate({owner!r}), []
        real = getattr(owner, {name!r})
        def killed(*args, **kwargs):
            times.append(1)
            if {when!r} == "before" or ({when!r} == "before 2" and len(times) == 2):
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            if {when!r} == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        setattr(owner, {name!r}, killed)
        store_root = Path({str(data)!r})
        end(plan(store_root, offset={offset}), most_loose=1)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert contents(data) == before
    assert plan(data, offset=offset).pending == []
    with Store(data).lock():
        end(plan(data, offset=offset), most_loose=1)
    assert contents(data) == before
    assert loose(data) == []
    assert [len(bundles(data, table)) for table in TABLES] == [1, 1, 1, 1]
    assert list(data.rglob("*.tmp")) == []
    assert verify(data).corrupt == {}
    held = [part.key for path in bundles(data, "reviews") for part in Bundle.open(path).parts]
    assert sorted(held) == sorted(key for table, key in before if table == "reviews")


def spoil(bundle: Path, group: int) -> str:
    """Flip a bit in the middle of a row group; the key of its part."""
    opened = Bundle.open(bundle)
    chunk = opened.footer.row_group(group).column(0)
    content = bytearray(bundle.read_bytes())
    content[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size // 2] ^= 1
    bundle.write_bytes(bytes(content))
    return opened.parts[group].key


def test_a_flipped_bit_costs_one_part(bundled: Path) -> None:
    before = contents(bundled)
    bundle = bundles(bundled, "reviews")[0]
    key = spoil(bundle, 3)
    told = verify(bundled)
    assert list(told.corrupt) == [f"reviews/bundles/{bundle.name}"]
    assert key in next(iter(told.corrupt.values()))
    assert "7 of its 8 parts are sound" in next(iter(told.corrupt.values()))
    with pytest.raises(CorruptFileError, match=key):
        Store(bundled).read(Reviews, "reviews", key)
    set_damaged_aside(bundled, told)
    left = contents(bundled)
    assert before.keys() - left.keys() == {("reviews", key)}
    assert all(before[one] == left[one] for one in left)
    assert verify(bundled).corrupt == {}
    graph = plan(bundled)
    assert [(graph.stages[t.stage].name, t.key, t.why) for t in graph.pending if t.why is Why.NEW] == [("count", key, Why.NEW)]
    end(graph, most_loose=1)
    assert contents(bundled) == before
    assert list((bundled / "reviews").glob("*.corrupt")) == []


def test_a_part_that_is_set_aside_counts_as_none_and_a_sound_one_is_not_set_aside(bundled: Path) -> None:
    key = spoil(bundles(bundled, "reviews")[0], 3)
    store, keys = Store(bundled), Store(bundled).keys("reviews")
    for one in keys:
        set_corrupt_aside(store, store.part("reviews", one))
    assert [path.name for path in (bundled / "reviews").glob("*.corrupt")] == [f"{key}.parquet.corrupt"]
    assert (store.has("reviews", key), store.stamp("reviews", key), store.made_by("reviews", key)) == (False, "", None)
    assert store.keys("reviews") == [one for one in keys if one != key]
    with pytest.raises(FileNotFoundError):
        store.read(Reviews, "reviews", key)
    assert {(t.key, t.why) for t in plan(bundled).pending if t.why is Why.NEW} == {(key, Why.NEW)}


def test_a_run_that_reads_a_flipped_bit_makes_that_part_again(bundled: Path) -> None:
    before = contents(bundled)
    key = spoil(bundles(bundled, "reviews")[0], 3)
    for path in bundles(bundled, "hands"):
        path.unlink()  # so that `reviews` are read again
    made: list[str] = []
    finish(
        plan(bundled),
        Where(local=True),
        on_outcome=lambda task, outcome: made.append(f"{task.stage} {task.key}") if outcome.num_rows else None,
        most_loose=1,
    )
    assert [one for one in made if one.startswith("2 ")] == [f"2 {key}"]
    assert contents(bundled) == before
    assert verify(bundled).corrupt == {}
    assert loose(bundled) == []


@pytest.mark.parametrize("where", ["footer", "end"])
def test_a_damaged_footer_is_told_and_costs_its_bundle(bundled: Path, where: str) -> None:
    before = contents(bundled)
    bundle = bundles(bundled, "reviews")[0]
    content = bytearray(bundle.read_bytes())
    content[content.index(b'"a-0002"') + 1 if where == "footer" else -3] ^= 2
    bundle.write_bytes(bytes(content))
    assert list(verify(bundled).corrupt) == [f"reviews/bundles/{bundle.name}"]
    graph = plan(bundled)
    assert {(graph.stages[task.stage].name, task.why) for task in graph.pending} == {("count", Why.NEW), ("after", Why.UPSTREAM)}
    assert set_damaged_aside(bundled, verify(bundled)) == [bundle]
    assert verify(bundled).corrupt == {}
    end(plan(bundled), most_loose=1)
    assert contents(bundled) == before
    assert loose(bundled) == []


def test_content_that_is_not_what_its_digest_says_is_refused(data: Path, tmp_path: Path) -> None:
    one, other = (part_of(Store(data).part("reviews", key), key) for key in ("a-0001", "a-0002"))
    write_bundle([one._replace(content=other.content), other], path := tmp_path / "000000001-2-abcdef01.parquet")
    with pytest.raises(CorruptFileError, match="part a-0001 is not what its digest says"):
        Bundle.open(path).read(0)
    assert Bundle.open(path).read(1).equals(other.content)


def test_parts_read_in_turn_are_those_read_alone_and_a_damaged_one_is_told_by_its_own_key(data: Path, tmp_path: Path) -> None:
    store = Store(data)
    parts = [part_of(store.part("reviews", key), key) for key in store.keys("reviews")]
    write_bundle(parts, path := tmp_path / "000000001-6-abcdef01.parquet")
    alone, in_turn = Bundle.open(path), Bundle.open(path)
    assert [in_turn.read(group) for group in range(len(parts))] == [part.content for part in parts]
    assert [alone.read(group) for group in reversed(range(len(parts)))] == [part.content for part in reversed(parts)]
    content, column = bytearray(path.read_bytes()), alone.footer.row_group(3).column(2)
    content[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(bytes(content))
    damaged = Bundle.open(path)
    assert [damaged.read(group) for group in range(3)] == [part.content for part in parts[:3]]
    with pytest.raises(CorruptFileError, match=f"part {parts[3].key} "):
        damaged.read(3)
    assert damaged.read(4) == parts[4].content


def test_parts_after_the_one_read_are_read_with_the_next_one(data: Path, tmp_path: Path) -> None:
    parts = [part_of(Store(data).part("reviews", key), key) for key in Store(data).keys("reviews")]
    write_bundle(parts, path := tmp_path / "000000001-6-abcdef01.parquet")
    first, second = Bundle.open(path), Bundle.open(path)
    for bundle, groups in ((first, (0, 1)), (second, (1, 0))):
        for group in groups:
            bundle.read(group)
    path.unlink()
    assert first.read(2) == parts[2].content
    with pytest.raises(FileNotFoundError):
        second.read(2)


def test_every_flip_in_a_bundle_is_found(bundled: Path) -> None:
    bundle = bundles(bundled, "reviews")[0]
    sound = bundle.read_bytes()
    assert verify_files(bundled, [bundle]).num_sound == 1
    for place in (*range(0, len(sound), 397), *range(len(sound) - 60, len(sound), 3)):  # the footer's end says the most
        content = bytearray(sound)
        content[place] ^= 1 << (place % 8)
        bundle.write_bytes(bytes(content))
        assert verify_files(bundled, [bundle]).corrupt, f"byte {place} of {len(sound)}"


def test_a_reader_that_stays_finds_what_is_compacted_meanwhile(data: Path) -> None:
    reader = Store(data)
    keys = reader.keys("reviews")
    before = {key: reader.read_arrow("reviews", key).to_pylist() for key in keys}
    assert not reader.has("reviews", "nowhere")
    for most_loose, offset in ((1, 0), (1000, 7), (1, 7)):
        end(plan(data, offset=offset), most_loose=most_loose)
        now = {key: reader.read_arrow("reviews", key).to_pylist() for key in keys}
        assert (now == before) is (offset == 0)
        assert now == {key: Store(data).read_arrow("reviews", key).to_pylist() for key in keys}
        assert [reader.num_rows("reviews", key) for key in keys] == [len(now[key]) for key in keys]
        assert [reader.columns("reviews", key, ["frame"]).num_rows for key in keys] == [len(now[key]) for key in keys]  # type: ignore[union-attr]


def test_a_loose_part_that_is_written_while_it_is_bundled_stays(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key = Store(data), "a-0001"
    again = {"made": "again", "fingerprint": fingerprint_of({"made": "again"})}
    real: Callable[..., None] = Compaction._unlink

    def unlink(self: Compaction, table: str, read: Any) -> None:
        if key in read:  # a worker of a driver that died writes it just now
            other = Store(data).read(Reviews, "reviews", "a-0002")
            store.commit("reviews", key, other, again)
        real(self, table, read)

    monkeypatch.setattr(Compaction, "_unlink", unlink)
    Compaction(store, 1).end([("reviews", store.keys("reviews"))])
    assert [one for one in loose(data) if one.startswith("reviews")] == [f"reviews/{key}"]
    assert Store(data).made_by("reviews", key) == again


def test_a_corrupt_loose_part_is_not_bundled(data: Path) -> None:
    part = Store(data).part("reviews", "a-0001")
    chunk, content = pq.read_metadata(part).row_group(0).column(3), bytearray(part.read_bytes())
    content[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 2] ^= 4
    part.write_bytes(bytes(content))
    with pytest.raises(CorruptFileError):
        read_sealed(part)
    Compaction(Store(data), 1).end([("reviews", Store(data).keys("reviews"))])
    assert [one for one in loose(data) if one.startswith("reviews")] == ["reviews/a-0001"]


def test_what_cannot_be_written_stays_loose(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data / "reviews" / "bundles").write_text("in the way")
    before = contents(data)
    end(plan(data), most_loose=1)
    assert contents(data) == before
    assert len([one for one in loose(data) if one.startswith("reviews")]) == 8
    assert any("stay in files of their own" in record.getMessage() for record in caplog.records)


def test_links_that_lead_nowhere_hide_no_part(data: Path) -> None:
    keys = Store(data).keys("reviews")
    (data / "reviews" / "gone.parquet").symlink_to(data / "nowhere")
    (data / "reviews" / "round.parquet").symlink_to(data / "reviews" / "round.parquet")
    assert Store(data).keys("reviews") == [*keys, "round"]
    with pytest.raises(CorruptFileError):
        Store(data).read(Reviews, "reviews", "round")
