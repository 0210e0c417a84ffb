"""People as a whole-body pose network sees them: their boxes, scores and 17 body keypoints, arms included."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from stages.stage import Key, Resources
from stages.tables import PersonDetections, Poses, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleOfPoses:
    """The bodies of one network's poses: WiLoR's ViTPose people (sec. 3), whose wrists, elbows and shoulders lead to hands."""

    name: ClassVar[str] = "people-of-poses"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Poses,)
    writes: ClassVar[type[Table]] = PersonDetections
    resources: ClassVar[Resources] = Resources(cpus=1)

    detector: str = "vitpose"
    """Whose poses."""

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[[Poses], PersonDetections]:
        return self._people

    def _people(self, poses: Poses) -> PersonDetections:
        mine = poses.take(poses.source == self.detector)
        return PersonDetections(
            video=mine.video,
            frame=mine.frame,
            time_s=mine.time_s,
            source=mine.source,
            person=mine.person,
            box=mine.box,
            score=mine.score,
            keypoints=mine.body,
        )
