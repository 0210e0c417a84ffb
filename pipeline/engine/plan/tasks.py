"""What is to be made: a task is one stage for one key, with what it is made from, where it stands and why."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from stages.digest import fingerprint_of
from stages.stage import Stage, settings_of, tables_written
from stages.tables import Table


class State(StrEnum):
    """Where a task stands. The last four are settled: nothing more happens to them in this run."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    RETRY = "retry"
    BLOCKED = "blocked"


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


class Line(NamedTuple):
    """A line of the manifest or of a clip list, where it lies: the tasks of a clip share it."""

    table: Table
    place: int
    video: str

    @property
    def row(self) -> Table:
        """The line as a table of one row."""
        return self.table.take(slice(self.place, self.place + 1))


@dataclass(slots=True, eq=False)
class Task:
    """What one stage makes, or is to make, for one key: a part, or one of each table that it writes."""

    stage: int
    """Position in the recipe's list of stages."""
    key: str
    shard: str
    origin: Mapping[str, Any]
    """What of the stage decides the result, as all of its tasks have it."""
    table: str
    """Folder of its part, or of its first one."""
    item: Mapping[str, Any]
    """What of the video or clip decides the result."""
    needs: tuple["Task", ...] = ()
    line: "Line | None" = None
    """The line of the manifest or of the clip list that the task is about."""
    state: State = State.PENDING
    why: Why | None = None
    reason: str = ""
    stale: bool = False
    """Whether a part lies there that an earlier run made from something else: it stays until this one is committed."""
    fingerprint: str = field(init=False)
    """sha256 of what its parts are made from; all of them carry it."""

    def __post_init__(self) -> None:
        self.fingerprint = fingerprint_of(self._made_from())

    def _made_from(self) -> dict[str, Any]:
        upstream = {f"{need.table}/{need.key}": need.fingerprint for need in self.needs}
        return {**self.origin, "key": self.key, "item": dict(self.item), "upstream": upstream}

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that its parts are made from, with its fingerprint; put together when it is asked for, as there are many tasks."""
        return {**self._made_from(), "fingerprint": self.fingerprint}

    @property
    def row(self) -> Table | None:
        """The line that the task is about, as a table of one row."""
        return None if self.line is None else self.line.row

    @property
    def again(self) -> bool:
        """Whether a video is only fetched or looked at again: what was made from it is as good as it was."""
        return self.why in (Why.MISSING, Why.PROBE)

    @property
    def settled(self) -> bool:
        return self.state is not State.PENDING


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
