"""Takes a video out of a data folder for good: its file, tables, images and notes, and its frames out of the shards."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from fitting.files import hand_of, model_file, prior_source
from pipeline.dataset.audits import TABLE as AUDITS
from pipeline.dataset.audits import card_lines
from pipeline.dataset.index import write_index
from pipeline.engine.bundles.bundle import FOLDER as BUNDLES
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.durable import have_rows
from pipeline.engine.durable import remove as discard
from pipeline.engine.files.shard import clips_in, write_shard
from pipeline.engine.plan.contents import Contents
from pipeline.engine.store import Store
from pipeline.manifest import storable, withdrawn_in, without
from stages.digest import UNREADABLE, CorruptFileError, fingerprint_of, seal_text
from stages.pack import Pack
from stages.tables import Audits, Manifest
from stages.web.address import without_secrets

_MADE_ANEW = ("report.html", "left_out.json", "truth_score.json", "hashes.json", "ledger.parquet")
"""By the next report or run."""
_NO_TABLES = ("media", "shards", "runs", "studio", AUDITS)
"""Folders without parts that are called by a video or a clip; `_leave_audits` looks into audits, row by row."""
_OF_VIDEOS = ("videos", "clips", "verdicts")
"""Tables whose parts are called by a video alone: `a-0001` is no clip there."""
_PART = re.compile(r"(?P<key>.+?)(\.parquet|\.error\.json|\.parquet\.corrupt)")


@dataclass(slots=True)
class Removal:
    """What went and what did not, as paths of the folder."""

    files: list[str] = field(default_factory=list)
    shards: dict[str, int] = field(default_factory=dict)
    """Frames that left each shard."""
    stays: list[str] = field(default_factory=list)
    """What lies elsewhere, in words."""


def remove(store: Store, names: Collection[str]) -> Removal:
    """Remove videos, named by id, source or path. Interrupted, it is run again; a name once told stays withdrawn from the folder.

    The list of withdrawn ids is written first: what a later run finds of them is not taken up again. Raises ValueError for a name that
    the folder does not know, CorruptFileError for an index of the shards that cannot be read.
    """
    try:
        known = store.read(Manifest, "", "manifest")
    except (FileNotFoundError, CorruptFileError):
        known = Manifest.empty()
    ids = {_id_of(name, known, store) for name in names}
    store.read_list("shards/index.json", "shards", path=str)  # one that cannot be read is told before anything goes
    gone = Removal(stays=_copies(store, ids, known))
    _withdraw(store, ids)
    for path in _files(store, ids):
        discard(path)
        gone.files.append(str(path.relative_to(store.root)))
    for table in _bundled_tables(store):
        gone.files += [f"{table}/{key}.parquet" for key in Compaction(store).leave(table, partial(_is_of, table, ids))]
    for folder in (store.root / "media/incoming" / video for video in ids):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink() if not path.is_dir() or path.is_symlink() else path.rmdir()
            gone.files.append(str(path.relative_to(store.root)))
        if folder.is_dir():
            folder.rmdir()
    _leave_logs(store, ids)
    _leave_shards(store, ids, gone)
    _leave_audits(store, ids)
    if len(known):
        store.commit("", "manifest", storable(without(known, ids)), {})
    for page in (*_MADE_ANEW, *(f"{name}.corrupt" for name in _MADE_ANEW)):
        if (store.root / page).is_file():
            discard(store.root / page)
            gone.files.append(page)
    sources = [str(source) for video, source in zip(known.video, known.source, strict=True) if video in ids]
    gone.stays += [f"your own file {source}" for source in sources if source.startswith("/")]
    return gone


def _copies(store: Store, ids: Collection[str], known: Manifest) -> list[str]:
    """Videos of the same content under other names, in words: who is in one of them is in all."""
    contents = Contents(store)
    content = {str(video): row.sha256 for video in known.video if (row := contents.row(str(video))) is not None and row.sha256}
    leaving = {content[video] for video in ids if video in content}
    return [
        f"{video}, the same video under another name: remove it too"
        for video in sorted(content.keys() - set(ids))
        if content[video] in leaving
    ]


def _id_of(name: str, known: Manifest, store: Store) -> str:
    for video, source in zip(map(str, known.video), map(str, known.source), strict=True):
        if name in (video, source) or without_secrets(name) == source or ("/" in name and str(Path(name).resolve()) == source):
            return video
    if name in withdrawn_in(store.root / "removed.txt") or any(True for _ in _files(store, {name})) or _is_bundled(store, name):
        return name
    raise ValueError(f"{store.name} knows no video {name[:100]!r}: name it by its id or its source, as in {store.name}/shards/README.md")


def _withdraw(store: Store, ids: Collection[str]) -> None:
    file = store.root / "removed.txt"
    new = sorted(set(ids) - withdrawn_in(file))
    lines = file.read_text("utf-8-sig").splitlines() if file.exists() else ["# withdrawn by `whim remove`: left out of every later run"]
    if new:
        with store.aside(file) as temporary:
            temporary.write_text(seal_text("\n".join([*(line for line in lines if not line.startswith("# sha256 ")), *new]) + "\n"))


def _files(store: Store, ids: Collection[str]) -> Iterator[Path]:
    """The parts, failures, media and notes of some videos: those named by the id, and by a clip of it (`id-0004`)."""
    for path in sorted({*store.root.rglob("*"), *(store.mirror.videos() if store.mirror else ())}):
        inside = path.relative_to(store.root).parts
        named = _PART.fullmatch(path.name)
        if len(inside) < 2 or path.is_dir() or path.parent.name == BUNDLES or (inside[0] in _NO_TABLES and inside[0] != "media"):
            continue
        if inside[0] == "media":
            name = path.name.removesuffix(".corrupt")
            if len(inside) == 2 and (Path(name).stem in ids or name.removesuffix(".info.json") in ids):
                yield path
        elif named and _is_of(inside[0], ids, named["key"]):
            yield path


def _bundled_tables(store: Store) -> list[str]:
    """Tables with parts in bundles."""
    folders = (path.parent.relative_to(store.root) for path in store.root.rglob(BUNDLES) if path.is_dir())
    return sorted(str(folder) for folder in folders if folder.parts and folder.parts[0] not in _NO_TABLES)


def _is_of(table: str, ids: Collection[str], key: str) -> bool:
    """Whether a key is one of a video, or of a clip of it (`id-0004`)."""
    video, clip = key, re.fullmatch(r"(.+)-\d{4,}", key)
    return video in ids or (clip is not None and table not in _OF_VIDEOS and clip[1] in ids)


def _is_bundled(store: Store, name: str) -> bool:
    return any(_is_of(table, {name}, key) for table in _bundled_tables(store) for key, _ in store.bundles.of(table).places())


def _leave_logs(store: Store, ids: Collection[str]) -> None:
    """Take the lines of some videos out of the runs' logs; damaged logs go whole."""
    for log in (store.root / "runs").glob("*.jsonl.corrupt"):
        discard(log)
    of = re.compile(rf"({'|'.join(map(re.escape, sorted(ids)))})(-\d{{4,}})?")
    for log in sorted((store.root / "runs").glob("*.jsonl")):
        lines = log.read_text(errors="surrogateescape").splitlines(keepends=True)  # a flipped bit keeps nobody in
        kept = [line for line in lines if not of.fullmatch(str(_json(line).get("key", "")))]
        if len(kept) < len(lines):
            with store.aside(log) as temporary:
                temporary.write_text("".join(kept), errors="surrogateescape")


