"""Corrupt parts: kept beside their place as `*.corrupt`, where they count as none, until a successor is committed."""

from pathlib import Path

from pipeline.engine.store import Store
from stages.digest import UNREADABLE

OF_PEOPLE = ("verdicts", "audits")
"""Tables that no stage makes, and no run makes again."""


def set_corrupt_aside(store: Store, path: Path) -> None:
    """Take a corrupt part out of the way of its successor; it is kept until that is committed. What people said has none: it stays."""
    if path.parent.name in OF_PEOPLE and path.parent.parent == store.root:
        return
    if store.mirror and store.mirror.drop_damaged(path):
        return
    corrupt = path.with_name(path.name + ".corrupt")
    try:
        path.replace(corrupt)
    except FileNotFoundError:  # it lies in a bundle, or another worker has found it as well
        if path.suffix == ".parquet" and path.is_relative_to(store.root):
            _set_bundled_aside(store, str(path.parent.relative_to(store.root)), path.stem)
        return
    if store.mirror:
        store.mirror.put_as_it_is([corrupt])
        store.mirror.delete([path])


def _set_bundled_aside(store: Store, table: str, key: str) -> None:
    """Have a corrupt part of a bundle count as none: what lies of it there is copied; the others stand."""
    place, content = store.bundles.place(table, key), b""
    if place is None or (store.mirror and store.mirror.drop_damaged(store.bundles.seen_of(table).folder / place.name)):
        return
    try:
        bundle = store.bundles.open(table, place.name)
        content = bundle.raw(place.group)
        bundle.read(place.group)
        if bundle.parts[place.group].key == key:
            return  # it has a successor by now
    except UNREADABLE:
        pass
    with store.aside(store.corrupt_file(table, key)) as temporary:
        temporary.write_bytes(content)
