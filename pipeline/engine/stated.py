"""Which sha256 the files of a data folder have by what others of its files state, and of which nobody can tell."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.engine.files.shard import check_shard
from pipeline.engine.store import Store
from stages.digest import UNREADABLE
from stages.tables import Videos
from stages.web.note import read_note

SUMS = "sums.json"
"""File of the demo's folder of rendered videos, with the sha256 of the others there."""


@dataclass(slots=True)
class Stated:
    """What the sound files of a data folder say of the others, by absolute path."""

    sha256: dict[Path, str] = field(default_factory=dict)
    unknown: dict[Path, str] = field(default_factory=dict)
    """Why nobody can tell of files that carry no digest of their own: what would state it is damaged."""
    corrupt: dict[Path, str] = field(default_factory=dict)
    """Why a file that should state something is not what was written."""


def stated_in(store: Store) -> Stated:
    """Read everything that states a sha256: the shards' index, the demo's sums, and of videos their notes, tables and shards."""
    stated = Stated()
    _by_index(store, stated)
    _by_sums(store, stated)
    _by_notes_and_tables(store, stated)
    return stated


def _by_index(store: Store, stated: Stated) -> None:
    shards = store.root if (store.root / "index.json").exists() else store.root / "shards"
    try:
        index = Store(shards).read_json("index.json") or {}
        for entry in (*index.get("shards", []), *index.get("beside", [])):
            stated.sha256[_inside(shards, entry["path"])] = entry["sha256"]
    except UNREADABLE as error:
        stated.corrupt[shards / "index.json"] = str(error)
        stated.unknown |= dict.fromkeys(shards.glob("*/*.parquet"), "it has no digest of its own, and the index is damaged")


def _by_sums(store: Store, stated: Stated) -> None:
    studio = store.root / "studio"
    try:
        sums = store.read_json(f"studio/{SUMS}") or {}
        stated.sha256 |= {_inside(studio, name): sha256 for name, sha256 in sums.get("files", {}).items()}
    except UNREADABLE as error:
        stated.corrupt[studio / SUMS] = str(error)
        others = (path for path in studio.iterdir() if path.name != SUMS)
        stated.unknown |= dict.fromkeys(others, f"studio/{SUMS}, which states its sha256, is damaged")


def _by_notes_and_tables(store: Store, stated: Stated) -> None:
    """Fetched videos: what the table says is believed before the note, and that before the frames of the shards."""
    media, damaged = store.root / "media", set[str]()
    for note in sorted(media.glob("*.info.json")):
        try:
            kept = read_note(note)
            if (path := _inside(media, Path(kept["file"]).name)).exists():
                stated.sha256[path] = kept["video_sha256"]
        except UNREADABLE:
            damaged.add(note.name.removesuffix(".info.json"))
    if store.bundles.of("videos").damaged:
        damaged |= {path.stem for path in media.glob("*") if not path.name.endswith(".info.json")}
    for video in store.keys("videos"):
        try:
            row = store.read(Videos, "videos", video)
        except UNREADABLE:
            damaged.add(video)
            continue
        for path, sha256 in zip(row.path, row.sha256, strict=True):
            if not Path(path).is_absolute() and (store.root / path).exists():  # a video may have been put away
                stated.sha256[_inside(store.root, path)] = sha256
    untold = {path: path.stem for path in media.glob("*") if path.stem in damaged and path not in stated.sha256}
    by_shards = dict(_by_frames(store, set(untold.values()))) if untold else {}
    for path, video in untold.items():
        if video in by_shards:
            stated.sha256[path] = by_shards[video]
        else:
            stated.unknown[path] = f"the note and the table of {video}, which state its sha256, are damaged"


def _by_frames(store: Store, videos: Collection[str]) -> Iterator[tuple[str, str]]:
    """Videos and their sha256 in sound shards."""
    for shard in sorted((store.root / "shards").glob("*/*.parquet")):
        try:
            if check_shard(shard):
                rows = pq.read_table(shard, columns=["video", "video_sha256"]).to_pydict()
                yield from ((video, sha256) for video, sha256 in zip(*rows.values(), strict=True) if video in videos)
        except UNREADABLE:
            continue


def _inside(root: Path, name: str) -> Path:
    """A path below `root`. Raises ValueError when it leads out of it."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{name!r} leads out of {root}")
    return path
