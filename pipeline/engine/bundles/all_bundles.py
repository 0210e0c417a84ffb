"""The bundles of all tables of a store: where a part lies in them, and what is read there."""

import errno
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.engine.bundles.bundle import FOLDER, Bundle, Held
from pipeline.engine.bundles.places import Bundles, Place
from stages.digest import UNREADABLE, CorruptFileError

if TYPE_CHECKING:
    from pipeline.engine.store import Store

_TRIES = 5
"""How often a part is looked for whose bundle has just been written anew."""

_LATE_S = 0.5
"""How long a file may be hidden on this machine that another one has just written; it is looked for five times."""


@dataclass(eq=False)
class AllBundles:
    """The parts of a store that lie in bundles."""

    store: "Store"
    told: Mapping[tuple[str, str], Place] = field(default_factory=dict)
    """Where the driver says that parts lie, for a worker: it reads them there and looks nowhere else."""
    seen: dict[str, Bundles] = field(default_factory=dict)
    """Bundles of the tables that were asked for, by folder: a table may come by another name."""
    _is_sole: bool = False

    def of(self, table: str) -> Bundles:
        """The bundles of a table, as they are now."""
        return self.seen_of(table).fresh(sole=self._is_sole)

    def seen_of(self, table: str) -> Bundles:
        """The bundles of a table, as they were seen last."""
        where = str(self.store.folder(table))  # a path of each look takes longer than all else here
        if where not in self.seen:
            self.seen[where] = Bundles(self.store.folder(table) / FOLDER, lambda: self.store.footers.ledger, table)
        return self.seen[where]

    def open(self, table: str, name: str) -> Bundle:
        """A bundle with its footer; of an object store it is fetched, once, as it never changes. Raises what `UNREADABLE` lists."""
        bundles = self.seen_of(table)
        if (mirror := self.store.mirror) and not (bundles.folder / name).is_file():
            mirror.have(bundles.folder / name)
        return bundles.open(name)

    @contextmanager
    def sole(self) -> Iterator[None]:
        """Within the block nobody else changes bundles, but for workers that tell this process (`take_in`): it holds the lock."""
        for bundles in self.seen.values():
            bundles.fresh()
        self._is_sole = True
        try:
            yield
        finally:
            self._is_sole = False

    def take_in(self, table: str, name: str) -> None:
        """Take in a bundle that a worker says it wrote, as this process sees it; one that cannot be read counts as not there."""
        bundles = self.of(table)
        if name not in bundles.files:
            with suppress(*UNREADABLE):
                bundles.came(self.open(table, name), seen_whole=False)

    def place(self, table: str, key: str) -> Place | None:
        """Where a part lies in a bundle; None where it does not, or was found to be corrupt. One that has its own file comes before it."""
        if (table, key) in self.told:
            return self.told[table, key]
        if (mirror := self.store.mirror) and mirror.asks:
            return None  # all bundles would have to be fetched to say more
        found = self.of(table).find(key)
        if found is None:
            return None
        return None if self.store.corrupt_file(table, key).exists() else found

    def known_place(self, table: str, key: str) -> Place | None:
        """Where a part lies in a bundle, by what the ledger was told last: of one that was seen since, without a look at the disk."""
        files = self.of(table).files
        line = self.store.footers.ledger.find(table, key) if files else None
        return Place(line.bundle, line.row_group) if line and line.bundle in files else None

    def held(self, table: str, key: str) -> tuple[Held, pa.Schema] | None:
        """A part's entry in the footer of its bundle, and the bundle's schema; None without a bundle that can be read."""
        for _ in range(_TRIES):
            place = self.place(table, key)
            if place is None:
                return None
            try:
                bundle = self.open(table, place.name)
                held = bundle.parts[place.group]
            except FileNotFoundError:
                continue  # its parts have come into another one
            except UNREADABLE:
                return None
            return (held, bundle.schema) if held.key == key else None
        return None

    def read(self, table: str, key: str, columns: Collection[str] | None = None) -> pa.Table:
        """A part out of a bundle, held against its digest unless for some `columns` alone.

        Raises CorruptFileError that names the part, FileNotFoundError.
        """
        for attempt in range(_TRIES):
            place = self.place(table, key)
            if place is None and attempt:
                break
            if place is None:
                self.seen_of(table).fresh(sought=True)
                continue
            try:
                bundle = self.open(table, place.name)
                if bundle.parts[place.group].key != key:
                    raise CorruptFileError(bundle.path, f"it holds no part {key} where the ledger says")
                return bundle.read(place.group, columns)
            except FileNotFoundError:  # its parts have come into another one
                if self.told:
                    time.sleep(_LATE_S)  # or it has just been written on another machine
                continue
            except UNREADABLE as error:
                why = error.why if isinstance(error, CorruptFileError) else str(error)
                raise CorruptFileError(self.store.part(table, key), f"{FOLDER}/{place.name}: {why}") from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.store.part(table, key)))
