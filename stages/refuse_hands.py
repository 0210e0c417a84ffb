"""Refuse hands: what detectors saw and fusion did not take for a hand, with the reason, for whoever reviews or tunes a dataset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from stages.fuse_hands import FuseHands, Weigh, candidates, frames_of
from stages.stage import Key, Resources
from stages.tables import Clips, HandDetections, People, RefusedHands, Table, Videos


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseHands:
    """The rest of what `FuseHands` weighs: a table beside its own, so that no detection goes unseen."""

    name: ClassVar[str] = "refuse-hands"
    version: ClassVar[int] = FuseHands.version
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = FuseHands.reads
    writes: ClassVar[type[Table]] = RefusedHands
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = FuseHands.resources

    fuse: FuseHands
    """Whose rest."""

    @property
    def weights(self) -> Mapping[str, str]:
        """Those of the fusion."""
        return self.fuse.weights

    def build(self) -> Callable[[Videos, Clips, People, HandDetections], RefusedHands]:
        """Load the calibration."""
        return partial(self._refuse, self.fuse.weigher())

    def _refuse(self, weigh: Weigh, videos: Videos, clips: Clips, people: People, detections: HandDetections) -> RefusedHands:
        """By frame, surest first within it."""
        frames = [candidates(self.fuse, *frame) for frame in frames_of(self.fuse, weigh, videos, people, detections)]
        seen = RefusedHands.concat(frames)
        refused = seen.take(seen.reason != "")
        return refused.take(np.lexsort((-refused.score, refused.frame)))
