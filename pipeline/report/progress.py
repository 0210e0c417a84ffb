"""A run as a person sees it: one bar a stage, with the rate and the time left."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from pipeline.engine.finish import prepared
from pipeline.engine.graph import Graph
from pipeline.engine.orders import Outcome
from pipeline.engine.plan.tasks import State, Task
from pipeline.report.pace import in_words, pace_of, read_receipts


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
        self.settled_then: Counter[str] = Counter()
        names = dict.fromkeys(stage.name for stage in graph.stages)
        self.bars = {name: self.progress.add_task(name, total=0) for name in names}

    def __enter__(self) -> "Bars":
        for line in prepared(self.graph):
            self.console.print(line, markup=False)
        self.progress.start()
        self.settled_then = self._by_name(self.graph.num_settled)
        self.refresh()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.refresh()
        self.progress.stop()

    def refresh(self) -> None:
        total, settled = (self._by_name(counts) for counts in (self.graph.num_tasks, self.graph.num_settled))
        for name, bar in self.bars.items():
            self.progress.update(bar, total=total[name], completed=settled[name])
        now = time.monotonic()
        if not self.console.is_terminal and now - self.logged_at > LOG_INTERVAL_S:
            for line in self._lines(total, settled, now):
                self.console.print(line, markup=False)
            self.logged_at, self.settled_then = now, settled

    def _by_name(self, counts: Mapping[int, int]) -> Counter[str]:
        by_name: Counter[str] = Counter()
        for position, count in counts.items():
            by_name[self.graph.stages[position].name] += count
        return by_name

    def _lines(self, total: Counter[str], settled: Counter[str], now: float) -> Iterator[str]:
        """How far each stage is, how fast since the last line, and the time left."""
        passed_s = now - self.logged_at
        rates = {name: (settled[name] - self.settled_then[name]) / passed_s for name in self.bars}
        parts = [
            f"{name} {settled[name]}/{total[name]}" + (f" {rates[name]:.2g}/s" if rates[name] else "") for name in self.bars if total[name]
        ]
        counts = self.graph.num_tasks
        remaining = {stage: counts[stage] - self.graph.num_settled[stage] for stage in counts}
        left_s = pace_of(read_receipts(self.graph.store.root)).left_s(remaining)
        later = f" and clips of {len(self.graph.unknown_clips)} videos" if self.graph.unknown_clips else ""
        yield f"{'  '.join(parts)}  left: {in_words(left_s)}{later}"

    def __call__(self, task: Task, outcome: Outcome) -> None:
        name = self.graph.stages[task.stage].name
        if outcome.state in (State.FAILED, State.RETRY):
            again = "" if outcome.state is State.FAILED else " (tried again by the next run)"
            where = f" [{outcome.where}]" if outcome.where else ""
            what = f"{outcome.reason}: {outcome.message}{where}{again}"
            self.progress.console.print(f"{name} {task.key}: {what}", style="yellow", markup=False)
        elif outcome.state is State.DONE and outcome.message:
            self.progress.console.print(f"{name} {task.key}: {outcome.message}", style="yellow", markup=False)
        self.refresh()
