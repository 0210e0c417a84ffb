"""Where the parts of a table lie in its bundles, as the ledger says, or else as the footers do."""

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.bundles.bundle import Bundle, is_bundle, number_of
from pipeline.engine.durable import remove
from pipeline.engine.files.ledger import Facts, Ledger, facts_of
from stages.digest import CorruptFileError

_TICK_NS = 1_000_000_000
"""A folder may change twice at one time of its own, as coarse as the disk keeps it."""

_MOST_OPEN = 8
"""Bundles of a table whose footers are kept."""


class Place(NamedTuple):
    """Where a part lies."""

    name: str
    """File name of its bundle."""
    group: int
    """Its row group."""


@dataclass(eq=False)
class Bundles:
    """Which bundle of a table holds which part: as the ledger says, or else as the footers do."""

    folder: Path
    ledger: Callable[[], Ledger]
    table: str
    files: dict[str, Facts] = field(default_factory=dict)
    """What the disk says of each bundle."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Why the footer of a bundle cannot be read: its parts count as none."""

    def __post_init__(self) -> None:
        self._stamp_ns = self._listed_ns = self._last = 0
        self._is_told = False
        self.written: set[str] = set()
        """Bundles that this process has written and seen whole."""
        self._opened: dict[str, Bundle] = {}
        self._lock = RLock()  # whoever looks at a folder does so in several threads
        self._forget_all()

    def _forget_all(self) -> None:
        self._names: list[str] = []
        self._keys: pa.Array = pa.array([], pa.string())
        self._file = self._group = np.empty(0, np.int32)
        self._later: dict[str, Place] = {}  # of bundles that came since
        self._left: set[str] = set()  # bundles that this process has written anew and removed
        self._from_ledger = False
        self._next = 0
        self.damaged = {}

    def fresh(self, *, sole: bool = False, sought: bool = False) -> "Bundles":
        """This, after a look at whether bundles have come or gone.

        `sole`: nobody else changes the folder but who tells it (`came`), so that one look is enough. `sought`: a part is not where it
        should be, and on some network file systems the times of folders are seen late.
        """
        with self._lock:
            if sole and self._is_told:
                return self
            self._is_told = sole
            try:
                self._look(sought)
            except (FileNotFoundError, NotADirectoryError):
                if self.files:
                    self.files, self._stamp_ns = {}, 0
                    self._forget_all()
        return self

    def _look(self, sought: bool) -> None:
        stamp_ns = self.folder.stat().st_mtime_ns
        is_new = sought and time.time_ns() > self._listed_ns + _TICK_NS
        if not is_new and stamp_ns == self._stamp_ns and self._listed_ns > stamp_ns + _TICK_NS:
            return
        while True:
            listed_ns, files = time.time_ns(), self._list()
            if (now_ns := self.folder.stat().st_mtime_ns) == stamp_ns:
                break
            stamp_ns = now_ns  # something came or went meanwhile
        self._stamp_ns, self._listed_ns = stamp_ns, listed_ns
        self._last = max(self._last, *map(number_of, files), 0)
        before, self.files = self.files, files
        if any(files.get(name) != facts for name, facts in before.items()):
            self._opened.clear()
            self._rebuild()
        elif not before:
            self._rebuild()
        elif new := sorted(files.keys() - before.keys(), key=number_of):
            self._take_in(new)

    def _list(self) -> dict[str, Facts]:
        found = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if is_bundle(self.folder / entry.name):
                    with suppress(OSError):  # it has just gone, or is no file of ours
                        found[entry.name] = facts_of(entry.stat())
        return found

    def _rebuild(self) -> None:
        """Take the places from the ledger, where all bundles that it names are what they were; else from the footers."""
        self._forget_all()
        lines = self.ledger().bundled(self.table)
        if lines is not None and all(self.files.get(name) == facts for name, facts in lines.facts.items()):
            self._names, self._keys, self._file, self._group = list(lines.facts), lines.keys, lines.bundle, lines.group
            self._from_ledger = True
            self._take_in(sorted(self.files.keys() - lines.facts.keys(), key=number_of))
            return
        keys, files, groups = [], [], []
        for name in sorted(self.files, key=number_of):
            if (bundle := self._open_or_tell(name)) is not None:
                keys.append(pa.array([part.key for part in bundle.parts], pa.string()))
                files.append(np.full(len(bundle.parts), len(self._names), np.int32))
                groups.append(np.arange(len(bundle.parts), dtype=np.int32))
                self._names.append(name)
        if keys:
            every = pa.concat_arrays(keys)
            file, group = np.concatenate(files), np.concatenate(groups)
            order = pc.sort_indices(pa.table({"key": every, "file": file}), [("key", "ascending"), ("file", "ascending")])
            ordered, places = every.take(order), order.to_numpy()
            last = np.ones(len(ordered), bool)
            last[:-1] = pc.not_equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)
            self._keys, self._file, self._group = ordered.filter(pa.array(last)), file[places[last]], group[places[last]]

    def _take_in(self, names: Sequence[str]) -> None:
        for name in names:
            if (bundle := self._open_or_tell(name)) is not None:
                for group, part in enumerate(bundle.parts):
                    before = self._find(part.key)
                    if before is None or before.name in self._left or number_of(before.name) < number_of(name):
                        self._later[part.key] = Place(name, group)

    def _open_or_tell(self, name: str) -> Bundle | None:
        try:
            return self.open(name)
        except FileNotFoundError:
            return None
        except CorruptFileError as error:
            self.damaged[name] = error.why
            return None

    def open(self, name: str) -> Bundle:
        """A bundle with its footer, which the last few are kept of. Raises CorruptFileError, FileNotFoundError."""
        with self._lock:
            bundle = self._opened.pop(name, None) or Bundle.open(self.folder / name)
            self._opened[name] = bundle
            if len(self._opened) > _MOST_OPEN:
                del self._opened[next(iter(self._opened))]
            return bundle

    def find(self, key: str) -> Place | None:
        """Where a part lies, if it does."""
        with self._lock:
            place = self._find(key)
        return None if place is None or place.name in self._left or place.name in self.damaged else place

    def _find(self, key: str) -> Place | None:
        if key in self._later:
            return self._later[key]
        at, end = self._next, len(self._keys)  # keys are asked for in their order, mostly
        if not (at < end and self._keys[at].as_py() == key):
            at = bisect_left(range(end), key, key=lambda place: self._keys[place].as_py())
            if at >= end or self._keys[at].as_py() != key:
                return None
        self._next = at + 1
        return Place(self._names[self._file[at]], int(self._group[at]))

    def places(self) -> Iterator[tuple[str, Place]]:
        """All keys and where their parts lie."""
        for at, key in enumerate(self._keys.to_pylist()):
            place = Place(self._names[self._file[at]], int(self._group[at]))
            if key not in self._later and place.name not in self._left:
                yield key, place
        yield from ((key, place) for key, place in self._later.items() if place.name not in self._left)

    def untold(self) -> Iterator[tuple[str, Place]]:
        """Keys and places of the parts that the ledger's file may not tell of: those of bundles that came after it was written."""
        return (one for one in tuple(self._later.items()) if one[1].name not in self._left) if self._from_ledger else self.places()

    def living(self) -> dict[str, int]:
        """How many parts of each bundle are the ones of their keys."""
        found = dict.fromkeys((name for name in self.files if name not in self.damaged), 0)
        for _, place in self.places():
            found[place.name] += 1
        return found

    def reserve(self) -> int:
        """The number of the next bundle, which comes after all there are."""
        with self._lock:
            self._last += 1
            return self._last

    def came(self, bundle: Bundle, *, seen_whole: bool) -> None:
        """Take in a bundle that has just been written, by this process or for it: nothing need be listed anew."""
        with self._lock:
            if seen_whole:
                self.written.add(bundle.path.name)
            self.files[bundle.path.name] = bundle.facts
            self._opened[bundle.path.name] = bundle
            self._take_in([bundle.path.name])
            self._stamp_ns, self._listed_ns = self.folder.stat().st_mtime_ns, 0

    def leave(self, name: str) -> None:
        """Remove a bundle whose living parts are all in later ones."""
        with self._lock:
            remove(self.folder / name)
            self.files.pop(name, None)
            self._opened.pop(name, None)
            self._left.add(name)
            self._stamp_ns, self._listed_ns = self.folder.stat().st_mtime_ns, 0
