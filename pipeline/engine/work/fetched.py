"""Fetched videos on the way into their parts: how a part names the file, and how it tells that the video is another one now."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine.store import Store
from stages.digest import fingerprint_of
from stages.tables import Videos


def kept(store: Store, key: str, fetched: Videos) -> Videos:
    """A video's row whose path inside the data folder is relative to it, so that the folder can move; in an object store lies its file."""
    row = dataclasses.replace(fetched, path=np.array([_relative(path, store.root) for path in fetched.path], object))
    if store.mirror:  # before the part that names them
        inside = [store.root / path for path in row.path if not Path(path).is_absolute()]
        store.mirror.put_as_it_is([file for path in inside for file in (path, path.with_name(f"{key}.info.json"))])
    return row


def _relative(path: str, root: Path) -> str:
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def with_content(store: Store, key: str, recipe: Mapping[str, Any], fetched: Videos) -> Mapping[str, Any]:
    """The recipe of a video's part; of one that was fetched again and is another now, with its content: what follows is made anew."""
    before = store.made_by("videos", key)
    if not before or before.get("fingerprint") != recipe["fingerprint"]:
        return recipe
    try:
        if store.read(Videos, "videos", key).sha256[0] == fetched.sha256[0]:
            return recipe
    except ValueError:
        return recipe
    other = {**recipe, "item": {**recipe["item"], "content": str(fetched.sha256[0])}}
    del other["fingerprint"]
    return {**other, "fingerprint": fingerprint_of(other)}
