"""Reading frames: upright RGB by presentation time, decoded once, a bounded stretch at a time. Every reader of videos is here.

A frame's index is its place in presentation order, from 0; its time is its presentation time after the video's first frame. Both are
the same whether a file is decoded from its beginning or after a seek: `split` lists clips by them, `read_frames` finds them again.
Which stream is the film: `stages.media.film`; what its images are made from and how they are shown: `stages.media.upright`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from stages.media.clock import Clock
from stages.media.deinterlace import deinterlaced
from stages.media.film import Film, find_film, open_video, raw_frames, stream_of
from stages.media.upright import Shape, Upright
from stages.tables import Clips

_TIME_TOLERANCE_S = 1e-3
"""Matroska rounds times to milliseconds: a frame this much before a grid point is the one meant."""
_SEEK_FROM_S = 2.0
"""Below this, decoding from the beginning costs less than a seek."""
_SEEK_MARGINS_S = (0.0, 10.0)
"""Containers may seek by decode time, and open groups of pictures lose their first frames: seek again, earlier, when it lands late."""
LOOKED_AT = 5
"""Frames by which a file is judged: some encoders flag the first wrongly."""
_FIELDS_AROUND = 3
"""Deinterlaced frames look at their neighbours: so many are let pass after a seek."""

Times = TypeVar("Times", float, np.ndarray)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Frames:
    """Consecutive sampled frames of one clip, in memory: never a whole video, never in Ray's object store."""

    video: str
    frame: Int64[np.ndarray, "n"]  # index within the video
    time_s: Float64[np.ndarray, "n"]  # presentation time after the video's first frame
    images: list[UInt8[np.ndarray, "height width 3"]]  # RGB, upright, square pixels
    view: int = 0  # which view of the frames they are: a row of `Cameras`


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What of a file is read."""

    stream: int = -1  # -1: the one that `find_film` finds
    deinterlace: str = ""  # '' leaves fields woven; frame, field: one frame for each, or one for each of its fields

    @classmethod
    def of(cls, clip: Clips) -> "Reading":
        """How a clip's frames were counted."""
        return cls(stream=int(clip.stream[0]), deinterlace=str(clip.deinterlace[0]))

    @classmethod
    def as_is(cls, path: Path) -> "Reading":
        """A file as `split` reads it when nothing is set: its film, a whole frame for each that is interlaced. Raises as `open_video`."""
        with open_video(path) as container:
            film = find_film(path, container)
            frames = islice(raw_frames(container, stream_of(container, film)), LOOKED_AT) if film else ()
            interlaced = any(frame.interlaced_frame for frame in frames)
            return cls(stream=film.stream if film else -1, deinterlace="frame" if interlaced else "")


