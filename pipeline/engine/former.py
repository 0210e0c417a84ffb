"""Fingerprints of the previous layout of data folders, by which a part made then is known to hold what would be made now.

Then `people/<detector>` held what `person_detections/<detector>` holds, each stage that asked for people joined all of those by the rule
that `fuse-people` has now, and what fusion refused was written by a stage of its own. No table was other for it but `people`: a detector's
part is as good as it was, and no video is looked at again. Folders are renamed by `Store.lock`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stages.digest import fingerprint_of
from stages.fuse_people import FusePeople
from stages.stage import Stage
from stages.tables import People, PersonDetections, RefusedHands, Table

RULE = 2
"""Version of `fuse-people` whose rule is the one of before; under a later one the parts of before are stale."""


class Made(Protocol):
    """A task of the graph, as far as its fingerprint hangs on it."""

    @property
    def stage(self) -> int: ...
    @property
    def key(self) -> str: ...
    @property
    def needs(self) -> "tuple[Made, ...]": ...
    @property
    def recipe(self) -> Mapping[str, Any]: ...


@dataclass(eq=False)
class Former:
    """What the layout before would have had for the tasks of a graph."""

    stages: Sequence[Stage]
    origins: Sequence[Mapping[str, Any]]
    """What of each stage decides its result, as in its recipes."""
    folders: Sequence[Mapping[type[Table], str]]
    """Where each stage's parts lie, by table."""
    known: dict[Made, dict[str, str]] = field(default_factory=dict)

    def needs(self, task: Made) -> Iterator[Any]:
        """The tasks whose parts a task read then: in place of people joined, all that person detectors found."""
        for need in task.needs:
            if isinstance(self.stages[need.stage], FusePeople) and FusePeople.version == RULE:
                yield from need.needs
            else:
                yield need

    def fingerprints(self, task: Made) -> dict[str, str]:
        """The fingerprint then of each of a task's parts, by the folder where it lies now; empty where there was no such part."""
        if task not in self.known:
            self.known[task] = self._fingerprints(task)
        return self.known[task]

    def _fingerprints(self, task: Made) -> dict[str, str]:
        stage, folders = self.stages[task.stage], self.folders[task.stage]
        if People in folders:
            return {}
        upstream = {}
        for need in self.needs(task):
            before = next(iter(self.fingerprints(need).values()), str(need.recipe["fingerprint"]))
            upstream[f"{self._folder_then(need.stage)}/{need.key}"] = before
        recipe = {**self.origins[task.stage], "key": task.key, "item": task.recipe["item"], "upstream": upstream}
        found = {folder: fingerprint_of(recipe) for folder in folders.values()}
        if RefusedHands in folders:
            refused = {**recipe, "stage": "refuse-hands", "settings": {"fuse": str(stage)}}
            found[folders[RefusedHands]] = fingerprint_of(refused)
        return found

    def _folder_then(self, position: int) -> str:
        (folder, *_), detector = self.folders[position].values(), self.stages[position].detector
        return f"people/{detector}" if PersonDetections in self.folders[position] else folder
