"""Who wants to be left out is left out of everything in a data folder, and what remains elsewhere is told."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import whim
from pipeline.dataset.index import write_index
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.files.shard import write_shard
from pipeline.engine.store import Store
from pipeline.exports.source import open_source
from pipeline.folder import Asked, load
from pipeline.manifest import read_manifest, storable
from stages.digest import CorruptFileError
from stages.pack import Pack
from stages.tables import Audits, Verdicts, Videos
from tests.small_tables import clip_row, render_video, source_of, video_row, write_tables


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A finished folder of two videos, `anna` (downloaded) and `anna-0001` (the user's own), in one shard."""
    root = tmp_path / "data"
    (root / "media").mkdir(parents=True)
    paths = {"anna": root / "media/anna.mp4", "anna-0001": tmp_path / "anna-0001.mp4"}
    videos = {name: video_row(render_video(path, seed=i), name) for i, (name, path) in enumerate(paths.items())}
    sources = [source_of(video, clip_row(name), seed=i) for i, (name, video) in enumerate(videos.items())]
    write_tables(root, sources)
    stage, shard = Pack(row_group_size=8, negatives=1.0), root / "shards/train/train-00000-of-00001.parquet"
    shard.parent.mkdir(parents=True)
    write_shard(stage, stage.build()(sources), shard, {"fingerprint": "a" * 64, "key": "train"})
    write_index(root / "shards")
    (tmp_path / "list.txt").write_text("https://example.org/anna.mp4 id=anna\nanna-0001.mp4\n")
    store, listed = Store(root), read_manifest(tmp_path / "list.txt")
    store.commit("", "manifest", storable(listed), {})
    store.write_json("run.json", {"recipe": "whim", "videos": str(tmp_path / "list.txt"), "settings": {}})
    (root / "media/anna.info.json").write_text("{}")
    (root / "media/incoming/anna").mkdir(parents=True)
    (root / "media/incoming/anna/anna.mp4.part").write_bytes(b"half")
    (root / "hands/anna-0007.error.json").write_text("{}")
    (root / "runs").mkdir(exist_ok=True)
    keys = ("anna", "anna-0000", "anna-0001", "anna-0001-0000")
    (root / "runs/1.jsonl").write_text("".join(json.dumps({"key": key}) + "\n" for key in keys))
    (root / "report.html").write_text("<img>")
    return root


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_an_index_of_anything_else_is_told_before_anything_goes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = data / "shards/index.json"
    index.write_text('{"shards": [1]}')
    before = files_of(data)
    assert whim.main(["remove", "anna", "--data", str(data)]) == whim.USER_ERROR
    assert f"{index} is corrupt" in "".join(capsys.readouterr())
    assert files_of(data) - {".lock"} == before
    with pytest.raises(CorruptFileError, match=r"index\.json is corrupt"):
        open_source(data)


def test_a_removed_video_is_gone_from_everything(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = data / "shards/train/train-00000-of-00001.parquet"
    before, rows = files_of(data), pq.read_table(shard, columns=["video"])["video"].to_pylist()
    assert whim.main(["remove", "https://example.org/anna.mp4", "--data", str(data)]) == whim.DONE
    said = capsys.readouterr().out
    after = files_of(data)
    for path in before - after:
        assert f"removed {path}" in said
    assert {"media/anna.mp4", "media/anna.info.json", "media/incoming/anna/anna.mp4.part", "videos/anna.parquet", "clips/anna.parquet",
            "hands/anna-0007.error.json", "report.html"} <= before - after  # fmt: skip
    left = [path for path in after if "anna" in path.replace("anna-0001", "")]
    assert left == []
    assert "videos/anna-0001.parquet" in after, "another video's part went"
    assert (tmp_path / "anna-0001.mp4").exists()
    assert f"removed {rows.count('anna')} frames of shards/train" in said
    assert set(pq.read_table(shard, columns=["video"])["video"].to_pylist()) == {"anna-0001"}
    everything = b"".join((data / path).read_bytes() for path in after - {"removed.txt"}).replace(b"anna-0001", b"")
    assert b"anna" not in everything
    assert "not removed: copies of the shards" in said
    loaded = load(data, Asked(), remember=True)
    assert loaded.graph.manifest.video.tolist() == ["anna-0001"], "the next run takes it up again"
    assert loaded.unlisted == ()
    assert [str(one) for one in loaded.left_out] == ["anna (withdrawn)"]
    assert not (data / "left_out.json").exists(), "the folder names it again"


def test_removing_is_repeated_where_it_was_interrupted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "removed.txt").write_text("anna\n")
    Store(data).commit("", "manifest", load(data, Asked()).graph.manifest, {})
    assert whim.main(["remove", "anna", "--data", str(data)]) == whim.DONE
    assert not (data / "media/anna.mp4").exists()
    assert whim.main(["remove", "anna", "--data", str(data)]) == whim.DONE
    assert (data / "removed.txt").read_text() == "anna\n"


