"""What a person asks of a run first: which videos are there, which failed and what to do, what became shards, what is odd of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.audits import card_lines
from pipeline.engine.finish import shard_files
from pipeline.engine.graph import Graph
from pipeline.engine.plan.tasks import State, Task, table_of
from pipeline.report.status import failures, odd_of, status_rows
from pipeline.stage_settings import in_words
from stages.digest import CorruptFileError
from stages.stage import ADVICE, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """One part that a run could not make, with its error as it was told."""

    key: str
    source: str
    """The line of the list that it comes from, or ''."""
    stage: str
    state: str
    reason: str
    message: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSize:
    """The shards of one split together."""

    split: str
    num_shards: int
    num_bytes: int
    num_frames: int
    num_hands: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The answers, in plain values; those of a folder that nobody planned are empty."""

    status: Sequence[Mapping[str, Any]] = ()
    """A mapping a line: stage, state (done, pending, retry, blocked, failed), reason, count, advice."""
    num_listed: int = 0
    num_here: int = 0
    failed: Sequence[Failed] = ()
    splits: Sequence[SplitSize] = ()
    duplicates: Mapping[str, str] | None = None
    """Videos of the same content as another one, which stands beside."""
    stale: Sequence[str] = ()
    """Parts and shards of an earlier run that have no successor."""
    audits: Sequence[str] = ()
    """What people found who looked at hands drawn by chance, a sentence each."""
    odd: Sequence[str] = ()
    settings: str = ""
    left_out: Sequence[tuple[str, str]] = ()
    """Files beside the videos that were not taken, and why."""
    damaged: Sequence[str] = ()
    """Files of the folder that cannot be read, a sentence each: what they say is not here."""

    @property
    def counts(self) -> Counter[str]:
        """Parts by state."""
        return sum((Counter({line["state"]: line["count"]}) for line in self.status), Counter())


UNPLANNED = Overview()
"""Of a folder whose run is not known."""


def overview_of(graph: Graph) -> Overview:
    """The overview of a run's folder."""
    store, shards = graph.store, shard_files(graph)
    stale = [f"{graph.stages[task.stage].name} {task.key}" for task in graph.stale]
    damaged: list[str] = []

    def listed(name: str, key: str, /, **kinds: type) -> list[dict[str, Any]]:
        try:
            return store.read_list(name, key, **kinds)
        except CorruptFileError as error:
            damaged.append(str(error))
            return []

    return Overview(
        status=status_rows(graph),
        num_listed=len(graph.manifest),
        num_here=graph.counts()["download", State.DONE, ""],
        failed=[_failed(graph, task) for task in failures(graph)],
        splits=_splits(listed("shards/index.json", "shards", split=str, bytes=int, rows=int, hands=int)),
        duplicates=graph.duplicates,
        stale=[*stale, *(path.relative_to(store.root).as_posix() for path in (shards.stale if shards else ()))],
        audits=card_lines(store),
        odd=odd_of(graph),
        settings=in_words((store.read_json("run.json") or {}).get("settings", {})),
        left_out=[(one["name"], one["why"]) for one in listed("left_out.json", "files", name=str, why=str)],
        damaged=damaged,
    )


def _failed(graph: Graph, task: Task) -> Failed:
    stage = graph.stages[task.stage]
    error = graph.store.error(table_of(stage), task.key)
    sources = dict(zip(graph.manifest.video.tolist(), graph.manifest.source.tolist(), strict=True))
    return Failed(
        key=task.key,
        source=sources.get(task.key, ""),
        stage=stage.name,
        state=str(task.state),
        reason=str(task.reason),
        message=error.message if error else "",
        advice=ADVICE[Reason(task.reason)] if task.reason in set(Reason) else "",
    )


def _splits(shards: Sequence[Mapping[str, Any]]) -> list[SplitSize]:
    return [
        SplitSize(
            split=split,
            num_shards=len(own := [one for one in shards if one["split"] == split]),
            num_bytes=sum(one["bytes"] for one in own),
            num_frames=sum(one["rows"] for one in own),
            num_hands=sum(one["hands"] for one in own),
        )
        for split in ("train", "val", "test")
        if any(one["split"] == split for one in shards)
    ]
