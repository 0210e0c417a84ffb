"""The ledger: what the footers of a data folder's parts say, in one file, so that a plan need not open them one by one.

<root>/ledger.parquet     a line a part: which file, what it was made from

A line stands for a part while size, times and inode of its file, or of its bundle, are those of the line; of a shard in an object store
its size and ETag, whatever the machine. Of any other file the footer is read. So the ledger saves time and decides nothing: without it, or
with a damaged one, a plan is the same and takes longer. It is written by who holds the folder's lock. Bytes that change on the disk
without a trace are found by whoever reads the part, and by `whim verify`.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.digest import CorruptFileError, digest_of_stream, refuse_odd, text_of
from stages.tables import Ledger as Lines

NAME = "ledger"
"""The ledger's file, without its ending."""
_FACTS = ("size_bytes", "modified_ns", "changed_ns", "inode")

Facts = tuple[int, int, int, int]
"""Size, times and inode of a file."""


class Line(NamedTuple):
    """What is known of one part."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    """When the disk last changed what it knows of the file, which nobody can set."""
    inode: int
    fits: str
    """Digest of the schema that the part was held against, and fits."""
    fingerprint: str
    lacks: str
    """Columns of that schema which the part was written without, parted by spaces."""
    item: str
    """What of its list decides it, as JSON (`item` of its recipe)."""
    bundle: str = ""
    """File name of the bundle that it lies in; '' of a part that has a file of its own."""
    row_group: int = 0


def facts_of(stat: os.stat_result) -> Facts:
    """What tells a file from the one that lies in its place later, however alike they are."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


_FEW = ("table", "fits", "lacks", "item", "bundle")
"""Columns that say few things in many lines."""
_SHA256_BYTES = 32
_PIECE = 1 << 16
"""Lines that are read at once."""


def read_lines(path: Path) -> pa.Table:
    """The lines of a ledger's file in brief, held against their digest. It is read piece by piece: whole, it takes three times the memory.

    Raises what pyarrow does of a file that is none, CorruptFileError, KeyError where it lacks a column.
    """
    refuse_odd(path)
    with pq.ParquetFile(path) as file:

        def stream(name: str) -> Iterator[pa.Array]:
            return (batch.column(0) for batch in file.iter_batches(_PIECE, columns=[name], use_threads=False))

        schema, num_rows = file.schema_arrow, file.metadata.num_rows
        if (schema.metadata or {}).get(b"digest", b"").decode(errors="replace") != digest_of_stream(schema, num_rows, stream):
            raise CorruptFileError(path, "its content is not what its digest says")
        lines = pa.table({field.name: _in_brief(field, num_rows, stream(field.name)) for field in Lines.schema()})
    pa.default_memory_pool().release_unused()
    return lines


def _in_brief(field: pa.Field, num_rows: int, pieces: Iterable[pa.Array]) -> pa.Array:
    """A column of lines in half of its memory: a sha256 is bytes, what is said often is there once, numbers are as wide as they must be."""
    if field.name == "fingerprint":
        prints = np.zeros((num_rows, _SHA256_BYTES), np.uint8)
        start = 0
        for piece in pieces:
            prints[start : start + len(piece)] = _as_bytes(piece)
            start += len(piece)
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(_SHA256_BYTES), num_rows, [None, pa.py_buffer(prints)])
    if field.name in _FEW:
        said = pa.chunked_array([piece.dictionary_encode() for piece in pieces], pa.dictionary(pa.int32(), pa.string())).combine_chunks()
        return pa.DictionaryArray.from_arrays(_narrow(said.indices), said.dictionary) if len(said) else said
    column = pa.chunked_array(pieces, field.type).combine_chunks()
    return _narrow(column) if pa.types.is_integer(column.type) else column


def _narrow(numbers: pa.Array) -> pa.Array:
    """Whole numbers in the narrowest type that holds them."""
    least, most = pc.min_max(numbers).values() if len(numbers) else (pa.scalar(0), pa.scalar(0))
    kinds = (np.int8, np.int16, np.int32, np.uint32, np.int64, np.uint64)
    kind = next(kind for kind in kinds if np.iinfo(kind).min <= least.as_py() and most.as_py() <= np.iinfo(kind).max)
    return numbers.cast(pa.from_numpy_dtype(kind))


def _as_bytes(prints: pa.Array) -> np.ndarray:
    """Fingerprints as rows of bytes; zeros for what is no sha256, and equals none."""
    with suppress(ValueError):
        return np.frombuffer(bytes.fromhex(bytes(text_of(prints)).decode()), np.uint8).reshape(len(prints), _SHA256_BYTES)
    rows = np.zeros((len(prints), _SHA256_BYTES), np.uint8)
    for row, text in zip(rows, prints.to_pylist(), strict=True):
        if re.fullmatch("[0-9a-f]{64}", text):
            row[:] = np.frombuffer(bytes.fromhex(text), np.uint8)
    return rows


