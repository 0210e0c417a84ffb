"""Durable tables: every (stage, item) commits one Parquet file a table that the stage writes, written aside and renamed.

<root>/<table>/<key>.parquet          metadata: fingerprint, the recipe it was made by, the digest of its content
<root>/<table>/<key>.error.json       why there is none: reason, message, attempts, permanent or not, traceback
<root>/<table>/<key>.parquet.corrupt  a part whose content is not what its digest says, until it has a successor
<root>/ledger.parquet                 what the footers say, for plans: see `pipeline.engine.ledger`

Written means: flushed, renamed, and the folder flushed. Read means: held against its digest.
"""

import fcntl
import hashlib
import io
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.durable import ASIDE, MirrorOfStore, StoreError, Writer, flush, lock_file, mirror_of, remove, room
from pipeline.engine.ledger import NAME as LEDGER
from pipeline.engine.ledger import Ledger, Line, facts_of, read_lines
from stages import tables
from stages.digest import UNREADABLE, CorruptFileError, digest_of, fingerprint_of, refuse_odd, seal, unseal
from stages.shards import whole_of
from stages.tables import Table

T = TypeVar("T", bound=Table)

_log = logging.getLogger(__name__)

_SMALL_BYTES = 1 << 14
"""A part of fewer bytes is small. Ours."""

FORMERLY: Mapping[str, str] = {"person_detections": "people"}
"""Tables by detector that had another name, and no column `source`. A data folder made then is read as it lies, and renamed by whoever
takes its lock."""


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


