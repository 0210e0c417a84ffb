"""Times of decoded frames, as ffmpeg's own program gives them (fftools/ffmpeg_dec.c, libavcodec/decode.c), from 0 and rising strictly.

Presentation stamps are taken until more of them are faulty than of the decoding stamps; AVI has none, what libavformat hands out for
them there is a guess. A missing stamp follows the one before by that frame's length. Where a format's clock may start anew within a file
(transport streams) a leap of its stamps is closed.
"""

import math
from typing import Any

_MAY_LEAP = 0x0200
"""AVFMT_TS_DISCONT, of a format's flags."""
_NO_STAMPS = 0x0080
"""AVFMT_NOTIMESTAMPS: the stamps of a bare stream are invented; its frames follow each other at its rate."""
_LEAP_S = 10.0
"""A leap forward, in seconds: ffmpeg's -dts_delta_threshold."""
_LEAP_BACK_S = 0.1
_MOST_REPEATED = 3
"""A stamp that comes again more often is none."""


_FASTEST = 10_000
"""Frames a second beyond which an average is a fault of the container: of bare DV it is the length of its clock's tick."""


def rate_of(container: Any, stream: Any) -> float:
    """Frames a second on average, as a container says; of a bare stream as its codec does; NaN where nobody does."""
    bare = container.format.flags & _NO_STAMPS
    told = (stream.codec_context.framerate if bare else None, stream.average_rate, stream.guessed_rate)
    return next((float(rate) for rate in told if rate and rate <= _FASTEST), math.nan)


def step_of(container: Any, stream: Any) -> float:
    """Seconds from frame to frame on average; those of 25 frames a second where nobody says it."""
    rate = rate_of(container, stream)
    return 1 / rate if rate > 0 else 0.04


class Clock:
    """Tells a stream's frames their times; asked once for each frame, in order."""

    def __init__(self, container: Any, stream: Any, origin: int | None = None) -> None:
        self.tick_s = float(stream.time_base)
        self._rate_step_s = step_of(container, stream)
        self._may_leap = bool(container.format.flags & _MAY_LEAP)
        self._stamped = not container.format.flags & _NO_STAMPS
        self._pts_guessed = container.format.name == "avi"
        self.origin = origin  # stamp of the first frame, in ticks
        self._last_stamp: int | None = None  # of the frame before
        self._last_s = -self._rate_step_s  # what was told of it
        self._length_s = self._rate_step_s
        self._shift_s = 0.0
        self._faulty_pts = self._faulty_dts = 0
        self._repeated = 0  # how often the last stamp came again
        self._last_pts: int | None = None
        self._last_dts: int | None = None

    def __call__(self, frame: Any) -> float:
        """Seconds after the first frame."""
        stamp = self._stamp(frame) if self._stamped else None
        before_s = self._last_s
        if stamp is None:
            time_s = before_s + self._length_s
        else:
            self.origin = stamp if self.origin is None else self.origin
            time_s = (stamp - self.origin) * self.tick_s + self._shift_s
            if self._may_leap and self._last_stamp is not None:
                leap_s = time_s - (before_s + self._length_s)
                if abs(leap_s) > _LEAP_S or time_s + _LEAP_BACK_S < before_s:
                    self._shift_s -= leap_s
                    time_s -= leap_s
        self._repeated = self._repeated + 1 if stamp is not None and stamp == self._last_stamp else 0
        if time_s <= before_s + 1e-6:
            time_s = before_s + self._nudge_s(stamp, before_s - time_s)
        self._length_s = self._length_of(frame, time_s - before_s if self._last_stamp is not None else 0.0)
        self._last_s, self._last_stamp = time_s, stamp
        return time_s

    def _nudge_s(self, stamp: int | None, late_s: float) -> float:
        """How long after the frame before one is shown whose stamp is no later: where it only came again, so little that the next
        frames keep their own times."""
        step_s, before = self._rate_step_s, self._last_stamp
        if stamp is None or before is None or stamp < before or late_s >= step_s or self._repeated > _MOST_REPEATED:
            return step_s
        return step_s / 2**self._repeated if self._repeated else min(step_s, max(self.tick_s, 1e-4))

    def _stamp(self, frame: Any) -> int | None:
        """libavcodec's guess_correct_pts."""
        pts, dts = None if self._pts_guessed else frame.pts, frame.dts
        if dts is not None:
            self._faulty_dts += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        return pts if pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None) else dts

    def _length_of(self, frame: Any, since_s: float) -> float:
        """How long a frame is shown: as it says, else as long as the one before was, else by the stream's rate."""
        guessed = frame.duration == 1 and since_s > 2 * self.tick_s
        if self._stamped and frame.duration and not guessed:
            return float(frame.duration * self.tick_s)
        return since_s if self._stamped and since_s > 0 else self._rate_step_s
