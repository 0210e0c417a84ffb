"""Where items run: what a run asks of it, and the one that works in this process."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from pipeline.engine.nodes.environments import check_environments
from pipeline.engine.orders import Order, Receipt
from pipeline.engine.plan.seats import Seat
from pipeline.engine.worker import Worker
from stages.stage import Reason, Stage


@dataclass(frozen=True, slots=True)
class Lost:
    """An order came back without a receipt."""

    reason: Reason
    message: str
    counts: bool = True
    """Whether it counts as an attempt at the item: a node that is lost, or does not see the data folder, says nothing of the item."""
    blind: bool = False
    """Whether its node does not see the data folder: no other item is given to it."""
    where: str = ""
    """Node, process and log of the worker (`Place`)."""


class Executor(Protocol):
    """Where items run."""

    def free(self, seat: Seat) -> bool:
        """Whether a worker of that kind is idle."""
        ...

    def size(self, seat: Seat) -> int:
        """Workers of that kind that there are, or start."""
        ...

    def submit(self, seat: Seat, orders: Sequence[Order], limit_s: float) -> None:
        """Have an idle worker do orders one after another, within the limit for all of them."""
        ...

    def expect(self, waiting: Mapping[Seat, int]) -> None:
        """Hear how many items wait for a worker of each kind."""
        ...

    def at_work(self) -> list[tuple[Order, float, str]]:
        """The first of the orders that each worker is at, for how many seconds, and where."""
        ...

    def wait(self) -> list[tuple[Order, Receipt | Lost | None]]:
        """At least one finished order, with its receipt or with why its worker is gone; None of those that it did not come to."""
        ...


@dataclass(eq=False)
class Local:
    """One worker in this process: for tests and debugging. A crash of native code ends the run."""

    root: Path
    stages: Sequence[Stage]
    finished: list[tuple[Order, Receipt | Lost | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_environments(self.stages, on_ray=False)
        self.worker = Worker(self.root, self.stages)

    def free(self, seat: Seat) -> bool:
        return not self.finished

    def size(self, seat: Seat) -> int:
        """There is one worker."""
        return 1

    def expect(self, waiting: Mapping[Seat, int]) -> None:
        """There is one worker, whatever waits."""

    def at_work(self) -> list[tuple[Order, float, str]]:
        """Nobody is while this process asks."""
        return []

    def submit(self, seat: Seat, orders: Sequence[Order], limit_s: float) -> None:
        with _alarm(limit_s):
            try:
                self.finished += zip_longest(orders, self.worker.do_all(orders))
            except _Overtime:
                late = Lost(Reason.TIMEOUT, f"ran over its limit of {limit_s:g} s")
                self.finished += [(order, late) for order in orders]

    def wait(self) -> list[tuple[Order, Receipt | Lost | None]]:
        finished, self.finished = self.finished, []
        return finished


class _Overtime(BaseException):
    """Raised by the alarm; a BaseException so that no stage takes it for an error of its own."""


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise _Overtime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