class Store(Writer):
    """The parts below one folder. All writes are whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._schemas: dict[int, tuple[pa.Schema, str]] = {}  # by identity: they are made once
        self._folders: dict[str, Path] = {}

    @property
    def mirror(self) -> MirrorOfStore | None:
        """What stands between this folder and the object store whose mirror it is; None for a folder of a disk."""
        return mirror_of(self.root)

    @property
    def name(self) -> str:
        """The data folder as a person names it: its path or its address."""
        return str(self.mirror or self.root)

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written there."""
        return not self.root.exists() if self.mirror is None else all(path.name == ".lock" for path in self.root.iterdir())

    def _have(self, path: Path) -> None:
        """In a worker's mirror of an object store: ask for a file before it is read."""
        if (mirror := self.mirror) and mirror.asks:
            mirror.have(path)

    def size_of(self, video: Path) -> int | None:
        """Bytes of a video of this folder, wherever it lies; None where it is gone."""
        if (mirror := self.mirror) and (size := mirror.size_of(video)) is not None:
            return size
        return video.stat().st_size if video.is_file() else None

    def still_held(self) -> None:
        """Raise StoreError where this driver has lost the folder to another one."""
        if mirror := self.mirror:
            mirror.check()

    def refresh(self, tables: Iterable[str], key: str) -> None:
        """See what a worker wrote that may have another mirror. Raises StoreError."""
        if mirror := self.mirror:
            for table in tables:
                mirror.have(self.part(table, key))

    def part(self, table: str, key: str) -> Path:
        """Where the part of `key` lies in `table` (which may name a sub-folder: person_detections/blazepose)."""
        return self._folder(table) / f"{key}.parquet"

    def _folder(self, table: str) -> Path:
        """Where a table lies: under its name of before in a data folder that no run has taken over yet."""
        if table not in self._folders:
            name, _, detector = table.partition("/")
            if name in FORMERLY:
                before = self.root / FORMERLY[name] / detector
                return before if before.is_dir() and not (self.root / table).is_dir() else self.root / table
            self._folders[table] = self.root / table
        return self._folders[table]

    def made_by(self, table: str, key: str, schema: pa.Schema | None = None) -> dict[str, Any] | None:
        """The recipe (with its fingerprint) a committed part carries; empty when its columns are another version's; None without one.

        `schema`: the columns it must have, with their version as metadata (`Table.schema()`); None for any. A part whose footer
        cannot be read or whose recipe is not what its fingerprint says counts as none.
        """
        self._have(self.part(table, key))
        try:
            refuse_odd(self.part(table, key))
            found = pq.read_schema(self.part(table, key))
        except UNREADABLE:
            return None
        return _recipe_in(found, schema, table)

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
        self._have(path)
        try:
            stat = refuse_odd(path)
            line = self.ledger.find(table, key)
            if line and line.fits == wanted and line.is_of(stat):
                return line
            found = pq.read_schema(path)
        except UNREADABLE:
            return None
        recipe = _recipe_in(found, schema, table)
        if not recipe:
            return None if recipe is None else Line(0, 0, 0, 0, "", "", "", "{}")
        there = set(found.names)
        lacks = " ".join(name for name in schema.names if name not in there)
        told = (str(recipe.get("fingerprint", "")), lacks, json.dumps(recipe.get("item", {}), sort_keys=True))
        line = Line(*facts_of(stat), wanted, *told)
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
        if not self.ledger.fresh:
            return
        lines = self.ledger.lines()
        try:
            with self.aside(self.part("", LEDGER)) as temporary:
                write_part(_sealed(lines, {}), temporary)
        except (StoreError, OSError) as error:
            _log.warning("%s is not written, so that the next plan takes longer: %s", self.part("", LEDGER), error)
            return
        self.succeeded("", LEDGER)
        self.ledger = Ledger(lines)

    def read(self, kind: type[T], table: str, key: str) -> T:
        """The columns of a committed part, held against its digest.

        Raises CorruptFileError that names the part when it is not what was written, FileNotFoundError when there is none.
        """
        self._have(self.part(table, key))
        arrow = read_sealed(self.part(table, key))
        name, _, detector = table.partition("/")
        if name in FORMERLY and "source" not in arrow.column_names:
            arrow = arrow.append_column("source", pa.array([detector] * len(arrow), pa.string()))
        return kind.from_arrow(arrow)

    def commit(self, table: str, key: str, content: Table, recipe: Mapping[str, Any]) -> None:
        """Write a part whole: aside, flushed, renamed; its error file and a corrupt predecessor go."""
        self.commit_together({table: content}, key, recipe)

    def commit_together(self, contents: Mapping[str, Table], key: str, recipe: Mapping[str, Any]) -> None:
        """Write the parts of one task, one a table: none has its name before all are whole, and all carry the task's recipe.

        A kill between two names leaves a task without one of its parts, which is one that is not done: it is made again, and
        gives the same parts.
        """
        with ExitStack() as all_whole:
            for table, content in contents.items():
                temporary = all_whole.enter_context(self.aside(self.part(table, key)))
                write_part(_sealed(content.to_arrow(), recipe), temporary)
        for table in contents:
            self.afterwards(partial(self.succeeded, table, key))

    def succeeded(self, table: str, key: str) -> None:
        """Remove what stood in for a part that is committed now: its error file and the corrupt part before it."""
        for stood_in in (self.error_file(table, key), self.corrupt_file(table, key)):
            if self.mirror is None or self.mirror.asks or stood_in.exists():
                remove(stood_in)

    def corrupt_file(self, table: str, key: str) -> Path:
        """Where a corrupt part waits for its successor."""
        return self._folder(table) / f"{key}.parquet.corrupt"

    def set_corrupt_aside(self, path: Path) -> None:
        """Take a corrupt part out of the way of its successor; it is kept until that is committed. What people said has none: it stays."""
        if path.parent.name in OF_PEOPLE and path.parent.parent == self.root:
            return
        if self.mirror and self.mirror.drop_damaged(path):
            return
        with suppress(FileNotFoundError):  # another worker has found it as well
            corrupt = path.with_name(path.name + ".corrupt")
            path.replace(corrupt)
            if self.mirror:
                self.mirror.put_as_it_is([corrupt])
                self.mirror.delete(path)

    def error_file(self, table: str, key: str) -> Path:
        """Where the reason lies why `key` has no part in `table`."""
        return self._folder(table) / f"{key}.error.json"

    def error(self, table: str, key: str) -> ErrorRecord | None:
        """The recorded failure of `key`, if there is one that can be read."""
        self._have(self.error_file(table, key))
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
            rows = pq.read_table(shard, columns=["video", "clip"])
            return set(zip(rows["video"].to_pylist(), rows["clip"].to_pylist(), strict=True))
        except UNREADABLE:
            return set()

    def is_the_one(self, token: str) -> bool:
        """Whether this is the folder that a token was taken of, as this machine sees it."""
        self._have(self.root / ".folder")
        try:
            refuse_odd(self.root / ".folder")
            return (self.root / ".folder").read_text().strip() == token
        except (OSError, CorruptFileError):
            return False

    def token(self) -> str:
        """A word that only this folder holds, by which a worker on another machine knows that it sees the same one."""
        path = self.root / ".folder"
        with suppress(OSError, CorruptFileError):
            return check_token(path)
        word = uuid.uuid4().hex
        word += hashlib.sha256(word.encode()).hexdigest()[:16]
        with self.aside(path) as temporary:
            temporary.write_text(word)
        return word

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a small file of the run itself, with its digest."""
        with self.aside(self.root / name) as temporary:
            temporary.write_text(seal(value))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of a small file of the run itself; None when there is none.

        Raises CorruptFileError that names a file which is not what was written.
        """
        try:
            return unseal(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_list(self, name: str, listed: str, /, **kinds: type) -> list[dict[str, Any]]:
        """The mappings that a small file lists under `listed`, each with values of these kinds; none when there is no file.

        Raises CorruptFileError that names a file which lists anything else.
        """
        entries = (self.read_json(name) or {}).get(listed, [])

        def fits(one: Any) -> bool:
            return isinstance(one, dict) and all(isinstance(one.get(field), kind) for field, kind in kinds.items())

        if isinstance(entries, list) and all(map(fits, entries)):
            return entries
        raise CorruptFileError(self.root / name, f"its {listed!r} are not what a run lists there; remove it, the next run writes it anew")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one driver. The kernel frees the lock when its holder dies, however it dies; in a store its lease ends."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = lock_file(self.root / ".lock")
        except OSError as error:
            raise StoreError(f"cannot write to the data folder {self.root}: {error.strerror}; choose another with --data") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read().decode().strip() or "another driver"
                raise StoreError(f"{self.name} is in use by {holder}; wait for it or stop it") from error
            with room(self.root), self.mirror.held() if self.mirror else nullcontext():
                file.truncate(0)
                file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
                for leftover in self.root.rglob(".*.tmp"):
                    if ASIDE.fullmatch(leftover.name) and leftover.is_file():  # nothing of others
                        leftover.unlink(missing_ok=True)
                if self.mirror is None:
                    self._take_over()
                yield

    def _take_over(self) -> None:
        """Give the tables of a data folder made before their names of today; each detector's by one rename."""
        for name, before in FORMERLY.items():
            for folder in sorted(path for path in (self.root / before).glob("*") if path.is_dir()):
                today = self.root / name / folder.name
                if not today.exists():
                    today.parent.mkdir(exist_ok=True)
                    folder.rename(today)
                    flush(today.parent)
                    flush(folder.parent)


def _recipe_in(found: pa.Schema, schema: pa.Schema | None, table: str) -> dict[str, Any] | None:
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


def check_token(path: Path) -> str:
    """The word of a folder, whose end is a digest of its beginning; one of an earlier version has none. Raises CorruptFileError."""
    refuse_odd(path)
    content = path.read_bytes()
    word = content[:32]
    if content not in (word, word + hashlib.sha256(word).hexdigest()[:16].encode()) or not re.fullmatch(rb"[0-9a-f]{32}", word):
        raise CorruptFileError(path, "it is no word of a data folder")
    return content.decode()


def _sealed(table: pa.Table, recipe: Mapping[str, Any]) -> pa.Table:
    """A table with its recipe, its digest and its writer in its metadata."""
    stated = {b"recipe": json.dumps(recipe, sort_keys=True).encode(), b"digest": digest_of(table).encode()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **stated, b"written_by": written_by().encode()})


def write_part(table: pa.Table, path: Path | BinaryIO, codec: str = "") -> None:
    """Write a table as parts are written: the same bytes from the same table and the same pyarrow.

    A small one is not compressed: its columns of some bytes become no smaller, and it takes twice as long. `codec` is that of a part
    that is there.
    """
    pq.write_table(table, path, compression=codec or ("none" if table.nbytes < _SMALL_BYTES else "zstd"))


@cache
def written_by() -> str:
    """What pyarrow calls itself in the files that it writes."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [0]}), buffer)
    return str(pq.read_metadata(buffer).created_by)


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


def _is_true(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe is the one that its fingerprint was taken of; some small parts carry an empty one."""
    without = {name: value for name, value in recipe.items() if name != "fingerprint"}
    return not recipe or recipe.get("fingerprint") == fingerprint_of(without)
