"""A small recipe of real stages over numbers: four clips a video, one crash, one refusal, one overtime on demand."""

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from stages.stage import Failure, Reason, Resources, setting
from stages.tables import Clips, Fits, Hands, Manifest, RefusedHands, Reviews, Table, Videos

if TYPE_CHECKING:  # Ray's workers import this file
    import pytest

    from pipeline.engine.run import Summary


def text(*values: str) -> np.ndarray:
    return np.array(values, object)


def manifest(*videos: str) -> Manifest:
    n = len(videos)
    zeros = np.zeros(n)
    return Manifest.of(
        video=text(*videos),
        source=text(*(f"/nowhere/{v}" for v in videos)),
        split=text(*(["train"] * n)),
        frames_per_second=zeros,
        num_frames=zeros.astype(np.int64),
        width=zeros.astype(np.int32),
        height=zeros.astype(np.int32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyStage:
    version: ClassVar[int] = 1
    key: ClassVar[Literal["video", "clip", "shard"]] = "clip"
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources()

    calls: str = setting("", identity=False)
    """A folder in which every call leaves a file."""

    @property
    def weights(self) -> dict[str, str]:
        return {}

    def note(self, key: str) -> None:
        if self.calls:
            Path(self.calls, f"{self.name}.{key}.{time.time_ns()}").touch()  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch(ToyStage):
    name: ClassVar[str] = "fetch"
    key: ClassVar[Literal["video", "clip", "shard"]] = "video"
    reads: ClassVar[tuple[type, ...]] = (Manifest,)
    writes: ClassVar[type[Table]] = Videos

    def build(self) -> Callable[..., Any]:
        def fetch(row: Manifest) -> Videos | Failure:
            self.note(row.video[0])
            if row.video[0].startswith("gone"):
                return Failure(Reason.GONE, "the owner removed it")
            if row.video[0].startswith("flaky") and not Path(self.calls, "mended").exists():
                return Failure(Reason.TRANSIENT, "HTTP 503", permanent=False)
            blank = {name: np.array(["" if c.dtype == object else 0], c.dtype) for name, c in vars(Videos.empty()).items()}
            return Videos(**blank | {"video": row.video, "path": row.video})

        return fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(ToyStage):
    name: ClassVar[str] = "cut"
    key: ClassVar[Literal["video", "clip", "shard"]] = "video"
    reads: ClassVar[tuple[type, ...]] = (Videos,)
    writes: ClassVar[type[Table]] = Clips

    num_clips: int = 4
    """Clips a video."""

    def build(self) -> Callable[..., Any]:
        def cut(videos: Videos) -> Clips:
            self.note(videos.video[0])
            n = np.arange(self.num_clips)
            return Clips.of(
                clip=text(*(f"{videos.video[0]}-{i:04d}" for i in n)),
                video=text(*([videos.video[0]] * len(n))),
                start_s=n * 20.0,
                end_s=n * 20.0 + 20,
                first_frame=n * 500,
                num_frames=np.full(len(n), 500),
                frames_per_second=np.full(len(n), 5.0),
                ends_with=text(*(["length"] * len(n))),
            )

        return cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(ToyStage):
    """Writes a review of three rows a clip; crashes, hangs or raises on the clips it is told to."""

    name: ClassVar[str] = "count"
    reads: ClassVar[tuple[type, ...]] = (Clips,)
    writes: ClassVar[type[Table]] = Reviews

    offset: int = 0
    """Added to every frame."""
    segfaults: str = setting("", identity=False)
    hangs: str = setting("", identity=False)
    raises: str = setting("", identity=False)
    nap_s: float = setting(0.0, identity=False)
    waits_from: str = setting("", identity=False)
    """The first of the clips that are not counted before a file `mended` lies in `calls`."""

    def build(self) -> Callable[..., Any]:
        def count(clips: Clips) -> Reviews:
            key = clips.clip[0]
            self.note(key)
            time.sleep(self.nap_s)
            while key >= self.waits_from > "" and not Path(self.calls, "mended").exists():
                time.sleep(0.05)
            if key == self.segfaults:
                ctypes.string_at(0)
            if key == self.hangs:
                time.sleep(60)
            if key == self.raises:
                raise RuntimeError("a bug")
            n = np.arange(3)
            return Reviews(
                video=text(*([clips.video[0]] * 3)),
                frame=clips.first_frame + n + self.offset,
                time_s=clips.start_s + n,
                hand=n.astype(np.int16),
                quality=np.full(3, 0.5, np.float32),
                keep=n > 0,
                box_only=n < 0,
                reason=text("", "", ""),
            )

        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class After(ToyStage):
    """Reads what `count` wrote."""

    name: ClassVar[str] = "after"
    reads: ClassVar[tuple[type, ...]] = (Reviews,)
    writes: ClassVar[type[Table]] = Hands

    factor: int = 1
    """A setting that only this stage has."""

    def build(self) -> Callable[..., Any]:
        def after(reviews: Reviews) -> Hands:
            self.note(f"{reviews.video[0]}-{reviews.frame[0]}")
            return Hands.empty()

        return after


def recipe(calls: Path | str = "", **count: Any) -> list[Any]:
    """The whole toy chain; keyword arguments are `Count`'s."""
    return [Fetch(calls=str(calls)), Cut(calls=str(calls)), Count(calls=str(calls), **count), After(calls=str(calls))]


def hanging(monkeypatch: "pytest.MonkeyPatch") -> list[Any]:
    """A recipe of two clips, of which the second never ends."""
    for stage in (Count, After):
        monkeypatch.setattr(stage, "resources", Resources(limit_s=4.0))
    return [Fetch(), Cut(num_clips=2), Count(hangs="a-0001"), After()]


def states(summary: "Summary") -> dict[tuple[str, str], int]:
    """Items by stage and state, whatever the reason."""
    found: dict[tuple[str, str], int] = {}
    for (stage, state, _), count in summary.counts.items():
        found[stage, state] = found.get((stage, state), 0) + count
    return found


def called(folder: Path) -> list[str]:
    """Names of the calls made, without their times."""
    return sorted(name.rpartition(".")[0] for name in os.listdir(folder) if name != "mended")  # noqa: PTH208


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort(ToyStage):
    """Writes two tables of what it reads; refuses the clips it is told to."""

    name: ClassVar[str] = "sort"
    reads: ClassVar[tuple[type, ...]] = (Reviews,)
    writes: ClassVar[tuple[type[Table], ...]] = (Hands, RefusedHands)

    factor: int = 1
    """A setting that only this stage has."""
    refuses: str = setting("", identity=False)

    def build(self) -> Callable[..., Any]:
        def sort(reviews: Reviews) -> tuple[Hands, RefusedHands] | Failure:
            key = f"{reviews.video[0]}-{reviews.frame[0] // 500:04d}"
            self.note(key)
            if key == self.refuses:
                return Failure(Reason.NO_FRAMES, "told to")
            return filled(Hands, 2), filled(RefusedHands, 1)

        return sort


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterSort(ToyStage):
    """Reads the second table of `sort`."""

    name: ClassVar[str] = "after-sort"
    reads: ClassVar[tuple[type, ...]] = (RefusedHands,)
    writes: ClassVar[type[Table]] = Fits

    def build(self) -> Callable[..., Any]:
        return lambda refused: filled(Fits, 10 * len(refused))


def filled(kind: type[Table], num_rows: int) -> Any:
    """A table of blank rows."""
    blank = {name: np.zeros((num_rows, *column.shape[1:]), column.dtype) for name, column in vars(kind.empty()).items()}
    for name, column in blank.items():
        if column.dtype == object:
            is_list = str(kind.schema().field(name).type).startswith("list")
            blank_value: list[Any] = [[] if is_list else "" for _ in range(num_rows)]
            column[:] = blank_value
    return kind(**blank)


def sorting(calls: Path | str = "", **sort: Any) -> list[Any]:
    """The chain up to a stage of two tables and one that reads the second; keyword arguments are `Sort`'s."""
    return [*recipe(calls)[:3], Sort(calls=str(calls), **sort), AfterSort()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeing(ToyStage):
    """Writes down what its worker sees of the GPUs; takes a GPU's memory."""

    name: ClassVar[str] = "seeing"
    reads: ClassVar[tuple[type, ...]] = (Clips,)
    writes: ClassVar[type[Table]] = Hands
    resources: ClassVar[Resources] = Resources(gpu_mb=3000)

    seen: str = ""
    """A folder for the notes."""

    def build(self) -> Callable[..., Any]:
        def see(clips: Clips) -> Hands:
            Path(self.seen, f"{self.name}-{clips.clip[0]}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
            return Hands.empty()

        return see


@dataclass(frozen=True, slots=True, kw_only=True)
class Huge(Seeing):
    resources: ClassVar[Resources] = Resources(gpu_mb=40_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind(Seeing):
    name: ClassVar[str] = "blind"
    detector: ClassVar[str] = "blind"
    resources: ClassVar[Resources] = Resources()


@dataclass(frozen=True, slots=True, kw_only=True)
class Laned(Fetch):
    resources: ClassVar[Resources] = Resources(cpus=0.1, lane="egress", lanes=2)
