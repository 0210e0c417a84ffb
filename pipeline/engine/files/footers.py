"""Footers of a store's parts: told by the ledger's lines while these stand, else read and taken down for the next plan."""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.bundles.bundle import FOLDER as BUNDLES
from pipeline.engine.bundles.places import Place
from pipeline.engine.durable import StoreError
from pipeline.engine.files.ledger import NAME, Facts, Ledger, Line, facts_of, read_lines
from pipeline.engine.files.part import recipe_in, recipe_of, sealed, write_part
from pipeline.engine.files.shard import schema_in
from stages.digest import UNREADABLE, refuse_odd

if TYPE_CHECKING:
    from pipeline.engine.store import Store

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Footers:
    """The footers of the parts of a store, and the ledger that is kept of them."""

    store: "Store"
    _schemas: dict[int, tuple[pa.Schema, str]] = field(default_factory=dict)  # by identity: they are made once

    def fingerprint(self, table: str, key: str, schema: pa.Schema) -> str | None:
        """Fingerprint of a committed part, by the ledger or its footer; '' when the part does not fit `schema`, None without a part."""
        line = self._line(table, key, schema)
        return line.fingerprint if line else None

    def item(self, table: str, key: str, schema: pa.Schema) -> dict[str, Any]:
        """The `item` of a committed part's recipe; empty without one."""
        line = self._line(table, key, schema)
        found: dict[str, Any] = json.loads(line.item) if line and line.fits else (self.store.made_by(table, key) or {}).get("item", {})
        return found

    def lacks(self, table: str, key: str, schema: pa.Schema, columns: Collection[str]) -> bool:
        """Whether a committed part was written without some of these columns of its schema."""
        line = self._line(table, key, schema)
        return bool(line and set(columns) & set(line.lacks.split()))

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of all known footers; an empty one where there is no file of it, or a damaged one."""
        try:
            return Ledger(read_lines(self.store.part("", NAME)))
        except UNREADABLE:
            return Ledger()

    def _line(self, table: str, key: str, schema: pa.Schema) -> Line | None:
        """A part's line of the ledger, else of its footer; `fits` is '' where it does not. None of what `made_by` takes for none."""
        path, wanted = self.store.part(table, key), self.digest_of_schema(schema)
        self.store.have(path)
        try:
            facts = self._facts_of(path, refuse_odd(path))
            line = self.ledger.find(table, key)
            if line and line.fits == wanted and not line.bundle and line[:4] == facts:
                return line
            found = schema_in(path)
        except FileNotFoundError:
            return self._line_in_bundle(table, key, schema)
        except UNREADABLE:
            return None
        recipe = recipe_in(found, schema, table)
        if not recipe:
            return None if recipe is None else _NO_FIT
        line = _line_of(facts, found, recipe, schema, wanted)
        self.ledger.note(table, key, line)
        return line

    def _facts_of(self, path: Path, stat: os.stat_result) -> Facts:
        """Facts of a part's own file, by which a line of the ledger stands for it and for no other in its place."""
        return (self.store.mirror and self.store.mirror.facts_of(path, stat)) or facts_of(stat)

    def _line_in_bundle(self, table: str, key: str, schema: pa.Schema) -> Line | None:
        place, wanted = self.store.bundles.place(table, key), self.digest_of_schema(schema)
        if place is None:
            return None
        line, facts = self.ledger.find(table, key), self.store.bundles.seen_of(table).files.get(place.name)
        if line and line.fits == wanted and line.bundle == place.name and line[:4] == facts:
            return line
        held = self.store.bundles.held(table, key)
        recipe = None if held is None else recipe_of(held, schema, table)
        if held is None or not recipe or facts is None:
            return None if recipe is None else _NO_FIT
        line = _line_of(facts, held[1], recipe, schema, wanted, place)
        self.ledger.note(table, key, line)
        return line

    def digest_of_schema(self, schema: pa.Schema) -> str:
        """Digest of a schema, by which lines of the ledger name the one that a part fits."""
        if id(schema) not in self._schemas:
            self._schemas[id(schema)] = schema, hashlib.sha256(schema.serialize()).hexdigest()[:16]
        return self._schemas[id(schema)][1]

    def write_ledger(self) -> None:
        """Write down what footers said that the ledger did not know. For who holds the lock.

        Where it cannot be written that is told and no more: it decides nothing.
        """
        self._complete_ledger()
        if not self.ledger.fresh:
            return
        lines = self._on_disk(self.ledger.lines())
        path = self.store.part("", NAME)
        try:
            with self.store.aside(path) as temporary:
                write_part(sealed(lines, {}), temporary)
        except (StoreError, OSError) as error:
            _log.warning("%s is not written, so that the next plan takes longer: %s", path, error)
            return
        self.store.succeeded("", NAME)
        self.ledger = Ledger(lines)

    def _complete_ledger(self) -> None:
        """See that the ledger names all parts of the bundles that it names: where one lies is looked up there."""
        for bundles in self.store.bundles.seen.values():
            for key, place in bundles.untold():
                line = self.ledger.find(bundles.table, key)
                if line is None or (line.bundle != place.name and (line.bundle or not self.store.part(bundles.table, key).exists())):
                    self.ledger.note(bundles.table, key, Line(*bundles.files[place.name], "", "", "", "{}", *place))

    def _on_disk(self, lines: pa.Table) -> pa.Table:
        """Lines but for those of bundles that are gone."""
        named = lines.filter(pc.not_equal(lines["bundle"], "")).group_by(["table", "bundle"]).aggregate([]).to_pylist()
        gone = [one["bundle"] for one in named if not (self.store.folder(one["table"]) / BUNDLES / one["bundle"]).exists()]
        return lines.filter(pc.invert(pc.is_in(lines["bundle"], pa.array(gone, pa.string())))) if gone else lines


_NO_FIT = Line(0, 0, 0, 0, "", "", "", "{}")
"""What is said of a part whose columns are another version's."""


def _line_of(facts: Facts, found: pa.Schema, recipe: Mapping[str, Any], schema: pa.Schema, wanted: str, place: Place | None = None) -> Line:
    there = set(found.names)
    lacks = " ".join(name for name in schema.names if name not in there)
    told = (str(recipe.get("fingerprint", "")), lacks, json.dumps(recipe.get("item", {}), sort_keys=True))
    return Line(*facts, wanted, *told, *(place or ("", 0)))
