"""The ledger: what the footers of a data folder's parts say, in one file, so that a plan need not open them one by one.

<root>/ledger.parquet     a line a part: which file, what it was made from

A line stands for a part while size, times and inode of its file are those of the line; of any other file the footer is read. So the
ledger saves time and decides nothing: without it, or with a damaged one, a plan is the same and takes longer. It is written by who holds
the folder's lock. Bytes that change on the disk without a trace are found by whoever reads the part, and by `whim verify`.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.tables import Ledger as Lines

NAME = "ledger"
"""The ledger's file, without its ending."""


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

    def is_of(self, stat: os.stat_result) -> bool:
        """Whether a file is the one that the line was taken of."""
        return self[:4] == facts_of(stat)


def facts_of(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What tells a file from the one that lies in its place later, however alike they are."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@dataclass(eq=False)
class Ledger:
    """Lines by table and key: those of the file, and those taken since."""

    known: pa.Table = field(default_factory=lambda: Lines.schema().empty_table())
    """Lines of the file, in order of table and key."""
    fresh: dict[tuple[str, str], Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._columns = [self.known[name].combine_chunks() for name in self.known.column_names]
        self._keys = self._columns[1]
        self._spans = dict(_spans(self._columns[0]))
        self._next = 0

    def find(self, table: str, key: str) -> Line | None:
        """The line of a part, if there is one."""
        if (table, key) in self.fresh:
            return self.fresh[table, key]
        place = self._place(table, key)
        return None if place is None else Line(*(column[place].as_py() for column in self._columns[2:]))

    def _place(self, table: str, key: str) -> int | None:
        """Where the line of a part stands among those of the file."""
        start, end = self._spans.get(table, (0, 0))
        place = self._next  # keys are asked for in their order, mostly
        if not (start <= place < end and self._keys[place].as_py() == key):
            place = bisect_left(range(end), key, lo=start, key=lambda at: self._keys[at].as_py())
            if place >= end or self._keys[place].as_py() != key:
                return None
        self._next = place + 1
        return place

    def note(self, table: str, key: str, line: Line) -> None:
        """Take down what a footer says."""
        self.fresh[table, key] = line

    def lines(self) -> pa.Table:
        """All lines, as they are written."""
        stays = np.ones(len(self.known), bool)
        stays[[place for name in self.fresh if (place := self._place(*name)) is not None]] = False
        columns = zip(*((*name, *line) for name, line in self.fresh.items()), strict=True) if self.fresh else [[] for _ in self._columns]
        schema = self.known.schema
        fresh = pa.Table.from_arrays([pa.array(values, one.type) for values, one in zip(columns, schema, strict=True)], schema=schema)
        both = pa.concat_tables([self.known.filter(pa.array(stays)), fresh])
        return both.take(pc.sort_indices(both, [("table", "ascending"), ("key", "ascending")])).combine_chunks()


def _spans(tables: pa.Array) -> Iterator[tuple[str, tuple[int, int]]]:
    """Where the lines of each table begin and end."""
    ends = pc.run_end_encode(tables)
    start = 0
    for name, end in zip(ends.values.to_pylist(), ends.run_ends.to_pylist(), strict=True):
        yield name, (start, end)
        start = end
