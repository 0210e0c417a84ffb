"""A recipe of trivial stages over made-up videos: what it takes is what the engine takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stages.stage import Key, Resources
from stages.tables import Clips, Hands, Manifest, Reviews, Table, Videos

CLIPS_A_VIDEO = 16
"""Clips a video, as in WHIM: 23,258 of 1,457."""


def manifest(num_clips: int) -> Manifest:
    """A list of so many videos that they have `num_clips` clips."""
    names = np.array([f"video{n:07d}" for n in range(-(-num_clips // CLIPS_A_VIDEO))], object)
    zeros = np.zeros(len(names))
    return Manifest.of(
        video=names,
        source=np.array([f"/nowhere/{name}" for name in names], object),
        split=np.full(len(names), "train", object),
        frames_per_second=zeros,
        num_frames=zeros.astype(np.int64),
        width=zeros.astype(np.int32),
        height=zeros.astype(np.int32),
    )


def recipe(num_clips: int) -> list[Any]:
    """Two stages of videos and two of clips."""
    return [Fetch(), Cut(num_clips=num_clips), Find(), Judge()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trivial:
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=1.0, limit_s=60.0)

    @property
    def weights(self) -> dict[str, str]:
        """No model files."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch(Trivial):
    """States a video that is not there."""

    name: ClassVar[str] = "fetch"
    key: ClassVar[Key] = "video"
    reads: ClassVar[tuple[type, ...]] = (Manifest,)
    writes: ClassVar[type[Table]] = Videos

    def build(self) -> Callable[[Manifest], Videos]:
        def fetch(row: Manifest) -> Videos:
            blank = {name: np.array(["" if c.dtype == object else 0], c.dtype) for name, c in vars(Videos.empty()).items()}
            return Videos(**blank | {"video": row.video, "path": row.source})

        return fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(Trivial):
    """Deals out clips of twenty seconds."""

    name: ClassVar[str] = "cut"
    key: ClassVar[Key] = "video"
    reads: ClassVar[tuple[type, ...]] = (Videos,)
    writes: ClassVar[type[Table]] = Clips

    num_clips: int
    """Clips of all videos together."""

    def build(self) -> Callable[[Videos], Clips]:
        def cut(videos: Videos) -> Clips:
            video = str(videos.video[0])
            n = np.arange(min(CLIPS_A_VIDEO, self.num_clips - int(video.removeprefix("video")) * CLIPS_A_VIDEO))
            return Clips.of(
                clip=np.array([f"{video}-{i:04d}" for i in n], object),
                video=np.full(len(n), video, object),
                start_s=n * 20.0,
                end_s=n * 20.0 + 20,
                first_frame=n * 500,
                num_frames=np.full(len(n), 500),
                frames_per_second=np.full(len(n), 5.0),
                ends_with=np.full(len(n), "length", object),
            )

        return cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Find(Trivial):
    """Finds three hands a clip."""

    name: ClassVar[str] = "find"
    reads: ClassVar[tuple[type, ...]] = (Clips,)
    writes: ClassVar[type[Table]] = Hands

    def build(self) -> Callable[[Clips], Hands]:
        return find


def find(clips: Clips) -> Hands:
    """Three rows on a clip."""
    n = np.arange(3)
    blank = {name: np.zeros((3, *c.shape[1:]), c.dtype) for name, c in vars(Hands.empty()).items() if c.dtype != object}
    lists = {f.name: np.empty(3, object) for f in Hands.schema() if f.name not in blank}
    for column in lists.values():
        column[:] = [[], [], []]
    times = {"video": np.full(3, clips.video[0], object), "frame": clips.first_frame + n, "time_s": clips.start_s + n}
    return Hands(**blank | lists | times | {"hand": n.astype(np.int16)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Trivial):
    """Keeps each of them."""

    name: ClassVar[str] = "judge"
    reads: ClassVar[tuple[type, ...]] = (Hands,)
    writes: ClassVar[type[Table]] = Reviews

    def build(self) -> Callable[[Hands], Reviews]:
        return judge


def judge(hands: Hands) -> Reviews:
    """A review of each row."""
    n = len(hands)
    return Reviews(
        video=hands.video,
        frame=hands.frame,
        time_s=hands.time_s,
        hand=hands.hand,
        quality=np.ones(n, np.float32),
        keep=np.ones(n, bool),
        box_only=np.zeros(n, bool),
        reason=np.full(n, "", object),
    )
