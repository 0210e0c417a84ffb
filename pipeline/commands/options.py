"""What the options common to many commands choose: the data folder, its run, where it works."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.engine.finish import Where
    from pipeline.engine.store import Store
    from pipeline.folder import Loaded

_log = logging.getLogger(__name__)


def data_folder(arguments: argparse.Namespace) -> Path:
    """`--data`, or a folder of `data/` by the name of the recipe or of the list; data/demo when nothing is said. Of one in an object
    store the mirror here, brought up to date. Raises StoreError.
    """
    from pipeline.engine.roots.opening import opened

    videos = getattr(arguments, "videos", None)
    name = (arguments.recipe or "").partition(":")[0] or (_name_of(videos[0]) if videos else "demo")
    return opened(arguments.data or Path("data") / Path(name).stem)


def _name_of(videos: str) -> str:
    """Name of the data folder for some videos: the list's, and of a glob (films/*.mp4) that of the folder it looks in."""
    path = Path(videos)
    if "://" in videos or not set(path.stem) & set("*?["):
        return path.stem
    return next((part for part in reversed(path.parent.parts) if part.strip("/.") and not set(part) & set("*?[")), "demo")


def load_run(arguments: argparse.Namespace, *, remember: bool = False) -> "Loaded":
    """The run that a command speaks of."""
    from pipeline.engine.nodes.parcel import adopt
    from pipeline.folder import Asked, load
    from stages.settings import read_assignments

    asked = Asked(
        recipe=arguments.recipe,
        videos=getattr(arguments, "videos", None),
        settings=read_assignments(_assignments(arguments), getattr(arguments, "config", None)),
        until=getattr(arguments, "until", None),
        leave=getattr(arguments, "leave", False),
    )
    folder = data_folder(arguments)
    adopt(folder)
    return load(folder, asked, remember=remember)


def _assignments(arguments: argparse.Namespace) -> list[str]:
    """What `--set` says, and the options that are settings under a name of their own."""
    max_pixels = getattr(arguments, "max_pixels", None)
    return [*getattr(arguments, "set", ()), *([f"download.max_pixels={max_pixels}"] if max_pixels else [])]


def where_of(arguments: argparse.Namespace) -> "Where":
    """Where the command's run works. Warns of an option of Ray's beside `--local`."""
    from pipeline.engine.finish import Where

    for name in ("workers", "gpus"):
        if arguments.local and getattr(arguments, name) is not None:
            _log.warning("--%s has no effect with --local, which works in this process alone", name)
    return Where(local=arguments.local, num_workers=arguments.workers, num_gpus=arguments.gpus)


def store_that_is(arguments: argparse.Namespace) -> "Store":
    """The data folder of `--data`. Raises ValueError where there is none: nothing would be found in it."""
    from pipeline.engine.roots.opening import opened
    from pipeline.engine.store import Store

    folder = opened(arguments.data)
    if not folder.is_dir():
        raise ValueError(f"--data {arguments.data} is no folder: name the data folder of a run")
    return Store(folder)
