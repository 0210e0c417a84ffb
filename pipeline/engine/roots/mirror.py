"""The folder of this machine that stands for a data folder in an object store: the store is the truth, the mirror what is read of it here.

    <cache>/roots/<digest of the address>/          files as in any data folder; media and rows of shards come when they are asked for
    <cache>/roots/<digest of the address>.sqlite    which object of the store each of them is

A file that is written counts once its object is there: written aside, put, renamed. What another machine wrote is found by its ETag: a
command lists the store first and fetches or drops what differs; a worker asks for each part that it reads.

For a shard lies a file of its size without content, in a file system that stores none of it: whether it is the one that the ledger
knows is told by its ETag, footer and columns are read out of the store by ranges, and its content comes for who reads all of its rows.
"""

import errno
import fcntl
import filecmp
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from pipeline.engine.durable import ASIDE, StoreError, TakenError, Written
from pipeline.engine.files.shard import check_shard
from pipeline.engine.roots.address import Address
from pipeline.engine.roots.known import HOLLOW, Known, facts
from pipeline.engine.roots.lease import CLOCK, NAME, Lease, holder_of, is_held
from pipeline.engine.roots.objects import PIECE, Meta, Objects, Tag
from pipeline.engine.roots.ranges import Ranges
from stages.digest import CorruptFileError
from stages.shards import whole_of

_AT_ONCE = 16
"""Requests at once: a store's answers take long, not our bytes."""
_MEDIA = "media/"
_OURS_ALONE = ("media/", "runs/", "studio/", "weights/")
"""Folders in which files of this machine may lie that the store does not have yet."""
_OF_SEVERAL = "verdicts/"
"""Tables that people write on several machines: each writing takes the place of the one that was read, and of no other."""
_MEDIA_GB, _LEASE_S = 50.0, 60.0
_MOST_LISTED = 5
"""How often a store is listed out of which objects go while they are fetched."""
_CLOCK_LASTS = timedelta(minutes=5)


