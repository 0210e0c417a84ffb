"""The ensemble's members that can run here: a network whose weights nobody fetched is left out, and the run goes on without it.

A member is the stages that only make sense together, such as a pose network and those that read its poses.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fitting.landmarks.offsets import LANDMARK_OFFSETS
from stages.detectors.weights import MissingWeights
from stages.fuse_hands import FuseHands
from stages.fusion.calibration import EMBEDDED
from stages.media.frames import Frames
from stages.stage import Stage, tables_written
from stages.tables import HandDetections, Verdicts

Member = Sequence[Stage]

_log = logging.getLogger(__name__)


def with_weights(before: Iterable[Stage], members: Iterable[Member]) -> list[Stage]:
    """The stages of those members whose weights are here and whose inputs some stage `before` them writes, in order.

    Every other one is logged: which, where its weights come from, under which licence.
    """
    written: set[type] = {Frames, Verdicts, *(kind for stage in before for kind in tables_written(stage))}
    kept: list[Stage] = []
    for member in members:
        reason = _why_not(member, written)
        if reason:
            _log.warning("%s left out: %s", " and ".join(dict.fromkeys(f"{stage.name} by {stage.detector}" for stage in member)), reason)
            continue
        kept += member
        written |= {kind for stage in member for kind in tables_written(stage)}
    return kept


def _why_not(member: Member, written: set[type]) -> str:
    """Why a member cannot run; '' when it can."""
    here = set(written)
    for stage in member:
        try:
            _ = stage.weights
        except MissingWeights as error:
            return str(error)
        lacking = sorted(table.__name__ for table in stage.reads if table not in here and table not in getattr(stage, "may_lack", ()))
        if lacking:
            return f"nothing here writes the {' and '.join(lacking)} that it reads"
        here |= set(tables_written(stage))
    return ""


def with_detector(stages: Sequence[Stage], detector: Stage) -> list[Stage]:
    """A recipe with one more source of hands after its others, and its fusion told of it."""
    ((place, fuse),) = ((i, stage) for i, stage in enumerate(stages) if isinstance(stage, FuseHands))
    finders = [*stages[:place], detector]
    told = replace(fuse, detectors=hand_detectors(finders))
    say_uncalibrated(told)
    return [*finders, told, *stages[place + 1 :]]


def say_uncalibrated(fuse: FuseHands) -> None:
    """Log which detectors fusion takes at their word, and how to mend it."""
    if fuse.uncalibrated:
        _log.warning(
            "nobody calibrated %s: their own boxes and scores count as they are, and their landmarks for the model's joints. %s. whim learn"
            " all learns it of every member",
            ", ".join(fuse.uncalibrated),
            cost_of_none(),
        )


def cost_of_none() -> str:
    """What it costs to take a detector at its word, as it was measured of MediaPipe."""
    brier = json.loads(EMBEDDED.read_text())["sources"]["mediapipe"]["brier"]
    known = json.loads(LANDMARK_OFFSETS.read_text())["detectors"]["mediapipe"]
    before, after = (sum(known[name]) / len(known[name]) for name in ("error_before", "error_after"))
    return (
        f"Of MediaPipe that costs a squared error of scores of {brier['raw']:.2f} in place of {brier['held_out']:.2f}, and landmarks"
        f" {before:.1%} of a hand off in place of {after:.1%}"
    )


def hand_detectors(stages: Iterable[Stage]) -> tuple[str, ...]:
    """Names of the sources of hands among these stages: what `FuseHands.detectors` must list."""
    return tuple(stage.detector for stage in stages if stage.writes is HandDetections)
