"""Parquet or CSV with a row a hand: its frame, box, keypoints, MANO parameters, review, and the free columns of the list of videos.

Parquet: `hands.parquet`, lists as lists, float32. CSV: `hands.csv`, a number a column, `keypoints_3_x` the x of keypoint 3 and so on; what
is unknown is empty.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.where import free_columns
from pipeline.exports.source import ABOUT, Source, plain
from stages.shards import HAND, SPLITS
from stages.tables import to_numpy

FRAME: Mapping[str, pa.DataType] = {
    "sample": pa.string(),
    "split": pa.string(),
    "video": pa.string(),
    "clip": pa.string(),
    "frame": pa.int64(),
    "time_s": pa.float64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "scale": pa.float32(),
}
"""Columns of the hand's frame."""
AXES: Mapping[str, tuple[str, ...]] = {
    "keypoints": ("x", "y", "confidence"),
    "world": ("x", "y", "z"),
    "joints_3d": ("x", "y", "z"),
    "joints_2d": ("x", "y"),
    "box": ("x1", "y1", "x2", "y2"),
    "box_mesh": ("x1", "y1", "x2", "y2"),
    "camera": ("scale", "x", "y"),
    "transl": ("x", "y", "z"),
    "transl_world": ("x", "y", "z"),
}
"""Names of the last axis of a field, in CSV; others are numbered."""
ROWS_A_GROUP = 10_000
"""Hands of a row group of the Parquet file."""
TEXTS = ("sources", "source_scores", "source_scores_raw", "source_boxes")
"""Lists of any length: left to Parquet."""


def write(source: Source, folder: Path, options: Mapping[str, object]) -> None:
    """Write the table of all hands, a row group of the shards at a time."""
    if options.get("csv"):
        _write_csv(source, folder / "hands.csv")
        return
    schema = schema_of(source)
    with pq.ParquetWriter(folder / "hands.parquet", schema, compression="zstd") as writer:
        for table in _together(tables(source)):
            writer.write_table(table)


def _together(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables joined until they are as long as a row group should be: a writer keeps something of every one to its end."""
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= ROWS_A_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def schema_of(source: Source) -> pa.Schema:
    """Columns of the table: the frame's, the hand's, whose the video is, then the free ones by their names (`extra.NAME` where taken)."""
    fields = [*(pa.field(name, kind) for name, kind in FRAME.items()), *HAND, *(pa.field(name, pa.string()) for name in ABOUT)]
    names = {field.name for field in fields}
    free = [pa.field(_own_name(name, names), kind) for name, kind in source.free.items()]
    facts = {"hand_model": source.hand_model, "pose_prior": source.pose_prior, "filter": source.filter}
    return pa.schema([*fields, *free], {key: value for key, value in facts.items() if value})


def tables(source: Source) -> Iterator[pa.Table]:
    """The hands that are taken, in the order of the shards, a table a row group."""
    schema = schema_of(source)
    for split in SPLITS:
        for path, of, _ in source.shards:
            if of == split:
                yield from _of_shard(source, path, split, schema)


def _of_shard(source: Source, path: Path, split: str, schema: pa.Schema) -> Iterator[pa.Table]:
    for group in source.groups(path, split, images=False):
        frames = list(group.frames())
        row = np.repeat([row for row, *_ in frames], [len(taken) for _, taken, _ in frames]).astype(np.int64)
        taken = pa.array(np.flatnonzero(group.taken))
        columns = {name: group.rows.column(name).take(pa.array(row)) for name in (*FRAME, *ABOUT, "extra") if name != "split"}
        columns["split"] = pa.array([split] * len(row), pa.string())
        for field in HAND:
            known = group.hands.type.get_field_index(field.name) >= 0
            lacking = None if known else pa.array(group.columns[field.name].tolist(), field.type)
            columns[field.name] = (group.hands.field(field.name) if lacking is None else lacking).take(taken)
        found = free_columns(columns.pop("extra").to_pylist())
        names = set(FRAME) | {field.name for field in HAND} | set(ABOUT)
        for name, kind in source.free.items():
            columns[_own_name(name, names)] = found.get(name, pa.nulls(len(row), kind))
        yield pa.table([columns[name] for name in schema.names], schema=schema)


def _own_name(name: str, taken: set[str]) -> str:
    """A free column by its own name, where no other has it."""
    own = name.removeprefix("extra.")
    return name if own in taken else own


def _write_csv(source: Source, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        header: list[str] | None = None
        for table in tables(source):
            columns: dict[str, list[object]] = {}
            for field in table.schema:
                if field.name not in TEXTS:
                    columns |= _flat(field.name, table.column(field.name))
            if header is None:
                header = list(columns)
                writer.writerow(header)
            writer.writerows(zip(*columns.values(), strict=True))


def _flat(name: str, column: pa.ChunkedArray) -> dict[str, list[object]]:
    """A column of lists as columns of numbers."""
    if not pa.types.is_fixed_size_list(column.type):
        values = to_numpy(column)
        return {name: plain(values) if values.dtype != object else column.to_pylist()}
    values = to_numpy(column)
    axes = AXES.get(name, tuple(map(str, range(values.shape[-1]))))
    if values.ndim == 2:
        return {f"{name}_{axis}": plain(values[:, k]) for k, axis in enumerate(axes)}
    return {f"{name}_{j}_{axis}": plain(values[:, j, k]) for j in range(values.shape[1]) for k, axis in enumerate(axes)}
