"""Durable tables: every (stage, item) commits one Parquet file a table that the stage writes, written aside and renamed.

<root>/<table>/<key>.parquet          metadata: fingerprint, the recipe it was made by, the digest of its content
<root>/<table>/bundles/*.parquet      many parts in one file: see `pipeline.engine.bundles`; a part with a file of its own comes first
<root>/<table>/<key>.error.json       why there is none: reason, message, attempts, permanent or not, traceback
<root>/<table>/<key>.parquet.corrupt  a part whose content is not what its digest says, until it has a successor; a bundle's counts as none
<root>/ledger.parquet                 what the footers say, for plans: see `pipeline.engine.files.ledger`

Written means: flushed, renamed, and the folder flushed. Read means: held against its digest.
"""

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.engine.bundles.bundle import FOLDER as BUNDLES
from pipeline.engine.bundles.bundle import Bundle, Gathered, Held, Part, name_of, write_bundle
from pipeline.engine.bundles.places import Bundles, Place
from pipeline.engine.durable import StoreError, flush
from pipeline.engine.files.data_folder import DataFolder
from pipeline.engine.files.ledger import NAME as LEDGER
from pipeline.engine.files.ledger import Facts, Ledger, Line, facts_of, read_lines
from pipeline.engine.files.part import FORMERLY, read_sealed, recipe_in, recipe_of, sealed, write_part
from pipeline.engine.files.shard import CLIPS, open_shard
from stages.digest import UNREADABLE, CorruptFileError, digest_of, refuse_odd, seal, unseal
from stages.shards import whole_of
from stages.tables import Table

T = TypeVar("T", bound=Table)

_log = logging.getLogger(__name__)

