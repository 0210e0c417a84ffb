"""Whether labels lie on the frames that they were drawn on: their boxes against those of our own detectors, over offsets and rates.

A label names a frame by its number at the rate of the film that its annotators had. The film here may begin later, lack a part, or run
at another rate; then labels drift off the hands, and no length or size tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float

from stages import boxes

RATES = (15.0, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60000 / 1001, 60.0)
"""Frames a second that films have, beside the one that is told."""
Boxes = Float[np.ndarray, "_ 4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How label numbers become times: time = number / rate + offset_s, and how well they then lie on what was detected."""

    rate: float
    offset_s: float
    overlap: float
    """Mean over the frames that have both of how much of each detected hand the nearest label covers (IoU), in [0, 1]."""
    num_frames: int

    def number_at(self, time_s: float) -> int:
        """The label that is of a moment."""
        return round((time_s - self.offset_s) * self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchrony:
    """Labels as they are told, and at their best."""

    told: Step
    best: Step

    def __str__(self) -> str:
        """Figures for a person."""
        return (
            f"overlap {self.told.overlap:.2f} as told ({self.told.rate:.2f} frames/s), at best {self.best.overlap:.2f} "
            f"({self.best.rate:.2f} frames/s, {self.best.offset_s:+.2f} s), of {self.told.num_frames} and {self.best.num_frames} frames"
        )


def synchrony(labels: Mapping[int, Boxes], seen: Sequence[tuple[float, Boxes]], rate: float, window_s: float) -> Synchrony:
    """Labels by number against detections by time: every offset of whole label frames within a window, at the told rate and others.

    A step that loses more than half of the frames that another one has to compare counts for nothing: few frames overlap by chance.
    """

    @cache
    def covered(frame: int, number: int) -> float:
        label = labels.get(number)
        if label is None or not len(label):
            return np.nan
        return float(boxes.iou(seen[frame][1].astype(np.float64), label.astype(np.float64)).max(1).mean())

    def step(of_rate: float, offset_s: float) -> Step:
        blank = Step(rate=of_rate, offset_s=offset_s, overlap=0.0, num_frames=0)
        overlaps = np.array([covered(k, blank.number_at(time_s)) for k, (time_s, box) in enumerate(seen) if len(box)])
        overlaps = overlaps[np.isfinite(overlaps)]
        return Step(rate=of_rate, offset_s=offset_s, overlap=float(overlaps.mean()) if len(overlaps) else 0.0, num_frames=len(overlaps))

    told = step(rate, 0.0)
    steps = [
        step(other, number / rate)
        for other in dict.fromkeys((rate, *RATES))
        for number in range(-round(window_s * rate), round(window_s * rate) + 1)
    ]
    most = max(one.num_frames for one in steps)
    best = max((one for one in (told, *steps) if 2 * one.num_frames >= most), key=lambda one: (one.overlap, one.num_frames))
    return Synchrony(told=told, best=best)
