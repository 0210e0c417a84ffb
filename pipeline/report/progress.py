"""A run as a person sees it: one bar a stage, with the rate and the time left."""

import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from pipeline.engine.finish import prepared
from pipeline.engine.graph import Graph, State, Task
from pipeline.engine.worker import Outcome


class RateColumn(ProgressColumn):
    """Parts per second since the bar began to move."""

    def render(self, task: Bar) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.2g}/s" if speed else "", style="cyan")


LOG_INTERVAL_S = 30.0
"""Without a terminal, how often a line of progress is printed."""


class Bars:
    """One bar a stage, moved by calling it with each outcome (`finish(..., on_outcome=bars)`).

    Failures are printed above the bars as they come. Without a terminal there is a plain line now and then.
    """

    def __init__(self, graph: Graph, console: Console) -> None:
        self.graph, self.console = graph, console
        columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, transient=False)
        self.logged_at = time.monotonic()
        names = dict.fromkeys(stage.name for stage in graph.stages)
        self.bars = {name: self.progress.add_task(name, total=0) for name in names}

    def __enter__(self) -> "Bars":
        for line in prepared(self.graph):
            self.console.print(line)
        self.progress.start()
        self.refresh()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.refresh()
        self.progress.stop()

    def refresh(self) -> None:
        total: Counter[str] = Counter(self.graph.stages[t.stage].name for t in self.graph.tasks)
        settled: Counter[str] = Counter(self.graph.stages[t.stage].name for t in self.graph.tasks if t.settled)
        for name, bar in self.bars.items():
            self.progress.update(bar, total=total[name], completed=settled[name])
        if not self.console.is_terminal and time.monotonic() - self.logged_at > LOG_INTERVAL_S:
            self.logged_at = time.monotonic()
            self.console.print("  ".join(f"{name} {settled[name]}/{total[name]}" for name in self.bars))

    def __call__(self, task: Task, outcome: Outcome) -> None:
        name = self.graph.stages[task.stage].name
        if outcome.state in (State.FAILED, State.RETRY):
            again = "" if outcome.state is State.FAILED else " (tried again by the next run)"
            what = f"{outcome.reason}: {outcome.message}{again}"
            self.progress.console.print(f"{name} {task.key}: {what}", style="yellow", markup=False)
        elif outcome.state is State.DONE and outcome.message:
            self.progress.console.print(f"{name} {task.key}: {outcome.message}", style="yellow", markup=False)
        self.refresh()
