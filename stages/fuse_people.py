"""Fuse people: each person of every frame once, however many detectors saw them, under the number that hands name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stages.fusion.people import union_of_people
from stages.stage import Key, Resources
from stages.tables import People, PersonDetections, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class FusePeople:
    """Join what all person detectors found by weighted boxes fusion (WiLoR, sec. 3, has two; how it joins them is unsaid)."""

    name: ClassVar[str] = "fuse-people"
    version: ClassVar[int] = 2
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (PersonDetections,)
    writes: ClassVar[type[Table]] = People
    by_frame: ClassVar[bool] = True
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=1.0, limit_s=120.0)

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[[PersonDetections], People]:
        return fuse_people


def fuse_people(found: PersonDetections) -> People:
    """The people of a clip, frame by frame, surest first within it."""
    return People.concat([union_of_people(found.take(found.frame == frame)) for frame in np.unique(found.frame)])
