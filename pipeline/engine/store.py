"""Durable tables: every (stage, item) commits exactly one Parquet file, written aside and renamed.

<root>/<table>/<key>.parquet      metadata: fingerprint and the recipe it was made by
<root>/<table>/<key>.error.json   why there is none: reason, message, attempts, permanent or not, traceback
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
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from stages.tables import Table

T = TypeVar("T", bound=Table)


class StoreError(Exception):
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

        `schema`: the columns it must have, with their version as metadata (`Table.schema()`); None for any.
        """
        try:
            found = pq.read_schema(self.part(table, key))
        except (FileNotFoundError, pa.ArrowException, OSError):
            return None
        metadata = found.metadata or {}
        if schema and not (found.equals(schema) and metadata.get(b"schema_version") == schema.metadata[b"schema_version"]):
            return {}
        return dict(json.loads(metadata.get(b"recipe", b"{}")))

    def read(self, kind: type[T], table: str, key: str) -> T:
        """The columns of a committed part."""
        return kind.from_arrow(pq.read_table(self.part(table, key), memory_map=True))

    def commit(self, table: str, key: str, content: Table, recipe: Mapping[str, Any]) -> None:
        """Write a part whole: aside, flushed, renamed; its error file goes."""
        arrow = content.to_arrow()
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"recipe": json.dumps(recipe, sort_keys=True).encode()})
        with self.aside(self.part(table, key)) as temporary:
            pq.write_table(arrow, temporary, compression="zstd")
        self.error_file(table, key).unlink(missing_ok=True)

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
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(final)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def error_file(self, table: str, key: str) -> Path:
        """Where the reason lies why `key` has no part in `table`."""
        return self.root / table / f"{key}.error.json"

    def error(self, table: str, key: str) -> ErrorRecord | None:
        """The recorded failure of `key`, if there is one that can be read."""
        try:
            return ErrorRecord(**json.loads(self.error_file(table, key).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def fail(self, table: str, key: str, record: ErrorRecord) -> None:
        """Write down why `key` has no part; a part of another fingerprint that still lies there goes."""
        with self.aside(self.error_file(table, key)) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1))
        if (self.made_by(table, key) or {}).get("fingerprint") != record.fingerprint:
            self.part(table, key).unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """A small file of the run itself."""
        with self.aside(self.root / name) as temporary:
            temporary.write_text(json.dumps(value, indent=1, sort_keys=True))

    def read_json(self, name: str) -> Any:
        """A small file of the run itself, or None."""
        try:
            return json.loads((self.root / name).read_text())
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


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Raises StoreError that names `folder` when the disk fills up within the block."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(f"no room left in {folder}: free some and run again; nothing that was committed is lost") from error
