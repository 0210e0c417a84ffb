"""Times of decoded frames, as ffmpeg's own program gives them (fftools/ffmpeg_dec.c, libavcodec/decode.c), from 0 and rising strictly.

Presentation stamps are taken until more of them are faulty than of the decoding stamps; AVI has none, what libavformat hands out for
them there is a guess. A missing stamp follows the one before by that frame's length. Where a format's clock may start anew within a file
(transport streams) a leap of its stamps is closed.
"""

from typing import Any

_MAY_LEAP = 0x0200
"""AVFMT_TS_DISCONT, of a format's flags."""
_NO_STAMPS = 0x0080
"""AVFMT_NOTIMESTAMPS: the stamps of a bare stream are invented; its frames follow each other at its rate."""
_LEAP_S = 10.0
"""A leap forward, in seconds: ffmpeg's -dts_delta_threshold."""
_LEAP_BACK_S = 0.1


def rate_of(container: Any, stream: Any) -> float:
    """Frames a second on average, as a container says; of a bare stream as its codec does; 25 where nobody does."""
    bare = container.format.flags & _NO_STAMPS
    return float((stream.codec_context.framerate if bare else None) or stream.average_rate or 25)


class Clock:
    """Tells a stream's frames their times; asked once for each frame, in order."""

    def __init__(self, container: Any, stream: Any, origin: int | None = None) -> None:
        self.tick_s = float(stream.time_base)
        self._rate_step_s = 1.0 / rate_of(container, stream)
        self._may_leap = bool(container.format.flags & _MAY_LEAP)
        self._stamped = not container.format.flags & _NO_STAMPS
        self._pts_guessed = container.format.name == "avi"
        self.origin = origin  # stamp of the first frame, in ticks
        self._last_stamp: int | None = None  # of the frame before
        self._last_s = -self._rate_step_s  # what was told of it
        self._length_s = self._rate_step_s
        self._shift_s = 0.0
        self._faulty_pts = self._faulty_dts = 0
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
        if time_s <= before_s + 1e-6:
            time_s = before_s + self._rate_step_s
        self._length_s = self._length_of(frame, time_s - before_s if self._last_stamp is not None else 0.0)
        self._last_s, self._last_stamp = time_s, stamp
        return time_s

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
