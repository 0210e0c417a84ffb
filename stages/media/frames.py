"""Reading frames: upright RGB by presentation time, decoded once, a bounded stretch at a time.

A frame's index is its place in decode order, from 0; its time is its presentation time after the video's first frame. Both are
the same whether a file is decoded from its beginning or after a seek: `split` lists clips by them, `read_frames` finds them again.
Stored pixels that are not square are made so by scaling the width (640x480 at 4:3 becomes 853x480), then the picture is turned
and mirrored as the file's display matrix says: sizes and boxes are those of the picture a viewer shows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from stages.tables import Clips

_TIME_TOLERANCE_S = 1e-3
"""Matroska rounds times to milliseconds: a frame this much before a grid point is the one meant."""
_MOST_PIXELS = 1 << 26
"""A stream that grows beyond this, and beyond four times what it began with, is not followed: 8192 x 8192."""
_MAX_READ_ERRORS = 1000
"""A container that only errs ends here: no file makes it spin."""
_SEEK_FROM_S = 2.0
"""Below this, decoding from the beginning costs less than a seek."""
_SEEK_MARGINS_S = (0.0, 10.0)
"""Containers may seek by decode time, and open groups of pictures lose their first frames: seek again, earlier, when it lands late."""

Times = TypeVar("Times", float, np.ndarray)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Frames:
    """Consecutive sampled frames of one clip, in memory: never a whole video, never in Ray's object store."""

    video: str
    frame: Int64[np.ndarray, "n"]  # decode index within the video
    time_s: Float64[np.ndarray, "n"]  # presentation time after the video's first frame
    images: list[UInt8[np.ndarray, "height width 3"]]  # RGB, upright, square pixels


