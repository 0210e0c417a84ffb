"""Fuse people: everybody of every frame once, numbered as hands name them, however many detectors saw them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from stages.fusion.people import union_of_people
from stages.stage import Key, Resources
from stages.tables import Everybody, People, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class FusePeople:
    """Join the tables of all person detectors by weighted boxes fusion (WiLoR, sec. 3, has two; how it joins them is unsaid).

    It has no settings: the stages that look for hands number people by the same rule, without waiting for this table.
    """

    name: ClassVar[str] = "fuse-people"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (People,)
    writes: ClassVar[type[Table]] = Everybody
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=1.0, limit_s=120.0)

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[[People], Everybody]:
        return everybody_of


def everybody_of(people: People) -> Everybody:
    """Frame by frame, surest first within it."""
    once = People.concat([union_of_people(people.take(people.frame == frame)) for frame in np.unique(people.frame)])
    return Everybody(**{field.name: getattr(once, field.name) for field in fields(People)})
