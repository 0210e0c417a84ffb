"""Recipes of one detector by either of its engines: `whim run --recipe tests/heavy/engines.py:vitpose_by_mmpose --videos FILE`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from stages.detect_hands_contacthands import DetectHandsContactHands
from stages.detect_people_blazepose import DetectPeople
from stages.download import Download
from stages.estimate_poses_vitpose import EstimatePoses
from stages.fuse_people import FusePeople
from stages.split import Split
from stages.stage import Key, Resources, Stage
from stages.tables import Manifest, PersonBoxes, PersonDetections, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxesOfPeople:
    """The people whom BlazePose finds, as a person detector would box them."""

    name: ClassVar[str] = "boxes-of-people"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (PersonDetections,)
    writes: ClassVar[type[Table]] = PersonBoxes
    detector: ClassVar[str] = "blazepose"
    resources: ClassVar[Resources] = Resources(cpus=1)
    weights: ClassVar[Mapping[str, str]] = {}

    def build(self) -> Callable[[PersonDetections], PersonBoxes]:
        """Nothing to load."""

        def boxes(people: PersonDetections) -> PersonBoxes:
            columns = {name: getattr(people, name) for name in ("video", "frame", "time_s", "source", "box", "score")}
            return PersonBoxes(**columns)

        return boxes


def vitpose(manifest: Manifest, root: Path, **settings: Any) -> list[Stage]:
    people: list[Stage] = [Download(folder=root / "media"), Split(), DetectPeople(), BoxesOfPeople()]
    return [*people, EstimatePoses(network="vitpose_wholebody_base", bf16=False, **settings)]


def contacthands(manifest: Manifest, root: Path, **settings: Any) -> list[Stage]:
    return [Download(folder=root / "media"), Split(), DetectPeople(), FusePeople(), DetectHandsContactHands(**settings)]


vitpose_by_transformers = partial(vitpose, engine="transformers")
vitpose_by_mmpose = partial(vitpose, engine="mmpose")
contacthands_by_torch = partial(contacthands, engine="torch")
contacthands_by_detectron2 = partial(contacthands, engine="detectron2")
