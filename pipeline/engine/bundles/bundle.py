"""Bundles: many parts of a table in one Parquet file, which plain readers see as one table.

<root>/<table>/bundles/<number>-<parts>-<word>.parquet     a row group a part; never written again, nor is its name

The footer holds, sealed, key, rows, digest and recipe of each part. A part that lies loose in the table's folder comes before one in a
bundle; of several bundles the one of the highest number does. So what lies in a bundle is never changed, and a part that is made again
leaves the earlier one dead in its bundle, until `pipeline.engine.bundles.compaction` writes the living ones anew.

A worker that is given many items in one call writes their parts as one bundle a table (`Store.in_bundles`); parts that came one by one are
put into bundles later, by compaction.

64 parts a bundle: of tables of hands that is a footer of 200 kB, read in 1 to 4 ms; of 256 parts it took 5 to 21 ms, and to read one part
of a bundle takes that beside the part's own 2 ms.
"""

import hashlib
import io
import json
import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.files.ledger import Facts, facts_of
from stages.digest import UNREADABLE, CorruptFileError, digest_of, refuse_odd

FOLDER = "bundles"
"""Where a table's bundles lie, in the table's folder."""

PARTS = 64
"""Parts of a bundle."""

_NAME = re.compile(r"(?P<number>\d{9})-(?P<parts>\d+)-[0-9a-f]{8}\.parquet")
_OF_SCHEMA = (b"table", b"schema_version")


class Part(NamedTuple):
    """A part with its content, on its way into a bundle."""

    key: str
    content: pa.Table
    recipe: dict[str, Any]
    digest: str | None
    """None of parts of an earlier version."""

    def schema_text(self) -> bytes:
        """Columns of the part as bytes, which all parts of a bundle have in common."""
        return bytes(_plain(self.content).schema.serialize())


class Held(NamedTuple):
    """A part as the footer of its bundle names it."""

    key: str
    rows: int
    digest: str | None
    recipe: dict[str, Any]


def is_bundle(path: Path) -> bool:
    """Whether a path is one of a bundle."""
    return path.parent.name == FOLDER and _NAME.fullmatch(path.name) is not None


def name_of(number: int, num_parts: int) -> str:
    """The file name of a bundle to be written: no other has it."""
    return f"{number:09d}-{num_parts}-{uuid.uuid4().hex[:8]}.parquet"


def number_of(name: str) -> int:
    """The number of a bundle, by its file name."""
    found = _NAME.fullmatch(name)
    return int(found["number"]) if found else -1


def parts_of(name: str) -> int:
    """How many parts a bundle was written with, by its file name."""
    found = _NAME.fullmatch(name)
    return int(found["parts"]) if found else 0


CODEC = "snappy"
"""Codec of bundles. With it, and without dictionaries and statistics, a part of 100 hands takes a third of the time to write and to read
that zstd with both takes, and fewer bytes: most columns are floats."""


def write_bundle(parts: Sequence[Part], path: Path | BinaryIO, codec: str = CODEC) -> None:
    """Write parts of one schema, a row group each: the same bytes from the same parts, codec and pyarrow.

    `codec` is that of a bundle that is there; '' of one of the first version, which had zstd, dictionaries and statistics.
    """
    schema = _as_read(_plain(parts[0].content).schema.serialize().to_pybytes())
    shared = _shared([part.recipe for part in parts])
    told = [[p.key, len(p.content), p.digest, {n: v for n, v in p.recipe.items() if n not in shared}] for p in parts]
    coding = {"codec": codec} if codec else {}
    text = json.dumps({"shared": shared, "parts": told, "written_by": written_by(), **coding}, sort_keys=True)
    with pq.ParquetWriter(path, schema, compression=codec or "zstd", use_dictionary=not codec, write_statistics=not codec) as writer:
        for part in parts:
            writer.write_table(_plain(part.content), row_group_size=max(1, len(part.content)))
        writer.add_key_value_metadata({"parts": text, "parts_sha256": hashlib.sha256(text.encode()).hexdigest()})


@dataclass(frozen=True, eq=False, slots=True)
class Gathered:
    """Parts on their way into bundles together."""

    numbers: Mapping[str, int]
    """Number of the bundles of each table that has any."""
    parts: defaultdict[str, list[Part]] = field(default_factory=lambda: defaultdict(list))

    def takes(self, tables: Iterable[str]) -> bool:
        """Whether parts of these tables come into bundles."""
        return all(table in self.numbers for table in tables)

    def in_files(self) -> Iterator[tuple[str, list[Part]]]:
        """The parts of each bundle with their table; a bundle has one schema."""
        for table, parts in self.parts.items():
            of_schema: dict[bytes, list[Part]] = defaultdict(list)
            for part in parts:
                of_schema[part.schema_text()].append(part)
            for alike in of_schema.values():
                yield from ((table, alike[first : first + PARTS]) for first in range(0, len(alike), PARTS))


@cache
def written_by() -> str:
    """What pyarrow calls itself in the files that it writes."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [0]}), buffer)
    return str(pq.read_metadata(buffer).created_by)


@cache
def _as_read(serialized: bytes) -> pa.Schema:
    """A schema as it is read back, with other names of items of lists: a file says the same whether its parts were just made or read."""
    buffer = io.BytesIO()
    pq.write_table(pa.ipc.read_schema(pa.py_buffer(serialized)).empty_table(), buffer)
    return pq.read_schema(buffer)


def _shared(recipes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all recipes say, by its text: 1 is not 1.0."""
    texts = [{name: json.dumps(value, sort_keys=True) for name, value in recipe.items()} for recipe in recipes]
    return {name: recipes[0][name] for name, text in texts[0].items() if all(other.get(name) == text for other in texts)}