def _json(line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _leave_shards(store: Store, ids: Collection[str], gone: Removal) -> None:
    """Write the shards that hold frames of some videos anew, without them, and what lies beside all shards."""
    shards = store.root / "shards"
    entries = store.read_list("shards/index.json", "shards", path=str)
    listed = {shards / entry["path"] for entry in entries}
    stale = [shards / entry["path"] for entry in entries if entry.get("stale")]
    for path in sorted(shards.glob("*/*-of-*.parquet")):
        if store.mirror and (held := clips_in(path)) and not any(video in ids for video, _ in held):
            continue  # by its footer; of one in the store no bit has flipped since
        try:
            have_rows(path)
            shard = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
            rows = shard.read(columns=["video"])["video"].to_pylist()
        except UNREADABLE as error:
            raise ValueError(f"{path} cannot be read, and may hold what is to be removed: remove it, then run again ({error})") from error
        leaving = sum(video in ids for video in rows)
        if not leaving:
            continue
        if leaving == len(rows):
            discard(path)
        else:
            recipe = json.loads((shard.schema_arrow.metadata or {})[b"recipe"])
            recipe |= {"fingerprint": fingerprint_of({"of": recipe["fingerprint"], "without": sorted(ids)})}
            batches = (batch.filter(_stays(batch, ids)) for batch in shard.iter_batches(batch_size=32))
            with store.aside(path) as temporary:
                write_shard(Pack(), (batch for batch in batches if batch.num_rows), temporary, recipe)
        gone.shards[str(path.relative_to(store.root))] = leaving
    for path in sorted(shards.glob("*/*-of-*.parquet.corrupt")):
        if _may_hold(path, ids):
            discard(path)
            gone.files.append(str(path.relative_to(store.root)))
    left = [path for path in sorted(shards.glob("*/*-of-*.parquet")) if not listed or path in listed]  # no frame is listed twice
    if not left:
        discard(*(shards / name for name in ("index.json", "stats.json", "README.md")))
    elif gone.shards or any(_is_behind(entry, shards) for entry in entries):
        model = hand_of(model_file())
        still = [path for path in stale if path in left]
        write_index(shards, left, stale=still, hand_model=model, pose_prior=prior_source(), audits=card_lines(store))


def _is_behind(entry: Mapping[str, Any], shards: Path) -> bool:
    """Whether a shard is no longer the one that the index names: a removal was killed before it came to the index."""
    try:
        facts = pq.read_metadata(shards / entry["path"]).metadata or {}
    except UNREADABLE:
        return True
    return facts.get(b"fingerprint", b"").decode(errors="replace") != entry.get("fingerprint")


def _may_hold(shard: Path, ids: Collection[str]) -> bool:
    """Whether a damaged shard holds a frame of some videos, as far as that can be read."""
    try:
        return any(video in ids for video in pq.read_table(shard, columns=["video"])["video"].to_pylist())
    except UNREADABLE:
        return True


def _leave_audits(store: Store, ids: Collection[str]) -> None:
    """Take the hands of some videos out of what was drawn for audits. Raises CorruptFileError."""
    for path in sorted((store.root / AUDITS).glob("*.parquet")):
        drawn = store.read(Audits, AUDITS, path.stem)
        stay = ~np.isin(drawn.video.astype(str), sorted(ids))
        if not stay.any():
            discard(path)
        elif not stay.all():
            store.commit(AUDITS, path.stem, drawn.take(stay), {})


def _stays(batch: Any, ids: Collection[str]) -> Any:
    import pyarrow as pa

    return pa.array([video not in ids for video in batch.column("video").to_pylist()])
