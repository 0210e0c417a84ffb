"""A run of a data folder in this process, and what it made."""

from pathlib import Path

from pipeline.dataset.index import renew_index
from pipeline.engine.finish import Where, finish, shard_files
from pipeline.engine.graph import Task
from pipeline.engine.worker import Outcome
from pipeline.folder import Asked, load

SETTINGS = {"split.frames_per_second": 1.5, "pack.num_shards": 1, "pack.negatives": 1.0}


def run_again(root: Path, asked: Asked | None = None) -> list[tuple[str, str]]:
    """Run what is pending in a data folder; stage and key of all that was made."""
    made: list[tuple[str, str]] = []
    graph = load(root, asked or Asked(), remember=True).graph

    def note(task: Task, outcome: Outcome) -> None:
        assert outcome.state == "done", outcome
        made.append((graph.stages[task.stage].name, task.key))

    finish(graph, Where(local=True), on_outcome=note)
    renew_index(shard_files(graph))
    return made
