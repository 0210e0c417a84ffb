"""A run watched from beside it, by whoever sees its data folder: `whim status --watch`."""

import fcntl
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from pipeline.engine.durable import mirror_of
from pipeline.engine.graph import Graph
from pipeline.engine.plan.tasks import State
from pipeline.report.pace import in_words, pace_of, read_receipts
from pipeline.report.status import unabridged


def watch(load: Callable[[], Graph], console: Console, every_s: float) -> None:
    """Show the run every so often until no driver holds its folder; a folder that takes long to plan is looked at less often."""
    while True:
        at_work, start = is_driven((graph := load()).store.root), time.monotonic()
        if console.is_terminal:
            console.clear()
        show(graph, console)
        if not at_work:
            console.print(f"no run is at work on {graph.store.name}", markup=False)
            return
        if console.quiet:  # nobody reads any more
            return
        time.sleep(max(every_s, 10 * (time.monotonic() - start)))


def is_driven(root: Path) -> bool:
    """Whether some driver holds the folder, on this machine or, of an object store, anywhere; the lock is only felt for."""
    if mirror := mirror_of(root):
        return mirror.is_driven()
    try:
        with (root / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def show(graph: Graph, console: Console) -> None:
    """Stages with rate and time left, nodes with their memory, and what took many times as long as others."""
    pace = pace_of(read_receipts(graph.store.root))
    states = graph.states()
    grid = Grid(*unabridged("stage", "done", "failed", "to do", "parts/s", "median s", "seconds"), title=escape(graph.store.name))
    remaining = {}
    for position, stage in enumerate(graph.stages):
        done, failed = states[position, State.DONE], sum(states[position, s] for s in (State.FAILED, State.RETRY, State.BLOCKED))
        remaining[position] = states[position, State.PENDING]
        known = pace.stages.get(position)
        took = [f"{known.per_s:.2g}", f"{known.median_s:.2f}", f"{known.seconds:,.0f}"] if known else ["", "", ""]
        name = " by ".join(filter(None, (stage.name, stage.detector)))
        grid.add_row(name, f"{done:,}", f"{failed:,}", f"{remaining[position]:,}", *took)
    console.print(grid)
    nodes = Grid(*unabridged("node", "items", "seconds", "largest worker", "last heard of"))
    for host, node in pace.nodes.items():
        nodes.add_row(
            host or "?",
            f"{node.num_items:,}",
            f"{node.seconds:,.0f}",
            f"{node.peak_mb:,.0f} MiB",
            f"{max(0, time.time() - node.last_s):.0f} s ago",
        )
    if pace.nodes:
        console.print(nodes)
    later = f", and what {len(graph.unknown_clips)} videos hold that are not split yet" if graph.unknown_clips else ""
    console.print(f"{pace.at_once:.1f} workers at once; left: {in_words(pace.left_s(remaining))}{later}", markup=False)
    for seconds, key, position in pace.slowest:
        console.print(
            f"{graph.stages[position].name} {key} took {seconds:.0f} s, others {pace.stages[position].median_s:.1f} s", markup=False
        )
