"""Durable files: written aside, flushed, renamed, and their folder flushed; several at once wait for the disk as one does."""

import errno
import os
import re
import stat
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from stages.errors import UserError

if TYPE_CHECKING:
    from pipeline.engine.roots.mirror import Mirror

_FLUSHES = 8
"""Files that are flushed at once: a disk takes them in one go."""

ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of files that are being written."""


class StoreError(UserError):
    """The data folder cannot be used: another driver holds it, it is full or not writable."""


class TakenError(Exception):
    """An object of a store is not the one that it was to take the place of."""


class Written(NamedTuple):
    """A file that is whole under a temporary name."""

    temporary: Path
    final: Path


MIRRORS: dict[Path, "Mirror"] = {}
"""Mirrors of object stores that this process has opened, by their folders (`pipeline.engine.roots`)."""


def mirror_of(path: Path) -> "Mirror | None":
    """The mirror that a path lies in; None on a disk, as most do."""
    return next((mirror for folder, mirror in MIRRORS.items() if path.is_relative_to(folder)), None) if MIRRORS else None


def have_rows(path: Path) -> None:
    """Have all of a shard here, wherever its data folder lies."""
    if mirror := mirror_of(path):
        mirror.have_rows(path)


def remove(*paths: Path) -> None:
    """Remove files of a data folder, wherever that lies; nothing where there are none."""
    if paths and (mirror := mirror_of(paths[0])):
        mirror.delete(paths)
    for path in paths:
        path.unlink(missing_ok=True)


@dataclass(eq=False)
class Writer:
    """Writes files whole or not at all; within `together` many at once."""

    together_now: "_Together | None" = None

    @contextmanager
    def aside(self, final: Path) -> Iterator[Path]:
        """A temporary path beside `final` that takes its name when the block ends well, and goes when it does not.

        Within `together` it takes its name at the end of that. Raises StoreError when the folder is full or cannot be written.
        """
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
        if final.is_dir() and not final.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(final))
        try:
            try:
                temporary.open("xb").close()
            except FileNotFoundError:
                final.parent.mkdir(parents=True, exist_ok=True)
                temporary.open("xb").close()
        except OSError as error:
            raise StoreError(f"cannot write to {final.parent}: {error.strerror}") from error
        waits = False
        try:
            with room(final.parent):
                yield temporary
                if self.together_now is None:
                    land([Written(temporary, final)])
                else:
                    self.together_now.files.append(Written(temporary, final))
                    waits = True
        except OSError as error:
            if error.errno and error.filename in (None, str(temporary)):  # of a write: it does not say where
                raise OSError(error.errno, os.strerror(error.errno), str(final)) from error
            raise
        finally:
            if not waits:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Files that are written within the block take their names at its end, flushed at once; none when it ends in an exception.

        What was written is not to be read within it. Raises OSError, StoreError where one cannot be flushed: some may have names then.
        """
        waiting = self.together_now = _Together()
        try:
            yield
            if waiting.files:
                with room(waiting.files[0].final.parent):
                    land(waiting.files)
            self.together_now = None
            remove(*waiting.leaving)
        finally:
            self.together_now = None
            for written in waiting.files:
                with suppress(OSError):
                    written.temporary.unlink(missing_ok=True)

    def leave(self, paths: Sequence[Path]) -> None:
        """Remove files once what was written in their stead has its name: now, or at the end of `together`."""
        if self.together_now is None:
            remove(*paths)
        else:
            self.together_now.leaving += paths


@dataclass(eq=False)
class _Together:
    files: list[Written] = field(default_factory=list)
    leaving: list[Path] = field(default_factory=list)


def land(files: Sequence[Written]) -> None:
    """Give files their names once their content is on the disk, and flush the folders that hold the names."""
    _flush_all([written.temporary for written in files])
    for mirror in {id(one): one for _, final in files if (one := mirror_of(final))}.values():
        mirror.put([written for written in files if mirror_of(written.final) is mirror])
    for temporary, final in files:
        temporary.replace(final)
    _flush_all(sorted({written.final.parent for written in files}))


def _flush_all(paths: Sequence[Path]) -> None:
    if len(paths) == 1:
        flush(paths[0])
        return
    with ThreadPoolExecutor(min(len(paths), _FLUSHES)) as pool:
        for _ in pool.map(flush, paths):
            pass


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk: what was renamed is there after a power loss."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def lock_file(path: Path) -> BinaryIO:
    """The file that is locked: made here, or one of ours; never one that a link leads to. Raises StoreError, OSError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise StoreError(f"{path} is no file of ours: remove it") from error
        raise
    file = os.fdopen(descriptor, "rb+", buffering=0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_nlink > 1:
        file.close()
        raise StoreError(f"{path} is no file of ours: remove it")
    return file


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Raises StoreError that names `folder` when the disk fills up within the block."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(f"no room left in {folder}: free some and run again; nothing that was committed is lost") from error
