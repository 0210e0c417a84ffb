"""Deinterlacing by libavfilter's bwdif: frames that are flagged as woven of two fields become whole ones, the others pass."""

from collections.abc import Iterable, Iterator
from typing import Any

RATES = {"frame": "send_frame", "field": "send_field"}
"""One frame for each that is woven, or one for each of its fields at twice the rate; bwdif's names for it."""


def deinterlaced(frames: Iterable[tuple[float, Any]], rate: str) -> Iterator[tuple[float, Any]]:
    """(seconds, av.VideoFrame) with fields taken apart; a second field is shown midway to the next frame.

    A change of the frames' size or format begins anew.
    """
    bwdif: _Bwdif | None = None
    layout: tuple[Any, ...] | None = None
    for time_s, frame in frames:
        if layout != (layout := (frame.width, frame.height, frame.format.name)):
            if bwdif:
                yield from bwdif.rest()
            bwdif = _Bwdif(frame, rate)
        assert bwdif is not None
        yield from bwdif(time_s, frame)
    if bwdif:
        yield from bwdif.rest()


class _Bwdif:
    def __init__(self, first: Any, rate: str) -> None:
        from fractions import Fraction

        import av

        self._graph = av.filter.Graph()
        self._tick = Fraction(1, 2)
        source = self._graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=Fraction(1))
        bwdif = self._graph.add("bwdif", f"mode={RATES[rate]}:parity=auto:deint=interlaced")
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()
        self._times: list[float] = []

    def __call__(self, time_s: float, frame: Any) -> Iterator[tuple[float, Any]]:
        frame.pts, frame.time_base = len(self._times), 1
        self._times.append(time_s)
        self._graph.push(frame)
        yield from self._ready()

    def rest(self) -> Iterator[tuple[float, Any]]:
        """What is left when no frame follows."""
        self._graph.push(None)
        yield from self._ready()

    def _ready(self) -> Iterator[tuple[float, Any]]:
        import av

        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            place = frame.pts * frame.time_base
            at = min(int(place), len(self._times) - 1)
            later = self._times[at + 1] if at + 1 < len(self._times) else 2 * self._times[at] - self._times[max(0, at - 1)]
            yield self._times[at] + float(place - at) * (later - self._times[at]), frame
