"""Brings every part of a graph to an end, from what is pending to shards that hold nothing that is no longer wanted."""

from collections.abc import Callable
from pathlib import Path

from pipeline.engine.graph import Graph, Task, seat_of, table_of
from pipeline.engine.run import Executor, Local, OnRay, Summary, run
from pipeline.engine.worker import Outcome


def finish(graph: Graph, *, local: bool = False, num_workers: int | None = None, on_outcome: Callable[[Task, Outcome], None]) -> Summary:
    """Run what is pending, in this process or on Ray; then remove the shards that no task wants any more.

    `on_outcome` is called after each task. The shards' index is the caller's to renew (`pipeline.dataset.index.renew_index`).
    """
    summary = Summary()
    if graph.pending:
        root, stages = graph.store.root, graph.stages
        executor: Executor = Local(root, stages) if local else OnRay(root, stages, [seat_of(stage) for stage in stages], num_workers)
        summary = run(graph, executor, on_outcome=on_outcome)
    folder = shards_folder(graph)
    if folder is not None:
        wanted = {graph.store.part(folder.name, task.key) for task in graph.tasks if graph.stages[task.stage].key == "shard"}
        for stale in set(folder.rglob("*.parquet")) - wanted:
            stale.unlink()
    return summary


def shards_folder(graph: Graph) -> Path | None:
    """Where the recipe's shards lie; None for a recipe that makes none."""
    pack = next((stage for stage in graph.stages if stage.key == "shard"), None)
    return None if pack is None else graph.store.root / table_of(pack)
