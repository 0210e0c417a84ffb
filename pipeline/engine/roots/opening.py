"""Opens a data folder, wherever it lies: by its path, or by the mirror of its address."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from pipeline.engine.durable import MIRRORS, StoreError, mirror_of
from pipeline.engine.roots.address import Address, is_address
from pipeline.engine.roots.known import Known
from pipeline.engine.roots.mirror import Mirror
from pipeline.engine.roots.objects import Objects
from stages.errors import UserError
from stages.stage import Stage


def opened(root: str | Path, *, asks: bool = False, whole: bool = False, driver: str = "") -> Path:
    """The folder of a data folder: itself, or of one in an object store its mirror here, which has all that is there now.

    `asks`: for a worker, which asks for each part that it reads instead; `driver`: token of the lease that it works under. `whole`: with
    videos and rows of shards. Raises StoreError, UserError.
    """
    if not is_address(root):
        if mirror_of(Path(root)) is None and Path(root).resolve().is_relative_to((_cache() / "roots").resolve()):
            raise UserError(f"{root} is the mirror of a data folder in an object store: name that by its address")
        return Path(root)
    address = Address.of(str(root))
    folder = _cache() / "roots" / address.digest
    mirror = MIRRORS.get(folder)
    if mirror is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"no mirror of {address} can be made in {folder}: {error.strerror}; set WHIM_CACHE") from error
        mirror = MIRRORS[folder] = Mirror(address, folder, Objects(address), Known(folder.with_suffix(".sqlite")), asks, driver=driver)
    if mirror.lease is None and not asks:
        mirror.sync(whole=whole)
    return folder


def moved(stage: Stage, before: Path, now: Path) -> Stage:
    """A stage whose folders below one place lie below another."""
    settings: Any = stage
    inside = {
        one.name: now / value.relative_to(before)
        for one in dataclasses.fields(settings)
        if isinstance(value := getattr(stage, one.name), Path) and value.is_relative_to(before)
    }
    return dataclasses.replace(settings, **inside) if inside else stage


def _cache() -> Path:
    """$WHIM_CACHE, else the user's cache folder."""
    named = os.environ.get("WHIM_CACHE")
    return Path(named or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whim").absolute()
