"""Splitting a video into clips: stretches that never cross a shot cut, from one decode of the whole video."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, UInt8

from stages.media.frames import decode
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
    version: ClassVar[int] = 1
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


def split(videos: Videos, settings: Split) -> Clips | Failure:
    """The clips of one video (a one-row table): every decodable frame lies in exactly one."""
    import av

    path = Path(videos.path[0])
    times: list[float] = []
    cuts: list[int] = [0]
    try:
        for index, (time_s, score) in enumerate(scene_scores(decode(path))):
            times.append(time_s)
            if score >= settings.scene_threshold and time_s - times[cuts[-1]] >= settings.min_clip_s:
                cuts.append(index)
    except FileNotFoundError:
        return Failure(Reason.FILE_MISSING, f"{path} is gone; run download again")
    except av.error.FFmpegError as error:
        return Failure(Reason.BROKEN_FILE, f"{path} does not open: {error}")
    if not times:
        return Failure(Reason.NO_FRAMES, f"{path}: no frame could be decoded")
    rate = float(videos.frames_per_second[0])
    edges = np.array([*times, times[-1] + (1 / rate if rate > 0 else 0.04)])
    return _clips(str(videos.video[0]), edges, cuts, float(videos.duration_s[0]), settings)


def _clips(video: str, edges: Float64[np.ndarray, "edges"], cuts: list[int], claimed_s: float, settings: Split) -> Clips:
    """The table from the frames' times (and the end of the last) and the first frames of the shots."""
    starts: list[int] = []
    ends_with: list[str] = []
    num_frames = len(edges) - 1
    for first, stop in zip(cuts, [*cuts[1:], num_frames], strict=True):
        parts = divide(edges, first, stop, settings.max_clip_s)
        starts += parts
        ends_with += ["length"] * (len(parts) - 1) + ["shot"]
    ends_with[-1] = "damage" if claimed_s - edges[-1] > _DAMAGE_S else "end"
    first_frame = np.array(starts, np.int64)
    stops = np.append(first_frame[1:], num_frames)
    return Clips(
        clip=np.array([f"{video}-{number:04d}" for number in range(len(starts))], object),
        video=np.array([video] * len(starts), object),
        start_s=edges[first_frame],
        end_s=edges[stops],
        first_frame=first_frame,
        num_frames=stops - first_frame,
        frames_per_second=np.full(len(starts), settings.frames_per_second, np.float64),
        ends_with=np.array(ends_with, object),
    )


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


def scene_scores(frames: Iterable[tuple[float, Any]]) -> Iterator[tuple[float, float]]:
    """(time, ffmpeg's scene score in [0, 1]) of each av.VideoFrame; the first scores 0.

    The score is that of ffmpeg's `select` filter (f_select.c): with d the mean absolute difference of 8-bit luma to the frame
    before, min(d, |d - d before|) / 100, so that steady motion scores low. Computed here on the frames `read_frames` counts,
    because a filter graph drops and doubles frames on its own account.
    """
    import cv2

    before: UInt8[np.ndarray, "height width"] | None = None
    difference_before = 0.0
    for time_s, frame in frames:
        luma = _luma(frame, before)
        difference = 0.0 if before is None else cv2.norm(before, luma, cv2.NORM_L1) / luma.size
        yield time_s, min(1.0, min(difference, abs(difference - difference_before)) / 100)
        before, difference_before = luma, difference


def _luma(frame: Any, like: UInt8[np.ndarray, "height width"] | None) -> UInt8[np.ndarray, "height width"]:
    """A view of the frame's 8-bit luma, at the size of the frame before."""
    height, width = (frame.height, frame.width) if like is None else like.shape
    if frame.format.name not in _LUMA_FIRST or (frame.height, frame.width) != (height, width):
        frame = frame.reformat(width=width, height=height, format="yuv420p", threads=1)
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width]
