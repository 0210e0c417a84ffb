"""Gives stages what they read: tables out of the store, the order's row, cameras, verdicts, and videos that are what their rows say."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fitting.files import sha256_of
from pipeline.engine.orders import Order
from pipeline.engine.plan.tasks import table_of, tables_of
from pipeline.engine.roots.mirror import Mirror
from pipeline.engine.store import Store
from pipeline.engine.verdicts import as_ordered
from stages.cameras.path import poses_said
from stages.cameras.said import cameras_of
from stages.digest import CorruptFileError
from stages.media.frames import Frames
from stages.stage import Stage, tables_written
from stages.tables import CameraPoses, Cameras, Clips, Table, Verdicts, Videos, Views
from stages.web.note import read_note

Made = dict[type[Table], Table]
"""Tables that the stages before made of one item, in this very call."""


@dataclass(eq=False)
class Reader:
    """Reads for the stages of a recipe in a data folder."""

    store: Store
    stages: Sequence[Stage]
    sound: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Size and time of the videos whose content was seen to be what their rows say."""

    def of_stretch(
        self, kind: type[Table], position: int, given: Table | None, made: Mapping[int, list[tuple[Table, ...]]], frames: Frames
    ) -> Table:
        """The rows of an input on the frames of one stretch: from the store, or just made by the stages before it in the group."""
        fresh = [
            stretches[-1][tables_written(self.stages[p]).index(kind)]
            for p, stretches in made.items()
            if p < position and kind in tables_written(self.stages[p])
        ]
        if given is not None and hasattr(given, "frame"):
            fresh.append(given.take(np.isin(given.frame, frames.frame)))
        elif given is not None:
            return given
        rows = kind.concat(fresh)
        return rows.take(rows.view == frames.view) if hasattr(rows, "view") and (rows.view != frames.view).any() else rows

    def inputs(self, order: Order, position: int, made: dict[int, Made] | None = None, skip: Collection[int] = ()) -> list[Table | None]:
        """The arguments of a stage, in their order: see `input`."""
        made = {} if made is None else made
        return [self.input(kind, order, position, made, skip) for kind in self.stages[position].reads]

    def input(self, kind: Any, order: Order, position: int, made: dict[int, Made], skip: Collection[int]) -> Table | None:
        """One argument of a stage, from the order or the store; all rows of the several detectors before it in the recipe.

        `made`: what stages before it gave in this very order, by their positions; what is read of others is kept there for stages after
        it. Those to `skip` are left out.
        """
        if kind is Frames:
            return None
        if order.row is not None and isinstance(order.row, kind):
            return order.row
        if kind is Videos:
            videos = self.videos(order.video)
            self._video_file(videos)
            return videos
        if kind is Verdicts:
            assert isinstance(order.row, Clips)
            return as_ordered(self.store, order.row, *self._honouring(order, position))
        if kind in (Cameras, Views):
            assert isinstance(order.row, Clips)
            return self.cameras(order, order.row)
        if kind is CameraPoses:
            return poses_said(order.cameras.get(order.video, ""))
        makers = [(p, s) for p, s in enumerate(self.stages[:position]) if kind in tables_written(s) and p not in skip]
        key = order.video if makers and makers[0][1].key == "video" else order.key
        for p, maker in makers:
            if kind not in made.setdefault(p, {}):
                made[p][kind] = self.store.read(kind, tables_of(maker)[kind], key)
        tables: list[Any] = [made[p][kind] for p, _ in makers]
        return kind.concat(tables) if tables else None

    def _honouring(self, order: Order, position: int) -> tuple[tuple[str, ...], Mapping[str, Any]]:
        """Which verdicts a stage honours, and the recipe that says what they were; of a shard those of the tables that it is made from."""
        stage = self.stages[position]
        if stage.key == "clip":
            return getattr(stage, "honours", ()), order.recipes[order.stages.index(position)]
        last = next((one for one in reversed(self.stages[:position]) if Verdicts in one.reads), None)
        return ((), {}) if last is None else (getattr(last, "honours", ()), self.store.made_by(table_of(last), order.key) or {})

    def cameras(self, order: Order, clip: Clips) -> Cameras:
        """The camera of a clip and its views. Raises CameraError."""
        video = str(clip.video[0])
        width, height = int(clip.width[0]), int(clip.height[0])
        if not width and order.cameras.get(video):
            videos = self.videos(video)
            width, height = int(videos.width[0]), int(videos.height[0])
        return cameras_of(order.cameras.get(video, ""), width, height)

    def videos(self, video: str) -> Videos:
        """The video's row with its path made absolute."""
        videos = self.store.read(Videos, "videos", video)
        return dataclasses.replace(videos, path=np.array([str(self.store.root / p) for p in videos.path], object))

    def _video_file(self, videos: Videos) -> Path:
        """A video's file; of a data folder in an object store it is fetched when it is wanted."""
        path = Path(videos.path[0])
        if (mirror := self.store.mirror) and path.is_relative_to(self.store.root):
            mirror.have_video(path)
        return path

    def have_kept(self, mirror: Mirror, video: str) -> None:
        """Have what a machine fetched of a video before, the note on it and the file that it names: nothing is fetched twice."""
        note = self.store.root / "media" / f"{video}.info.json"
        mirror.have_kept(note)
        with suppress(FileNotFoundError, CorruptFileError, LookupError, TypeError):
            mirror.have_kept(file := note.with_name(Path(read_note(note)["file"]).name))
            mirror.make_room(keep=file)

    def is_gone(self, video: str) -> bool:
        """Whether a video's file is nowhere."""
        return self.store.size_of(Path(self.videos(video).path[0])) is None

    def check_content(self, videos: Videos) -> None:
        """Hold a video's file against the sha256 of its row, once while it stays as it is; one that is gone passes.

        Raises CorruptFileError.
        """
        path = self._video_file(videos)
        if not path.is_file():
            return
        stat = path.stat()
        facts = stat.st_size, stat.st_mtime_ns
        if self.sound.get(path) != facts and videos.sha256[0]:
            if sha256_of(path) != videos.sha256[0]:
                raise CorruptFileError(path, "its content is not that of the video that was read before")
            self.sound[path] = facts

    def tables_of_clips(self, order: Order, position: int) -> Iterator[list[Table | None]]:
        """The tables that a stage of key `shard` reads, of one clip after another."""
        for video, clip in order.clips:
            clips = self.store.read(Clips, "clips", video)
            self.check_content(self.videos(video))
            of_clip = dataclasses.replace(order, key=clip, video=video, row=clips.take(clips.clip == clip))
            yield self.inputs(of_clip, position)
