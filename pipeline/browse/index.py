"""What a data folder's hands can be asked for: one duckdb file among the user's caches, made from the tables, renewed clip by clip.

The tables stay what counts. The file holds numbers and names of hands, no image, no keypoint; what cannot be read is made anew.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.browse.poses import POSE_COLUMNS, PoseMap, learn_poses
from pipeline.dataset.where import free_columns, lock
from pipeline.engine.store import UNREADABLE, Store
from stages.digest import CorruptFileError
from stages.shards import split_of
from stages.tables import Clips, Manifest, Videos

VERSION = 1
"""Raised when the columns below change: every index is made anew."""

_HANDS = (
    "frame", "time_s", "hand", "width", "height", "box", "score", "side", "landmark_score", "person", "track", "track_length",
    "num_agree", "num_run", "sources",
)  # fmt: skip
_FITS = ("outcome", "error_px", "error_share", "inlier_ratio", "flip_margin", "violation_deg", "hand_pose")
_REVIEWS = ("quality", "keep", "reason", "box_only")
_VIDEOS = ("licence", "channel", "title")
_BATCH_ROWS = 100_000
_T = TypeVar("_T")

NOT_REVIEWED = "not_reviewed"
"""Reason of hands whose clip has no review yet."""


@dataclass(slots=True)
class _Clip:
    """A clip as it lies in the folder."""

    number: int
    row: Clips
    video: int
    stamp: str
    """Sizes and times of its parts: what differs is read again."""


@dataclass(slots=True)
class _Folder:
    """What is known of a data folder before a hand is read."""

    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    clips: dict[str, _Clip] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def index_file(root: Path) -> Path:
    """Where the index of a data folder lies."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whim" / "browse"
    return cache / f"{hashlib.sha256(str(Path(root).absolute()).encode()).hexdigest()[:16]}.duckdb"


def renew(store: Store, file: Path) -> tuple[str, ...]:
    """Bring an index up to what lies in the folder; parts that cannot be read are named."""
    import duckdb

    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.stem}.{os.getpid()}.tmp")  # whoever asks the file goes on with it as it is
    if file.exists():
        shutil.copyfile(file, aside)
    try:
        try:
            unreadable = _renew(store, aside)
        except duckdb.Error:  # of another version, or damaged: it is a cache
            aside.unlink(missing_ok=True)
            unreadable = _renew(store, aside)
        aside.replace(file)
    finally:
        for path in (aside, aside.with_name(aside.name + ".wal")):
            path.unlink(missing_ok=True)
    return unreadable


def open_index(file: Path, *, threads: int | None = None, memory: str = "400MB") -> Any:
    """A connection that can only ask; `ix` is the index, and what is decided meanwhile goes into tables in memory."""
    import duckdb

    config: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False, "memory_limit": memory}
    connection = duckdb.connect(config=config | ({"threads": threads} if threads else {}))
    connection.execute(f"attach '{str(file).replace(chr(39), chr(39) * 2)}' as ix (read_only)")
    lock(connection)
    return connection


def _renew(store: Store, file: Path) -> tuple[str, ...]:
    import duckdb

    found = _look(store)
    with duckdb.connect(str(file), config={"memory_limit": "600MB"}) as index:
        if _version(index) != VERSION:
            _make_tables(index)
        before = dict(index.execute("select clip, stamp from clips").fetchall())
        gone = [clip for clip in before if clip not in found.clips]
        new = [name for name, clip in found.clips.items() if before.get(name) != clip.stamp]
        _number(index, found)
        if gone or new:
            stale = pa.table({"clip": pa.array([*gone, *(name for name in new if name in before)], pa.string())})
            index.register("stale", stale)
            index.execute("delete from hands where clip_id in (select clip_id from clips where clip in (select clip from stale))")
        poses = _poses(index, store, new, len(new) == len(found.clips))
        done = set()
        for table, clips in _batches(store, [found.clips[name] for name in new], poses, found.unreadable):
            index.register("batch", table)
            index.execute("insert into hands by name select * from batch")
            done |= set(clips)
        _write_known(index, store, found)
    return tuple(found.unreadable)


def _look(store: Store) -> _Folder:
    """The videos and clips that landed."""
    found = _Folder()
    stamps = {table: _stamps(store.root / table) for table in ("hands", "fits", "reviews")}
    splits = _splits(store, found.unreadable)
    for path in sorted((store.root / "videos").glob("*.parquet")):
        row = _sound(store, found.unreadable, partial(store.read, Videos, "videos", path.stem))
        clips = _sound(store, found.unreadable, partial(store.read, Clips, "clips", path.stem)) if row else None
        if row is None or clips is None:
            continue
        video = str(row.video[0])
        texts = {name: str(getattr(row, name)[0]) for name in _VIDEOS}
        found.videos[video] = {"video": video, "extra": str(row.extra[0]), **texts, "split": splits.get(video) or split_of(video, "")}
        for clip in clips.rows():
            name = str(clip.clip[0])
            stamp = " ".join(stamps[table].get(name, "") for table in stamps)
            if stamps["hands"].get(name):
                found.clips[name] = _Clip(-1, clip, len(found.videos) - 1, stamp)
    return found