def _as_text(sha256: bytes) -> str:
    return sha256.hex() if any(sha256) else ""


def _in_full(field: pa.Field, column: pa.Array) -> pa.Array:
    """A column of lines as it is written."""
    if field.name == "fingerprint":
        return pa.array(map(_as_text, column.to_pylist()), pa.string())
    return column.cast(field.type)


class Bundled(NamedTuple):
    """Where the parts of a table lie in bundles, in order of their keys."""

    facts: dict[str, Facts]
    """What the disk said of each bundle."""
    keys: pa.Array
    bundle: np.ndarray
    """Which of `facts` holds each part."""
    group: np.ndarray


@dataclass(eq=False)
class Ledger:
    """Lines by table and key: those of the file, and those taken since."""

    known: pa.Table = field(default_factory=lambda: Lines.schema().empty_table())
    """Lines of the file, in order of table and key; kept in brief."""
    fresh: dict[tuple[str, str], Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.known.schema.field("fingerprint").type == pa.string():
            columns = {field.name: _in_brief(field, len(self.known), self.known[field.name].chunks) for field in Lines.schema()}
            self.known = pa.table(columns)
        self._columns = [column.chunk(0) for column in self.known.columns]
        self._keys = self._columns[1]
        self._spans = dict(_spans(self._columns[0]))
        self._next: dict[str, int] = {}

    def find(self, table: str, key: str) -> Line | None:
        """The line of a part, if there is one."""
        if (table, key) in self.fresh:
            return self.fresh[table, key]
        place = self._place(table, key)
        if place is None:
            return None
        told = (column[place].as_py() for column in self._columns[2:])
        return Line._make(_as_text(value) if isinstance(value, bytes) else value for value in told)

    def bundled(self, table: str) -> Bundled | None:
        """What the file's lines say of a table's bundles; None where they name none."""
        start, end = self._spans.get(table, (0, 0))
        columns = dict(zip(self.known.column_names, (column[start:end] for column in self._columns), strict=True))
        bundles = columns["bundle"]
        which = bundles.indices.to_numpy()
        there = np.isin(which, [number for number, name in enumerate(bundles.dictionary.to_pylist()) if name])
        if not there.any():
            return None
        numbers, firsts, which = np.unique(which[there], return_index=True, return_inverse=True)
        lines = {name: columns[name].filter(pa.array(there)) for name in ("key", "row_group", *_FACTS)}
        told = [lines[name].to_numpy()[firsts].tolist() for name in _FACTS]
        names = [bundles.dictionary[number].as_py() for number in numbers]
        facts = dict(zip(names, zip(*told, strict=True), strict=True))
        return Bundled(facts, lines["key"], which.astype(np.int32), lines["row_group"].to_numpy().astype(np.int32))

    def _place(self, table: str, key: str) -> int | None:
        """Where the line of a part stands among those of the file."""
        start, end = self._spans.get(table, (0, 0))
        place = self._next.get(table, start)  # keys are asked for in their order, mostly
        if not (start <= place < end and self._keys[place].as_py() == key):
            place = bisect_left(range(end), key, lo=start, key=lambda at: self._keys[at].as_py())
            if place >= end or self._keys[place].as_py() != key:
                return None
        self._next[table] = place + 1
        return place

    def note(self, table: str, key: str, line: Line) -> None:
        """Take down what a footer says."""
        self.fresh[table, key] = line

    def lines(self) -> pa.Table:
        """All lines, as they are written."""
        stays = np.ones(len(self.known), bool)
        stays[[place for name in self.fresh if (place := self._place(*name)) is not None]] = False
        columns = zip(*((*name, *line) for name, line in self.fresh.items()), strict=True) if self.fresh else [[] for _ in self._columns]
        schema = Lines.schema()
        kept = (column.filter(pa.array(stays)) for column in self._columns)
        known = pa.table([_in_full(field, column) for field, column in zip(schema, kept, strict=True)], schema)
        fresh = pa.Table.from_arrays([pa.array(values, one.type) for values, one in zip(columns, schema, strict=True)], schema=schema)
        both = pa.concat_tables([known, fresh])
        return both.take(pc.sort_indices(both, [("table", "ascending"), ("key", "ascending")])).combine_chunks()


def _spans(tables: pa.Array) -> Iterator[tuple[str, tuple[int, int]]]:
    """Where the lines of each table begin and end."""
    ends = pc.run_end_encode(tables.indices)
    start = 0
    for number, end in zip(ends.values.to_pylist(), ends.run_ends.to_pylist(), strict=True):
        yield tables.dictionary[number].as_py(), (start, end)
        start = end
