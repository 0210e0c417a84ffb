"""Nothing that was made is removed before its successor is committed: videos put away, failed writes, damaged files, copies of videos."""

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.index import renew_index
from pipeline.engine.finish import Where, finish, shard_files
from pipeline.engine.graph import Graph
from pipeline.engine.plan.tasks import State, Why
from pipeline.engine.store import Store
from pipeline.engine.verify import verify
from pipeline.folder import Asked, load
from stages.detect_hands_mediapipe import DetectHands
from stages.tables import Hands, Videos
from tests.chain.conftest import Whim

SETTINGS: dict[str, Any] = {"pack.num_shards": 1, "split.frames_per_second": 2.0}


def run(data: Path, videos: Path | None = None, *, leave: bool = False, **settings: Any) -> Graph:
    """A run in this process, as the command does it."""
    with Store(data).lock():
        asked = Asked(
            videos=videos, leave=leave, settings={**SETTINGS, **{name.replace("__", "."): value for name, value in settings.items()}}
        )
        graph = load(data, asked, remember=True).graph
        finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
        renew_index(shard_files(graph))
    return graph


def shard_bytes(data: Path) -> dict[Path, bytes]:
    """The recorded shards' files."""
    return {data / "shards" / entry["path"]: (data / "shards" / entry["path"]).read_bytes() for entry in index(data)["shards"]}


def text(table: pa.Table) -> str:
    """All rows, to be compared: NaN is like NaN there."""
    return repr(table.to_pylist())


def plan(data: Path) -> Graph:
    return load(data, Asked()).graph


