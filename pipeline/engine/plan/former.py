"""Fingerprints of earlier versions of data folders, by which a part made then is known to hold what would be made now.

`split` 1 read every video alike. Of a clip in which its later version found nothing `odd` both say the same: what was made of it stays
good. Where a video was put away its list of then stays.

In the layout before that, `people/<detector>` held what `person_detections/<detector>` holds, each stage that asked for people joined
all of those by the rule that `fuse-people` has now, and what fusion refused was written by a stage of its own. No table was other for it
but `people`: a detector's part is as good as it was, and no video is looked at again. Folders are renamed by `Store.lock`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stages.digest import fingerprint_of
from stages.fuse_people import FusePeople
from stages.stage import Stage
from stages.tables import Clips, People, PersonDetections, RefusedHands, Table

VERSIONS: Mapping[str, int] = {"split": 1}
"""Versions then of stages that have another one now, and whose rows tell where they differ."""

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
    def item(self) -> Mapping[str, Any]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def row(self) -> Table | None: ...


@dataclass(eq=False)
class Former:
    """Fingerprints that an earlier version would have given the tasks of a graph."""

    stages: Sequence[Stage]
    origins: Sequence[Mapping[str, Any]]
    """What of each stage decides its result, as in its recipes."""
    folders: Sequence[Mapping[type[Table], str]]
    """Where each stage's parts lie, by table."""
    one_people: bool
    """Whether people joined were no table of their own: the layout before."""
    known: dict[Made, dict[str, str]] = field(default_factory=dict)

    def needs(self, task: Made) -> Iterator[Any]:
        """The tasks whose parts a task read then: in place of people joined, all that person detectors found."""
        for need in task.needs:
            if self.one_people and isinstance(self.stages[need.stage], FusePeople) and FusePeople.version == RULE:
                yield from need.needs
            else:
                yield need

    def forget(self) -> None:
        """Let go of what is known: the tasks of a video hang on those of no other."""
        self.known.clear()

    def fingerprints(self, task: Made) -> dict[str, str]:
        """The fingerprint then of each of a task's parts, by the folder where it lies now; empty where there was no such part."""
        if task not in self.known:
            self.known[task] = self._fingerprints(task)
        return self.known[task]

    def _fingerprints(self, task: Made) -> dict[str, str]:
        stage, folders = self.stages[task.stage], self.folders[task.stage]
        if People in folders and self.one_people:
            return {}
        upstream = {}
        for need in self.needs(task):
            row = task.row if Clips in self.folders[need.stage] else None
            is_other = isinstance(row, Clips) and bool(row.odd[0])
            before = "" if is_other else next(iter(self.fingerprints(need).values()), "")
            upstream[f"{self._folder_then(need.stage)}/{need.key}"] = before or need.fingerprint
        origin = {**self.origins[task.stage]}
        origin["version"] = VERSIONS.get(origin["stage"], origin["version"])
        recipe = {**origin, "key": task.key, "item": dict(task.item), "upstream": upstream}
        found = {folder: fingerprint_of(recipe) for folder in folders.values()}
        if RefusedHands in folders and self.one_people:
            refused = {**recipe, "stage": "refuse-hands", "settings": {"fuse": str(stage)}}
            found[folders[RefusedHands]] = fingerprint_of(refused)
        return found

    def _folder_then(self, position: int) -> str:
        (folder, *_), detector = self.folders[position].values(), self.stages[position].detector
        return f"people/{detector}" if self.one_people and PersonDetections in self.folders[position] else folder
