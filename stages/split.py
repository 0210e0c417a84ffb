"""Splitting a video into clips: stretches of one size that never cross a shot cut, from one decode of the whole video.

`odd` of a clip says what a reader must know and what versions before did not: `interlaced`, `size` and `codec` (its stream changes them),
`stream` (it is not the file's first), `times` (stamps that are missing, faulty or leap), `tone` (its colours are mapped), `transparent`,
`stretch` (the list wants a part of the video).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, UInt8

from stages.media.film import find_film, open_video, packet_ends_s
from stages.media.frames import Reading, decode
from stages.media.upright import Shape
from stages.stage import Failure, Key, Reason, Resources, check_settings, setting
from stages.tables import Clips, Table, Videos

_DAMAGE_S = 1.0
"""A video whose frames end this much before its container's end was cut off. Sound may outlast the picture by less."""
_LUMA_FIRST = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray", "nv12")
"""Pixel formats whose first plane is 8-bit luma."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Cut a video into clips of one shot each, short enough to be a unit of work."""

    name: ClassVar[str] = "split"
    version: ClassVar[int] = 2
    key: ClassVar[Key] = "video"
    reads: ClassVar[tuple[type, ...]] = (Videos,)
    writes: ClassVar[type[Table]] = Clips
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=1, limit_s=4 * 3600)

    max_clip_s: float = setting(20.0, above=0)
    """Longest clip, in seconds; a longer shot is divided evenly. Ours: WHIM's videos last from seconds to hours."""
    scene_threshold: float = setting(0.2, above=0, most=1)
    """Frames whose scene score (ffmpeg's, in [0, 1]) reaches this begin a shot. Ours: the cuts of our
    test clips score 0.64 to 0.86, the fastest motion within a shot 0.10; a cut too many costs less than one too few."""
    min_clip_s: float = setting(0.2, least=0)
    """A cut sooner than this after the one before is a flash of light or a torn frame, not a shot, in seconds. Ours."""
    frames_per_second: float = setting(5.0, least=0)
    """Rate at which the clips are annotated, in Hz; 0 = every frame. Ours: neighbouring frames are near copies."""

    deinterlace: str = setting("frame", choices=("frame", "field", "off"), later=True)
    """What becomes of interlaced video: one whole frame for each, one for each of its fields at twice the rate, or woven as it is."""

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.min_clip_s < self.max_clip_s:
            raise ValueError(f"split.min_clip_s must be less than max_clip_s ({self.max_clip_s:g}), got {self.min_clip_s!r}")

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[[Videos], Clips | Failure]:
        return partial(split, settings=self)


@dataclass(eq=False, slots=True)
class _Seen:
    """What one pass over a video's frames leaves."""

    times: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of the images of each shot
    cuts: dict[int, str] = field(default_factory=dict)  # first frames of the shots, and what ended the one before
    first: int = 0  # index of the first frame that is wanted
    same_stream: bool = True  # as versions before
    same_times: bool = True
    codec_changes: bool = False


def split(videos: Videos, settings: Split) -> Clips | Failure:
    """The clips of one video (a one-row table): every decodable frame that is wanted lies in exactly one."""
    import av

    path = Path(videos.path[0])
    try:
        stream, reading = _reading(path, videos, settings)
        seen = _look(path, videos, settings, reading)
        if not seen.times:
            start_s = float(videos.start_s[0])
            wanted = f" from {start_s:g} s on, where the list's start= is" if start_s else ""
            return Failure(Reason.NO_FRAMES, f"{path}: no frame could be decoded{wanted}")
        rate = float(videos.frames_per_second[0])
        edges = np.array([*seen.times, seen.times[-1] + (1 / rate if rate > 0 else 0.04)])
        whole = bool(videos.end_s[0]) or not _is_cut_off(path, stream, edges[-1], float(videos.duration_s[0]))
    except FileNotFoundError:
        return Failure(Reason.FILE_MISSING, f"{path} is gone; run download again")
    except av.error.FFmpegError as error:
        return Failure(Reason.BROKEN_FILE, f"{path} does not open: {error}")
    return _clips(videos, edges, seen, reading, settings, whole=whole)


