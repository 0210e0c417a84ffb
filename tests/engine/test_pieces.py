"""A shard that would be too large is several files; whatever its files were before, no frame is lost and none is listed twice."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from fitting.files import sha256_of
from pipeline.dataset.index import renew_index
from pipeline.engine.durable import StoreError
from pipeline.engine.files.footers import Footers
from pipeline.engine.finish import Where, finish, packed_videos, shard_files
from pipeline.engine.graph import Graph
from pipeline.engine.orders import Outcome
from pipeline.engine.plan import contents
from pipeline.engine.plan.tasks import State, Task
from pipeline.engine.store import Store
from pipeline.remove import remove
from stages import pack
from stages.pack import Pack
from stages.shards import pieces, whole_of
from stages.stage import Stage
from stages.tables import Clips, Fits, Hands, Manifest, RefusedHands, Reviews, Table, Videos
from tests.engine import toy
from tests.small_tables import columns, render_video, source_of, video_row
from training.data.dataset import opened

FRAMES = {"long": 40, "anna": 5, "bert": 5, "carl": 5, "dora": 5}
CLIP = 5
"""Frames a clip; two clips make a file of one megabyte."""

Samples = dict[str, tuple[str, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(toy.ToyStage):
    """Takes videos of a folder."""

    name: ClassVar[str] = "found"
    key: ClassVar[Any] = "video"
    reads: ClassVar[tuple[type, ...]] = (Manifest,)
    writes: ClassVar[type[Table]] = Videos

    folder: str = ""
    """Where they lie."""

    def build(self) -> Callable[[Manifest], Videos]:
        def found(row: Manifest) -> Videos:
            path = Path(self.folder, f"{row.video[0]}.mp4")
            return replace(video_row(path, str(row.video[0])), sha256=np.array([sha256_of(path)], object))

        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(toy.ToyStage):
    """Deals a video out to clips of five frames."""

    name: ClassVar[str] = "cut"
    key: ClassVar[Any] = "video"
    reads: ClassVar[tuple[type, ...]] = (Videos,)
    writes: ClassVar[type[Table]] = Clips

    def build(self) -> Callable[[Videos], Clips]:
        def cut(videos: Videos) -> Clips:
            n = np.arange(FRAMES[videos.video[0]] // CLIP)
            return Clips.of(
                clip=np.array([f"{videos.video[0]}-{i:04d}" for i in n], object),
                video=np.full(len(n), videos.video[0], object),
                start_s=n * CLIP / 10,
                end_s=(n + 1) * CLIP / 10,
                first_frame=n * CLIP,
                num_frames=np.full(len(n), CLIP),
                frames_per_second=np.zeros(len(n)),
                ends_with=np.full(len(n), "size", object),
            )

        return cut


@dataclass(frozen=True, slots=True, kw_only=True)
class See(toy.ToyStage):
    """Sees two hands on most frames, fits and reviews them."""

    name: ClassVar[str] = "see"
    reads: ClassVar[tuple[type, ...]] = (Videos, Clips)
    writes: ClassVar[tuple[type[Table], ...]] = (Hands, Fits, Reviews)

    def build(self) -> Callable[[Videos, Clips], tuple[Table, ...]]:
        def see(videos: Videos, clips: Clips) -> tuple[Table, ...]:
            made = source_of(videos, clips)
            return made.hands, made.fits, made.reviews

        return see


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(toy.ToyStage):
    """Takes what it saw on the first frame of a clip for no hand."""

    name: ClassVar[str] = "refuse"
    reads: ClassVar[tuple[type, ...]] = (Clips,)
    writes: ClassVar[type[Table]] = RefusedHands

    def build(self) -> Callable[[Clips], Table]:
        return lambda clips: columns(
            RefusedHands, 1, video=clips.video[0], frame=clips.first_frame, score=0.2, box=[[1, 2, 3, 4]], reason="weak"
        )


Make = Callable[..., Graph]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Bring a folder of these videos to its end; settings are those of `Pack`."""
    monkeypatch.setattr(pack, "_BYTES_PER_PIXEL", 100_000 / (320 * 240))
    for name, num_frames in FRAMES.items():
        render_video(tmp_path / f"videos/{name}.mp4", num_frames=num_frames, seed=len(name))
    return partial(_make, tmp_path)