def index(data: Path) -> dict[str, Any]:
    found = Store(data).read_json("shards/index.json")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def home(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos in one shard, and the folder made from them."""
    home = tmp_path_factory.mktemp("succession")
    (home / "videos").mkdir()
    for name in ("asl_yes", "asl_bird"):
        shutil.copy2(media / f"videos/intel/{name}.mkv", home / "videos")
    (home / "list.txt").write_text("videos/asl_yes.mkv split=train\nvideos/asl_bird.mkv split=train\n")
    graph = run(home / "data", home / "list.txt")
    assert {task.state for task in graph.tasks} == {State.DONE}
    assert len(shard_bytes(home / "data")) == 1
    return home


@pytest.fixture
def data(home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(home / "data", tmp_path / "data")


@contextmanager
def away(path: Path) -> Iterator[None]:
    path.rename(path.with_name(path.name + ".bak"))
    try:
        yield
    finally:
        path.with_name(path.name + ".bak").rename(path)


@pytest.mark.parametrize("gone", ["videos", "videos/asl_bird.mkv"])
def test_shards_outlive_a_new_detector_that_has_no_video_to_look_at(
    home: Path, data: Path, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shard_bytes(data)
    with away(home / gone):
        with monkeypatch.context() as newer:
            newer.setattr(DetectHands, "version", 10**6)
            graph = run(data)
            assert {task.key for task in graph.stale if graph.stages[task.stage].name == "pack"}
            assert shard_bytes(data) == before
            assert [shard.get("stale") for shard in index(data)["shards"]] == [True]
            assert verify(data).corrupt == {}
        run(data)
    assert shard_bytes(data) == before
    assert [shard.get("stale") for shard in index(data)["shards"]] == [None]


def test_a_failed_write_leaves_the_shard_before(data: Path) -> None:
    before = shard_bytes(data)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limit[1]))
    try:
        graph = run(data, pack__jpeg_quality=95)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [task.state for task in graph.tasks if graph.stages[task.stage].name == "pack"] == [State.RETRY]
    assert shard_bytes(data) == before
    assert not list(data.rglob("*.tmp"))
    run(data, pack__jpeg_quality=95)
    assert shard_bytes(data) != before


def test_foreign_files_below_the_shards_are_left_alone(data: Path, tmp_path: Path) -> None:
    shard = next((data / "shards").rglob("*.parquet"))
    mine = [data / "shards/my_subset.parquet", data / "shards/export/x.parquet", data / "shards/train/train-00007-of-00009.parquet"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        shutil.copy2(shard, path)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy2(shard, tmp_path / "elsewhere/test-00000-of-00001.parquet")
    (data / "shards/test").symlink_to(tmp_path / "elsewhere")
    run(data)
    run(data, pack__num_shards=3)  # another layout: the old shard has a successor, and goes
    assert all(path.exists() for path in mine)
    assert list((tmp_path / "elsewhere").iterdir())
    assert not shard.exists()
    assert {entry["path"] for entry in index(data)["shards"]}.isdisjoint(str(path.relative_to(data / "shards")) for path in mine)


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("table", ["hands", "clips", "videos"])
def test_a_damaged_part_is_named_and_made_again_within_the_run(data: Path, table: str) -> None:
    before = shard_bytes(data)
    part = sorted((data / table).rglob("*.parquet"))[0]
    sound = pq.read_table(part)
    flip(part, 0.4)
    next((data / "shards").rglob("*.parquet")).unlink()
    graph = run(data)
    assert {task.state for task in graph.tasks} == {State.DONE}
    assert text(pq.read_table(part)) == text(sound)
    assert shard_bytes(data) == before
    assert not list(data.rglob("*.corrupt"))


def test_a_folder_in_place_of_a_part_costs_that_part_alone(data: Path) -> None:
    part = sorted((data / "hands").glob("*.parquet"))[0]
    part.unlink()
    (part / "inside").mkdir(parents=True)
    graph = run(data)
    failed = [task for task in graph.tasks if task.state is State.RETRY]
    assert [(task.key, graph.stages[task.stage].name) for task in failed] == [(part.stem, "fuse-hands")]
    assert shard_bytes(data)


def test_touched_copied_and_moved_videos_are_the_same(home: Path, data: Path, tmp_path: Path) -> None:
    for video in (home / "videos").iterdir():
        os.utime(video)
    assert plan(data).pending == []
    shutil.copytree(home / "videos", tmp_path / "videos")
    shutil.copy2(home / "list.txt", tmp_path)
    graph = run(data, tmp_path / "list.txt")
    assert graph.pending == []
    (tmp_path / "videos/asl_yes.mkv").write_bytes((tmp_path / "videos/asl_bird.mkv").read_bytes())
    pending = {(task.key, task.why) for task in plan(data).pending}
    assert ("asl_yes", Why.INPUT) in pending
    assert "asl_bird" not in {key for key, _ in pending}


def test_one_content_is_in_one_split(home: Path, tmp_path: Path) -> None:
    lines = ["videos/asl_yes.mkv split=train", "copy.mkv split=val id=a_copy"]
    shutil.copytree(home / "videos", tmp_path / "videos")
    shutil.copy2(home / "videos/asl_yes.mkv", tmp_path / "copy.mkv")
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    graph = run(tmp_path / "data", tmp_path / "list.txt")
    assert graph.duplicates == {"asl_yes": "a_copy"}
    splits = {entry["split"] for entry in index(tmp_path / "data")["shards"]}
    assert splits == {"val"}
    videos = {video for path in shard_bytes(tmp_path / "data") for video in pq.read_table(path, columns=["video"])["video"].to_pylist()}
    assert videos == {"asl_yes", "a_copy"}
    assert "twice: asl_yes is a_copy." in (tmp_path / "data/shards/README.md").read_text()


def test_another_video_of_a_known_name_takes_no_place(home: Path, data: Path, tmp_path: Path) -> None:
    before = shard_bytes(data)
    first, other, listed = home / "videos/asl_bird.mkv", tmp_path / "b/asl_bird.mkv", tmp_path / "list.txt"
    other.parent.mkdir()
    shutil.copy2(home / "videos/asl_yes.mkv", other)
    listed.write_text(f"{home}/videos/asl_yes.mkv split=train\n{other} split=train\n")
    with pytest.raises(ValueError, match=f"{other} would take the place of {first}.* id=NAME.*--leave"):
        load(data, Asked(videos=listed), remember=True)
    assert load(data, Asked(videos=listed, leave=True)).graph.pending
    shutil.copy2(first, other)
    assert load(data, Asked(videos=listed)).graph.pending == [], "a copy of the same content"
    assert shard_bytes(data) == before


def test_a_fetched_video_that_is_gone_or_cut_is_fetched_again_when_it_is_wanted(home: Path, served: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{served}/videos/intel/asl_yes.mkv id=yes split=train\n")
    data = tmp_path / "data"
    run(data, tmp_path / "list.txt")
    before = shard_bytes(data)
    medium = data / str(Store(data).read(Videos, "videos", "yes").path[0])
    sound = medium.read_bytes()
    for damage in (medium.unlink, lambda: medium.write_bytes(b"")):
        damage()
        assert plan(data).pending == [], "nothing asks for frames"
        for part in (data / "hand_detections").rglob("*.parquet"):
            part.unlink()
        assert {(task.key, task.why) for task in plan(data).pending} >= {("yes", Why.MISSING)}
        graph = run(data)
        assert {task.state for task in graph.tasks} == {State.DONE}
        assert medium.read_bytes() == sound
        assert shard_bytes(data) == before


def test_a_video_that_was_altered_is_not_taken_for_the_one_before(home: Path, served: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{served}/videos/intel/asl_yes.mkv id=yes split=train\n")
    data = tmp_path / "data"
    run(data, tmp_path / "list.txt")
    medium = data / str(Store(data).read(Videos, "videos", "yes").path[0])
    sound = medium.read_bytes()
    flip(medium, 0.5)
    hands = Store(data).read(Hands, "hands", "yes-0000").to_arrow()
    for part in (data / "hand_detections").rglob("*.parquet"):
        part.unlink()
    run(data)
    assert medium.read_bytes() == sound
    assert text(Store(data).read(Hands, "hands", "yes-0000").to_arrow()) == text(hands)


def test_videos_that_another_list_does_not_name_stay_until_they_are_let_go(home: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{home}/videos/asl_yes.mkv split=train\n")
    before = shard_bytes(data)
    told = load(data, Asked(videos=tmp_path / "list.txt"))
    assert told.unlisted == ("asl_bird",)
    assert told.graph.pending == []
    run(data, tmp_path / "list.txt")
    run(data)
    assert shard_bytes(data) == before
    with away(home / "videos/asl_bird.mkv"):  # as on a disk that is half mounted
        run(data, home / "videos")
    assert shard_bytes(data) == before
    run(data, tmp_path / "list.txt", leave=True)
    assert {video for path in shard_bytes(data) for video in pq.read_table(path, columns=["video"])["video"].to_pylist()} == {"asl_yes"}


def test_a_withdrawn_video_does_not_stay(home: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{home}/videos/asl_yes.mkv split=train\n")
    (tmp_path / "removed.txt").write_text("asl_bird\n")
    assert load(data, Asked(videos=tmp_path / "list.txt")).unlisted == ()
    run(data, tmp_path / "list.txt")
    assert {video for path in shard_bytes(data) for video in pq.read_table(path, columns=["video"])["video"].to_pylist()} == {"asl_yes"}


def test_the_command_verify_names_what_is_damaged(data: Path, whim: Whim) -> None:
    assert "all sound" in whim("verify", data).stdout
    part = sorted((data / "fits").glob("*.parquet"))[0]
    flip(part, 0.3)
    told = json.loads(whim("verify", data, "--json", status=2).stdout)
    assert list(told["corrupt"]) == [f"fits/{part.name}"]
    assert f"fits/{part.name}" in whim("verify", data, status=2).stdout
