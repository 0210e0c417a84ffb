"""A run of a data folder in this process, and what it made."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from pipeline.dataset.index import renew_index
from pipeline.engine.finish import Where, finish, shard_files
from pipeline.engine.orders import Outcome
from pipeline.engine.plan.tasks import Task
from pipeline.engine.store import Store
from pipeline.folder import Asked, load
from stages.tables import Hands, RefusedHands

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


def with_refused(data: Path, clip: str = "asl_bird-0000") -> tuple[int, np.ndarray]:
    """Candidates that fusion refused, on the first frame of a clip: its frame, and their boxes."""
    store = Store(data)
    hands = store.read(Hands, "hands", clip)
    first = hands.take(np.flatnonzero(hands.frame == hands.frame[0])[[0, 0]])
    columns = {field.name: getattr(first, field.name) for field in fields(Hands)}
    columns["box"] = np.array([[20, 30, 80, 110], [300, 10, 350, 70]], np.float32)
    columns |= {"side": np.array([1, -1], np.int8), "score": np.array([0.2, 0.1], np.float32)}
    refused = RefusedHands(**columns, reason=np.array(["weak", "lone"], object))
    store.commit("refused_hands", clip, refused, store.made_by("refused_hands", clip) or {})
    return int(hands.frame[0]), refused.box