@pytest.mark.parametrize("names", [["anna"], ["anna", "anna-0001"]])
def test_killed_before_the_index_is_written_it_is_written_by_the_next_try(data: Path, names: list[str]) -> None:
    beside = {path: path.read_bytes() for path in (data / "shards").glob("*.*")}
    assert whim.main(["remove", *names, "--data", str(data)]) == whim.DONE
    after = {path.name: path.read_bytes() for path in (data / "shards").glob("*.*")}
    for path, content in beside.items():
        path.write_bytes(content)
    assert whim.main(["remove", *names, "--data", str(data)]) == whim.DONE
    assert {path.name: path.read_bytes() for path in (data / "shards").glob("*.*")} == after
    (data / "shards/README.md").write_text("anna" if len(names) > 1 else after["README.md"].decode())  # of three that go the last
    assert whim.main(["remove", *names, "--data", str(data)]) == whim.DONE
    assert {path.name: path.read_bytes() for path in (data / "shards").glob("*.*")} == after


def test_a_damaged_log_keeps_nobody_in(data: Path) -> None:
    log = data / "runs/1.jsonl"
    damaged = b'{"key": "ann\xff"}\n' + b"[" * 100_000 + b"\n"
    log.write_bytes(damaged + log.read_bytes())
    assert whim.main(["remove", "anna", "--data", str(data)]) == whim.DONE
    assert log.read_bytes() == damaged + b'{"key": "anna-0001-0000"}\n'


def test_the_last_video_takes_the_shards_along(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["remove", "anna", str(tmp_path / "anna-0001.mp4"), "--data", str(data)]) == whim.DONE
    assert f"not removed: your own file {tmp_path}/anna-0001.mp4" in capsys.readouterr().out
    assert not list((data / "shards").rglob("*.*"))


def test_a_name_that_is_unknown_removes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(data)
    assert whim.main(["remove", "berta", "--data", str(data)]) == whim.USER_ERROR
    assert "knows no video 'berta'" in capsys.readouterr().err
    assert whim.main(["remove", "anna", "--data", str(tmp_path)]) == whim.USER_ERROR
    assert files_of(data) - {".lock"} == before - {".lock"}


def test_what_was_set_aside_goes_too_and_copies_are_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged shard or video that waits for its successor shows the person as well, and so does the same video under another name."""
    shard = data / "shards/train/train-00000-of-00001.parquet"
    aside = [data / "media/anna.mp4.corrupt", data / "media/anna.info.json.corrupt", shard.with_name(f"{shard.name}.corrupt")]
    aside += [data / "runs/1.jsonl.corrupt", data / "report.html.corrupt", data / "hashes.json"]
    aside += [data / "ledger.parquet"]
    for path in aside:
        path.write_bytes(shard.read_bytes())
    other = Store(data).read(Videos, "videos", "anna-0001")
    other.sha256[0] = Store(data).read(Videos, "videos", "anna").sha256[0]
    Store(data).commit("videos", "anna-0001", other, {})
    assert whim.main(["remove", "anna", "--data", str(data)]) == whim.DONE
    assert [path for path in aside if path.exists()] == []
    assert "not removed: anna-0001, the same video under another name: remove it too" in capsys.readouterr().out


def test_a_removed_video_is_gone_from_bundles(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, tables = Store(data), ("videos", "clips", "hands", "fits", "reviews")
    parts = [(table, key) for table in tables for key in store.keys(table)]
    Compaction(store, most_loose=0).end([(table, store.keys(table)) for table in tables])
    assert [path for table in tables for path in (data / table).glob("*.parquet")] == []
    assert len(list(data.rglob("bundles/*.parquet"))) == len(tables)
    (data / "hands/bundles/000000009-2-abcdef01.parquet.corrupt").write_bytes(b"anna")
    stays = {(table, key): store.read_arrow(table, key) for table, key in parts if key in ("anna-0001", "anna-0001-0000")}
    assert len(stays) == len(tables)
    assert whim.main(["remove", "https://example.org/anna.mp4", "--data", str(data)]) == whim.DONE
    said = capsys.readouterr().out
    for table, key in parts:
        assert (f"removed {table}/{key}.parquet\n" in said) is ((table, key) not in stays)
    everything = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "removed.txt")
    assert b"anna" not in everything.replace(b"anna-0001", b"")
    left = Store(data)
    assert {(table, key) for table in tables for key in left.keys(table)} == stays.keys()
    assert all(left.read_arrow(*place).equals(rows) for place, rows in stays.items())
    assert whim.main(["remove", "anna-0001", "--data", str(data)]) == whim.DONE
    assert [key for table in tables for key in Store(data).keys(table)] == []
    assert list(data.rglob("bundles/*")) == []


def test_what_people_said_of_another_video_stays(data: Path) -> None:
    """`anna-0001` is a video, no clip of `anna`, and an audit may be called like either."""
    store = Store(data)
    for video in ("anna", "anna-0001"):
        store.commit("verdicts", video, Verdicts.empty(), {})
    texts = {"audit": "a", "who": "b", "where": "", "video": "anna-0001"}
    drawn = Audits(
        **{name: np.array([text], object) for name, text in texts.items()},
        **{name: np.zeros(1, np.int64) for name in ("seed", "population", "frame")},
        **{name: np.zeros(1) for name in ("when_s", "time_s")},
        hand=np.zeros(1, np.int16),
        side=np.zeros(1, np.int8),
        box=np.zeros((1, 4), np.float32),
    )
    for name in ("anna", "anna-2024"):
        store.commit("audits", name, drawn, {})
    assert whim.main(["remove", "anna", "--data", str(data)]) == whim.DONE
    assert (Store(data).keys("verdicts"), Store(data).keys("audits")) == (["anna-0001"], ["anna", "anna-2024"])
