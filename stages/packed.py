"""Images of shards that were packed before, for the day when a video was put away."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.digest import UNREADABLE


class Picture(NamedTuple):
    """A frame as it is stored."""

    frame: int
    time_s: float
    width: int
    height: int
    scale: float
    image: bytes  # JPEG
    view: int = 0


Earlier = Callable[[str, str], Iterator[Picture]]
"""From clip and sha256 of its video to the pictures that earlier shards hold of it."""


def earlier_of(files: Iterable[Path], stored_by: Mapping[str, Sequence[object]]) -> Earlier | None:
    """The pictures of the first of several shards that has a clip.

    None when there is none, or none whose pictures were stored by these settings (`stored_by`: what each, and the stage's version, may be).
    """
    shards = [earlier for file in files if (earlier := earlier_pictures(file, stored_by))]

    def pictures(clip: str, video_sha256: str) -> Iterator[Picture]:
        for earlier in shards:
            found = earlier(clip, video_sha256)
            first = next(found, None)
            if first is not None:
                yield first
                yield from found
                return

    return pictures if shards else None


def earlier_pictures(path: Path, stored_by: Mapping[str, Sequence[object]]) -> Earlier | None:
    """From clip and sha256 of its video to the pictures that a shard holds of it, a row group in memory; sound pages of a damaged one too.

    None when there is no shard, or one whose pictures were stored by other settings.
    """
    aside = path.with_name(f"{path.name}.corrupt")
    try:
        shard = pq.ParquetFile(path if path.exists() else aside, memory_map=True, page_checksum_verification=True)
        recipe = json.loads((shard.schema_arrow.metadata or {}).get(b"recipe", b"{}"))
    except UNREADABLE:
        return None
    before = {"version": recipe.get("version"), **recipe.get("settings", {})}
    if any(before.get(name) not in values for name, values in stored_by.items()):
        return None
    clips = [_clips_of(shard, group) for group in range(shard.num_row_groups)]
    stored = [name for name in Picture._fields if name in shard.schema_arrow.names]

    def pictures(clip: str, video_sha256: str) -> Iterator[Picture]:
        for group in (group for group, present in enumerate(clips) if clip in present):
            try:
                rows = shard.read_row_group(group, [*stored, "clip", "video_sha256"])
            except UNREADABLE:  # a damaged page: its frames are missing, and `pack` says so
                continue
            same = pc.and_(pc.equal(rows["clip"], clip), pc.equal(rows["video_sha256"], video_sha256))
            yield from (Picture(**row) for row in rows.filter(same).select(stored).to_pylist())

    return pictures


def _clips_of(shard: pq.ParquetFile, group: int) -> set[str]:
    try:
        return set(shard.read_row_group(group, ["clip"])["clip"].to_pylist())
    except UNREADABLE:
        return set()