def _plain(content: pa.Table) -> pa.Table:
    """A part's content with what its schema says of it alone."""
    metadata = content.schema.metadata or {}
    return content.replace_schema_metadata({name: metadata[name] for name in _OF_SCHEMA if name in metadata})


_AT_ONCE, _MOST_AHEAD_BYTES = 16, 4 << 20
"""Parts that are read at once where they are read in turn."""


@dataclass(eq=False, slots=True)
class _Ahead:
    """Parts of a bundle that were read before they are asked for, as they are read in turn."""

    last: int = -2
    """The part that was read last."""
    tables: dict[int, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Bundle:
    """A bundle whose footer was read and found to be what was written."""

    path: Path
    facts: Facts
    footer: pq.FileMetaData
    schema: pa.Schema
    parts: tuple[Held, ...]
    written_by: str
    """The library that wrote it, as the bundle itself states."""
    codec: str
    """How it is written: see `write_bundle`."""
    _ahead: _Ahead = field(default_factory=_Ahead)

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """A bundle with its footer, which is held against its digest. Raises CorruptFileError that names the file, FileNotFoundError."""
        facts = facts_of(refuse_odd(path))
        try:
            with pa.memory_map(str(path)) as mapped:
                return cls._in(mapped, path, facts)
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            raise CorruptFileError(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error

    @classmethod
    def is_damaged(cls, path: Path) -> bool:
        """Whether the bytes of a file are no bundle's. Raises OSError, MemoryError where they cannot be read, and nobody knows."""
        content = pa.BufferReader(path.read_bytes())
        try:
            cls._in(content, path, facts_of(path.stat()))
        except (MemoryError, FileNotFoundError):
            raise
        except UNREADABLE:
            return True
        return False

    @classmethod
    def _in(cls, content: pa.NativeFile, path: Path, facts: Facts) -> "Bundle":
        """A bundle out of its content. Raises what `UNREADABLE` lists."""
        with pq.ParquetFile(content) as file:
            footer, schema = file.metadata, file.schema_arrow
        stated = footer.metadata or {}
        text = stated[b"parts"]
        if hashlib.sha256(text).hexdigest().encode() != stated[b"parts_sha256"]:
            raise ValueError("the parts that it names are not those that were written")
        told = json.loads(text)
        parts = tuple(Held(key, rows, digest, told["shared"] | own) for key, rows, digest, own in told["parts"])
        if not all(isinstance(part.key, str) and Path(part.key).name == part.key for part in parts):
            raise ValueError("it names a part as no file is named")
        rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        if rows != [part.rows for part in parts]:
            raise ValueError("its row groups are not its parts")
        kept = {name: value for name, value in (schema.metadata or {}).items() if name in _OF_SCHEMA}
        return cls(path, facts, footer, schema.with_metadata(kept), parts, str(told["written_by"]), str(told.get("codec", "")))

    def read(self, group: int, columns: Collection[str] | None = None) -> pa.Table:
        """A part's content, held against its digest; some of its columns are not. Raises CorruptFileError, FileNotFoundError."""
        part = self.parts[group]
        table = self._in_turn(group) if columns is None else None
        if table is None:
            try:
                names = None if columns is None else [name for name in columns if name in self.schema.names]
                table = self._groups([group], names)
            except FileNotFoundError:
                raise
            except UNREADABLE as error:
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise CorruptFileError(self.path, f"its part {part.key} cannot be read: {why}") from error
        table = table.replace_schema_metadata(self.schema.metadata)
        if columns is None and part.digest is not None and part.digest != digest_of(table):
            raise CorruptFileError(self.path, f"the content of its part {part.key} is not what its digest says")
        return table

    def _in_turn(self, group: int) -> pa.Table | None:
        """A part that comes after the one that was read before it, out of several that are read at once: a column of one part alone
        takes as long as its bytes of ten. None of another part, and where one of them cannot be read."""
        ahead = self._ahead
        if group == ahead.last + 1 and group not in ahead.tables:
            groups, size = list[int](), 0
            while len(groups) < _AT_ONCE and (at := group + len(groups)) < len(self.parts) and size < _MOST_AHEAD_BYTES:
                size += self.footer.row_group(at).total_byte_size
                groups.append(at)
            with suppress(*UNREADABLE):
                table, start = self._groups(groups), 0
                for at in groups:
                    ahead.tables[at] = table.slice(start, self.parts[at].rows)
                    start += self.parts[at].rows
        ahead.last = group
        return ahead.tables.pop(group, None)

    def _groups(self, groups: list[int], columns: list[str] | None = None) -> pa.Table:
        """Row groups as they are read, one after another."""
        with pa.memory_map(str(self.path)) as mapped, pq.ParquetFile(mapped, metadata=self.footer) as file:
            return file.read_row_groups(groups, columns, use_threads=False)

    def part(self, group: int) -> Part:
        """A part, to be written into another bundle. Raises CorruptFileError, FileNotFoundError."""
        return Part(self.parts[group].key, self.read(group), self.parts[group].recipe, self.parts[group].digest)

    def raw(self, group: int) -> bytes:
        """The bytes of a row group as they lie there; none where the footer leads nowhere."""
        told = self.footer.row_group(group)
        chunks = [told.column(at) for at in range(told.num_columns)]
        starts = [c.dictionary_page_offset if c.dictionary_page_offset else c.data_page_offset for c in chunks]
        size = sum(c.total_compressed_size for c in chunks)
        if not starts or min(starts) < 0 or not 0 <= size <= self.facts[0]:
            return b""
        with self.path.open("rb") as file:
            file.seek(min(starts))
            return file.read(size)