@dataclass(eq=False)
class Mirror:
    """What lies at an address, as far as it is needed on this machine."""

    address: Address
    folder: Path
    objects: Objects
    known: Known
    asks: bool = False
    """Whether the store is asked for each part that is read: in a worker, beside whose driver others write."""
    lease: Lease | None = None
    driver: str = ""
    """In a worker, token of the lease by which its driver holds the folder: without it the worker writes nothing."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the store's videos, as they were listed or written last."""
    listed: dict[str, Meta] = field(default_factory=dict)
    """Shards and their index, as they were listed last."""

    def name_of(self, path: Path) -> str:
        """Name of a file's object; '' for what is never in the store: locks, halves, what is being written."""
        name = path.relative_to(self.folder).as_posix()
        is_ours = path.name == ".lock" or path.name.startswith(CLOCK) or ASIDE.fullmatch(path.name) or name.startswith("media/incoming/")
        return "" if is_ours else name

    def sync(self, *, whole: bool = False) -> None:
        """Fetch what the store has and drop what it has no more; videos and rows of shards too where it is to be `whole`. Raises
        StoreError."""
        for _ in range(_MOST_LISTED):
            if self._sync_once(whole):  # else a run beside it has moved parts into a bundle that the listing did not have
                return

    def _sync_once(self, whole: bool) -> bool:
        """Whether all was still there that was listed."""
        known, hollow = self.known.all(), self.known.hollow()
        here = dict(self._files())  # before the listing: what is written meanwhile is none of either
        listed = self.objects.listed()
        there = {name: meta for name, meta in listed.items() if self.name_of(self.folder / name)}
        if self.lease:
            self._sweep(listed)
        self.sizes = {name: meta.size_bytes for name, meta in there.items() if _is_medium(name)}
        self.listed = {name: meta for name, meta in there.items() if _is_shard(name) or name.endswith("index.json")}
        written_beside = self.lease is None and _is_driven(self.folder)
        for name in here.keys() - there.keys():
            if name in known or not name.startswith(_OURS_ALONE):
                self._drop(name)
        wanted = []
        for name, meta in there.items():
            same = name in here and name in known and known[name] == (meta.etag, here[name])
            if (same and not (whole and name in hollow)) or (name.startswith("runs/") and name in here and written_beside):
                continue
            if _is_medium(name) and not whole:
                if name in known:
                    self._drop(name)
                continue
            wanted.append((name, known.get(name), None if whole or not _is_shard(name) else meta))
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
            return all(list(pool.map(lambda one: self._fetch(*one[:2], hollow=one[2]), wanted)))

    def _sweep(self, listed: Mapping[str, Meta]) -> None:
        """Remove what was left of hearing the time by those who died of it."""
        now = listed[NAME].modified if NAME in listed else None
        for name, meta in listed.items():
            if now and name.startswith(CLOCK) and now - meta.modified > _CLOCK_LASTS:
                self.objects.delete(name, check=self.check)

    def have(self, path: Path) -> None:
        """Have the newest version of a file here, or none where the store has none; of a shard without its rows. Raises StoreError."""
        if not (name := self.name_of(path)):
            return
        found = self.known.find(name)
        if not _is_shard(name):
            self._fetch(name, found, ask=True)
        elif (meta := self.objects.head(name)) is None:
            self._drop(name)
        elif not (found and path.is_file() and found == (meta.etag, facts(path.stat()))):
            self._fetch(name, found, hollow=meta)

    def have_rows(self, path: Path) -> None:
        """Have all of a shard here. Raises StoreError."""
        name = self.name_of(path)
        if self.known.tag(name)[1] == HOLLOW:
            self._fetch(name, self.known.find(name))

    def ranges(self, path: Path) -> Ranges | None:
        """A shard to be read out of the store by ranges; None where it is here, or there is none."""
        name = self.name_of(path)
        etag, version = self.known.tag(name)
        return Ranges(path.stat().st_size, partial(self._span, name, etag)) if version == HOLLOW else None

    def _span(self, name: str, etag: str, start: int, end: int) -> bytes:
        try:
            return self.objects.span(name, start, end, etag)
        except FileNotFoundError as error:
            if self.lease:  # what cannot be seen would count as lost, and be written anew without what it held
                raise StoreError(f"{error}: run again, it goes on") from error
            raise

    def facts_of(self, path: Path, stat: os.stat_result) -> tuple[int, int, int, int] | None:
        """Size and ETag of a shard, as numbers that are the same on all machines and another shard's are not; None of other files."""
        name = self.name_of(path)
        found = self.known.find(name) if _is_shard(name) else None
        if found is None or found[1] != facts(stat):
            return None
        return stat.st_size, int.from_bytes(hashlib.sha256(found[0].encode()).digest()[:7]), 0, 0

    def is_older(self, path: Path, than: Path) -> bool:
        """Whether a shard is in the store since before its index, or since the same second, and both are those that were listed last."""
        names = [self.name_of(each) for each in (path, than)]
        metas = [meta for name in names if (meta := self.listed.get(name)) and meta.etag == self.known.tag(name)[0]]
        return len(metas) == len(names) and metas[0].modified <= metas[1].modified

    def have_all(self, folder: Path) -> None:
        """Have all files of a folder, shards without their rows."""
        names = self.objects.listed(self.name_of(folder))
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
            for _ in pool.map(lambda name: self.have(self.folder / name), names):
                pass

    def have_video(self, path: Path) -> None:
        """Have a video here; others make room, those first that were used longest ago. Nothing where the store has none."""
        name, found = self.name_of(path), self.known.find(self.name_of(path))
        if not path.is_file() or (found and found[1] != facts(path.stat())):
            self._fetch(name, found)
        with suppress(FileNotFoundError):
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        self.make_room(keep=path)

    def have_kept(self, path: Path) -> None:
        """Have the newest version of a fetched file here, unless that is still to be written to the store."""
        name, found = self.name_of(path), self.known.find(self.name_of(path))
        if not path.is_file() or (found and found[1] == facts(path.stat())):
            self._fetch(name, found, ask=True)

    def videos(self) -> list[Path]:
        """Where the videos of the store lie once they are here."""
        return [self.folder / name for name in self.sizes]

    def size_of(self, path: Path) -> int | None:
        """Bytes of a video in the store, as it was listed or written last; None where it has none."""
        name = self.name_of(path)
        if name not in self.sizes and (meta := self.objects.head(name)):
            self.sizes[name] = meta.size_bytes
        return self.sizes.get(name)

    def put(self, files: Sequence[Written]) -> None:
        """Write files that are whole under another name as objects.

        Raises StoreError, where the lease is lost too; TakenError where somebody else wrote one of those that several people write.
        """
        self.check()
        with ThreadPoolExecutor(min(len(files), _AT_ONCE), thread_name_prefix="put") as pool:
            for _ in pool.map(self._put, files):
                pass

    def _put(self, written: Written) -> None:
        name = self.name_of(written.final)
        if not name:
            return
        if name.startswith(_OF_SEVERAL):
            tag = self.objects.put_over(name, written.temporary.read_bytes(), *self.known.tag(name), self._check_again)
        elif self.lease and not name.endswith(".parquet") and written.temporary.stat().st_size <= PIECE:
            tag = self._put_as_driver(name, written.temporary.read_bytes())
        else:
            tag = self.objects.put(name, written.temporary, self._check_again)
        self.known.note(name, *tag, written.temporary.stat())
        if _is_medium(name):
            self.sizes[name] = written.temporary.stat().st_size

    def _put_as_driver(self, name: str, content: bytes) -> Tag:
        """Write an object that does not say what it was made from, in the place of the one seen last: of the next driver's none goes."""
        tag = Tag(*self.known.tag(name))
        while True:
            try:
                return self.objects.put_over(name, content, *tag, self._check_again)
            except TakenError:  # by a command beside this run, or the answer to a try was lost
                there = self.objects.head(name)
                tag = Tag(there.etag, there.version) if there else Tag("")

    def _check_again(self) -> None:
        """Check the lease before a try to write: of a worker it was asked for once, before the first."""
        if self.lease:
            self.lease.check()

    def put_as_it_is(self, paths: Sequence[Path]) -> None:
        """Write files that lie here under their names, where the store does not have them so; videos make room for each other."""
        self.check()
        for path in paths:
            name = self.name_of(path)
            found = self.known.find(name) if name else None
            if name and path.is_file() and (found is None or found[1] != facts(path.stat())):
                self._put(Written(path, path))
        if videos := [path for path in paths if _is_medium(self.name_of(path))]:
            self.make_room(keep=videos[-1])

    def drop_damaged(self, path: Path) -> bool:
        """Whether a file was damaged here alone: it is then what the store has again; so is a shard whose rows were not here."""
        name = self.name_of(path)
        if self.known.tag(name)[1] == HOLLOW:
            self.have_rows(path)
            return _is_sound(path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            meta = self.objects.get(name, temporary)
            if meta is None or filecmp.cmp(path, temporary, shallow=False):
                return False
            with self.known.alone():
                self.known.note(name, meta.etag, meta.version, temporary.stat())
                temporary.replace(path)
            return True
        except FileNotFoundError:
            return False
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, paths: Sequence[Path]) -> None:
        """Remove the objects of files. Raises StoreError, where the lease is lost too."""
        names = list(filter(None, map(self.name_of, paths)))
        if names:
            self.check()
            self.objects.delete(*names, check=self._check_again)
        for name in names:
            self.known.forget(name)
            self.sizes.pop(name, None)

    def is_driven(self) -> bool:
        """Whether some driver on any machine holds the folder in the store."""
        return is_held(self.objects)

    def check(self) -> None:
        """Raise StoreError where this process was the driver, or works for one, that no longer holds the folder."""
        if self.lease:
            self.lease.check()
        elif self.driver and holder_of(self.objects) != self.driver:
            raise StoreError(f"{self.address}: the run that this worker works for no longer holds it")

    @property
    def token(self) -> str:
        """Token of the lease that this process holds; '' without one."""
        return self.lease.token if self.lease else ""

    @property
    def whole(self) -> str:
        """The address as another process needs it."""
        return self.address.whole

    def __str__(self) -> str:
        return str(self.address)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store's folder for one driver; who enters holds this mirror. Raises StoreError that names another driver."""
        seconds = _number("WHIM_LEASE_S", _LEASE_S)
        hasty = Objects(self.address, timeout_s=max(1.0, seconds / 6), tries=2, first_wait_s=0.1)
        holder = f"pid {os.getpid()} on {socket.gethostname()}"
        lease = Lease(self.objects, hasty, holder, self._own_name(), seconds)
        lease.take()
        self.lease = lease
        try:
            self.sync()
            yield
        finally:
            self.lease = None
            lease.release()

    def _own_name(self) -> str:
        path = self.folder.with_suffix(".name")
        with suppress(FileExistsError), path.open("x") as file:
            file.write(uuid.uuid4().hex)
        return path.read_text()

    def _files(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        for folder, _, names in os.walk(self.folder):
            for path in (Path(folder) / name for name in names):
                with suppress(FileNotFoundError):
                    if name := self.name_of(path):
                        yield name, facts(path.stat())

    def _fetch(self, name: str, before: tuple[str, tuple[int, int, int]] | None, *, ask: bool = False, hollow: Meta | None = None) -> bool:
        """Fetch an object, unless the file here is it. `before`: what was known of the file; where that has changed it stays. `hollow`:
        what the store says of an object whose content is not wanted.

        Gives whether there is one.
        """
        path = self.folder / name
        is_here = before is not None and path.is_file() and before[1] == facts(path.stat())
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            meta: Meta | None
            if hollow:
                meta = _hollow(temporary, hollow)
            else:
                meta = self.objects.get(name, temporary, unless=before[0] if before and is_here and ask else "")
            if meta is None:
                return True
            with self.known.alone():
                if self.known.find(name) == before:
                    self.known.note(name, meta.etag, meta.version, temporary.stat())
                    temporary.replace(path)
        except FileNotFoundError as error:
            if error.errno is not None:  # a run that began just now cleared away what was being written
                return self._fetch(name, before, ask=ask, hollow=hollow)
            self._drop(name)
            return False
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(f"no room left for the mirror of {self.address} in {self.folder}: free some, or set WHIM_CACHE") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _drop(self, name: str) -> None:
        with self.known.alone():
            self.known.forget(name)
            (self.folder / name).unlink(missing_ok=True)

    @property
    def media_gb(self) -> float:
        """Gigabytes of videos that stay here at most: $WHIM_MEDIA_GB, or 50. Raises StoreError."""
        return _number("WHIM_MEDIA_GB", _MEDIA_GB)

    def make_room(self, keep: Path | None = None) -> None:
        """Drop videos that the store has, those used longest ago, until the others fit into $WHIM_MEDIA_GB (50)."""
        held = []
        for path in (self.folder / "media").glob("*"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                found = self.known.find(self.name_of(path)) if path != keep and path.is_file() else None
                if found and found[1] == facts(stat) and _is_medium(self.name_of(path)):
                    held.append((stat.st_atime_ns, stat.st_size, path))
        left = self.media_gb * 1e9 - sum(size for _, size, _ in held)
        with suppress(FileNotFoundError):
            left -= keep.stat().st_size if keep else 0
        for _, size, path in sorted(held):
            if left >= 0:
                return
            self._drop(self.name_of(path))
            left += size


def _is_medium(name: str) -> bool:
    """Whether an object is a video, and no note on one."""
    return name.startswith(_MEDIA) and not name.endswith((".json", ".corrupt"))


def _is_sound(shard: Path) -> bool:
    try:
        check_shard(shard)
    except (CorruptFileError, FileNotFoundError):
        return False
    return True


def _hollow(path: Path, meta: Meta) -> Meta:
    """Make a file of an object's size without content; what is to be known of it."""
    with path.open("wb") as file:
        file.truncate(meta.size_bytes)
    return meta._replace(version=HOLLOW)


def _is_shard(name: str) -> bool:
    """Whether an object is called as a shard is."""
    return name.endswith(".parquet") and bool(whole_of("/".join(name.removesuffix(".parquet").split("/")[-2:])))


def _is_driven(folder: Path) -> bool:
    """Whether a driver of this machine works in a mirror."""
    try:
        with (folder / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _number(name: str, usual: float) -> float:
    """A setting of the environment. Raises StoreError for one that is no number above 0."""
    told = os.environ.get(name) or str(usual)
    try:
        value = float(told)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise StoreError(f"{name} must be a number above 0, got {told!r}")
    return value
