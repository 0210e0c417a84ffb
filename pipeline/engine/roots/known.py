"""What a mirror's files are in the object store, by ETag: one SQLite file beside the mirror, for all processes of a machine."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.engine.durable import StoreError

HOLLOW = "hollow"


class Known:
    """ETags by name, each with the size, time and inode of the file that it was seen of. Losing it costs fetching all anew.

    The version of a file that has the size of its object and no content yet is `HOLLOW`.

    Everything raises StoreError where the file cannot be used, as on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.RLock()
        try:
            self.database = self._open()
        except StoreError as error:
            if isinstance(error.__cause__, sqlite3.OperationalError):
                raise
            for damaged in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                damaged.unlink(missing_ok=True)
            self.database = self._open()

    def _open(self) -> sqlite3.Connection:
        with self._using():
            database = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
            database.execute("pragma journal_mode=wal")
            database.execute("pragma synchronous=off")
            columns = "name text primary key, etag text, version text, size int, modified int, inode int"
            database.execute(f"create table if not exists objects ({columns})")
            return database

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Keep other threads out; tell what SQLite says in one line."""
        with self.lock:
            try:
                yield
            except sqlite3.Error as error:
                raise StoreError(f"{self.path} cannot be used ({error}): make room there or remove it, or set WHIM_CACHE") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes and threads of this mirror from giving files their names."""
        with self._using():
            self.database.execute("begin immediate")
            try:
                yield
                self.database.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):  # on a full disk SQLite has done it by itself
                    self.database.execute("rollback")
                raise

    def all(self) -> dict[str, tuple[str, tuple[int, int, int]]]:
        """ETag and facts of every file."""
        with self._using():
            rows = self.database.execute("select name, etag, size, modified, inode from objects").fetchall()
        return {name: (etag, (size, modified, inode)) for name, etag, size, modified, inode in rows}

    def find(self, name: str) -> tuple[str, tuple[int, int, int]] | None:
        """ETag and facts of a file."""
        with self._using():
            row = self.database.execute("select etag, size, modified, inode from objects where name = ?", (name,)).fetchone()
        return None if row is None else (row[0], (row[1], row[2], row[3]))

    def hollow(self) -> set[str]:
        """Files without their content."""
        with self._using():
            return {name for (name,) in self.database.execute("select name from objects where version = ?", (HOLLOW,))}

    def tag(self, name: str) -> tuple[str, str]:
        """ETag and version of a file; '' of one that is not known."""
        with self._using():
            row = self.database.execute("select etag, version from objects where name = ?", (name,)).fetchone()
        return ("", "") if row is None else (row[0], row[1])

    def note(self, name: str, etag: str, version: str, stat: os.stat_result) -> None:
        """Take down what a file is."""
        with self._using():
            self.database.execute("insert or replace into objects values (?, ?, ?, ?, ?, ?)", (name, etag, version, *facts(stat)))

    def forget(self, name: str) -> None:
        """Know nothing of a file."""
        with self._using():
            self.database.execute("delete from objects where name = ?", (name,))


def facts(stat: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from another one in its place."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
