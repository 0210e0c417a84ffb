"""What a data folder's hands can be asked for: one duckdb file among the user's caches, made from the tables, renewed clip by clip.

The tables stay what counts. The file holds numbers and names of hands, no image, no keypoint; what cannot be read is made anew.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.browse.hand_rows import batches
from pipeline.browse.index_tables import VERSION, make_tables, version_of, write_landed
from pipeline.browse.landed import Landed, look
from pipeline.dataset.poses import PoseMap, learn_poses
from pipeline.dataset.where import lock
from pipeline.engine.store import Store
from stages.errors import UserError

MAP_GROWTH = 4
"""The map of poses is learned anew when there are so many times the clips that it was learned of."""


def index_file(root: Path) -> Path:
    """Where the index of a data folder lies."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whim" / "browse"
    return cache / f"{hashlib.sha256(str(Path(root).absolute()).encode()).hexdigest()[:16]}.duckdb"


def renew(store: Store, file: Path) -> tuple[str, ...]:
    """Bring an index up to what lies in the folder; parts that cannot be read are named. Raises UserError where it cannot be written."""
    import duckdb

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        can_be = os.access(file.parent, os.W_OK)
    except OSError:
        can_be = False
    if not can_be:
        raise UserError(f"{file.parent}, where what can be asked is noted, cannot be written: set XDG_CACHE_HOME to a folder that can")
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

    found = look(store)
    with duckdb.connect(str(file), config={"memory_limit": "600MB"}) as index:
        if version_of(index) != VERSION:
            make_tables(index)
        before = dict(index.execute("select clip, stamp from clips").fetchall())
        if len(found.clips) >= MAP_GROWTH * index.execute("select num_clips from about").fetchone()[0]:
            before = dict.fromkeys(before, "")  # all rows are made anew, with their place on a new map
        gone = [clip for clip in before if clip not in found.clips]
        new = [name for name, clip in found.clips.items() if before.get(name) != clip.stamp]
        _number(index, found)
        if gone or new:
            stale = pa.table({"clip": pa.array([*gone, *(name for name in new if name in before)], pa.string())})
            index.register("stale", stale)
            index.execute("delete from hands where clip_id in (select clip_id from clips where clip in (select clip from stale))")
        poses = _poses(index, store, new, len(new) == len(found.clips))
        for table in batches(store, [found.clips[name] for name in new], poses, found.unreadable):
            index.register("batch", table)
            index.execute("insert into hands by name select * from batch")
        write_landed(index, store, found)
    return tuple(found.unreadable)


def _number(index: Any, found: Landed) -> None:
    """Give clips their numbers: those that they had, or new ones."""
    known = dict(index.execute("select clip, clip_id from clips").fetchall())
    following = max(known.values(), default=-1) + 1
    for name, clip in found.clips.items():
        clip.number = known.get(name, following)
        following += clip.number == following


def _poses(index: Any, store: Store, new: Sequence[str], all_new: bool) -> PoseMap | None:
    """The map of poses: learned once, of hands all over the folder, then kept for clips that come, until the folder has grown much."""
    stated = str(index.execute("select poses from about").fetchone()[0])
    if stated and not all_new:
        return PoseMap.from_json(stated)
    anywhere = [new[i] for i in np.random.default_rng(0).permutation(len(new))]
    poses = learn_poses((store.columns("fits", clip, ("side", "hand_pose")) for clip in anywhere), len(new))
    index.execute("update about set poses = ?, num_clips = ?", [poses.as_json() if poses else "", len(new)])
    return poses
