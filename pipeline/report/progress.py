"""A run as a person sees it: one bar a stage, with the rate and the time left; then the shards' index."""

import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

from fitting.files import STANDIN, model_file, prior_source
from pipeline.dataset.index import write_index
from pipeline.engine.graph import Graph, State, Task, seat_of, table_of
from pipeline.engine.run import Executor, Local, OnRay, Summary, run
from pipeline.engine.worker import Outcome


class RateColumn(ProgressColumn):
    """Parts per second since the bar began to move."""

    def render(self, task: Bar) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.2g}/s" if speed else "", style="cyan")


LOG_INTERVAL_S = 30.0
"""Without a terminal, how often a line of progress is printed."""


class Bars:
    """Shows a graph's state; failures are printed above the bars as they come. Without a terminal: a plain line now and then."""

    def __init__(self, graph: Graph, console: Console) -> None:
        self.graph, self.console = graph, console
        columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, transient=False)
        self.logged_at = time.monotonic()
        self.bars = {name: self.progress.add_task(name, total=0) for name in dict.fromkeys(s.name for s in graph.stages)}

    def __enter__(self) -> "Bars":
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
            self.progress.console.print(f"{name} {task.key}: {outcome.reason}: {outcome.message}{again}", style="yellow", markup=False)
        elif outcome.state is State.DONE and outcome.message:
            self.progress.console.print(f"{name} {task.key}: {outcome.message}", style="yellow", markup=False)
        self.refresh()


def finish(graph: Graph, console: Console, *, local: bool = False, num_workers: int | None = None) -> Summary:
    """Run what is pending, here or on Ray; then bring the shards' index up to date and remove shards no longer wanted."""
    summary = Summary()
    if graph.pending:
        root, stages = graph.store.root, graph.stages
        executor: Executor = Local(root, stages) if local else OnRay(root, stages, [seat_of(stage) for stage in stages], num_workers)
        with Bars(graph, console) as bars:
            summary = run(graph, executor, on_outcome=bars)
    pack = next((stage for stage in graph.stages if stage.key == "shard"), None)
    if pack is not None:
        shards = graph.store.root / table_of(pack)
        wanted = {graph.store.part(table_of(pack), task.key) for task in graph.tasks if graph.stages[task.stage] is pack}
        for stale in set(shards.rglob("*.parquet")) - wanted:
            stale.unlink()
        if wanted:
            write_index(shards, hand_model="standin" if model_file() == STANDIN else "mano", pose_prior=prior_source())
        else:  # the last video was removed: nothing may go on naming it
            for name in ("index.json", "stats.json", "README.md"):
                (shards / name).unlink(missing_ok=True)
    return summary