def _reading(path: Path, videos: Videos, settings: Split) -> tuple[int, Reading]:
    """The film's stream and how it is read. Raises as `open_video`."""
    stream = int(videos.stream[0])
    if stream < 0:
        with open_video(path) as container:
            film = find_film(path, container)
        stream = film.stream if film else -1
    deinterlace = settings.deinterlace if videos.interlaced[0] and settings.deinterlace != "off" else ""
    return stream, Reading(stream=stream, deinterlace=deinterlace)


def _look(path: Path, videos: Videos, settings: Split, reading: Reading) -> _Seen:
    """Times of all wanted frames, and where shots and sizes begin. Raises as `open_video`."""
    seen = _Seen()
    start_s, end_s = float(videos.start_s[0]), float(videos.end_s[0]) or math.inf
    with open_video(path) as container:
        stream = container.streams[reading.stream] if 0 <= reading.stream < len(container.streams) else None
        if stream is None or stream.type != "video":
            return seen
        seen.same_stream = stream is _first_stream(container)
        clock = _ClockBefore(stream)
        size: tuple[int, int] | None = None
        part: tuple[int] | None = None
        for index, (time_s, score, frame) in enumerate(scene_scores(decode(path, reading))):
            seen.same_times &= clock(frame) == time_s
            if time_s < start_s:
                seen.first = index + 1
                continue
            if time_s >= end_s:
                break
            place = len(seen.times)
            seen.times.append(time_s)
            shape = Shape.of(stream, frame)
            other_size, other_codec = size != (size := (shape.width, shape.height)), part != (part := frame.opaque) and place > 0
            if other_size or other_codec:
                seen.cuts[place] = "size" if other_size else "codec"
                seen.sizes.append(size)
                seen.codec_changes |= other_codec
            elif score >= settings.scene_threshold and time_s - seen.times[next(reversed(seen.cuts))] >= settings.min_clip_s:
                seen.cuts[place] = "shot"
                seen.sizes.append(size)
    return seen


def _first_stream(container: Any) -> Any:
    """The stream that versions before read: the first that is no cover of a sound file."""
    import av

    cover = av.stream.Disposition.attached_pic
    return next((one for one in container.streams.video if not one.disposition & cover), None)


class _ClockBefore:
    """Times as versions before told them: presentation stamps as they are, missing and repeated ones filled at the average rate."""

    def __init__(self, stream: Any) -> None:
        self._step_s, self._tick_s = 1.0 / float(stream.average_rate or 25), float(stream.time_base)
        self._origin: int | None = None
        self._last_s = -self._step_s

    def __call__(self, frame: Any) -> float:
        self._origin = frame.pts if self._origin is None else self._origin
        filled_s = self._last_s + self._step_s
        time_s = filled_s if frame.pts is None or self._origin is None else (frame.pts - self._origin) * self._tick_s
        self._last_s = time_s if time_s > self._last_s + 1e-6 else filled_s
        return self._last_s


def _is_cut_off(path: Path, stream: int, end_s: float, claimed_s: float) -> bool:
    """Whether a file ends before the time that it claims; sound that goes on after the film is no damage. Raises as `open_video`."""
    if not claimed_s - end_s > _DAMAGE_S:
        return False
    with open_video(path) as container:
        others = [one for one in container.streams if one.index != stream and one.type in ("audio", "video")]
        begins_s = (container.start_time or 0) / 1e6
        last_s = max((end_s for _, end_s in packet_ends_s(container, *others)), default=-math.inf) if others else -math.inf
    return claimed_s - (last_s - begins_s) > _DAMAGE_S


