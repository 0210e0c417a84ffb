"""How a part lies on disk: one Parquet file of a table, whose metadata holds its recipe, the digest of its content and its writer."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.bundles.bundle import FOLDER as BUNDLES
from pipeline.engine.bundles.bundle import Held, Part, is_bundle, written_by
from pipeline.engine.durable import flush
from stages import tables
from stages.digest import UNREADABLE, CorruptFileError, digest_of, fingerprint_of, refuse_odd

_SMALL_BYTES = 1 << 14
"""A part of fewer bytes is small. Ours."""


FORMERLY: Mapping[str, str] = {"person_detections": "people"}
"""Tables by detector that had another name, and no column `source`. A data folder made then is read as it lies, and renamed by whoever
takes its lock."""


def take_over(root: Path) -> None:
    """Give the tables of a data folder made before their names of today; each detector's by one rename.

    The name of before is another table's today, whose bundles stay. Those that a version before this one took for a detector's come back.
    """
    for name, before in FORMERLY.items():
        for folder in sorted(path for path in (root / before).glob("*") if path.is_dir() and path.name != BUNDLES):
            _move(folder, root / name / folder.name)
        for path in sorted((root / name / BUNDLES).glob("*.parquet")):
            if is_bundle(path) and _table_in(path) == "People":
                _move(path, root / before / BUNDLES / path.name)


def _move(path: Path, to: Path) -> None:
    """Rename a file or a folder, durably, unless something lies there."""
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
        flush(to.parent)
        flush(path.parent)


def _table_in(path: Path) -> str:
    """The table that a Parquet file is of, as it says itself; '' where it cannot be read."""
    with suppress(*UNREADABLE):
        return str((pq.read_schema(path).metadata or {}).get(b"table", b"").decode())
    return ""


def sealed(table: pa.Table, recipe: Mapping[str, Any]) -> pa.Table:
    """A table with its recipe, its digest and its writer in its metadata."""
    stated = {b"recipe": json.dumps(recipe, sort_keys=True).encode(), b"digest": digest_of(table).encode()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **stated, b"written_by": written_by().encode()})


def write_part(table: pa.Table, path: Path | BinaryIO, codec: str = "") -> None:
    """Write a table as parts are written: the same bytes from the same table and the same pyarrow.

    A small one is not compressed: its columns of some bytes become no smaller, and it takes twice as long. `codec` is that of a part
    that is there.
    """
    pq.write_table(table, path, compression=codec or ("none" if table.nbytes < _SMALL_BYTES else "zstd"))


def read_sealed(path: Path) -> pa.Table:
    """The table of a part, held against the digest that it carries; one of an earlier version carries none.

    Raises CorruptFileError that names the file, FileNotFoundError.
    """
    refuse_odd(path)
    try:
        is_small = path.stat().st_size < _SMALL_BYTES  # mapped, it would be read by another thread, which takes longer than reading
        with pa.BufferReader(path.read_bytes()) if is_small else pa.memory_map(str(path)) as content, pq.ParquetFile(content) as file:
            table = file.read(use_threads=False)  # `read_table` takes four times as long for a small part
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise CorruptFileError(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    stated = (table.schema.metadata or {}).get(b"digest")
    if stated is not None and stated.decode(errors="replace") != digest_of(table):
        raise CorruptFileError(path, "its content is not what its digest says")
    return table


def part_of(path: Path, key: str) -> Part:
    """A part out of its own file, to be written into a bundle. Raises as `read_sealed` does, ValueError for a recipe that is none."""
    table = read_sealed(path)
    metadata = table.schema.metadata or {}
    recipe, digest = json.loads(metadata.get(b"recipe", b"{}")), metadata.get(b"digest")
    if not isinstance(recipe, dict):
        raise CorruptFileError(path, "its recipe is none")
    return Part(key, table, recipe, None if digest is None else digest.decode())


def _is_true(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe is the one that its fingerprint was taken of; some small parts carry an empty one."""
    without = {name: value for name, value in recipe.items() if name != "fingerprint"}
    return not recipe or recipe.get("fingerprint") == fingerprint_of(without)


def recipe_of(held: tuple[Held, pa.Schema], schema: pa.Schema | None, table: str) -> dict[str, Any] | None:
    """The recipe of a part in a bundle: see `Store.made_by`."""
    part, found = held
    if schema and not _fits(found, schema, table):
        return {}
    return None if part.digest is not None and not _is_true(part.recipe) else part.recipe


def recipe_in(found: pa.Schema, schema: pa.Schema | None, table: str) -> dict[str, Any] | None:
    """The recipe in a footer: see `Store.made_by`."""
    metadata = found.metadata or {}
    if schema and not _fits(found, schema, table):
        return {}
    try:
        recipe = json.loads(metadata.get(b"recipe", b"{}"))
    except ValueError:
        return None
    if not isinstance(recipe, dict) or (b"digest" in metadata and not _is_true(recipe)):
        return None
    return recipe


def _fits(found: pa.Schema, wanted: pa.Schema, table: str) -> bool:
    """Whether a part has the wanted columns, of their types and version. Others beside them do no harm."""
    version = (found.metadata or {}).get(b"schema_version")
    if found.equals(wanted):  # mostly
        return version == wanted.metadata[b"schema_version"]
    may_lack = {"source"} if table.partition("/")[0] in FORMERLY else set()
    kind = getattr(tables, wanted.metadata[b"table"].decode(), None)
    may_lack |= set(kind.young_columns()) if kind else set()
    absent = {field.name for field in wanted if field.name not in found.names}
    same = all(found.field(field.name).equals(field) for field in wanted if field.name not in absent)
    return absent <= may_lack and same and version == wanted.metadata[b"schema_version"]
