"""Which stages work together, and what their worker holds."""

from collections.abc import Sequence
from typing import NamedTuple

from stages.media.frames import Frames
from stages.stage import Stage


class Seat(NamedTuple):
    """What a worker holds, as in `Resources`. Groups that ask for the same share a pool."""

    cpus: float
    gpus: float
    lane: str
    environment: str


def groups_of(stages: Sequence[Stage]) -> list[tuple[int, ...]]:
    """Stages that work on stretches of frames and ask for the same worker form one group: the clip is decoded once for all of them. So do
    those that work on whole tables of a clip: what one makes the next one has without reading it.

    One that needs no GPU works in a group by stretches that holds one, so that it does not part two that do.
    """
    groups: list[list[int]] = []
    for position, stage in enumerate(stages):
        if groups and _go_together(stage, [stages[p] for p in groups[-1]]):
            groups[-1].append(position)
        else:
            groups.append([position])
    return [tuple(g) for g in groups]


def _go_together(stage: Stage, group: Sequence[Stage]) -> bool:
    """Whether a stage works on a clip in one go with the stages of a group."""
    if works_by_stretch(stage) and works_by_stretch(group[-1]):
        return _sit_together(stage, group)
    if not (stage.key == group[-1].key == "clip" and works_on_tables(stage) and works_on_tables(group[-1])):
        return False
    alike = (stage.resources.gpu_mb > 0) == (group[-1].resources.gpu_mb > 0)  # the share that one of them gets the other would see
    return alike and seat_of(stage) == seat_of_group(group)


def _sit_together(stage: Stage, group: Sequence[Stage]) -> bool:
    """Whether a stage asks for the worker that a group has, or for one without that one's GPU, to be there without any."""
    here, there = seat_of(stage), seat_of_group(group)
    return here == there or (Frames not in stage.reads and here._replace(gpus=there.gpus) == there)


def works_by_stretch(stage: Stage) -> bool:
    """Whether a stage may be called with a stretch of a clip's frames at a time."""
    return Frames in stage.reads or bool(getattr(stage, "by_frame", False))


def works_on_tables(stage: Stage) -> bool:
    """Whether a stage is called with whole tables of a clip or a video."""
    return stage.key != "shard" and not works_by_stretch(stage)


def seat_of(stage: Stage) -> Seat:
    """What a worker of the stage holds."""
    held = stage.resources
    return Seat(held.cpus, held.gpus, held.lane, held.environment)


def seat_of_group(stages: Sequence[Stage]) -> Seat:
    """What a worker of stages that work together holds: the first one's seat, with the GPU that any of them asks for."""
    return seat_of(stages[0])._replace(gpus=max(stage.resources.gpus for stage in stages))