def read_frames(path: Path, clip: Clips, *, max_frames: int = 32, max_bytes: int = 256 << 20) -> Iterator[Frames]:
    """Sampled frames of one clip (a one-row table), in stretches of at most `max_frames` frames and `max_bytes` bytes.

    At r = `frames_per_second` > 0 a frame is taken when its time reaches the next point of the grid k / r laid from the clip's
    start, so that its first frame always is; at r = 0 every frame is. Frames between are decoded, not converted. A stretch holds at
    least one frame. Damage is read as far as it goes: the stretches end early, without an exception. Every image has the size of the
    clip's first. Raises FileNotFoundError, or av.error.FFmpegError if it cannot be opened.
    """
    rate, start_s, first_frame = float(clip.frames_per_second[0]), float(clip.start_s[0]), int(clip.first_frame[0])
    reading = Reading.of(clip)
    index: list[int] = []
    times: list[float] = []
    images: list[np.ndarray] = []
    last_point: float = -1
    upright, room = None, 0

    def stretch() -> Frames:
        return Frames(video=str(clip.video[0]), frame=np.array(index), time_s=np.array(times), images=images)

    for count, (time_s, frame, stream) in enumerate(_clip_frames(path, clip, reading)):
        point = grid_point(time_s, start_s, rate) if rate else count
        upright = upright or Upright(Shape.of(stream, frame))
        if point <= last_point:
            continue
        last_point = point
        room = room or max(1, min(max_frames, max_bytes // (3 * upright.shape.width * upright.shape.height)))
        index.append(first_frame + count)
        times.append(time_s)
        images.append(upright(frame))
        if len(images) == room:
            yield stretch()
            index, times, images = [], [], []
    if images:
        yield stretch()


def images_of(path: Path) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    """Time and image of every frame of a file, as the frames of its clips are: upright, of the size that the film has there.

    Raises as `open_video`.
    """
    upright = None
    for time_s, frame, stream in _decoded(path, Reading.as_is(path)):
        shape = Shape.of(stream, frame)
        if upright is None or shape != upright.shape:
            upright = Upright(shape)
        yield time_s, upright(frame)


def grid_point(time_s: Times, start_s: float, rate: float) -> Times:
    """The last point k of the grid k / rate, laid from the clip's start, that a time has reached."""
    return np.floor((time_s - start_s + _TIME_TOLERANCE_S) * rate)


def decode(path: Path, reading: Reading | None = None) -> Iterator[tuple[float, Any]]:
    """Every decodable frame of a file from its beginning, as (seconds after the first, av.VideoFrame); read `as_is` unless told how.

    A packet that cannot be decoded is skipped; times rise strictly (`stages.media.clock`). Raises as `open_video`.
    """
    yield from ((time_s, frame) for time_s, frame, _ in _decoded(path, reading or Reading.as_is(path)))


def _decoded(path: Path, reading: Reading) -> Iterator[tuple[float, Any, Any]]:
    with open_video(path) as container:
        stream = _stream(path, container, reading)
        if stream is not None:
            yield from ((time_s, frame, stream) for time_s, frame in _timed(container, stream, reading.deinterlace))


def _stream(path: Path, container: Any, reading: Reading) -> Any:
    """The stream that is read, or None."""
    if 0 <= reading.stream < len(container.streams) and container.streams[reading.stream].type == "video":
        return stream_of(container, Film(stream=reading.stream, num_films=1, why=""))
    film = find_film(path, container)
    return None if film is None else stream_of(container, film)


def _timed(container: Any, stream: Any, deinterlace: str, clock: Clock | None = None) -> Iterator[tuple[float, Any]]:
    clock = clock or Clock(container, stream)
    timed = ((clock(frame), frame) for frame in raw_frames(container, stream))
    return deinterlaced(timed, deinterlace) if deinterlace else timed


def _clip_frames(path: Path, clip: Clips, reading: Reading) -> Iterator[tuple[float, Any, Any]]:
    """(time, frame, stream) for every frame of a clip, by the shortest way that finds its exact first frame."""
    start_s, skip, num_frames = float(clip.start_s[0]), int(clip.first_frame[0]), int(clip.num_frames[0])
    if start_s >= _SEEK_FROM_S:
        with open_video(path) as container:
            stream = _stream(path, container, reading)
            first = next(raw_frames(container, stream), None) if stream is not None else None
            if first is None:
                return
            clock = Clock(container, stream)
            clock(first)
            origin = clock.origin
            for margin_s in _SEEK_MARGINS_S if origin is not None else ():
                found = _seek(container, stream, origin or 0, start_s, margin_s, reading.deinterlace)
                if found is not None:
                    yield from ((time_s, frame, stream) for time_s, frame in islice(found, num_frames))
                    return
    yield from islice(_decoded(path, reading), skip, skip + num_frames)


def _seek(
    container: Any, stream: Any, origin: int, start_s: float, margin_s: float, deinterlace: str
) -> Iterator[tuple[float, Any]] | None:
    """The timed frames from `start_s` on, after a seek to `margin_s` before it; None unless a frame of exactly that time follows an
    earlier one or the seek's own keyframe."""
    import av

    tick_s = float(stream.time_base)
    try:
        container.seek(origin + math.floor((start_s - margin_s) / tick_s), stream=stream)
    except av.error.FFmpegError:
        return None
    frames = _timed(container, stream, deinterlace, Clock(container, stream, origin))
    for passed, (time_s, frame) in enumerate(frames):
        ahead_s = time_s - start_s
        if ahead_s > -tick_s / 2:
            exact = ahead_s < tick_s / 2 and (not deinterlace or passed >= _FIELDS_AROUND)
            return chain([(time_s, frame)], frames) if exact else None
    return None