def _sound(store: Store, unreadable: list[str], read: Callable[[], _T]) -> _T | None:
    """What a file holds; None where there is none, or where it is damaged and now named so."""
    try:
        return read()
    except FileNotFoundError:
        return None
    except CorruptFileError as error:
        unreadable.append(str(error.path.relative_to(store.root)))
        return None


def _splits(store: Store, unreadable: list[str]) -> dict[str, str]:
    """The split of each video: as it was packed, or as the list has it."""
    manifest = _sound(store, unreadable, partial(store.read, Manifest, "", "manifest")) or Manifest.empty()
    listed = {str(v): split_of(str(v), str(s)) for v, s in zip(manifest.video, manifest.split, strict=True)}
    stats = _sound(store, unreadable, partial(store.read_json, "shards/stats.json")) or {}
    videos = stats.get("videos")  # of a stranger's folder it may be anything
    known = (
        {video: one["split"] for video, one in videos.items() if isinstance(one, dict) and "split" in one}
        if isinstance(videos, dict)
        else {}
    )
    return listed | {str(video): str(split) for video, split in known.items()}


def _stamps(folder: Path) -> dict[str, str]:
    """Size and time of each part of a table, by clip."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        parts = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".parquet")]
    return {name.removesuffix(".parquet"): f"{stat.st_size}/{stat.st_mtime_ns}" for name, stat in parts}


def _version(index: Any) -> int:
    tables = {name for (name,) in index.execute("select table_name from information_schema.tables").fetchall()}
    return int(index.execute("select version from about").fetchone()[0]) if "about" in tables else 0


def _make_tables(index: Any) -> None:
    for (name,) in index.execute("select table_name from information_schema.tables").fetchall():
        index.execute(f'drop table "{name}"')
    numbers = "score landmark_score quality error_px error_share inlier_ratio flip_margin violation_deg size_px size_share x0 y0 x1 y1"
    floats = ", ".join(f"{name} float" for name in (*numbers.split(), *POSE_COLUMNS))
    index.execute(f"""
        create table about (version integer, poses varchar);
        create table clips (clip_id integer, clip varchar, video_id integer, stamp varchar, first_frame bigint, num_frames bigint,
            start_s double, end_s double);
        create table videos (video_id integer, video varchar, split varchar, stale boolean, {", ".join(f"{n} varchar" for n in _VIDEOS)});
        create table samples (video_id integer, frame bigint, shard integer, row_group integer, row integer);
        create table shards (shard integer, path varchar, stamp varchar);
        create table hands (clip_id integer, frame bigint, time_s double, hand smallint, side tinyint, person smallint, track integer,
            track_length integer, num_agree smallint, num_run smallint, width integer, height integer, keep boolean, box_only boolean,
            reason varchar, outcome varchar, sources varchar[], {floats})""")
    index.execute("insert into about values (?, '')", [VERSION])


def _number(index: Any, found: _Folder) -> None:
    """Give clips their numbers: those that they had, or new ones."""
    known = dict(index.execute("select clip, clip_id from clips").fetchall())
    following = max(known.values(), default=-1) + 1
    for name, clip in found.clips.items():
        clip.number = known.get(name, following)
        following += clip.number == following


def _poses(index: Any, store: Store, new: Sequence[str], all_new: bool) -> PoseMap | None:
    """The map of poses: learned once, of hands all over the folder, then kept for clips that come."""
    stated = str(index.execute("select poses from about").fetchone()[0])
    if stated and not all_new:
        return PoseMap.from_json(stated)
    poses = learn_poses(_read(store, "fits", clip, ("side", "hand_pose")) for clip in new)
    index.execute("update about set poses = ?", [poses.as_json() if poses else ""])
    return poses


def _read(store: Store, table: str, clip: str, columns: Sequence[str]) -> pa.Table | None:
    """Some columns of a part; None where there is none that can be read."""
    try:
        part = pq.ParquetFile(store.part(table, clip), memory_map=True)
        return part.read([name for name in columns if name in part.schema_arrow.names])
    except UNREADABLE:
        return None


def _batches(store: Store, clips: Iterable[_Clip], poses: PoseMap | None, unreadable: list[str]) -> Iterator[tuple[pa.Table, list[str]]]:
    """Rows of hands of many clips at once."""
    tables: list[pa.Table] = []
    names: list[str] = []
    for clip in clips:
        name = str(clip.row.clip[0])
        hands = _read(store, "hands", name, _HANDS)
        if hands is None:
            unreadable.append(f"hands/{name}.parquet")
            continue
        tables.append(_rows(clip.number, hands, _read(store, "fits", name, _FITS), _read(store, "reviews", name, _REVIEWS), poses))
        names.append(name)
        if sum(map(len, tables)) >= _BATCH_ROWS:
            yield pa.concat_tables(tables), names
            tables, names = [], []
    if tables:
        yield pa.concat_tables(tables), names


def _rows(clip: int, hands: pa.Table, fits: pa.Table | None, reviews: pa.Table | None, poses: PoseMap | None) -> pa.Table:
    """The rows of a clip, those of its fits and reviews beside them where these have landed. Unknown numbers are null."""
    n = len(hands)
    box = hands["box"].combine_chunks().flatten().to_numpy().reshape(n, 4)
    size_px = (box[:, 2:] - box[:, :2]).max(1, initial=0)
    longest = np.maximum(1, np.maximum(hands["width"].to_numpy(), hands["height"].to_numpy()))
    columns: dict[str, Any] = {name: hands[name] for name in _HANDS if name != "box"}
    columns |= {"clip_id": pa.array(np.full(n, clip, np.int32)), "size_px": size_px, "size_share": size_px / longest}
    columns |= {name: box[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}
    if fits is not None and len(fits) == n:
        columns |= {name: fits[name] for name in _FITS if name != "hand_pose"}
        if poses is not None:
            columns |= poses.place(hands["side"].to_numpy(), fits["hand_pose"])
    if reviews is not None and len(reviews) == n:
        columns |= {name: reviews[name] for name in reviews.column_names}
    else:
        columns |= {"keep": np.zeros(n, bool), "reason": pa.array([NOT_REVIEWED] * n, pa.string())}
    for name in ("box_only",):
        columns.setdefault(name, np.zeros(n, bool))
    arrays = {}
    for name, column in columns.items():
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else pa.array(column)
        arrays[name] = pa.array(array.to_numpy(), from_pandas=True) if pa.types.is_floating(array.type) else array
    wanted = {
        name: pa.float32() for name in ("error_px", "error_share", "inlier_ratio", "flip_margin", "violation_deg", "quality", *POSE_COLUMNS)
    }
    wanted |= {"outcome": pa.string()}
    lacking = {name: pa.nulls(n, kind) for name, kind in wanted.items() if name not in arrays}
    casts = {name: arrays[name].cast(kind) for name, kind in wanted.items() if name in arrays}
    everything = arrays | casts | lacking
    return pa.table({name: everything[name] for name in sorted(everything)})


def _write_known(index: Any, store: Store, found: _Folder) -> None:
    """Write videos, clips and shards as they are now."""
    videos = list(found.videos.values())
    of_shards = _shards(index, store, {str(v["video"]): i for i, v in enumerate(videos)})
    free = free_columns([str(v["extra"]) for v in videos])
    ids = pa.array(range(len(videos)), pa.int32())
    texts = {name: pa.array([str(v[name]) for v in videos], pa.string()) for name in ("video", "split", *_VIDEOS)}
    stale = pa.array([i in of_shards for i in range(len(videos))], pa.bool_())
    index.register("known_videos", pa.table({"video_id": ids, **texts, "stale": stale, **free}))
    index.execute("create or replace table videos as select * from known_videos")
    rows = list(found.clips.values())
    clips = {
        "clip_id": pa.array([c.number for c in rows], pa.int32()),
        "clip": pa.array([str(c.row.clip[0]) for c in rows], pa.string()),
        "video_id": pa.array([c.video for c in rows], pa.int32()),
        "stamp": pa.array([c.stamp for c in rows], pa.string()),
        **{n: pa.array([getattr(c.row, n)[0] for c in rows], pa.int64()) for n in ("first_frame", "num_frames")},
        **{n: pa.array([getattr(c.row, n)[0] for c in rows], pa.float64()) for n in ("start_s", "end_s")},
    }
    index.register("known_clips", pa.table(clips))
    index.execute("create or replace table clips as select * from known_clips")


def _shards(index: Any, store: Store, videos: dict[str, int]) -> set[int]:
    """Note where each frame's image lies; the videos whose shard is stale."""
    try:
        entries = [dict(entry) for entry in (store.read_json("shards/index.json") or {}).get("shards", [])]
    except (ValueError, TypeError, AttributeError):
        entries = []
    index.execute("delete from samples")
    index.execute("delete from shards")
    stale: set[int] = set()
    for number, entry in enumerate(entries):
        path = store.root / "shards" / str(entry.get("path", ""))
        try:
            shard = pq.ParquetFile(path, memory_map=True)
            groups = [shard.read_row_group(group, ["video", "frame"]) for group in range(shard.num_row_groups)]
        except UNREADABLE:
            continue
        for group, rows in enumerate(groups):
            ids = np.array([videos.get(video, -1) for video in rows["video"].to_pylist()], np.int32)
            stale |= set(ids.tolist()) if entry.get("stale") else set()
            where = {"shard": np.full(len(ids), number, np.int32), "row_group": np.full(len(ids), group, np.int32)}
            index.register(
                "rows_of_shard", pa.table({"video_id": ids, "frame": rows["frame"], **where, "row": np.arange(len(ids), dtype=np.int32)})
            )
            index.execute("insert into samples by name select * from rows_of_shard where video_id >= 0")
        index.execute(
            "insert into shards values (?, ?, ?)", [number, str(path.relative_to(store.root)), json.dumps(entry.get("sha256", ""))]
        )
    return stale
