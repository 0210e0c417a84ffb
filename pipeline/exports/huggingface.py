"""Hugging Face: Parquet files of the shards' own columns with a dataset card: `datasets.load_dataset(folder)`, `hf upload NAME folder`.

Frames and hands are those that were asked for; `index.json` beside them lets `whim train detector --data` read the folder too.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.index import write_index
from pipeline.engine.files.shard import write_shard
from pipeline.exports.source import Group, Source
from stages.digest import fingerprint_of
from stages.pack import Pack
from stages.shards import HAND, Shards

ATTRIBUTES = "*.parquet filter=lfs diff=lfs merge=lfs -text\n"


def write(source: Source, folder: Path, _: Mapping[str, object]) -> None:
    """Write a file for each shard, then the card and the index."""
    for path, split, fingerprint in source.shards:
        target = folder / split / path.name
        target.parent.mkdir(exist_ok=True)
        recipe: dict[str, Any] = {"exported": fingerprint, "where": source.filter}
        if not write_shard(Pack(), _batches(source, path, split), target, recipe | {"fingerprint": fingerprint_of(recipe)}):
            target.unlink()
    if any(folder.glob("*/*.parquet")):
        write_index(folder, hand_model=source.hand_model, pose_prior=source.pose_prior)
    (folder / ".gitattributes").write_text(ATTRIBUTES)


def _batches(source: Source, path: Path, split: str) -> Iterator[pa.RecordBatch]:
    """The row groups of a shard, of which the hands that are not taken are ignored boxes."""
    for group in source.groups(path, split):
        frames = list(group.frames())
        if not frames:
            continue
        rows, taken, others = zip(*frames, strict=True)
        yield _batch(group, list(rows), taken, others)


def _batch(group: Group, rows: list[int], taken: tuple[np.ndarray, ...], others: tuple[np.ndarray, ...]) -> pa.RecordBatch:
    schema, kept = Shards.schema(), group.rows.take(pa.array(rows, pa.int64()))
    offsets = pa.array(np.cumsum([0, *map(len, taken)]).astype(np.int32))
    hands = _structs(group).take(pa.array(np.concatenate(taken).astype(np.int64)))
    ignore = [given + more.tolist() for given, more in zip(kept.column("ignore_boxes").to_pylist(), others, strict=True)]
    columns = {name: kept.column(name).combine_chunks() for name in kept.column_names}
    columns |= {
        "hands": pa.ListArray.from_arrays(offsets, hands, type=schema.field("hands").type),
        "ignore_boxes": pa.array(ignore, schema.field("ignore_boxes").type),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _structs(group: Group) -> pa.StructArray:
    """The hands in today's columns; those of a shard of an earlier version get what it lacks."""
    of = group.hands
    arrays = [
        of.field(field.name) if of.type.get_field_index(field.name) >= 0 else pa.array(group.columns[field.name].tolist(), field.type)
        for field in HAND
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(HAND))