def read_frames(path: Path, clip: Clips, *, max_frames: int = 32, max_bytes: int = 256 << 20) -> Iterator[Frames]:
    """Sampled frames of one clip (a one-row table), in stretches of at most `max_frames` frames and `max_bytes` bytes.

    At r = `frames_per_second` > 0 a frame is taken when its time reaches the next point of the grid k / r laid from the clip's
    start, so that its first frame always is; at r = 0 every frame is. Frames between are decoded, not converted. A stretch holds at
    least one frame. Damage is read as far as it goes: the stretches end early, without an exception. Every image has the size
    `probe` reports, also where the stream changes its size. Raises FileNotFoundError, or av.error.FFmpegError if it cannot be opened.
    """
    rate, start_s, first_frame = float(clip.frames_per_second[0]), float(clip.start_s[0]), int(clip.first_frame[0])
    index: list[int] = []
    times: list[float] = []
    images: list[np.ndarray] = []
    last_point: float = -1
    upright, room = None, 0

    def stretch() -> Frames:
        return Frames(video=str(clip.video[0]), frame=np.array(index), time_s=np.array(times), images=images)

    for count, (time_s, frame, shape) in enumerate(_clip_frames(path, clip)):
        point = grid_point(time_s, start_s, rate) if rate else count
        if point <= last_point:
            continue
        last_point = point
        if upright is None:
            upright, room = Upright(shape), max(1, min(max_frames, max_bytes // (3 * shape.width * shape.height)))
        index.append(first_frame + count)
        times.append(time_s)
        images.append(upright(frame))
        if len(images) == room:
            yield stretch()
            index, times, images = [], [], []
    if images:
        yield stretch()


def grid_point(time_s: Times, start_s: float, rate: float) -> Times:
    """The last point k of the grid k / rate, laid from the clip's start, that a time has reached."""
    return np.floor((time_s - start_s + _TIME_TOLERANCE_S) * rate)


def decode(path: Path) -> Iterator[tuple[float, Any]]:
    """Every decodable frame of a file from its beginning, as (seconds after the first, av.VideoFrame).

    A packet that cannot be decoded is skipped. A missing or repeated time is filled at the stream's average rate, so that times
    rise strictly. Raises as `open_video`.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        if stream is not None:
            yield from _timed(raw_frames(container, stream), stream)


def open_video(path: Path) -> Any:
    """The file as a PyAV container. Raises FileNotFoundError, or av.error.FFmpegError when it is no media file."""
    import av

    av.logging.set_level(None)  # errors come as exceptions; libav would also print a line for every damaged block
    # a playlist posing as a video must not reach the network
    # and img%03d.jpg is the name of one image, not of a thousand
    return av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file", "pattern_type": "none"})


def video_stream(container: Any) -> Any:
    """The first moving picture of a container (a sound file's cover is none), or None."""
    import av

    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.codec_context.thread_count = 1  # what comes out of damaged files is then the same everywhere
            grown = max(_MOST_PIXELS, 4 * (stream.width or 0) * (stream.height or 0))
            stream.codec_context.options = {"max_pixels": str(grown)}
            return stream
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the first frame of a video is shown: the shape of every image of it."""

    width: int  # upright, square pixels
    height: int
    transposed: bool  # rows and columns swapped, before the mirrorings
    mirrored_x: bool
    mirrored_y: bool

    @classmethod
    def of(cls, stream: Any, frame: Any) -> "Shape":
        """The shape from a frame's size, its stream's sample aspect ratio and its display matrix, to the nearest quarter turn."""
        size = (max(1, round(frame.width * (stream.sample_aspect_ratio or 1))), frame.height)
        # x' = a x + c y, y' = b x + d y, from stored to shown pixels
        a, b, c, d = _display_matrix(frame)
        transposed = abs(b) > abs(a)
        width, height = size[::-1] if transposed else size
        across, down = (c, b) if transposed else (a, d)
        return cls(width=width, height=height, transposed=transposed, mirrored_x=across < 0, mirrored_y=down < 0)


def _display_matrix(frame: Any) -> tuple[float, float, float, float]:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV knows no name for what a camera wrote beside it (EXIF); the turn alone can be had
        turn = math.radians(frame.rotation)
        return math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)
    a, b, _, c, d = np.frombuffer(bytes(matrix), "<i4")[:5].tolist() if matrix else (1, 0, 0, 0, 1)
    return a, b, c, d


class Upright:
    """Converts av.VideoFrames of one video to RGB images of one shape; keeps the scaler's tables between frames."""

    def __init__(self, shape: Shape) -> None:
        import av

        self._shape = shape
        self._size = (shape.height, shape.width) if shape.transposed else (shape.width, shape.height)
        self._reformatter = av.video.reformatter.VideoReformatter()

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "height width 3"]:
        width, height = self._size
        image = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1).to_ndarray()
        if self._shape.transposed:
            image = image.transpose(1, 0, 2)
        return np.ascontiguousarray(image[:: -1 if self._shape.mirrored_y else 1, :: -1 if self._shape.mirrored_x else 1])


def _clip_frames(path: Path, clip: Clips) -> Iterator[tuple[float, Any, Shape]]:
    """(time, frame, the video's shape) for every frame of a clip, by the shortest way that finds its exact first frame."""
    start_s, skip, num_frames = float(clip.start_s[0]), int(clip.first_frame[0]), int(clip.num_frames[0])
    with open_video(path) as container:
        stream = video_stream(container)
        first = next(raw_frames(container, stream), None) if stream is not None else None
        if first is None:
            return
        shape = Shape.of(stream, first)
        margins = _SEEK_MARGINS_S if start_s >= _SEEK_FROM_S and first.pts is not None else ()
        for margin_s in margins:
            found = _seek(container, stream, first.pts, start_s, start_s - margin_s)
            if found is not None:
                yield from ((time_s, frame, shape) for time_s, frame in islice(found, num_frames))
                return
    yield from ((time_s, frame, shape) for time_s, frame in islice(decode(path), skip, skip + num_frames))


def _seek(container: Any, stream: Any, origin: int, start_s: float, target_s: float) -> Iterator[tuple[float, Any]] | None:
    """The timed frames from `start_s` on, after a seek to `target_s`; None unless a frame of exactly that time follows an earlier one
    or the seek's own keyframe."""
    import av

    tick_s = float(stream.time_base)
    try:
        container.seek(origin + math.floor(target_s / tick_s), stream=stream)
    except av.error.FFmpegError:
        return None
    frames = raw_frames(container, stream)
    for frame in frames:
        if frame.pts is None:
            return None
        ahead_s = (frame.pts - origin) * tick_s - start_s
        if ahead_s > -tick_s / 2:
            return _timed(chain([frame], frames), stream, origin) if ahead_s < tick_s / 2 else None
    return None


def raw_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Every frame that can be decoded from where the container stands."""
    import av

    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from frames


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    import av

    for _ in range(_MAX_READ_ERRORS):
        try:
            yield from container.demux(stream)
        except av.error.FFmpegError:
            continue
        return


def _timed(frames: Iterator[Any], stream: Any, origin: int | None = None) -> Iterator[tuple[float, Any]]:
    """Frames with strictly rising times after `origin` (that of the first frame that has one, when None)."""
    step_s, tick_s = 1.0 / float(stream.average_rate or 25), float(stream.time_base)
    last_s = -step_s
    for frame in frames:
        origin = frame.pts if origin is None else origin
        time_s = last_s + step_s if frame.pts is None or origin is None else (frame.pts - origin) * tick_s
        last_s = time_s if time_s > last_s + 1e-6 else last_s + step_s
        yield last_s, frame
