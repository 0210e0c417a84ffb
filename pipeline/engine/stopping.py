"""Stopping a run well: the first SIGTERM lets it finish what it is at and start nothing new, a second one stops it as Ctrl-C does."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Stopping:
    """Whether a run is asked to come to its end."""

    asked: bool = False

    def ask(self, *_: Any) -> None:
        """The first time: start nothing new. Raises KeyboardInterrupt the second time."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("stopping: what is being made is finished, nothing new is begun; SIGTERM again stops at once", file=sys.stderr, flush=True)


@contextmanager
def stops_by_sigterm() -> Iterator[Stopping]:
    """Within the block SIGTERM asks to stop; only in a program's main thread, as signals are."""
    stopping = Stopping()
    before = signal.signal(signal.SIGTERM, stopping.ask)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGTERM, before)
