"""The log of a run: a line of JSON a note, and TensorBoard's files where it is installed.

Checkpoints matter, curves do not: what cannot be written here is told once, and the training goes on.
"""

import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class Log:
    """The log of one run; silent on every rank but the first."""

    def __init__(self, folder: Path, *, first: bool) -> None:
        self.folder, self.first = folder, first
        self._told: set[str] = set()
        self._torn = False
        self._board: Board | None = None
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "journal.jsonl").exists() and not (folder / "log.jsonl").exists():  # of a run begun by an earlier version
                (folder / "journal.jsonl").rename(folder / "log.jsonl")
            with self.spared("tensorboard"), suppress(ImportError):
                self._board = Board(folder / "tensorboard")

    def write(self, step: int, line: Mapping[str, Any]) -> None:
        """A note after `step` steps altogether; its numbers become curves."""
        if not self.first:
            return
        text = ("\n" if self._torn else "") + json.dumps({"num_steps": step} | dict(line)) + "\n"
        with self.spared("log.jsonl"):
            self._torn = True  # until the line is there, a part of it may be
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(text)
            self._torn = False
        numbers = {name: float(value) for name, value in line.items() if isinstance(value, int | float) and math.isfinite(value)}
        if self._board and "tensorboard" not in self._told:
            with self.spared("tensorboard"):
                self._board.write(step, numbers)

    @contextmanager
    def spared(self, name: str) -> Iterator[None]:
        """A block that writes a file or folder of the run which the training can do without: a failure is told, once a name."""
        try:
            yield
        except OSError as error:
            if name not in self._told:
                self._told.add(name)
                why = error.strerror or str(error)
                with suppress(OSError):
                    print(f"whim: cannot write {self.folder / name} ({why}): the training goes on without it", file=sys.stderr)

    @property
    def has_board(self) -> bool:
        """Whether TensorBoard is installed, and its file there."""
        return self._board is not None


class Board:
    """A file of events for TensorBoard. Its own writer works in a thread, which ends in a traceback where the disk fails."""

    def __init__(self, folder: Path) -> None:
        """Raises ImportError where TensorBoard is not installed, OSError."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        self.path = folder / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._event, self._summary, self._records = Event, Summary, RecordWriter
        self._append(file_version="brain.Event:2")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Have the numbers of a step in the file. Raises OSError."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._append(step=step, summary=self._summary(value=values))

    def _append(self, **event: Any) -> None:
        with self.path.open("ab", buffering=0) as file:
            self._records(file).write(self._event(wall_time=time.time(), **event).SerializeToString())
