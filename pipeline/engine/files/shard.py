"""How a shard lies on disk: record batches as the row groups of one Parquet file, the same bytes from the same batches.

The footer states the sha256 of the whole file, taken with `_UNSET` in the digest's own place: a shard is held against itself, whatever
became of the index beside it.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.durable import mirror_of
from stages.digest import UNREADABLE, CorruptFileError, refuse_odd
from stages.shards import whole_of
from stages.stage import ShardStage, tables_written

_DIGEST, _UNSET = "file_sha256", "(here stands the sha256 of this file, taken with these words in)"
_BUFFER_BYTES = 1 << 20
_CLIPS = b"clips"
"""Where the footer says of which clips the rows are, as JSON: pairs of video and clip. Shards of before do not."""


def write_shard(stage: ShardStage, batches: Iterable[pa.RecordBatch], path: Path, recipe: Mapping[str, Any]) -> int:
    """Write record batches as the row groups of one Parquet file and return its number of rows; one batch in memory.

    Images lie plain, uncompressed and without statistics, so that a reader may map them; annotations are compressed. Every page
    carries a checksum. `recipe` (what the shard is made by, with its `fingerprint`) becomes metadata; the folder names the split.
    The same batches and recipe give the same bytes. The file is synced; naming it at the end is the caller's part.
    """
    (kind,) = tables_written(stage)
    schema = kind.schema()
    annotations = [leaf for leaf in _leaves(schema) if leaf != "image"]
    facts = {
        "split": path.parent.name,
        "fingerprint": str(recipe["fingerprint"]),
        "recipe": json.dumps(recipe, sort_keys=True, default=str),
        "generator": f"{_distribution('whim-builder')}, {stage.name} {stage.version}, {_distribution('simplejpeg')}",
        "sealed": _DIGEST,  # a second mark: no single flip makes a sealed shard one of an earlier version
    }
    num_rows, held = 0, set[tuple[str, str]]()
    with (
        path.open("wb") as file,
        pq.ParquetWriter(
            file,
            schema.with_metadata({**(schema.metadata or {}), **facts}),
            compression={**dict.fromkeys(annotations, "zstd"), "image": "none"},
            use_dictionary=annotations,
            write_statistics=annotations,
            column_encoding={"image": "PLAIN"},
            write_page_checksum=True,
        ) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(writer.schema.metadata), row_group_size=stage.row_group_size)
            num_rows += batch.num_rows
            held |= set(zip(batch["video"].to_pylist(), batch["clip"].to_pylist(), strict=True))
        writer.add_key_value_metadata({_CLIPS.decode(): json.dumps(sorted(held)), _DIGEST: _UNSET})
    _seal(path)
    return num_rows


def open_shard(path: Path, **options: Any) -> pq.ParquetFile:
    """A shard's footer, and its rows as they are asked for; by ranges out of the store where they are not here."""
    mirror = mirror_of(path)
    far = mirror.ranges(path) if mirror else None
    return pq.ParquetFile(path, **options) if far is None else pq.ParquetFile(far, pre_buffer=True, **options | {"memory_map": False})


def schema_in(path: Path) -> pa.Schema:
    """Schema and metadata of a part or a shard, from its footer. Raises what `UNREADABLE` lists."""
    return open_shard(path).schema_arrow if mirror_of(path) else pq.read_schema(path)


def clips_in(shard: Path) -> set[tuple[str, str]]:
    """Video and clip of every frame of a shard; none where there is none that can be read."""
    try:
        refuse_odd(shard)
        file = open_shard(shard)
        told = (file.metadata.metadata or {}).get(_CLIPS)
        if told is not None:
            return {(video, clip) for video, clip in json.loads(told)}
        rows = file.read(["video", "clip"])
        return set(zip(rows["video"].to_pylist(), rows["clip"].to_pylist(), strict=True))
    except UNREADABLE:
        return set()


def pieces_of(whole: Path) -> list[Path]:
    """The files that a shard is or was dealt out to, and the one that it is or was as a whole."""
    folder, name = whole.parent, f"{whole.parent.name}/{whole.stem}"
    return sorted(path for path in folder.glob(f"{whole.stem}*.parquet") if whole_of(f"{folder.name}/{path.stem}") == name)


def _seal(path: Path) -> None:
    place = _place(path, _UNSET.encode())
    digest = _sha256_without(path, place)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(digest)


def check_shard(path: Path) -> bool:
    """Hold a shard against the sha256 that it carries; False for one of an earlier version, whose pages alone are held.

    Raises CorruptFileError, FileNotFoundError.
    """
    try:
        facts = pq.read_metadata(path).metadata or {}
        stated = facts.get(_DIGEST.encode())
        if stated is None and b"sealed" not in facts:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            for group in range(file.num_row_groups):
                file.read_row_group(group)
            return False
        is_sound = stated is not None and len(stated) == len(_UNSET) and _sha256_without(path, _place(path, stated)) == stated
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise CorruptFileError(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not is_sound:
        raise CorruptFileError(path, "its bytes are not those of the sha256 that it carries")
    return True


def _place(path: Path, value: bytes) -> int:
    """Where the digest stands in the footer. Raises ValueError when it is not there, or more than once."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
        start = file.seek(-8 - size, os.SEEK_END)
        footer = file.read(size)
    if footer.count(value) != 1:
        raise ValueError("its footer does not say its sha256 once")
    return start + footer.index(value)


def _sha256_without(path: Path, place: int) -> bytes:
    """Digits of the sha256 of a file, with `_UNSET` where the digest is to stand."""
    running = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(min(place - file.tell(), _BUFFER_BYTES)):
            running.update(chunk)
        running.update(_UNSET.encode())
        file.seek(len(_UNSET), os.SEEK_CUR)
        while chunk := file.read(_BUFFER_BYTES):
            running.update(chunk)
    return running.hexdigest().encode()


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's names of the leaf columns, which its options go by."""
    buffer = io.BytesIO()
    pq.write_table(schema.empty_table(), buffer)
    written = pq.ParquetFile(buffer).schema
    return [written.column(i).path for i in range(len(written))]


def _distribution(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name
