"""The last lines of a run: what was found and kept, where it lies, what failed and why, and what to type next."""

from collections import Counter

from rich.console import Console

from pipeline.engine.finish import shard_files
from pipeline.engine.graph import Graph
from pipeline.engine.plan.tasks import State, tables_of
from pipeline.report.status import all_done
from stages.tables import Hands, Reviews


def print_ending(graph: Graph, console: Console) -> None:
    """Tell how a run ended."""
    made = {table for stage in graph.stages for table in tables_of(stage)}
    found, kept, box_only = hands_of(graph)
    files = shard_files(graph)
    paths = [*files.current, *files.stale] if files else []
    listed = graph.store.read_list(f"{files.folder.name}/index.json", "shards", rows=int) if files else []
    rows = sum(entry["rows"] for entry in listed)
    shards = f"{len(paths)} shard{'s' if len(paths) > 1 else ''}"
    lies = f"; {rows:,} frames in {shards}: {graph.store.shown(files.folder)}" if files and paths else "; no shard yet" if files else ""
    doubtful = f" ({box_only:,} for box and side alone)" if box_only else ""
    if Hands in made:  # else the run ended before (--until): what it did not look at it says nothing of
        console.print(f"hands: {found:,} found{f', {kept:,} kept{doubtful}' if Reviews in made else ''}{lies}", markup=False)
    for state, words in ((State.FAILED, "failed for good"), (State.RETRY, "left for the next run"), (State.BLOCKED, "not reached")):
        reasons = Counter(task.reason for task in graph.in_state(state))
        if reasons:
            which = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
            console.print(f"{words}: {reasons.total():,} ({which})", markup=False)
    console.print(f"next: {_next(graph, has_shards=bool(paths))}", markup=False)


def hands_of(graph: Graph) -> tuple[int, int, int]:
    """How many hands were found, how many of them the review kept, and how many of these without their landmarks."""
    found = kept = box_only = 0
    for task in graph.tasks:
        tables = tables_of(graph.stages[task.stage]) if task.state is State.DONE else {}
        if Hands in tables:
            found += graph.store.num_rows(tables[Hands], task.key)
        if Reviews in tables:
            reviews = graph.store.read(Reviews, tables[Reviews], task.key)
            kept += int(reviews.keep.sum())
            box_only += int((reviews.keep & reviews.box_only).sum())
    return found, kept, box_only


def _next(graph: Graph, *, has_shards: bool) -> str:
    data = f"--data {graph.store.word()}"
    if graph.in_state(State.RETRY):
        return f"whim run {data} (tries again what can be), whim status {data} (what failed, and how to mend it)"
    if not all_done(graph):
        return f"whim status {data} (what failed, and how to mend it), whim retry {data} once it is mended"
    look = f"whim browse {graph.store.word()} (look and correct), whim report {data}"
    return look + (f", whim train detector --data {graph.store.word('shards')}" if has_shards else "")