def plan(tmp_path: Path, *videos: str, shard_mb: int = 1, leave: bool = False, **settings: Any) -> Graph:
    packs = Pack(num_shards=1, negatives=1.0, shard_mb=shard_mb, **settings)
    stages: list[Stage] = [Found(folder=str(tmp_path / "videos")), Cut(), See(), packs]
    return Graph(stages, toy.manifest(*videos), Store(tmp_path / "data"), leave=leave).load()


def _make(tmp_path: Path, *videos: str, **settings: Any) -> Graph:
    graph = plan(tmp_path, *videos, **settings)
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
    assert renew_index(shard_files(graph)) == []
    return graph


def samples(folder: Path) -> Samples:
    """File and image of every frame that training finds."""
    found: Samples = {}
    for shard in opened(folder, "train", folder.parent / "cache"):
        for row in pq.read_table(shard.path, columns=["sample", "image"]).to_pylist():
            assert row["sample"] not in found, "it is in two files"
            found[row["sample"]] = Path(shard.path).name, row["image"]
    return found


def images(folder: Path) -> dict[str, bytes]:
    return {sample: image for sample, (_, image) in samples(folder).items()}


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.parquet")}


def test_a_shard_is_packed_from_bundles_by_what_the_driver_says(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a worker reads it is told: the tables of the clips, their lists and the videos too."""
    make("anna", "bert")
    before = images(tmp_path / "data/shards")
    with (store := Store(tmp_path / "data")).lock():
        finish(plan(tmp_path, "anna", "bert"), Where(local=True), on_outcome=lambda task, outcome: None, most_loose=0)
    for table in ("videos", "clips", "hands", "reviews"):
        assert not store.loose(table)
        assert store.bundles.of(table).files

    class Unread(Footers):
        @property
        def ledger(self) -> Any:
            raise AssertionError("it looks a part up")

    class Watched(Store):
        def __init__(self, root: Path) -> None:
            super().__init__(root)
            self.footers = Unread(self)

    monkeypatch.setattr("pipeline.engine.worker.Store", Watched)
    make("anna", "bert", jpeg_quality=71)
    assert images(tmp_path / "data/shards").keys() == before.keys()
    assert images(tmp_path / "data/shards") != before


def test_a_large_shard_is_cut_within_its_long_video_and_between_short_ones(make: Make, tmp_path: Path) -> None:
    make("long", "anna", "bert", "carl", shard_mb=100)
    shards = tmp_path / "data/shards"
    whole = images(shards)
    assert len(files(shards)) == 1
    assert {sample.split("/")[0] for sample in whole} == {"long", "anna", "bert", "carl"}
    shutil.rmtree(tmp_path / "data")
    graph = make("long", "anna", "bert", "carl")
    assert images(shards) == whole
    by_file: dict[str, set[str]] = {}
    for sample, (name, _) in samples(shards).items():
        by_file.setdefault(name, set()).add(sample.split("/")[0])
    assert sorted(map(sorted, by_file.values()))[-4:] == [["long"]] * 4
    assert len(by_file) >= 6
    assert {whole_of(task.key) for task in graph.tasks if graph.stages[task.stage].key == "shard"} == {"train/train-00000-of-00001"}
    assert plan(tmp_path, "long", "anna", "bert", "carl").pending == []


def test_what_was_refused_is_ignored_and_a_recipe_that_refuses_nothing_is_packed_as_well(make: Make, tmp_path: Path) -> None:
    found = {}
    for stages in ([See()], [See(), Refuse()]):
        first = [Found(folder=str(tmp_path / "videos")), Cut(), *stages]
        graph = Graph([*first, Pack(num_shards=1, negatives=1.0)], toy.manifest("anna"), Store(tmp_path / f"{len(stages)}")).load()
        finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
        (path,) = graph.store.root.glob("shards/train/*.parquet")
        found[len(stages)] = {
            row["frame"]: row["ignore_boxes"] for row in pq.read_table(path, columns=["frame", "ignore_boxes"]).to_pylist()
        }
    assert found[2] == {frame: boxes + [[1, 2, 3, 4]] * (frame == 0) for frame, boxes in found[1].items()}


def test_files_stay_as_they_are_when_the_list_grows(make: Make, tmp_path: Path) -> None:
    make("long", "anna", "bert", "carl")
    before, seen = files(tmp_path / "data/shards"), images(tmp_path / "data/shards")
    make("long", "anna", "bert", "carl", "dora")
    after, now = files(tmp_path / "data/shards"), images(tmp_path / "data/shards")
    assert {sample: now[sample] for sample in seen} == seen
    assert {sample.split("/")[0] for sample in now.keys() - seen.keys()} == {"dora"}
    same = {name for name in before if after.get(name) == before[name]}
    assert {name for name in before if "-p" not in name} <= same
    assert len(before.keys() - same) <= 1, "more than the file that has the new video was written anew"


def test_a_folder_of_one_file_stays_and_loses_nothing_when_it_is_dealt_out(make: Make, tmp_path: Path) -> None:
    make("long", "anna", "bert", shard_mb=100)
    shards, before = tmp_path / "data/shards", images(tmp_path / "data/shards")
    assert plan(tmp_path, "long", "anna", "bert").pending == [], "what was packed by the version before is as good"
    (tmp_path / "videos").rename(tmp_path / "away")  # the one file is all that is left of the frames
    make("long", "anna", "bert", min_quality=0.01)
    assert images(shards) == before
    assert len(files(shards)) > 4
    assert not (shards / "train/train-00000-of-00001.parquet").exists()
    make("long", "anna", "bert", shard_mb=100, min_quality=0.02)
    assert images(shards) == before
    assert [path.name for path in shards.rglob("*.parquet")] == ["train-00000-of-00001.parquet"]


def test_the_file_before_speaks_for_a_piece_that_failed(make: Make, tmp_path: Path) -> None:
    make("long", "anna", "bert", shard_mb=100)
    shards, before = tmp_path / "data/shards", images(tmp_path / "data/shards")
    graph = plan(tmp_path, "long", "anna", "bert", min_quality=0.01)
    in_its_place = graph.store.part("shards", next(task.key for task in graph.pending if "-p" not in task.key))
    in_its_place.mkdir()
    graph = make("long", "anna", "bert", min_quality=0.01)
    assert [task.state for task in graph.tasks if task.state is not State.DONE] == [State.RETRY]
    assert images(shards) == before
    assert {name for name, _ in samples(shards).values()} == {"train-00000-of-00001.parquet"}
    in_its_place.rmdir()
    make("long", "anna", "bert", min_quality=0.01)
    assert images(shards) == before
    assert not (shards / "train/train-00000-of-00001.parquet").exists()


def test_a_piece_whose_clips_all_failed_keeps_its_file(make: Make, tmp_path: Path) -> None:
    make("long", "anna", "bert")
    shards, before = tmp_path / "data/shards", images(tmp_path / "data/shards")
    alone = next(path for path in sorted(shards.rglob("*.parquet")) if "-p" not in path.name)
    kept, num_files = alone.read_bytes(), len(files(shards))
    for clip in set(pq.read_table(alone, columns=["clip"])["clip"].to_pylist()):
        hands = tmp_path / f"data/hands/{clip}.parquet"
        hands.unlink()
        hands.mkdir()
    make("long", "anna", "bert")
    assert alone.read_bytes() == kept
    assert images(shards) == before, "the other files of the shard are not listed"
    assert len(files(shards)) == num_files
    make("long", "anna", "bert", leave=True)
    assert not alone.exists(), "what failed was let go"


def test_a_removal_lists_no_frame_twice(make: Make, tmp_path: Path) -> None:
    make("long", "anna", "bert", shard_mb=100)
    shards, before = tmp_path / "data/shards", images(tmp_path / "data/shards")
    graph = plan(tmp_path, "long", "anna", "bert", min_quality=0.01)
    graph.store.part("shards", next(task.key for task in graph.pending if "-p" not in task.key)).mkdir()
    make("long", "anna", "bert", min_quality=0.01)
    assert len([path for path in shards.rglob("*.parquet") if path.is_file()]) > 1
    shutil.rmtree(next(path for path in shards.rglob("*.parquet") if path.is_dir()))
    remove(graph.store, ["anna"])
    assert images(shards).keys() == {sample for sample in before if not sample.startswith("anna/")}
    assert not any("anna" in pq.read_table(path, columns=["video"])["video"].to_pylist() for path in shards.rglob("*.parquet"))


@pytest.mark.parametrize("link", ["shards", "shards/train"])
def test_the_shards_of_another_data_folder_are_left_alone(make: Make, tmp_path: Path, link: str) -> None:
    make("anna", shard_mb=100)
    other, before = tmp_path / "other", files(tmp_path / "data/shards")
    (tmp_path / "data").rename(other)
    Store(other).write_json("run.json", {})
    (tmp_path / "data" / link).parent.mkdir(parents=True)
    (tmp_path / "data" / link).symlink_to(other / link)
    with pytest.raises(StoreError, match="another data folder"):
        make("bert", shard_mb=100)
    assert files(other / "shards") == before


def test_shards_may_lie_on_another_disk_but_strangers_beside_them_stay(make: Make, tmp_path: Path) -> None:
    make("anna", shard_mb=100)
    disk = tmp_path / "disk"
    (tmp_path / "data").rename(tmp_path / "other")
    (tmp_path / "other/shards").rename(disk)
    stranger, whole = disk / "train/train-00000-of-00001.parquet", "train-00000-of-00001.parquet"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shards").symlink_to(disk)
    make("bert", "long")
    assert stranger.exists(), "no video of it was ever of this folder"
    stranger.unlink()
    make("bert", "long", shard_mb=100, min_quality=0.01)
    assert [path.name for path in disk.rglob("*.parquet")] == [whole], "its own earlier files have gone"


def test_a_name_stands_for_the_same_clips_whatever_else_the_list_has() -> None:
    shard, chance = "val/val-00001-of-00002", np.random.default_rng(5)
    names = [f"v{n}" for n in range(300)]
    clips = sorted((name, n, int(size)) for name in names for n, size in enumerate(chance.integers(10_000, 900_000, chance.integers(1, 9))))

    def named(some: list[str]) -> dict[str, list[tuple[str, int]]]:
        listed = [clip for clip in clips if clip[0] in some]
        dealt = pieces(shard, [clip[0] for clip in listed], [clip[2] for clip in listed], 2)
        assert sorted(place for places in dealt.values() for place in places) == list(range(len(listed)))
        assert all(whole_of(name) == shard for name in dealt)
        assert all(sum(listed[place][2] for place in places) <= 2_000_000 for places in dealt.values())
        return {name: [listed[place][:2] for place in places] for name, places in dealt.items()}

    before, after = named(names[:-1]), named(names)
    changed = [name for name in before if after.get(name) != before[name]]
    assert len(before) > 100
    assert len(changed) <= 1
    assert pieces(shard, ["a", "b"], [10, 20], 1) == {shard: [0, 1]}
    assert whole_of("shards/x-00001-of-00002") == whole_of("train/val-00001-of-00002") == ""


def test_fetched_videos_may_go_once_packed_and_those_of_the_user_never(tmp_path: Path) -> None:
    media = tmp_path / "data/media"
    for name in ("anna", "bert"):
        render_video(media / f"{name}.mp4", num_frames=FRAMES[name], seed=1)
    manifest = toy.manifest("anna", "bert")
    manifest.source[:] = ["https://host/anna.mp4", str(media / "bert.mp4")]
    stages: list[Stage] = [Found(folder=str(media)), Cut(), See(), Pack(num_shards=1)]
    graph = Graph(stages, manifest, Store(tmp_path / "data")).load()
    assert packed_videos(graph) == []
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: None)
    assert packed_videos(graph) == [media / "anna.mp4"]


def test_a_clip_list_that_is_damaged_during_a_run_is_made_again(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_MOST_LISTS", 1)  # as in a folder of many videos: lists are read again when a shard is closed
    clips, settled = tmp_path / "data/clips/anna.parquet", list[str]()

    def damage(task: Task, outcome: Outcome) -> None:
        settled.append(f"{task.stage} {task.key}")
        if task.key == "anna-0000" and settled.count("2 anna-0000") == 1:
            clips.write_bytes(clips.read_bytes()[:-9])

    finish(plan(tmp_path, "anna", "bert"), Where(local=True), on_outcome=damage)
    assert settled.count("1 anna") == 2
    assert (settled.count("2 anna-0000"), settled.count("2 bert-0000")) == (1, 1)
    assert plan(tmp_path, "anna", "bert").pending == []
    seen = samples(tmp_path / "data/shards")
    shutil.rmtree(tmp_path / "data")
    make("anna", "bert")
    assert seen == samples(tmp_path / "data/shards")


def test_a_plan_after_a_change_of_packing_keeps_nothing_a_clip(make: Make, tmp_path: Path) -> None:
    make("long", "anna")
    graph = plan(tmp_path, "long", "anna", jpeg_quality=80)
    assert {graph.stages[task.stage].name for task in graph.pending} == {"pack"}
    assert [former.known for former in graph._judge._formers] == [{}, {}]
