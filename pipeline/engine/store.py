"""Durable tables: every (stage, item) commits one Parquet file a table that the stage writes, written aside and renamed.

<root>/<table>/<key>.parquet          metadata: fingerprint, the recipe it was made by, the digest of its content
<root>/<table>/bundles/*.parquet      many parts in one file: see `pipeline.engine.bundles`; a part with a file of its own comes first
<root>/<table>/<key>.error.json       why there is none: reason, message, attempts, permanent or not, traceback
<root>/<table>/<key>.parquet.corrupt  a part whose content is not what its digest says, until it has a successor; a bundle's counts as none
<root>/ledger.parquet                 what the footers say, for plans: see `pipeline.engine.files.ledger`

Written means: flushed, renamed, and the folder flushed. Read means: held against its digest.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.bundles.all_bundles import AllBundles
from pipeline.engine.bundles.bundle import FOLDER as BUNDLES
from pipeline.engine.bundles.bundle import Gathered, Part, name_of, write_bundle
from pipeline.engine.bundles.places import Place
from pipeline.engine.durable import flush
from pipeline.engine.files.data_folder import DataFolder
from pipeline.engine.files.footers import Footers
from pipeline.engine.files.part import FORMERLY, read_sealed, recipe_in, recipe_of, sealed, write_part
from pipeline.engine.files.shard import schema_in
from stages.digest import UNREADABLE, CorruptFileError, digest_of, refuse_odd, seal, unseal
from stages.tables import Table

T = TypeVar("T", bound=Table)


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """What stands in an error file."""

    fingerprint: str
    reason: str
    message: str
    permanent: bool
    attempts: int
    traceback: str = ""
    where: str = ""
    """Node, process and log of the worker that failed."""


class Store(DataFolder):
    """The parts below one folder. All writes are whole or not at all."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.bundles = AllBundles(self)
        self.footers = Footers(self)
        self._folders: dict[str, Path] = {}
        self._gathered: Gathered | None = None

    def refresh(self, tables: Iterable[str], key: str) -> None:
        """See what a worker wrote into files of its own that may have another mirror. Raises StoreError."""
        if mirror := self.mirror:
            for table in tables:
                mirror.have(self.part(table, key))

    def part(self, table: str, key: str) -> Path:
        """The part's own file in `table` (which may name a sub-folder: person_detections/blazepose), where it lies in no bundle."""
        return self.folder(table) / f"{key}.parquet"

    def folder(self, table: str) -> Path:
        """Where a table lies: under its name of before in a data folder that no run has taken over yet."""
        if table not in self._folders:
            name, _, detector = table.partition("/")
            if name in FORMERLY and detector not in ("", BUNDLES):
                before = self.root / FORMERLY[name] / detector
                return before if before.is_dir() and not (self.root / table).is_dir() else self.root / table
            self._folders[table] = self.root / table
        return self._folders[table]

    def has(self, table: str, key: str) -> bool:
        """Whether there is a part, whatever it holds."""
        return self.part(table, key).exists() or self.bundles.place(table, key) is not None

    def keys(self, table: str) -> list[str]:
        """Keys of all parts of a table, sorted."""
        return sorted(self.stamps(table))

    def loose(self, table: str) -> dict[str, os.stat_result]:
        """What the disk says of the parts that have files of their own."""
        found = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder(table)) as entries:
            for entry in entries:
                if entry.name.endswith(".parquet"):
                    with suppress(FileNotFoundError):  # it has just come into a bundle
                        found[entry.name.removesuffix(".parquet")] = _stat_of(entry)
        return found

    def loose_keys(self, table: str) -> set[str]:
        """Keys of the parts that have files of their own, without a look at each."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder(table)) as entries:
            return {entry.name.removesuffix(".parquet") for entry in entries if entry.name.endswith(".parquet")}
        return set()

    def num_rows(self, table: str, key: str) -> int:
        """Rows of a part, as its footer says. Raises FileNotFoundError."""
        try:
            return int(pq.read_metadata(self.part(table, key)).num_rows)
        except FileNotFoundError:
            if (found := self.bundles.held(table, key)) is None:
                raise
            return found[0].rows

    def columns(self, table: str, key: str, names: Collection[str]) -> pa.Table | None:
        """Some columns of a part as they lie there, those that it has; None where there is none that can be read."""
        try:
            with pa.memory_map(str(self.part(table, key))) as mapped, pq.ParquetFile(mapped) as file:
                return file.read([name for name in names if name in file.schema_arrow.names])
        except FileNotFoundError:
            with suppress(*UNREADABLE):
                return self.bundles.read(table, key, names)
        except UNREADABLE:
            pass
        return None

    def stamp(self, table: str, key: str) -> str:
        """A text that is another one once a part has been written anew; '' without a part."""
        try:
            return _stamp_of(self.part(table, key).stat())
        except OSError:
            place = self.bundles.place(table, key)
            return _stamp_of(place) if place else ""

    def stamps(self, table: str) -> dict[str, str]:
        """The stamp of each part of a table."""
        loose = self.loose(table)  # first: what lies in no file any more is in a bundle by now
        bundled = {key: _stamp_of(place) for key, place in self.bundles.of(table).places()}
        for key in self.corrupt(table) if bundled else ():
            bundled.pop(key, None)
        return bundled | {key: _stamp_of(stat) for key, stat in loose.items()}

    def corrupt(self, table: str) -> list[str]:
        """Keys of the corrupt parts that wait for their successors."""
        return [path.name.removesuffix(".parquet.corrupt") for path in self.folder(table).glob("*.parquet.corrupt")]

    def changed_ns(self, table: str) -> int:
        """When a part of a table has landed last, or gone, or moved into a bundle; 0 where there is no table."""
        folder = self.folder(table)
        return sum(one.stat().st_mtime_ns for one in (folder, folder / BUNDLES) if one.exists())

    def made_by(self, table: str, key: str, schema: pa.Schema | None = None) -> dict[str, Any] | None:
        """The recipe (with its fingerprint) a committed part carries; empty when its columns are another version's; None without one.

        `schema`: the columns it must have, with their version as metadata (`Table.schema()`); None for any. A part whose footer
        cannot be read or whose recipe is not what its fingerprint says counts as none.
        """
        self.have(self.part(table, key))
        try:
            refuse_odd(self.part(table, key))
            found = schema_in(self.part(table, key))
        except FileNotFoundError:
            held = self.bundles.held(table, key)
            return None if held is None else recipe_of(held, schema, table)
        except UNREADABLE:
            return None
        return recipe_in(found, schema, table)

    def read(self, kind: type[T], table: str, key: str) -> T:
        """The columns of a committed part, held against its digest.

        Raises CorruptFileError that names the part when it is not what was written, FileNotFoundError when there is none.
        """
        arrow = self.read_arrow(table, key)
        name, _, detector = table.partition("/")
        if name in FORMERLY and "source" not in arrow.column_names:
            arrow = arrow.append_column("source", pa.array([detector] * len(arrow), pa.string()))
        return kind.from_arrow(arrow)

    def read_arrow(self, table: str, key: str) -> pa.Table:
        """A committed part as it was written, held against its digest. Raises as `read` does."""
        if (table, key) in self.bundles.told:
            return self.bundles.read(table, key)
        self.have(self.part(table, key))
        try:
            return read_sealed(self.part(table, key))
        except FileNotFoundError:
            return self.bundles.read(table, key)

    def commit(self, table: str, key: str, content: Table, recipe: Mapping[str, Any]) -> None:
        """Write a part whole: aside, flushed, renamed; its error file and a corrupt predecessor go."""
        self.commit_together({table: content}, key, recipe)

    def commit_together(self, contents: Mapping[str, Table], key: str, recipe: Mapping[str, Any]) -> list[pa.Table]:
        """Write the parts of one task, one a table: none has its name before all are whole, and all carry the task's recipe. Gives
        the parts as they are read back.

        A kill between two names leaves a task without one of its parts, which is one that is not done: it is made again, and
        gives the same parts.
        """
        written = [content.to_arrow() for content in contents.values()]
        if (gathered := self._gathered) and not any(self._stands_alone(table, key) for table in contents) and gathered.takes(contents):
            for table, content in zip(contents, written, strict=True):
                gathered.parts[table].append(Part(key, content, dict(recipe), digest_of(content)))
        else:
            with ExitStack() as all_whole:
                for table, content in zip(contents, written, strict=True):
                    temporary = all_whole.enter_context(self.aside(self.part(table, key)))
                    write_part(sealed(content, recipe), temporary)
        for table in contents:
            self.succeeded(table, key)
        return written

    def _stands_alone(self, table: str, key: str) -> bool:
        """Whether a part has a file of its own, or stands in for a corrupt one of a bundle: its successor is to be beside the bundles."""
        return self.part(table, key).exists() or self.corrupt_file(table, key).exists()

    @contextmanager
    def in_bundles(self, bundles: Mapping[str, int]) -> Iterator[dict[str, dict[str, str]]]:
        """Files come together, as in `together`; parts of the tables in `bundles` come into bundles of these numbers, a file a table.

        A part of which a version has a file of its own takes that one's place; parts have files of their own where bundles cannot be
        written. Gives the file names of the bundles by key and table, which are known once the block has ended.
        """
        can_be = {table: number for table, number in bundles.items() if self._can_write_bundles(table)}
        gathered, names = Gathered(can_be), dict[str, dict[str, str]]()
        with self.together():
            self._gathered = gathered
            try:
                yield names
            finally:
                self._gathered = None
            for table, parts in gathered.in_files():
                path = self.folder(table) / BUNDLES / name_of(bundles[table], len(parts))
                if not path.parent.is_dir():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    flush(path.parent.parent)
                with self.aside(path) as temporary:
                    write_bundle(parts, temporary)
                for part in parts:
                    names.setdefault(part.key, {})[table] = path.name

    def _can_write_bundles(self, table: str) -> bool:
        """Whether bundles of a table can be written; a folder that is not there is made."""
        folder = self.folder(table) / BUNDLES
        return not folder.exists() or os.access(folder, os.W_OK | os.X_OK)

    def succeeded(self, table: str, key: str) -> None:
        """Remove what stood in for a part once that is committed: its error file and the corrupt part before it."""
        stood_in = (self.error_file(table, key), self.corrupt_file(table, key))
        self.leave([path for path in stood_in if self.mirror is None or self.mirror.asks or path.exists()])

    def corrupt_file(self, table: str, key: str) -> Path:
        """Where a corrupt part waits for its successor."""
        return self.folder(table) / f"{key}.parquet.corrupt"

    def error_file(self, table: str, key: str) -> Path:
        """Where the reason lies why `key` has no part in `table`."""
        return self.folder(table) / f"{key}.error.json"

    def error(self, table: str, key: str) -> ErrorRecord | None:
        """The recorded failure of `key`, if there is one that can be read."""
        self.have(self.error_file(table, key))
        try:
            return ErrorRecord(**unseal(self.error_file(table, key)))
        except (OSError, CorruptFileError, TypeError):
            return None

    def fail(self, table: str, key: str, record: ErrorRecord) -> None:
        """Write down why `key` has no part of this fingerprint. An earlier part stays: it is stale, and may be the last of its kind."""
        with self.aside(self.error_file(table, key)) as temporary:
            temporary.write_text(seal(asdict(record)))


def _stat_of(entry: os.DirEntry[str]) -> os.stat_result:
    """What the disk says of an entry of a folder, or of the link that leads nowhere. Raises FileNotFoundError."""
    try:
        return entry.stat()
    except FileNotFoundError:
        raise
    except OSError:
        return entry.stat(follow_symlinks=False)


def _stamp_of(where: os.stat_result | Place) -> str:
    return f"{where.name}/{where.group}" if isinstance(where, Place) else f"{where.st_size}/{where.st_mtime_ns}"
