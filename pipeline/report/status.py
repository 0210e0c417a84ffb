"""The state of a run for a person: parts by stage, state and reason, every failure with its message."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column
from rich.table import Table as Grid

from pipeline.dataset.oddities import camera_lines, image_lines, odd_lines, odd_videos, path_lines
from pipeline.engine.graph import Graph
from pipeline.engine.plan.tasks import State, Task, table_of
from pipeline.engine.store import ErrorRecord
from pipeline.stage_settings import in_words
from pipeline.video_files import LeftOut
from stages.fit import Fit
from stages.stage import ADVICE, Reason, Stage


def unabridged(*names: str) -> list[Column]:
    """Columns of a table that break a word where the terminal is narrow, in place of leaving its end out."""
    return [Column(name, overflow="fold") for name in names]


def status_rows(graph: Graph) -> list[dict[str, Any]]:
    """Stage, state, reason, count and advice, in the order of the recipe."""
    order = {stage.name: position for position, stage in enumerate(graph.stages)}
    rows = []
    for (stage, state, reason), count in sorted(graph.counts().items(), key=lambda kv: (order[kv[0][0]], kv[0][1], kv[0][2])):
        advice = ADVICE[Reason(reason)] if reason in set(Reason) else ""
        rows.append({"stage": stage, "state": str(state), "reason": str(reason), "count": count, "advice": advice})
    return rows


def as_json(graph: Graph) -> dict[str, Any]:
    """The status as plain values, for programs."""
    by_stage: dict[str, dict[str, int]] = {stage.name: dict.fromkeys(State, 0) for stage in graph.stages}
    for (stage, state, _), count in graph.counts().items():
        by_stage[stage][state] += count
    reasons = [row for row in status_rows(graph) if row["reason"]]
    failed = [
        {"stage": graph.stages[task.stage].name, "key": task.key, "reason": error.reason, "message": error.message, "where": error.where}
        for task, error in told_failures(graph, failures(graph))
    ]
    return {"stages": by_stage, "reasons": reasons, "failures": failed, "num_videos_without_clips": len(graph.unknown_clips)}


def all_done(graph: Graph) -> bool:
    """Whether every part is there: none failed, none is left for the next run."""
    return all(state is State.DONE for _, state, _ in graph.counts())


def print_settings(settings: Mapping[str, Any], console: Console) -> None:
    """What the run's user set, if anything."""
    if settings:
        console.print(f"set by hand: {in_words(settings)}", markup=False)


def print_withheld(names: Sequence[str], console: Console) -> None:
    """Which settings of the folder's last run are not taken up, as they let others in or write elsewhere."""
    if names:
        told = ", ".join(names)
        console.print(f"not taken up from the folder's last run: {told}; a data folder grants nothing, say it with --set", markup=False)


def print_left_out(left_out: Sequence[LeftOut], console: Console, most: int = 10) -> None:
    """Which files and videos were not taken, and why."""
    if left_out:
        console.print(f"{len(left_out)} files or videos are not taken:", markup=False)
    for one in left_out[:most]:
        console.print(f"  {one}", markup=False)
    if len(left_out) > most:
        console.print(f"  and {len(left_out) - most} more: whim plan --json names all", markup=False)


def print_unlisted(videos: Sequence[str], console: Console, *, leave: bool) -> None:
    """Which videos of the last run the list no longer names, and what becomes of them."""
    if videos:
        some = ", ".join(videos[:5]) + (", ..." if len(videos) > 5 else "")
        fate = "and leave the dataset" if leave else "and stay; --leave lets them go"
        console.print(f"{len(videos)} videos of the last run are not in this list {fate}: {some}", markup=False)


def print_duplicates(duplicates: Mapping[str, str], console: Console) -> None:
    """Which videos have the content of another one."""
    if duplicates:
        some = ", ".join(f"{later} is {first}" for later, first in list(duplicates.items())[:5])
        console.print(f"{len(duplicates)} videos are the same content as another one, and share its split: {some}", markup=False)


def odd_of(graph: Graph) -> list[str]:
    """A line on each thing that is odd of videos, on whose cameras are known, and on their paths."""
    lines = [*image_lines(graph.manifest), *odd_lines(odd_videos(graph.odd))]
    return [*lines, *camera_lines(graph.cameras, focal_share(graph.stages)), *path_lines(graph.paths)]


def print_odd(graph: Graph, console: Console) -> None:
    """Which videos are read in another way than plain ones, and whose cameras are known."""
    for line in odd_of(graph):
        console.print(line, markup=False)


def focal_share(stages: Sequence[Stage]) -> float:
    """The focal length that a recipe assumes where nobody knows it, in longer sides."""
    return next((stage.focal_share for stage in stages if isinstance(stage, Fit)), Fit().focal_share)


def print_status(graph: Graph, console: Console, most: int = 50) -> None:
    """The status as a table, then the first failures with their messages, and how many more there are."""
    grid = Grid(*unabridged("stage", "state", "reason", "parts", "what to do"), title=escape(graph.store.name))
    for row in status_rows(graph):
        style = {"done": "green", "failed": "red", "retry": "yellow"}.get(row["state"], "")
        grid.add_row(row["stage"], row["state"], row["reason"], str(row["count"]), row["advice"], style=style)
    console.print(grid)
    if graph.stale:
        text = "parts are stale: made by an earlier run, and not made again for the reasons above; they stay until they have a successor"
        console.print(f"{len(graph.stale)} {text}", style="yellow", markup=False)
    print_duplicates(graph.duplicates, console)
    print_odd(graph, console)
    failed = failures(graph)
    for task, error in told_failures(graph, failed[:most]):
        where = f" [{error.where}]" if error.where else ""
        console.print(f"  {graph.stages[task.stage].name} {task.key}: {error.message}{where}", markup=False)
    if len(failed) > most:
        console.print(f"  and {len(failed) - most:,} more: whim status --json --data {graph.store.word()} names all", markup=False)


def told_failures(graph: Graph, failed: Sequence[Task]) -> Iterator[tuple[Task, ErrorRecord]]:
    """Those of some failures of which something is written down, with that."""
    for task in failed:
        if error := graph.store.error(table_of(graph.stages[task.stage]), task.key):
            yield task, error


def failures(graph: Graph) -> list[Task]:
    """Tasks that ended without a part of their own fault."""
    ended = graph.in_state(State.FAILED, State.RETRY, State.PENDING)
    return [task for task in ended if task.settled or task.reason]
