"""People's verdicts in a data folder, `verdicts/<video>.parquet`: written as every part is, by whoever decides, beside a run or without."""

import fcntl
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.engine.durable import StoreError, TakenError, lock_file
from pipeline.engine.store import Store
from stages.digest import CorruptFileError
from stages.tables import Clips, Verdicts
from stages.verdicts import digest, in_clip

TABLE = "verdicts"


class DecidedMeanwhileError(ValueError):
    """Somebody decided on hands of a clip while it was worked on."""


def videos_with_verdicts(store: Store) -> set[str]:
    """Ids of the videos of which people decided something."""
    return set(store.keys(TABLE))


def read_verdicts(store: Store, video: str) -> Verdicts:
    """All verdicts on a video, the undone ones among them; none where nobody decided anything.

    Raises CorruptFileError: what people decided cannot be made again.
    """
    try:
        return store.read(Verdicts, TABLE, video)
    except FileNotFoundError:
        return Verdicts.empty()
    except CorruptFileError as error:
        raise CorruptFileError(error.path, f"{error.why}; no run makes it again: put a copy in its place, or remove it") from error


def as_ordered(store: Store, clip: Clips, kinds: Collection[str], recipe: Mapping[str, Any]) -> Verdicts:
    """The verdicts on a clip that a recipe was written for. Raises DecidedMeanwhileError where somebody has decided something since."""
    found = in_clip(read_verdicts(store, str(clip.video[0])), clip)
    if digest(found, kinds) != recipe.get("item", {}).get("verdicts", ""):
        raise DecidedMeanwhileError(f"somebody decided on hands of {clip.clip[0]} while it was worked on: run again")
    return found


def change_verdicts(store: Store, video: str, change: Callable[[Verdicts], Verdicts]) -> Verdicts:
    """Write what `change` makes of a video's verdicts; one writer at a time. Raises CorruptFileError, StoreError."""
    with _writing(store):
        for _ in range(_MOST_TRIES):
            if store.mirror:
                store.mirror.have(store.part(TABLE, video))
            verdicts = change(read_verdicts(store, video))
            try:
                store.commit(TABLE, video, verdicts, {})
            except FileNotFoundError:  # a run that began just now cleared away what was being written
                store.commit(TABLE, video, verdicts, {})
            except TakenError:  # somebody decided on another machine, or the answer to a try was lost
                if store.mirror:
                    store.mirror.have(store.part(TABLE, video))
                if not read_verdicts(store, video).to_arrow().equals(verdicts.to_arrow()):
                    continue
            return verdicts
    raise StoreError(f"others decide on {video} in {store.name} all the time: try again")


_MOST_TRIES = 20


@contextmanager
def _writing(store: Store) -> Iterator[None]:
    """Hold the verdicts against other writers; a run may go on beside. Raises StoreError."""
    try:
        (store.root / TABLE).mkdir(parents=True, exist_ok=True)
        file = lock_file(store.root / TABLE / ".lock")
    except OSError as error:
        raise StoreError(f"cannot write to {store.root / TABLE}: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
