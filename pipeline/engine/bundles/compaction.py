"""Compaction: parts that lie loose come into bundles, and bundles of which half is dead are written anew. For who holds the lock.

A bundle is written aside, flushed, renamed, read back and held against its parts' digests; then only do the files go that it stands for,
each if it still is the one that was read. So a kill at any moment leaves every part in one place at least; where it is in two, both are the
same, and the next compaction takes one away. Nothing is taken away that this process has not seen whole where it lies now.

Parts that a running item reads or writes stay where they are: who commits one puts it beside its bundle, never into it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.engine.bundles.bundle import FOLDER, PARTS, Bundle, Part, name_of, parts_of, write_bundle
from pipeline.engine.bundles.places import Bundles, Place
from pipeline.engine.durable import StoreError, flush, remove
from pipeline.engine.files.corrupt import set_corrupt_aside
from pipeline.engine.files.ledger import Facts, Line, facts_of
from pipeline.engine.files.part import part_of
from pipeline.engine.store import Store
from stages.digest import UNREADABLE, CorruptFileError, digest_of

_log = logging.getLogger(__name__)

MOST_LOOSE = 256
"""Parts of a table that stay loose, so that a small folder is as plain as it can be."""

_SHARE_LOOSE = 0.02
"""Part of a table with bundles that may stay loose until a later run."""

_SMALL_BUNDLES = 4
"""Bundles that small ones must fill to be written anew as fewer."""


_AT_ONCE = 16
"""Full bundles of parts that are written anew before the earlier ones of them go: so much more of the disk is taken meanwhile."""


class _Source(NamedTuple):
    """A part to write into a bundle."""

    part: Part
    facts: Facts | None
    """Of its own file; None of one out of a bundle."""


@dataclass(eq=False)
class Compaction:
    """Compacts the tables of a data folder while parts land, and at the end."""

    store: Store
    most_loose: int = MOST_LOOSE
    parts: int = PARTS
    """Parts of a bundle."""
    landed: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    """Keys of the parts that landed in this run and are loose, by table."""

    def note(self, tables: Iterable[str], key: str) -> None:
        """Take down that the parts of a task have landed.

        Those that are made again stay beside their bundle until the end: no reader that sees a folder late is to read an earlier one.
        """
        for table in tables:
            if self.store.bundles.of(table).find(key) is None:
                self.landed[table][key] = None

    def step(self, busy: Callable[[], Collection[str]]) -> None:
        """Write one bundle, where enough has landed; without the parts of the `busy` keys, which items read or write just now."""
        full = {table: keys for table, keys in self.landed.items() if len(keys) >= self.most_loose + self.parts}
        at_work = busy() if full else ()
        for table, keys in sorted(full.items(), key=lambda one: -len(one[1])):  # no table waits for the end behind another one
            taken = list(islice((key for key in keys if key not in at_work), self.parts))
            if len(taken) == self.parts:
                with self._or_told(table):
                    self._pack(table, taken)
                for key in taken:
                    del keys[key]
                return

    def end(self, settled: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Compact tables of which nothing is read or written any more, each with the keys of the parts that are as wanted."""
        for table, as_wanted in settled:
            loose = self.store.loose_keys(table)
            keys, living = [key for key in as_wanted if key in loose], self._living(table, loose)
            several = sum(living.values())
            if len(keys) <= self.most_loose and (not several or len(keys) <= _SHARE_LOOSE * (several + len(loose))):
                keys = []
            most = self.parts if keys else 0
            small = [name for name, num in living.items() if 2 * num < self.parts]  # of the last calls of many a run
            few = sum(living[name] for name in small) < _SMALL_BUNDLES * self.parts
            anew = [name for name, num in living.items() if 2 * num < max(parts_of(name), most) or (name in small and not few)]
            with self._or_told(table):
                for some in _in_turn(anew, living, _AT_ONCE * self.parts):
                    self._pack(table, keys, some)
                    keys = []
        self.landed.clear()

    def mend(self, tables: Iterable[str]) -> None:
        """Write bundles anew in which a corrupt part was found, without it."""
        for table in tables:
            bundles = self.store.bundles.of(table)
            places = [place for key in self.store.corrupt(table) if (place := bundles.find(key))] if bundles.files else []
            with self._or_told(table):
                self._pack(table, [], sorted({place.name for place in places}))

    @contextmanager
    def _or_told(self, table: str) -> Iterator[None]:
        """What cannot be written is told and no more: every part is where it was."""
        try:
            yield
        except (StoreError, CorruptFileError, OSError) as error:
            _log.warning("parts of %s stay in files of their own: %s", table, error)

    def _living(self, table: str, loose: Collection[str]) -> dict[str, int]:
        """How many parts of each bundle neither a loose one nor a later bundle stands for."""
        bundles = self.store.bundles.of(table)
        living = bundles.living()
        for key in loose if living else ():
            if (place := bundles.find(key)) is not None:
                living[place.name] -= 1
        return living

    def leave(self, table: str, leaves: Callable[[str], bool]) -> list[str]:
        """Take parts out of the bundles of a table for good; the keys of what went.

        A bundle whose footer was read and is wrong may hold them, and goes whole: with it `bundles/<its name>`, and each of its
        parts that the ledger knows, are named. Raises StoreError for one that cannot be read, or written anew.
        """
        bundles, gone = self.store.bundles.of(table), set[str]()
        for path in sorted(bundles.folder.glob("*.parquet.corrupt")):
            remove(path)
        for name in sorted(bundles.files):
            try:
                parts = bundles.open(name).parts
            except UNREADABLE as error:
                self._refuse_unread(bundles.folder / name, error)
                gone |= {f"{FOLDER}/{Path(name).stem}"} | self._known_in(table, name)
                bundles.leave(name)
                continue
            leaving = {held.key for held in parts if leaves(held.key)}
            if leaving:
                self._set_loose_aside(table, {held.key for held in parts} - leaving)
                self._pack(table, [], [name], leaves)
                if name in bundles.files:
                    raise StoreError(f"{bundles.folder / name} cannot be written anew: whim verify --repair, then run again")
                gone |= leaving
        return sorted(gone)

    def _refuse_unread(self, path: Path, why: Exception) -> None:
        """Raise StoreError unless the bytes of a bundle can be read, and are wrong."""
        with suppress(OSError, MemoryError):
            if Bundle.is_damaged(path):
                return
        raise StoreError(f"{path} cannot be read, and may hold what is to be removed: run again, or whim verify --repair first ({why})")

    def _known_in(self, table: str, name: str) -> set[str]:
        """Keys of the parts that lay in a damaged bundle alone, as far as the ledger tells."""
        told, bundles = self.store.footers.ledger.bundled(table), self.store.bundles.of(table)
        if told is None or name not in told.facts:
            return set()
        keys = told.keys.filter(pa.array(told.bundle == list(told.facts).index(name))).to_pylist()
        places = {key: bundles.find(key) for key in keys if not self.store.part(table, key).exists()}
        return {key for key, place in places.items() if place is None or place.name == name}

    def _set_loose_aside(self, table: str, keys: Iterable[str]) -> None:
        """Set aside those parts with files of their own that are corrupt: no bundle can go while one of them stands for its part."""
        for key in keys:
            try:
                part_of(self.store.part(table, key), key)
            except FileNotFoundError:
                continue
            except ValueError:
                set_corrupt_aside(self.store, self.store.part(table, key))

    def repair(self, path: Path) -> None:
        """Write the sound parts of a damaged bundle into another one; of a corrupt part, or a footer that cannot be read, a copy stays."""
        table = str(path.parent.parent.relative_to(self.store.root))
        self._pack(table, [], [path.name])
        if path.exists():
            set_corrupt_aside(self.store, path)

    def _pack(
        self, table: str, loose: Collection[str], anew: Sequence[str] = (), leaves: Callable[[str], bool] = lambda key: False
    ) -> None:
        """Write loose parts, and the living ones of some bundles, into new bundles; then take away what these stand for."""
        if not loose and not anew:
            return
        bundles = self.store.bundles.of(table)
        waiting: dict[bytes, list[_Source]] = defaultdict(list)  # by schema: a bundle has one
        for source in self._sources(table, bundles, loose, dict(_living_in(self.store, table, bundles, anew, leaves))):
            of_schema = waiting[source.part.schema_text()]
            of_schema.append(source)
            if len(of_schema) == self.parts:
                self._bundle(table, bundles, of_schema)
                of_schema.clear()
        for rest in waiting.values():
            if rest:
                self._bundle(table, bundles, rest)
        for name in anew:
            take_away(self.store, table, name, leaves)

    def _sources(self, table: str, bundles: Bundles, loose: Collection[str], living: Mapping[str, Place]) -> Iterator[_Source]:
        """Parts to write, in order of their keys; what cannot be read stays where it is, or is set aside in a bundle."""
        for key in sorted({*loose, *living}):
            path = self.store.part(table, key)
            if key not in living or path.exists():
                with suppress(*UNREADABLE):
                    facts = facts_of(path.stat())
                    part = part_of(path, key)
                    if key not in living and _is_bundled(bundles, part):
                        self._unlink(table, {key: facts})
                    elif key in loose:
                        yield _Source(part, facts)
                continue
            try:
                yield _Source(bundles.open(living[key].name).part(living[key].group), None)
            except CorruptFileError:
                set_corrupt_aside(self.store, path)

    def _bundle(self, table: str, bundles: Bundles, sources: Sequence[_Source]) -> None:
        """Write one bundle, look at it, and take away the loose files that it stands for.

        Raises CorruptFileError where what is read there is not what was written, StoreError, OSError.
        """
        parts = [source.part for source in sources]
        path = bundles.folder / name_of(bundles.reserve(), len(parts))
        if not path.parent.is_dir():
            path.parent.mkdir()
            flush(path.parent.parent)
        with self.store.aside(path) as temporary:
            write_bundle(parts, temporary)
        if mirror := self.store.mirror:
            mirror.drop_damaged(path)  # what is looked at is what the object store has
        try:
            written = Bundle.open(path)
            sound = len(written.parts) == len(parts) and all(_same(written.part(at), part) for at, part in enumerate(parts))
        except (CorruptFileError, FileNotFoundError):
            sound = False
        if not sound:
            remove(path)
            raise CorruptFileError(path, "what was read there is not what was written, and it is removed: is the disk sound?")
        bundles.came(written, seen_whole=True)
        for group, source in enumerate(sources):
            self._note(table, source.part, Place(path.name, group), written.facts)
        self._unlink(table, {source.part.key: source.facts for source in sources if source.facts is not None})

    def _note(self, table: str, part: Part, place: Place, facts: Facts) -> None:
        """Tell the ledger where a part lies now."""
        line = self.store.footers.ledger.find(table, part.key)
        same = line is not None and line.fingerprint == part.recipe.get("fingerprint")
        self.store.footers.ledger.note(table, part.key, Line(*facts, *(line[4:8] if line and same else ("", "", "", "{}")), *place))

    def _unlink(self, table: str, read: Mapping[str, Facts]) -> None:
        """Remove loose files whose parts are in a bundle, those that are the ones that were read; what stood in for a part goes before."""
        gone = []
        for key, facts in read.items():
            with suppress(FileNotFoundError):
                if facts_of(self.store.part(table, key).stat()) == facts:
                    gone.append(key)
        corrupt = [self.store.corrupt_file(table, key) for key in gone]
        remove(*(path for path in corrupt if path.exists()))
        remove(*(self.store.part(table, key) for key in gone))


