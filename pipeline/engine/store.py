"""Durable tables: every (stage, item) commits exactly one Parquet file, written aside and renamed.

<root>/<table>/<key>.parquet          metadata: fingerprint, the recipe it was made by, the digest of its content
<root>/<table>/<key>.error.json       why there is none: reason, message, attempts, permanent or not, traceback
<root>/<table>/<key>.parquet.corrupt  a part whose content is not what its digest says, until it has a successor

Written means: flushed, renamed, and the folder flushed. Read means: held against its digest.
"""

import errno
import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from stages.digest import CorruptFileError, digest_of, fingerprint_of, seal, unseal
from stages.errors import UserError
from stages.tables import Table

T = TypeVar("T", bound=Table)

UNREADABLE = (pa.ArrowException, OSError, MemoryError, ValueError, LookupError, TypeError, OverflowError)
"""What pyarrow was seen to raise over damaged files."""


class StoreError(UserError):
    """The data folder cannot be used: another driver holds it, it is full or not writable."""


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """What stands in an error file."""

    fingerprint: str
    reason: str
    message: str
    permanent: bool
    attempts: int
    traceback: str = ""


class Store:
    """The parts below one folder. All writes are whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def part(self, table: str, key: str) -> Path:
        """Where the part of `key` lies in `table` (which may name a sub-folder: people/blazepose)."""
        return self.root / table / f"{key}.parquet"

    def made_by(self, table: str, key: str, schema: pa.Schema | None = None) -> dict[str, Any] | None:
        """The recipe (with its fingerprint) a committed part carries; empty when its columns are another version's; None without one.

        `schema`: the columns it must have, with their version as metadata (`Table.schema()`); None for any. A part whose footer
        cannot be read or whose recipe is not what its fingerprint says counts as none.
        """
        try:
            found = pq.read_schema(self.part(table, key))
        except UNREADABLE:
            return None
        metadata = found.metadata or {}
        if schema and not (found.equals(schema) and metadata.get(b"schema_version") == schema.metadata[b"schema_version"]):
            return {}
        try:
            recipe = json.loads(metadata.get(b"recipe", b"{}"))
        except ValueError:
            return None
        if not isinstance(recipe, dict) or (b"digest" in metadata and not _is_true(recipe)):
            return None
        return recipe

    def read(self, kind: type[T], table: str, key: str) -> T:
        """The columns of a committed part, held against its digest.

        Raises CorruptFileError that names the part when it is not what was written, FileNotFoundError when there is none.
        """
        return kind.from_arrow(read_sealed(self.part(table, key)))

    def commit(self, table: str, key: str, content: Table, recipe: Mapping[str, Any]) -> None:
        """Write a part whole: aside, flushed, renamed; its error file and a corrupt predecessor go."""
        arrow = content.to_arrow()
        sealed = {b"recipe": json.dumps(recipe, sort_keys=True).encode(), b"digest": digest_of(arrow).encode()}
        with self.aside(self.part(table, key)) as temporary:
            write_part(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **sealed}), temporary)
        self.succeeded(table, key)

    def succeeded(self, table: str, key: str) -> None:
        """Remove what stood in for a part that is committed now: its error file and the corrupt part before it."""
        self.error_file(table, key).unlink(missing_ok=True)
        self.corrupt_file(table, key).unlink(missing_ok=True)

    def corrupt_file(self, table: str, key: str) -> Path:
        """Where a corrupt part waits for its successor."""
        return self.root / table / f"{key}.parquet.corrupt"

    def set_corrupt_aside(self, path: Path) -> None:
        """Take a corrupt part out of the way of its successor; it is kept until that is committed."""
        with suppress(FileNotFoundError):  # another worker has found it as well
            path.replace(path.with_name(path.name + ".corrupt"))

    @contextmanager
    def aside(self, final: Path) -> Iterator[Path]:
        """A temporary path beside `final` that takes its name when the block ends well, and goes when it does not.

        Raises StoreError when the folder is full or cannot be written.
        """
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
        except OSError as error:
            raise StoreError(f"cannot write to {final.parent}: {error.strerror}") from error
        try:
            with room(final.parent):
                yield temporary
                flush(temporary)
                temporary.replace(final)
                flush(final.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def error_file(self, table: str, key: str) -> Path:
        """Where the reason lies why `key` has no part in `table`."""
        return self.root / table / f"{key}.error.json"

    def error(self, table: str, key: str) -> ErrorRecord | None:
        """The recorded failure of `key`, if there is one that can be read."""
        try:
            return ErrorRecord(**unseal(self.error_file(table, key)))
        except (OSError, CorruptFileError, TypeError):
            return None

    def fail(self, table: str, key: str, record: ErrorRecord) -> None:
        """Write down why `key` has no part of this fingerprint. An earlier part stays: it is stale, and may be the last of its kind."""
        with self.aside(self.error_file(table, key)) as temporary:
            temporary.write_text(seal(asdict(record)))

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
        except FileNotFoundError:
            return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one driver. The kernel frees the lock when its holder dies, however it dies."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("a+b", buffering=0)
        except OSError as error:
            raise StoreError(f"cannot write to the data folder {self.root}: {error.strerror}; choose another with --data") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read().decode().strip() or "another driver"
                raise StoreError(f"{self.root} is in use by {holder}; wait for it or stop it") from error
            with room(self.root):
                file.truncate(0)
                file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
                for leftover in self.root.rglob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
                yield


def write_part(table: pa.Table, path: Path | BinaryIO) -> None:
    """Write a table as parts are written: the same bytes from the same table and the same pyarrow."""
    pq.write_table(table, path, compression="zstd")


def read_sealed(path: Path) -> pa.Table:
    """The table of a part, held against the digest that it carries; one of an earlier version carries none.

    Raises CorruptFileError that names the file, FileNotFoundError.
    """
    try:
        table = pq.read_table(path, memory_map=True)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise CorruptFileError(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    stated = (table.schema.metadata or {}).get(b"digest")
    if stated is not None and stated.decode(errors="replace") != digest_of(table):
        raise CorruptFileError(path, "its content is not what its digest says")
    return table


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk: what was renamed is there after a power loss."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _is_true(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe is the one that its fingerprint was taken of; some small parts carry an empty one."""
    without = {name: value for name, value in recipe.items() if name != "fingerprint"}
    return not recipe or recipe.get("fingerprint") == fingerprint_of(without)


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Raises StoreError that names `folder` when the disk fills up within the block."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(f"no room left in {folder}: free some and run again; nothing that was committed is lost") from error