def _clips(videos: Videos, edges: Float64[np.ndarray, "edges"], seen: _Seen, reading: Reading, settings: Split, *, whole: bool) -> Clips:
    """The table from the frames' times (and the end of the last) and the first frames of the shots."""
    starts: list[int] = []
    ends_with: list[str] = []
    sizes: list[tuple[int, int]] = []
    num_frames = len(edges) - 1
    firsts = list(seen.cuts)
    for first, stop, size in zip(firsts, [*firsts[1:], num_frames], seen.sizes, strict=True):
        parts = divide(edges, first, stop, settings.max_clip_s)
        starts += parts
        ends_with += ["length"] * (len(parts) - 1) + [seen.cuts.get(stop, "end" if whole else "damage")]
        sizes += [size] * len(parts)
    first_frame = np.array(starts, np.int64)
    stops = np.append(first_frame[1:], num_frames)
    video, count = str(videos.video[0]), len(starts)

    def text(value: str) -> np.ndarray:
        return np.array([value] * count, object)

    return Clips(
        clip=np.array([f"{video}-{number:04d}" for number in range(count)], object),
        video=text(video),
        start_s=edges[first_frame],
        end_s=edges[stops],
        first_frame=first_frame + seen.first,
        num_frames=stops - first_frame,
        frames_per_second=np.full(count, settings.frames_per_second, np.float64),
        ends_with=np.array(ends_with, object),
        width=np.array([width for width, _ in sizes], np.int32),
        height=np.array([height for _, height in sizes], np.int32),
        stream=np.full(count, reading.stream, np.int16),
        deinterlace=text(reading.deinterlace),
        odd=text(" ".join(_oddities(videos, seen, reading))),
        extra=text(str(videos.extra[0])),
    )


def _oddities(videos: Videos, seen: _Seen, reading: Reading) -> Iterator[str]:
    """What of a video versions before would have read in another way."""
    odd = {
        "interlaced": bool(videos.interlaced[0]),
        "size": "size" in list(seen.cuts.values())[1:],
        "codec": seen.codec_changes,
        "stream": not seen.same_stream,
        "times": not (seen.same_times or videos.interlaced[0]),
        "tone": bool(videos.transfer[0]),
        "transparent": bool(videos.transparent[0]),
        "stretch": bool(videos.start_s[0] or videos.end_s[0]),
    }
    yield from (name for name, is_so in odd.items() if is_so)


def divide(edges: Float64[np.ndarray, "edges"], first: int, stop: int, max_s: float) -> list[int]:
    """First frames of the near-equal parts, none longer than `max_s` (unless one frame lasts longer), of frames first..stop-1."""
    starts = [first]
    while (left_s := edges[stop] - edges[starts[-1]]) > max_s + 1e-6:
        part_s = left_s / math.ceil(left_s / max_s - 1e-9)
        next_start = int(np.searchsorted(edges, edges[starts[-1]] + part_s + 1e-6, side="right")) - 1
        next_start = max(next_start, starts[-1] + 1)
        if next_start >= stop:
            break
        starts.append(next_start)
    return starts


def scene_scores(frames: Iterable[tuple[float, Any]]) -> Iterator[tuple[float, float, Any]]:
    """(time, ffmpeg's scene score in [0, 1], frame) of each av.VideoFrame; the first scores 0.

    The score is that of ffmpeg's `select` filter (f_select.c): with d the mean absolute difference of 8-bit luma to the frame
    before, min(d, |d - d before|) / 100, so that steady motion scores low. Computed here on the frames `read_frames` counts,
    because a filter graph drops and doubles frames on its own account.
    """
    import cv2

    before: UInt8[np.ndarray, "height width"] | None = None
    difference_before = 0.0
    for time_s, frame in frames:
        luma = _luma(frame)
        if before is not None and before.shape != luma.shape:
            before, difference_before = None, 0.0
        difference = 0.0 if before is None else cv2.norm(before, luma, cv2.NORM_L1) / luma.size
        yield time_s, min(1.0, min(difference, abs(difference - difference_before)) / 100), frame
        before, difference_before = luma, difference


def _luma(frame: Any) -> UInt8[np.ndarray, "height width"]:
    """A view of the frame's 8-bit luma."""
    if frame.format.name not in _LUMA_FIRST:
        frame = frame.reformat(format="yuv420p", threads=1)
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