OF_PEOPLE = ("verdicts", "audits")
"""Tables that no stage makes, and no run makes again."""


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
        self._schemas: dict[int, tuple[pa.Schema, str]] = {}  # by identity: they are made once
        self._folders: dict[str, Path] = {}
        self._bundles: dict[str, Bundles] = {}  # by folder: a table may come by another name
        self._is_sole = False
        self._gathered: Gathered | None = None
        self.told: Mapping[tuple[str, str], Place] = {}
        """Where the driver says that parts lie in bundles, for a worker: it reads them there and looks nowhere else."""

    def refresh(self, tables: Iterable[str], key: str) -> None:
        """See what a worker wrote into files of its own that may have another mirror. Raises StoreError."""
        if mirror := self.mirror:
            for table in tables:
                mirror.have(self.part(table, key))

    def part(self, table: str, key: str) -> Path:
        """The part's own file in `table` (which may name a sub-folder: person_detections/blazepose), where it lies in no bundle."""
        return self._folder(table) / f"{key}.parquet"

    def _folder(self, table: str) -> Path:
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
        return self.part(table, key).exists() or self.place(table, key) is not None

    def keys(self, table: str) -> list[str]:
        """Keys of all parts of a table, sorted."""
        return sorted(self.stamps(table))

    def loose(self, table: str) -> dict[str, os.stat_result]:
        """What the disk says of the parts that have files of their own."""
        found = {}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._folder(table)) as entries:
            for entry in entries:
                if entry.name.endswith(".parquet"):
                    with suppress(FileNotFoundError):  # it has just come into a bundle
                        found[entry.name.removesuffix(".parquet")] = _stat_of(entry)
        return found

    def loose_keys(self, table: str) -> set[str]:
        """Keys of the parts that have files of their own, without a look at each."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._folder(table)) as entries:
            return {entry.name.removesuffix(".parquet") for entry in entries if entry.name.endswith(".parquet")}
        return set()

    def bundles(self, table: str) -> Bundles:
        """The bundles of a table, as they are now."""
        return self._bundles_of(table).fresh(sole=self._is_sole)

    def _bundles_of(self, table: str) -> Bundles:
        where = str(self._folder(table))  # a path of each look takes longer than all else here
        if where not in self._bundles:
            self._bundles[where] = Bundles(self._folder(table) / BUNDLES, lambda: self.ledger, table)
        return self._bundles[where]

    def _opened(self, table: str, name: str) -> Bundle:
        """A bundle with its footer; of an object store it is fetched, once, as it never changes. Raises what `UNREADABLE` lists."""
        bundles = self._bundles_of(table)
        if (mirror := self.mirror) and not (bundles.folder / name).is_file():
            mirror.have(bundles.folder / name)
        return bundles.open(name)

    @contextmanager
    def sole(self) -> Iterator[None]:
        """Within the block nobody else changes bundles, but for workers that tell this process (`take_in`): it holds the lock."""
        for bundles in self._bundles.values():
            bundles.fresh()
        self._is_sole = True
        try:
            yield
        finally:
            self._is_sole = False

    def take_in(self, table: str, name: str) -> None:
        """Take in a bundle that a worker says it wrote, as this process sees it; one that cannot be read counts as not there."""
        bundles = self.bundles(table)
        if name not in bundles.files:
            with suppress(*UNREADABLE):
                bundles.came(self._opened(table, name), seen_whole=False)

    def place(self, table: str, key: str) -> Place | None:
        """Where a part lies in a bundle; None where it does not, or was found to be corrupt. One that has its own file comes before it."""
        if (table, key) in self.told:
            return self.told[table, key]
        if (mirror := self.mirror) and mirror.asks:
            return None  # all bundles would have to be fetched to say more
        found = self.bundles(table).find(key)
        if found is None:
            return None
        return None if self.corrupt_file(table, key).exists() else found

    def known_place(self, table: str, key: str) -> Place | None:
        """Where a part lies in a bundle, by what the ledger was told last: of one that was seen since, without a look at the disk."""
        files = self.bundles(table).files
        line = self.ledger.find(table, key) if files else None
        return Place(line.bundle, line.row_group) if line and line.bundle in files else None

    def held(self, table: str, key: str) -> tuple[Held, pa.Schema] | None:
        """What the footer of its bundle says of a part, and the bundle's schema; None without one that can be read."""
        for _ in range(_TRIES):
            place = self.place(table, key)
            if place is None:
                return None
            try:
                bundle = self._opened(table, place.name)
                held = bundle.parts[place.group]
            except FileNotFoundError:
                continue  # its parts have come into another one
            except UNREADABLE:
                return None
            return (held, bundle.schema) if held.key == key else None
        return None

    def _in_bundle(self, table: str, key: str, columns: Collection[str] | None = None) -> pa.Table:
        """A part out of a bundle, held against its digest unless for some `columns` alone.

        Raises CorruptFileError that names the part, FileNotFoundError.
        """
        for attempt in range(_TRIES):
            place = self.place(table, key)
            if place is None and attempt:
                break
            if place is None:
                self._bundles_of(table).fresh(sought=True)
                continue
            try:
                bundle = self._opened(table, place.name)
                if bundle.parts[place.group].key != key:
                    raise CorruptFileError(bundle.path, f"it holds no part {key} where the ledger says")
                return bundle.read(place.group, columns)
            except FileNotFoundError:  # its parts have come into another one
                if self.told:
                    time.sleep(_LATE_S)  # or it has just been written on another machine
                continue
            except UNREADABLE as error:
                why = error.why if isinstance(error, CorruptFileError) else str(error)
                raise CorruptFileError(self.part(table, key), f"{BUNDLES}/{place.name}: {why}") from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.part(table, key)))

    def num_rows(self, table: str, key: str) -> int:
        """Rows of a part, as its footer says. Raises FileNotFoundError."""
        try:
            return int(pq.read_metadata(self.part(table, key)).num_rows)
        except FileNotFoundError:
            if (found := self.held(table, key)) is None:
                raise
            return found[0].rows

    def columns(self, table: str, key: str, names: Collection[str]) -> pa.Table | None:
        """Some columns of a part as they lie there, those that it has; None where there is none that can be read."""
        try:
            with pa.memory_map(str(self.part(table, key))) as mapped, pq.ParquetFile(mapped) as file:
                return file.read([name for name in names if name in file.schema_arrow.names])
        except FileNotFoundError:
            with suppress(*UNREADABLE):
                return self._in_bundle(table, key, names)
        except UNREADABLE:
            pass
        return None

    def stamp(self, table: str, key: str) -> str:
        """A text that is another one once a part has been written anew; '' without a part."""
        try:
            return _stamp_of(self.part(table, key).stat())
        except OSError:
            place = self.place(table, key)
            return _stamp_of(place) if place else ""

    def stamps(self, table: str) -> dict[str, str]:
        """The stamp of each part of a table."""
        loose = self.loose(table)  # first: what lies in no file any more is in a bundle by now
        bundled = {key: _stamp_of(place) for key, place in self.bundles(table).places()}
        for key in self.corrupt(table) if bundled else ():
            bundled.pop(key, None)
        return bundled | {key: _stamp_of(stat) for key, stat in loose.items()}

    def corrupt(self, table: str) -> list[str]:
        """Keys of the corrupt parts that wait for their successors."""
        return [path.name.removesuffix(".parquet.corrupt") for path in self._folder(table).glob("*.parquet.corrupt")]

    def changed_ns(self, table: str) -> int:
        """When a part of a table has landed last, or gone, or moved into a bundle; 0 where there is no table."""
        folder = self._folder(table)
        return sum(one.stat().st_mtime_ns for one in (folder, folder / BUNDLES) if one.exists())

    def made_by(self, table: str, key: str, schema: pa.Schema | None = None) -> dict[str, Any] | None:
        """The recipe (with its fingerprint) a committed part carries; empty when its columns are another version's; None without one.

        `schema`: the columns it must have, with their version as metadata (`Table.schema()`); None for any. A part whose footer
        cannot be read or whose recipe is not what its fingerprint says counts as none.
        """
        self.have(self.part(table, key))
        try:
            refuse_odd(self.part(table, key))
            found = self._schema_in(self.part(table, key))
        except FileNotFoundError:
            held = self.held(table, key)
            return None if held is None else recipe_of(held, schema, table)
        except UNREADABLE:
            return None
        return recipe_in(found, schema, table)

    def fingerprint(self, table: str, key: str, schema: pa.Schema) -> str | None:
        """What a committed part was made from, as the ledger or its footer says; '' when it does not fit `schema`, None without a part."""
        line = self._line(table, key, schema)
        return line.fingerprint if line else None

    def item(self, table: str, key: str, schema: pa.Schema) -> dict[str, Any]:
        """The `item` of a committed part's recipe; empty without one."""
        line = self._line(table, key, schema)
        found: dict[str, Any] = json.loads(line.item) if line and line.fits else (self.made_by(table, key) or {}).get("item", {})
        return found

    def lacks(self, table: str, key: str, schema: pa.Schema, columns: Collection[str]) -> bool:
        """Whether a committed part was written without some of these columns of its schema."""
        line = self._line(table, key, schema)
        return bool(line and set(columns) & set(line.lacks.split()))

    @cached_property
    def ledger(self) -> Ledger:
        """What is known of the footers; nothing where there is no ledger, or a damaged one."""
        try:
            return Ledger(read_lines(self.part("", LEDGER)))
        except UNREADABLE:
            return Ledger()

    def _line(self, table: str, key: str, schema: pa.Schema) -> Line | None:
        """What the ledger or else its footer says of a part; `fits` is '' where it does not. None of what `made_by` takes for none."""
        path, wanted = self.part(table, key), self.digest_of_schema(schema)
        self.have(path)
        try:
            facts = self._facts_of(path, refuse_odd(path))
            line = self.ledger.find(table, key)
            if line and line.fits == wanted and not line.bundle and line[:4] == facts:
                return line
            found = self._schema_in(path)
        except FileNotFoundError:
            return self._line_in_bundle(table, key, schema)
        except UNREADABLE:
            return None
        recipe = recipe_in(found, schema, table)
        if not recipe:
            return None if recipe is None else _NO_FIT
        line = _line_of(facts, found, recipe, schema, wanted)
        self.ledger.note(table, key, line)
        return line

    def _facts_of(self, path: Path, stat: os.stat_result) -> Facts:
        """Facts of a part's own file, by which a line of the ledger stands for it and for no other in its place."""
        return (self.mirror and self.mirror.facts_of(path, stat)) or facts_of(stat)

    def _schema_in(self, path: Path) -> pa.Schema:
        """Schema and metadata of a part, from its footer. Raises what `UNREADABLE` lists."""
        return open_shard(path).schema_arrow if self.mirror else pq.read_schema(path)

    def _line_in_bundle(self, table: str, key: str, schema: pa.Schema) -> Line | None:
        place, wanted = self.place(table, key), self.digest_of_schema(schema)
        if place is None:
            return None
        line, facts = self.ledger.find(table, key), self._bundles_of(table).files.get(place.name)
        if line and line.fits == wanted and line.bundle == place.name and line[:4] == facts:
            return line
        held = self.held(table, key)
        recipe = None if held is None else recipe_of(held, schema, table)
        if held is None or not recipe or facts is None:
            return None if recipe is None else _NO_FIT
        line = _line_of(facts, held[1], recipe, schema, wanted, place)
        self.ledger.note(table, key, line)
        return line

    def digest_of_schema(self, schema: pa.Schema) -> str:
        """What lines of the ledger say of the schema that a part fits."""
        if id(schema) not in self._schemas:
            self._schemas[id(schema)] = schema, hashlib.sha256(schema.serialize()).hexdigest()[:16]
        return self._schemas[id(schema)][1]

    def write_ledger(self) -> None:
        """Write down what footers said that the ledger did not know. For who holds the lock.

        Where it cannot be written that is told and no more: it decides nothing.
        """
        self._complete_ledger()
        if not self.ledger.fresh:
            return
        lines = self._on_disk(self.ledger.lines())
        try:
            with self.aside(self.part("", LEDGER)) as temporary:
                write_part(sealed(lines, {}), temporary)
        except (StoreError, OSError) as error:
            _log.warning("%s is not written, so that the next plan takes longer: %s", self.part("", LEDGER), error)
            return
        self.succeeded("", LEDGER)
        self.ledger = Ledger(lines)

    def _complete_ledger(self) -> None:
        """See that the ledger names all parts of the bundles that it names: where one lies is looked up there."""
        for bundles in self._bundles.values():
            for key, place in bundles.untold():
                line = self.ledger.find(bundles.table, key)
                if line is None or (line.bundle != place.name and (line.bundle or not self.part(bundles.table, key).exists())):
                    self.ledger.note(bundles.table, key, Line(*bundles.files[place.name], "", "", "", "{}", *place))

    def _on_disk(self, lines: pa.Table) -> pa.Table:
        """Lines but for those of bundles that are gone."""
        named = lines.filter(pc.not_equal(lines["bundle"], "")).group_by(["table", "bundle"]).aggregate([]).to_pylist()
        gone = [one["bundle"] for one in named if not (self._folder(one["table"]) / BUNDLES / one["bundle"]).exists()]
        return lines.filter(pc.invert(pc.is_in(lines["bundle"], pa.array(gone, pa.string())))) if gone else lines

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
        if (table, key) in self.told:
            return self._in_bundle(table, key)
        self.have(self.part(table, key))
        try:
            return read_sealed(self.part(table, key))
        except FileNotFoundError:
            return self._in_bundle(table, key)

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
                path = self._folder(table) / BUNDLES / name_of(bundles[table], len(parts))
                if not path.parent.is_dir():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    flush(path.parent.parent)
                with self.aside(path) as temporary:
                    write_bundle(parts, temporary)
                for part in parts:
                    names.setdefault(part.key, {})[table] = path.name

    def _can_write_bundles(self, table: str) -> bool:
        """Whether bundles of a table can be written; a folder that is not there is made."""
        folder = self._folder(table) / BUNDLES
        return not folder.exists() or os.access(folder, os.W_OK | os.X_OK)

    def succeeded(self, table: str, key: str) -> None:
        """Remove what stood in for a part once that is committed: its error file and the corrupt part before it."""
        stood_in = (self.error_file(table, key), self.corrupt_file(table, key))
        self.leave([path for path in stood_in if self.mirror is None or self.mirror.asks or path.exists()])

    def corrupt_file(self, table: str, key: str) -> Path:
        """Where a corrupt part waits for its successor."""
        return self._folder(table) / f"{key}.parquet.corrupt"

    def set_corrupt_aside(self, path: Path) -> None:
        """Take a corrupt part out of the way of its successor; it is kept until that is committed. What people said has none: it stays."""
        if path.parent.name in OF_PEOPLE and path.parent.parent == self.root:
            return
        if self.mirror and self.mirror.drop_damaged(path):
            return
        corrupt = path.with_name(path.name + ".corrupt")
        try:
            path.replace(corrupt)
        except FileNotFoundError:  # it lies in a bundle, or another worker has found it as well
            if path.suffix == ".parquet" and path.is_relative_to(self.root):
                self._set_bundled_aside(str(path.parent.relative_to(self.root)), path.stem)
            return
        if self.mirror:
            self.mirror.put_as_it_is([corrupt])
            self.mirror.delete([path])

    def _set_bundled_aside(self, table: str, key: str) -> None:
        """Have a corrupt part of a bundle count as none: what lies of it there is copied; the others stand."""
        place, content = self.place(table, key), b""
        if place is None or (self.mirror and self.mirror.drop_damaged(self._bundles_of(table).folder / place.name)):
            return
        try:
            bundle = self._opened(table, place.name)
            content = bundle.raw(place.group)
            bundle.read(place.group)
            if bundle.parts[place.group].key == key:
                return  # it has a successor by now
        except UNREADABLE:
            pass
        with self.aside(self.corrupt_file(table, key)) as temporary:
            temporary.write_bytes(content)

    def error_file(self, table: str, key: str) -> Path:
        """Where the reason lies why `key` has no part in `table`."""
        return self._folder(table) / f"{key}.error.json"

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

    def pieces_of(self, table: str, shard: str) -> list[Path]:
        """The files that a shard is or was dealt out to, and the one that it is or was as a whole."""
        whole = self.part(table, shard)
        return sorted(path for path in whole.parent.glob(f"{whole.stem}*.parquet") if whole_of(f"{whole.parent.name}/{path.stem}") == shard)

    def clips_in(self, shard: Path) -> set[tuple[str, str]]:
        """Video and clip of every frame of a shard; none where there is none that can be read."""
        try:
            refuse_odd(shard)
            file = open_shard(shard)
            told = (file.metadata.metadata or {}).get(CLIPS)
            if told is not None:
                return {(video, clip) for video, clip in json.loads(told)}
            rows = file.read(["video", "clip"])
            return set(zip(rows["video"].to_pylist(), rows["clip"].to_pylist(), strict=True))
        except UNREADABLE:
            return set()


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


_TRIES = 5
"""How often a part is looked for whose bundle has just been written anew."""

_LATE_S = 0.5
"""How long a file may be hidden on this machine that another one has just written; it is looked for five times."""

_NO_FIT = Line(0, 0, 0, 0, "", "", "", "{}")
"""What is said of a part whose columns are another version's."""


def _line_of(facts: Facts, found: pa.Schema, recipe: Mapping[str, Any], schema: pa.Schema, wanted: str, place: Place | None = None) -> Line:
    there = set(found.names)
    lacks = " ".join(name for name in schema.names if name not in there)
    told = (str(recipe.get("fingerprint", "")), lacks, json.dumps(recipe.get("item", {}), sort_keys=True))
    return Line(*facts, wanted, *told, *(place or ("", 0)))
