"""A data folder and its run: recipe, videos and settings as given, else as its last run had them."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engine.graph import Graph
from pipeline.engine.plan.contents import Contents
from pipeline.engine.store import Store
from pipeline.manifest import Listing, read_listing, storable, withdrawn_in, without
from pipeline.recipes import find_recipe
from pipeline.stage_settings import canonical, with_settings
from pipeline.video_files import LeftOut
from stages.digest import CorruptFileError
from stages.settings import unknown
from stages.stage import Stage
from stages.tables import Manifest
from stages.web.address import without_secrets

FORGET = ""
"""`--set NAME=` takes back what an earlier run of the folder set."""

GRANTED = frozenset(f"download.{name}" for name in ("cookies_file", "folder", "plugins", "private_hosts", "proxies", "proxy"))
"""Settings that let others in, or write elsewhere: a data folder, whoever made it, cannot say them. Each command does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command says of a run; what is None is as in the folder's last run."""

    recipe: str | None = None
    videos: Path | str | Sequence[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """By dotted name, on top of those of the last run with the same recipe."""
    until: str | None = None
    """The last stage to run."""
    leave: bool = False
    """Whether videos that the list no longer names leave the dataset, and shards the frames of those that cannot be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A run ready to be looked at or to go on."""

    graph: Graph
    recipe: str
    settings: Mapping[str, Any]
    """What differs from the recipe, by name."""
    left_out: tuple[LeftOut, ...] = ()
    """Files beside the videos that were not taken, and withdrawn videos."""
    withheld: tuple[str, ...] = ()
    """Settings of the last run that are not taken up, as a command has to say them itself."""
    unlisted: tuple[str, ...] = ()
    """Videos of the last run that the list no longer names: they stay, or leave where that was asked for."""


def load(root: Path, asked: Asked, *, remember: bool = False) -> Loaded:
    """The graph of a data folder. A list or folder of videos that is gone is known from the last run.

    Raises ValueError where the folder has no run and none is asked for, for an unknown recipe, stage or setting, and for a list that
    is none.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(root)):
        raise ValueError(f"--data {root} is not an address of a data folder: that is a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
    store = Store(root)
    standing = next(path for path in (store.root, *store.root.parents) if path.exists())
    if not standing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(standing))
    last = _last(store, asked)
    recipe = _recipe(store, asked.recipe, last.get("recipe"))
    given = asked.videos if asked.videos is not None else last.get("videos")
    if not given:
        begun = "has no run yet" if store.root.is_dir() else "is not there"
        raise ValueError(f"{store.name} {begun}: whim run --videos FOLDER_OR_LIST --data {store.word()}")
    videos = [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]
    listing = _listing(store, videos, given=asked.videos is not None)
    if not asked.leave:
        _refuse_others(store, listing.manifest)
    unlisted = _unlisted(store, listing)
    manifest = listing.manifest if asked.leave else Manifest.concat([listing.manifest, unlisted])
    plain = find_recipe(recipe)(manifest, store.root)
    before = last.get("settings", {}) if last.get("recipe", recipe) == recipe else {}
    settings = _settings(plain, {name: value for name, value in before.items() if name not in GRANTED}, asked.settings)
    graph = Graph(_up_to(with_settings(plain, settings), asked.until, recipe), manifest, store, leave=asked.leave).load()
    if remember:  # nothing is written before everything has been checked
        absolute = [without_secrets(one) if "://" in one else str(Path(one).expanduser().absolute()) for one in videos]
        named = absolute[0] if len(absolute) == 1 else absolute
        store.write_json("run.json", {"recipe": recipe, "videos": named, "settings": settings})
        left_out = [asdict(one) for one in listing.left_out if one.name not in listing.withdrawn]  # removed.txt alone names those
        if left_out or store.read_json("left_out.json"):
            store.write_json("left_out.json", {"files": left_out})
        known, shown = _known(store), storable(manifest)
        if known is None or not known.to_arrow().equals(shown.to_arrow()):
            store.commit("", "manifest", shown, {})
    names = tuple(map(str, unlisted.video))
    withheld = tuple(sorted(before.keys() & GRANTED - asked.settings.keys()))
    return Loaded(graph=graph, recipe=recipe, settings=settings, left_out=listing.left_out, withheld=withheld, unlisted=names)


def _last(store: Store, asked: Asked) -> dict[str, Any]:
    """What the last run noted. Raises ValueError where that cannot be read and this command does not say all of it."""
    try:
        last = store.read_json("run.json") or {}
        videos = last.get("videos", "")
        if not isinstance(videos, str | list) or not all(isinstance(one, str) for one in videos):
            raise CorruptFileError(store.root / "run.json", "its videos are no text")
        if not isinstance(last.get("settings", {}), dict) or not isinstance(last.get("recipe", ""), str):
            raise CorruptFileError(store.root / "run.json", "its recipe and settings are none")
        return last
    except CorruptFileError as error:
        if asked.videos and asked.recipe:
            return {}
        raise ValueError(f"{error}; say again what it is made from: --videos and --recipe") from error


def _recipe(store: Store, asked: str | None, last: Any) -> str:
    """The recipe's name, a file's with its whole path. A file is code: it is run where this command names it, never where a folder does."""
    if asked:
        file, colon, function = asked.partition(":")
        return f"{Path(file).expanduser().absolute()}{colon}{function}" if file.endswith(".py") else asked
    recipe = str(last or "whim")
    if recipe.partition(":")[0].endswith(".py"):
        raise ValueError(f"{store.name} was made by the recipe file {recipe}, and a data folder runs no code: add --recipe {recipe}")
    return recipe


def _known(store: Store) -> Manifest | None:
    """The list as the last run had it, if that can be read."""
    try:
        return store.read(Manifest, "", "manifest")
    except (FileNotFoundError, CorruptFileError):
        return None


def _listing(store: Store, videos: list[str], *, given: bool) -> Listing:
    before = _known(store)
    ids = {} if before is None else dict(zip(map(str, before.source), map(str, before.video), strict=True))
    try:
        return read_listing(videos, ids, store.root / "removed.txt")
    except FileNotFoundError:
        if given or before is None:
            raise
        withdrawn = withdrawn_in(store.root / "removed.txt")
        return Listing(without(before, withdrawn), (), withdrawn)  # the videos were put away; what was made of them is here


def _refuse_others(store: Store, manifest: Manifest) -> None:
    """Raise ValueError where a known id now names another local file of other content: it would take the first video's place.

    A file that changed where it lies is that video still, and so is a copy of it elsewhere.
    """
    known = _known(store)
    before = {} if known is None else dict(zip(map(str, known.video), map(str, known.source), strict=True))
    contents = Contents(store)
    for video, source in zip(map(str, manifest.video), map(str, manifest.source), strict=True):
        first = before.get(video, source)
        if first == source or not (first.startswith("/") and source.startswith("/") and Path(source).is_file()):
            continue
        row = contents.row(video)
        if row is not None and row.sha256 and not contents.is_of(video, Path(source)):
            raise ValueError(
                f"{source} would take the place of {first}: both are called {video}, and they are not the same content; "
                f"give it a name of its own in a list, `{source} id=NAME`, or let the first one go with --leave"
            )


def _unlisted(store: Store, listing: Listing) -> Manifest:
    """The videos of the last run that are neither in the list nor withdrawn: a list may be another one, a disk half mounted."""
    before = _known(store)
    if before is None:
        return Manifest.empty()
    return without(before, {*map(str, listing.manifest.video), *listing.withdrawn})


def _settings(stages: list[Stage], last: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in last.items() if asked.get(name) != FORGET}
    new = {name: value for name, value in asked.items() if value != FORGET or name not in last}
    both = {**canonical(stages, kept), **canonical(stages, new)}
    return {name: value for name, value in both.items() if value != FORGET}


def _up_to(stages: list[Stage], until: str | None, recipe: str) -> list[Stage]:
    names = [stage.name for stage in stages]
    if until and until not in names:
        raise ValueError(f"recipe {recipe}: {unknown(until, names, 'stage')}")
    return stages[: len(names) - names[::-1].index(until)] if until else stages