def _in_turn(names: Sequence[str], living: Mapping[str, int], most: int) -> list[list[str]]:
    """Bundles in groups that hold so many living parts or one more bundle's; one empty group of none."""
    groups, held = [list[str]()], 0
    for name in names:
        if held >= most:
            groups, held = [*groups, []], 0
        groups[-1].append(name)
        held += living[name]
    return groups


def take_away(store: Store, table: str, name: str, leaves: Callable[[str], bool]) -> None:
    """Remove a bundle, if for each of its parts another one stands, whole, or it was set aside as corrupt, or leaves."""
    bundles = store.bundles.of(table)
    try:
        all_stand = all(leaves(held.key) or _stands_elsewhere(store, table, held.key, name) for held in bundles.open(name).parts)
    except UNREADABLE:
        return
    if all_stand:
        bundles.leave(name)


def _stands_elsewhere(store: Store, table: str, key: str, name: str) -> bool:
    """Whether a part lies, whole, elsewhere than in a bundle, or was set aside. Raises what `UNREADABLE` lists."""
    if store.part(table, key).exists():
        part_of(store.part(table, key), key)
        return True
    bundles = store.bundles.of(table)
    place = bundles.find(key)
    if store.corrupt_file(table, key).exists():
        return True
    if place is None or place.name == name:
        return False
    return place.name in bundles.written or bundles.open(place.name).part(place.group).key == key


def _is_bundled(bundles: Bundles, part: Part) -> bool:
    """Whether a loose part lies in a bundle as well, whole: a kill left it."""
    place = bundles.find(part.key)
    if place is None:
        return False
    with suppress(*UNREADABLE):
        return _same(bundles.open(place.name).part(place.group), part)
    return False


def _same(one: Part, other: Part) -> bool:
    """Whether two parts that were held against their digests are the same."""
    if (one.key, one.recipe, one.digest) != (other.key, other.recipe, other.digest) or one.schema_text() != other.schema_text():
        return False
    return one.digest is not None or digest_of(one.content) == digest_of(other.content)


def _living_in(
    store: Store, table: str, bundles: Bundles, names: Iterable[str], leaves: Callable[[str], bool]
) -> Iterator[tuple[str, Place]]:
    """Keys and places of the parts of some bundles that are the ones of their keys, as far as bundles go."""
    for name in names:
        with suppress(*UNREADABLE):
            for group, held in enumerate(bundles.open(name).parts):
                if bundles.find(held.key) == (name, group) and not leaves(held.key) and not store.corrupt_file(table, held.key).exists():
                    yield held.key, Place(name, group)
