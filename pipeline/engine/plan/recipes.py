"""What the parts of tasks are made from: recipes and their fingerprints, put together when they are asked for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from pipeline.engine.plan.columns import Columns
from pipeline.engine.plan.contents import Contents
from pipeline.engine.plan.inputs import Inputs
from pipeline.engine.plan.tasks import origin_of, table_of
from stages.stage import Stage
from stages.tables import Clips, Manifest

_GAPS = ("item", "key", "upstream")
"""What of a recipe is a task's own, in the order of its JSON; all else is its stage's."""

_MOST_KEPT = 1000
"""Fingerprints that are kept at hand: they are made from each other, within a video. All of a million clips would take too much."""


class Form:
    """The JSON of a stage's recipes but for what is each task's own: to write all of it for each task takes ten times as long."""

    def __init__(self, origin: Mapping[str, Any]) -> None:
        marks = {name: f"\0{name}" for name in _GAPS}
        text = json.dumps({**origin, **marks}, sort_keys=True)
        self._between: list[str] = []
        for mark in marks.values():
            before, _, text = text.partition(json.dumps(mark))
            self._between.append(before)
        self._end = text

    def fingerprint(self, item: str, key: str, upstream: Mapping[str, str]) -> str:
        """What `fingerprint_of` says of the recipe; `item` is JSON."""
        made_from = ", ".join(f"{quoted(name)}: {quoted(upstream[name])}" for name in sorted(upstream))
        one, two, three = self._between
        return hashlib.sha256(f"{one}{item}{two}{quoted(key)}{three}{{{made_from}}}{self._end}".encode()).hexdigest()


class Recipes:
    """Recipes, fingerprints and rows of the tasks in some columns."""

    def __init__(self, stages: Sequence[Stage], manifest: Manifest, columns: Columns, inputs: Inputs, contents: Contents) -> None:
        self.manifest, self.columns, self.inputs, self.contents = manifest, columns, inputs, contents
        self.origins = [origin_of(stage) for stage in stages]
        self.tables = [table_of(stage) for stage in stages]
        self._forms = [Form(origin) for origin in self.origins]
        self._kept: dict[int, str] = {}

    def origin(self, number: int) -> Mapping[str, Any]:
        """The stage of a task as recipes name it: name, version, and the settings that decide the result."""
        return self.origins[self.columns.stage[number]]

    def table(self, number: int) -> str:
        """Folder of a task's part, or of its first one."""
        return self.tables[self.columns.stage[number]]

    def item(self, number: int) -> Mapping[str, Any]:
        """The inputs of a task beside tables and settings: its line of the list, camera, verdicts."""
        item: dict[str, Any] = json.loads(self.inputs.item(number))
        return item

    def fingerprint(self, number: int) -> str:
        """sha256 of a task's recipe."""
        if number not in self._kept:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            form = self._forms[self.columns.stage[number]]
            self._kept[number] = form.fingerprint(self.inputs.item(number), self.columns.key(number), self._upstream(number))
        return self._kept[number]

    def drop_file(self) -> None:
        """Take back the task that was added last, one of a file: its number will be another one's."""
        self.columns.drop_file()
        self._kept.pop(len(self.columns), None)

    def _upstream(self, number: int) -> dict[str, str]:
        return {f"{self.table(need)}/{self.columns.key(need)}": self.fingerprint(need) for need in self.columns.needs(number)}

    def recipe(self, number: int) -> dict[str, Any]:
        """Everything that a task's parts are made from, with its fingerprint."""
        own = {"key": self.columns.key(number), "item": self.item(number), "upstream": self._upstream(number)}
        return {**self.origin(number), **own, "fingerprint": self.fingerprint(number)}

    def row(self, number: int) -> Manifest | Clips | None:
        """The line of the manifest or of the clip list that a task is about. Raises CorruptFileError, FileNotFoundError."""
        video, about = self.columns.video(number), self.columns.about[number]
        if video is None:
            return None
        if self.columns.kinds[self.columns.stage[number]] == "video":
            return self.manifest.take(slice(video, video + 1))
        place = about - self.columns.clips_of(video).start
        return self.contents.clips(self.columns.videos[video]).take(slice(place, place + 1))
