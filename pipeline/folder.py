"""A data folder and its run: recipe, videos and settings as given, else as its last run had them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine.graph import Graph
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import find_recipe
from pipeline.stage_settings import canonical, with_settings
from stages.media.address import without_secrets
from stages.settings import unknown
from stages.stage import Stage
from stages.tables import Manifest

FORGET = ""
"""`--set NAME=` takes back what an earlier run of the folder set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command says of a run; what is None is as in the folder's last run."""

    recipe: str | None = None
    videos: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """By dotted name, on top of those of the last run with the same recipe."""
    until: str | None = None
    """The last stage to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A run ready to be looked at or to go on."""

    graph: Graph
    recipe: str
    settings: Mapping[str, Any]
    """What differs from the recipe, by name."""


def load(root: Path, asked: Asked, *, remember: bool = False) -> Loaded:
    """The graph of a data folder. A list or folder of videos that is gone is known from the last run.

    Raises ValueError where the folder has no run and none is asked for, for an unknown recipe, stage or setting, and for a list that
    is none.
    """
    store = Store(root)
    last = store.read_json("run.json") or {}
    recipe = asked.recipe or last.get("recipe") or "whim"
    videos = asked.videos or last.get("videos")
    if not videos:
        raise ValueError(f"{store.root} has no run yet: whim run --videos FOLDER_OR_LIST --data {store.root}")
    manifest = _manifest(store, Path(videos), given=asked.videos is not None)
    plain = find_recipe(recipe)(manifest, store.root)
    settings = _settings(plain, last.get("settings", {}) if last.get("recipe", recipe) == recipe else {}, asked.settings)
    stages = with_settings(plain, settings)
    if remember:
        store.write_json("run.json", {"recipe": recipe, "videos": str(Path(videos).absolute()), "settings": settings})
        known = store.part("", "manifest").exists() and store.read(Manifest, "", "manifest").to_arrow()
        shown = replace(manifest, source=np.array([without_secrets(str(one)) for one in manifest.source], object))
        if not known or not known.equals(shown.to_arrow()):
            store.commit("", "manifest", shown, {})
    return Loaded(graph=Graph(_up_to(stages, asked.until, recipe), manifest, store).load(), recipe=recipe, settings=settings)


def _manifest(store: Store, videos: Path, *, given: bool) -> Manifest:
    try:
        return read_manifest(videos)
    except FileNotFoundError:
        if given or not store.part("", "manifest").exists():
            raise
        return store.read(Manifest, "", "manifest")  # the videos were put away; what was made of them is here


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
