"""The log of a run: a line of JSON a note, TensorBoard's files where it is installed, and a bar on the terminal."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.data.loader import Batch


class Log:
    """The log of one run; silent on every rank but the first."""

    def __init__(self, folder: Path, *, first: bool) -> None:
        self.folder, self.first = folder, first
        self._board: Any = None
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "journal.jsonl").exists() and not (folder / "log.jsonl").exists():  # of a run begun by an earlier version
                (folder / "journal.jsonl").rename(folder / "log.jsonl")
            self._board = _tensorboard(folder)

    def write(self, step: int, line: Mapping[str, Any]) -> None:
        """A note after `step` steps altogether; its numbers become curves."""
        if not self.first:
            return
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"num_steps": step} | dict(line)) + "\n")
        if self._board:
            for name, value in line.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    self._board.add_scalar(name, value, step)
            self._board.flush()

    def bar(self, batches: Iterator[Batch], title: str, done: int, total: int) -> Iterator[Batch]:
        """The batches of an epoch, with a bar of those that have been trained on."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.first) as progress:
            task = progress.add_task(title, completed=done, total=total)
            for batch in batches:
                yield batch
                progress.advance(task)


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
