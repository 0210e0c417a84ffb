"""Tables of the index, and those of them that are written whole each time: videos, clips, and where each frame's image lies."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.browse.landed import OF_VIDEOS, Clip, Landed
from pipeline.dataset.poses import POSE_COLUMNS
from pipeline.dataset.where import free_columns
from pipeline.engine.files.shard import open_shard
from pipeline.engine.store import Store
from stages.digest import UNREADABLE

VERSION = 3
"""Raised when the columns below change: every index is made anew."""
_FLOATS = (
    "score", "landmark_score", "quality", "error_px", "error_share", "inlier_ratio", "flip_margin", "violation_deg", "size_px",
    "size_share",
    "x0", "y0", "x1", "y1", *POSE_COLUMNS,
)  # fmt: skip


def version_of(index: Any) -> int:
    """The version that an index was made by; 0 of one that is none."""
    tables = {name for (name,) in index.execute("select table_name from information_schema.tables").fetchall()}
    return int(index.execute("select version from about").fetchone()[0]) if "about" in tables else 0


def make_tables(index: Any) -> None:
    """Empty tables in the place of all that is there."""
    for (name,) in index.execute("select table_name from information_schema.tables").fetchall():
        index.execute(f'drop table "{name}"')
    floats = ", ".join(f"{name} float" for name in _FLOATS)
    index.execute(f"""
        create table about (version integer, poses varchar, num_clips integer);
        create table clips (clip_id integer, clip varchar, video_id integer, stamp varchar, first_frame bigint, num_frames bigint,
            start_s double, end_s double);
        create table videos (video_id integer, video varchar, split varchar, stale boolean, {", ".join(f"{n} varchar" for n in OF_VIDEOS)});
        create table samples (video_id integer, frame bigint, view smallint, shard integer, row_group integer, row integer);
        create table shards (shard integer, path varchar, stamp varchar);
        create table hands (clip_id integer, frame bigint, time_s double, hand smallint, side tinyint, person smallint, track integer,
            track_length integer, num_agree smallint, num_run smallint, width integer, height integer, view smallint, keep boolean,
            box_only boolean, reason varchar, outcome varchar, sources varchar[], {floats})""")
    index.execute("insert into about values (?, '', 0)", [VERSION])


def write_landed(index: Any, store: Store, found: Landed) -> None:
    """Write videos, clips and shards as they are now."""
    videos = list(found.videos.values())
    stale_ids = _write_shards(index, store, {str(v["video"]): i for i, v in enumerate(videos)})
    free = free_columns([str(v["extra"]) for v in videos])
    ids = pa.array(range(len(videos)), pa.int32())
    texts = {name: pa.array([str(v[name]) for v in videos], pa.string()) for name in ("video", "split", *OF_VIDEOS)}
    stale = pa.array([i in stale_ids for i in range(len(videos))], pa.bool_())
    _replace(index, "videos", pa.table({"video_id": ids, **texts, "stale": stale, **free}))
    _replace(index, "clips", _of_clips(list(found.clips.values())))


def _of_clips(rows: Sequence[Clip]) -> pa.Table:
    return pa.table({
        "clip_id": pa.array([c.number for c in rows], pa.int32()),
        "clip": pa.array([str(c.row.clip[0]) for c in rows], pa.string()),
        "video_id": pa.array([c.video for c in rows], pa.int32()),
        "stamp": pa.array([c.stamp for c in rows], pa.string()),
        **{n: pa.array([getattr(c.row, n)[0] for c in rows], pa.int64()) for n in ("first_frame", "num_frames")},
        **{n: pa.array([getattr(c.row, n)[0] for c in rows], pa.float64()) for n in ("start_s", "end_s")},
    })  # fmt: skip


def _replace(index: Any, name: str, rows: pa.Table) -> None:
    index.register("new_rows", rows)
    index.execute(f"create or replace table {name} as select * from new_rows")
    index.unregister("new_rows")


def _write_shards(index: Any, store: Store, videos: dict[str, int]) -> set[int]:
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
            groups = _places(path)
        except UNREADABLE:
            continue
        for group, rows in enumerate(groups):
            ids = np.array([videos.get(video, -1) for video in rows["video"].to_pylist()], np.int32)
            stale |= set(ids.tolist()) if entry.get("stale") else set()
            where = {"shard": np.full(len(ids), number, np.int32), "row_group": np.full(len(ids), group, np.int32)}
            view = rows["view"] if "view" in rows.column_names else np.zeros(len(ids), np.int16)
            of_frames = {"video_id": ids, "frame": rows["frame"], "view": view, **where, "row": np.arange(len(ids), dtype=np.int32)}
            index.register("rows_of_shard", pa.table(of_frames))
            index.execute("insert into samples by name select * from rows_of_shard where video_id >= 0")
        stated = [number, str(path.relative_to(store.root)), json.dumps(entry.get("sha256", ""))]
        index.execute("insert into shards values (?, ?, ?)", stated)
    return stale


def _places(path: Any) -> list[pa.Table]:
    """Video, frame and view of each row of a shard, by row group. Raises what `UNREADABLE` names."""
    shard = open_shard(path, memory_map=True)
    names = [name for name in ("video", "frame", "view") if name in shard.schema_arrow.names]
    return [shard.read_row_group(group, names) for group in range(shard.num_row_groups)]
