"""What is to be made: a task is one stage for one key, with what it is made from, where it stands and why."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, overload

from stages.stage import Stage, settings_of, tables_written
from stages.tables import Table

if TYPE_CHECKING:
    from pipeline.engine.plan.columns import Columns


class State(StrEnum):
    """Where a task stands. The last four are settled: nothing more happens to them in this run."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    RETRY = "retry"
    BLOCKED = "blocked"


BAD = (State.FAILED, State.RETRY, State.BLOCKED)
"""States of tasks that ended without a part."""


class Why(StrEnum):
    """Why a task is pending."""

    NEW = "new"
    SETTINGS = "settings changed"
    CODE = "code version changed"
    WEIGHTS = "weights changed"
    UPSTREAM = "upstream changed"
    CORRUPT = "corrupt"
    MISSING = "its file is gone"
    INPUT = "input changed"
    PROBE = "more is asked of its file"
    RETRY = "retry"


def tables_of(stage: Stage) -> dict[type[Table], str]:
    """Folders of a stage's parts by table: hand_detections/mediapipe."""
    names = {kind: "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("_") for kind in tables_written(stage)}
    return {kind: f"{name}/{stage.detector}" if stage.detector else name for kind, name in names.items()}


def table_of(stage: Stage) -> str:
    """Folder of a stage's parts, of its first table where it writes several: its failures lie there, and its name goes by it."""
    return next(iter(tables_of(stage).values()))


def origin_of(stage: Stage) -> dict[str, Any]:
    """What of a stage decides its result: name, code version, settings, weights; as JSON would give it back."""
    origin = {
        "stage": stage.name,
        "detector": stage.detector,
        "version": stage.version,
        "settings": identity_of(stage),
        "weights": dict(stage.weights),
    }
    as_json: dict[str, Any] = json.loads(json.dumps(origin, default=str))
    return as_json


def identity_of(stage: Stage) -> dict[str, Any]:
    """The settings that decide a stage's result, by name.

    One that is younger than data folders (`later`) counts where it is not its default: parts made without it stay good.
    """
    return {
        one.name: value
        for one, value in settings_of(stage)
        if one.metadata.get("identity", True) and not (one.metadata.get("later") and value == one.default)
    }


class Source(Protocol):
    """The plan that tasks are of: what is to be known of each is asked of it by the task's number."""

    @property
    def columns(self) -> "Columns": ...
    def origin(self, number: int) -> Mapping[str, Any]: ...
    def table(self, number: int) -> str: ...
    def item(self, number: int) -> Mapping[str, Any]: ...
    def fingerprint(self, number: int) -> str: ...
    def recipe(self, number: int) -> dict[str, Any]: ...
    def row(self, number: int) -> Table | None: ...


@dataclass(frozen=True, slots=True)
class Task:
    """What one stage makes, or is to make, for one key: a part, or one of each table that it writes.

    It is a number in the columns of its plan, and holds nothing: there are many tasks, and few are asked for.
    """

    source: Source = field(repr=False, hash=False)
    number: int

    @property
    def stage(self) -> int:
        """Position in the recipe's list of stages."""
        return self.source.columns.stage[self.number]

    @property
    def key(self) -> str:
        return self.source.columns.key(self.number)

    @property
    def shard(self) -> str:
        return self.source.columns.shards[self.source.columns.shard(self.number)]

    @property
    def origin(self) -> Mapping[str, Any]:
        """What of the stage decides the result, as all of its tasks have it."""
        return self.source.origin(self.number)

    @property
    def table(self) -> str:
        """Folder of its part, or of its first one."""
        return self.source.table(self.number)

    @property
    def item(self) -> Mapping[str, Any]:
        """What of the video or clip decides the result."""
        return self.source.item(self.number)

    @property
    def needs(self) -> tuple["Task", ...]:
        return tuple(Task(self.source, number) for number in self.source.columns.needs(self.number))

    @property
    def fingerprint(self) -> str:
        """sha256 of what its parts are made from; all of them carry it."""
        return self.source.fingerprint(self.number)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that its parts are made from, with its fingerprint."""
        return self.source.recipe(self.number)

    @property
    def row(self) -> Table | None:
        """The line of the manifest or of the clip list that the task is about, as a table of one row; None of a shard."""
        return self.source.row(self.number)

    @property
    def state(self) -> State:
        return self.source.columns.state(self.number)

    @property
    def why(self) -> Why | None:
        return self.source.columns.why(self.number)

    @property
    def reason(self) -> str:
        return self.source.columns.reason(self.number)

    @property
    def stale(self) -> bool:
        """Whether a part lies there that an earlier run made from something else: it stays until this one is committed."""
        return bool(self.source.columns.stale[self.number])

    @property
    def again(self) -> bool:
        """Whether a video is only fetched or looked at again: what was made from it is as good as it was."""
        return self.source.columns.again(self.number)

    @property
    def settled(self) -> bool:
        return self.state is not State.PENDING


@dataclass(frozen=True, eq=False)
class Tasks(Sequence[Task]):
    """All tasks of a plan, each made when it is asked for."""

    source: Source

    def __len__(self) -> int:
        return len(self.source.columns)

    @overload
    def __getitem__(self, place: int) -> Task: ...
    @overload
    def __getitem__(self, place: slice) -> list[Task]: ...
    def __getitem__(self, place: int | slice) -> Task | list[Task]:
        numbers = range(len(self))[place]
        return Task(self.source, numbers) if isinstance(numbers, int) else [Task(self.source, number) for number in numbers]


@dataclass(frozen=True, slots=True)
class Item:
    """What a worker does in one go: the pending tasks of one group of stages for one key."""

    group: int
    key: str
    tasks: tuple[Task, ...]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Why:
    """The first thing that differs between the recipe of the part that lies there and the one wanted."""
    for name, why in (("version", Why.CODE), ("settings", Why.SETTINGS), ("weights", Why.WEIGHTS), ("item", Why.INPUT)):
        if old.get(name) != new.get(name):
            return why
    return Why.UPSTREAM
