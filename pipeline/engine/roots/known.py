"""What a mirror's files are in the object store, by ETag: one SQLite file beside the mirror, for all processes of a machine."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Known:
    """ETags by name, each with the size, time and inode of the file that it was seen of. Losing it costs fetching all anew."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self.database = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
        self.database.execute("pragma journal_mode=wal")
        self.database.execute("pragma synchronous=off")
        self.database.execute("create table if not exists known (name text primary key, etag text, size int, modified int, inode int)")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes and threads of this mirror from giving files their names."""
        with self.lock:
            self.database.execute("begin immediate")
            try:
                yield
                self.database.execute("commit")
            except BaseException:
                self.database.execute("rollback")
                raise

    def all(self) -> dict[str, tuple[str, tuple[int, int, int]]]:
        """ETag and facts of every file."""
        with self.lock:
            rows = self.database.execute("select name, etag, size, modified, inode from known").fetchall()
        return {name: (etag, (size, modified, inode)) for name, etag, size, modified, inode in rows}

    def find(self, name: str) -> tuple[str, tuple[int, int, int]] | None:
        """ETag and facts of a file."""
        with self.lock:
            row = self.database.execute("select etag, size, modified, inode from known where name = ?", (name,)).fetchone()
        return None if row is None else (row[0], (row[1], row[2], row[3]))

    def note(self, name: str, etag: str, stat: os.stat_result) -> None:
        """Take down what a file is."""
        with self.lock:
            self.database.execute("insert or replace into known values (?, ?, ?, ?, ?)", (name, etag, *facts(stat)))

    def forget(self, name: str) -> None:
        """Know nothing of a file."""
        with self.lock:
            self.database.execute("delete from known where name = ?", (name,))


def facts(stat: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from another one in its place."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
