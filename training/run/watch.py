"""A training as one can watch it: loss and rate on the terminal from the first step, metrics as they come, and followers elsewhere."""

import os
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stages.errors import UserError
from training.data.loader import Batch

FOLLOWERS = ("trackio", "wandb")
"""Packages that follow runs elsewhere; they share one interface."""
LINE_S = 30.0
"""Without a terminal, how often a line of progress is printed after the first step's."""


class Screen:
    """The terminal of one run: a bar with loss, learning rate and images a second; without a terminal lines, now and then."""

    def __init__(self, *, first: bool, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True, quiet=quiet or not first)
        self._progress: Progress | None = None
        self._bar: Any = None
        self._title, self._total = "", 0
        self._since, self._steps = time.monotonic(), 0
        self._said_s = -LINE_S

    def begin(self, folder: Path, *, board: bool) -> None:
        """Say where the curves are."""
        where = f"tensorboard --logdir {folder / 'tensorboard'}" if board else "pip install tensorboard to see them as curves"
        self.console.print(f"curves: {where}; numbers: {folder / 'log.jsonl'}", markup=False)

    def bar(self, batches: Iterator[Batch], title: str, done: int, total: int) -> Iterator[Batch]:
        """The batches of an epoch, with a bar of those that have been trained on."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
        )
        self._title, self._total = title, total
        self._since, self._steps = time.monotonic(), 0
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal or self.console.quiet) as progress:
            self._progress, self._bar = progress, progress.add_task(title, completed=done, total=total, told="")
            for batch in batches:
                self._steps += 1
                yield batch
                progress.advance(self._bar)

    @property
    def due(self) -> bool:
        """Whether it is time for a line."""
        return time.monotonic() - self._said_s >= LINE_S

    def step(self, step: int, loss: float, rate: float, images: int) -> None:
        """What a step brought; `images` are those of a whole step, of all ranks."""
        seconds = max(time.monotonic() - self._since, 1e-6)
        told = f"loss {loss:.4g}, learning rate {rate:.3g}, {self._steps * images / seconds:.3g} images/s"
        if self._progress is not None and not self._progress.disable:
            self._progress.update(self._bar, told=told)
        elif self.due:
            self._said_s = time.monotonic()
            self.console.print(f"{self._title}, step {step} of {self._total}: {told}", markup=False)

    def measured(self, epoch: int, metrics: Mapping[str, float], *, better: bool) -> None:
        """The metrics of an epoch, as they come."""
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        told = f"{numbers or 'nothing measured'}{'; the best so far' if better and metrics else ''}"
        self.console.print(f"epoch {epoch}: {told}", markup=False)


def check_follower(name: str) -> None:
    """Raise UserError for a follower that there is not, or that is not installed."""
    if name and name not in FOLLOWERS:
        raise UserError(f"--watch {name}: there are {', '.join(FOLLOWERS)}")
    if name and find_spec(name) is None:
        raise UserError(f"--watch {name}: it is not installed: pip install {name}")


class Follower:
    """A run as a service shows it; it never ends a training: what it cannot take is told once."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], console: Console) -> None:
        check_follower(name)
        self.name, self.console = name, console
        os.environ.setdefault("WANDB_DIR", str(folder))  # its files lie beside the run's, not where somebody happens to stand
        self._package = import_module(name) if name else None
        self._guarded("init", project="whim", name=folder.name, config=dict(settings))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step."""
        self._guarded("log", dict(numbers), step=step)

    def close(self) -> None:
        """Have everything where it belongs."""
        self._guarded("finish")

    def _guarded(self, function: str, *given: Any, **named: Any) -> None:
        if self._package is None:
            return
        try:
            getattr(self._package, function)(*given, **named)
        except Exception as error:  # of a network that is gone, of an account, of a disk: the training is worth more
            self._package = None
            self.console.print(f"{self.name} follows no longer ({error}): the training goes on", style="yellow", markup=False)
