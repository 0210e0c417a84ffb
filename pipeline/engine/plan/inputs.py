"""What decides a result beside stages and tables (`item` of recipes): the list's line, what is known of a camera, what people decided."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.engine.plan.columns import Columns
from pipeline.engine.plan.contents import Contents
from pipeline.engine.plan.tasks import table_of
from pipeline.engine.store import Store
from pipeline.engine.verdicts import read_verdicts, videos_with_verdicts
from stages.cameras.said import identity_said, views_said
from stages.media.frames import Frames
from stages.media.sequence import images_of_pattern, is_pattern, listing_digest
from stages.stage import Stage, tables_written
from stages.tables import Cameras, Clips, Manifest, Verdicts, Views
from stages.verdicts import digest, in_clip
from stages.web.address import without_secrets

_NOTHING = "{}"


class Inputs:
    """Items of tasks as JSON: as they were when a task was planned, whatever has changed meanwhile."""

    def __init__(self, stages: Sequence[Stage], manifest: Manifest, store: Store, columns: Columns, contents: Contents) -> None:
        self.stages, self.manifest, self.store, self.columns, self.contents = stages, manifest, store, columns, contents
        self._told = {str(video): str(said) for video, said in zip(manifest.video, manifest.camera, strict=True) if said}
        self._said: dict[int, str] = {}  # what was known of cameras when a video's clips were planned
        self._items: dict[int, str] = {}  # of videos, and of clips of which people decided something
        self._judged = videos_with_verdicts(store)
        self._of_camera = lru_cache(maxsize=1024)(lambda position, said: _as_json(_camera_identity(stages[position], said)))

    def item(self, task: int) -> str:
        """The inputs of a task beside tables and settings (its line of the list, camera, verdicts), as JSON with its names in order."""
        if task in self._items:
            return self._items[task]
        position, video = self.columns.stage[task], self.columns.video(task)
        if video is None or self.columns.kinds[position] == "video":
            return _NOTHING
        said = self._said[video]
        return self._of_camera(position, said) if said else _NOTHING

    def take_video(self, video: int) -> None:
        """Take down the items of a video's own tasks."""
        for task in self.columns.tasks_of_video(video):
            stage = self.stages[self.columns.stage[task]]
            if Manifest in stage.reads:
                self._items[task] = _as_json(self._of_line(stage, self.manifest.take(slice(video, video + 1))))

    def take_clips(self, video: int, clips: Clips) -> None:
        """Take down the items of the tasks of a video's clips. Raises CorruptFileError where what people decided cannot be read."""
        name = self.columns.videos[video]
        self._said[video] = self.camera_of(name)
        honouring = [p for p in self.columns.of_clip if Verdicts in self.stages[p].reads] if name in self._judged else []
        verdicts = read_verdicts(self.store, name) if honouring else Verdicts.empty()
        for position in honouring:
            for task, clip in zip(self.columns.tasks_at(position, video), clips.rows(), strict=True):
                if decided := digest(in_clip(verdicts, clip), getattr(self.stages[position], "honours", ())):
                    self._items[task] = _as_json({**json.loads(self.item(task)), "verdicts": decided})

    def camera_of(self, video: str) -> str:
        """What is said of a video's camera, by the list or else by its file: see `stages.cameras.said`."""
        told = self._told.get(video, "")
        known = None if told else self.contents.row(video)
        return told if known is None else known.camera

    def same_cameras(self) -> bool:
        """Whether no more is known of cameras than when the clips were planned: a file may have been asked again meanwhile."""
        return all(self.camera_of(self.columns.videos[video]) == said for video, said in self._said.items())

    def _of_line(self, stage: Stage, row: Manifest) -> dict[str, Any]:
        """What of a manifest line decides the download: where from and which size; a local file by its content.

        A local file's size and time stand for its content: where they differ from those of its part, or where it has moved, it is
        hashed. Of one that is gone, those of its part: what was made from it stays good, and can be refitted.
        """
        source = row.source[0]
        identity = {
            "source": without_secrets(source),
            "width": int(row.width[0]),
            "height": int(row.height[0]),
            "fps": float(row.frames_per_second[0]),
        }
        wanted = {"start_s": float(row.start_s[0]), "end_s": float(row.end_s[0]), "extra": str(row.extra[0])}
        identity |= {name: value for name, value in wanted.items() if value}
        before = self.store.footers.item(table_of(stage), row.video[0], tables_written(stage)[0].schema())
        if is_pattern(source):
            images, listing = images_of_pattern(Path(source)), before.get("listing")
            with suppress(OSError):  # who fetches them tells it
                listing = listing_digest(images) if images else listing
            return identity | ({"listing": listing} if listing else {})
        if not source.startswith("/"):
            return {name: before[name] for name in ("content",) if name in before} | identity
        if not Path(source).is_file():
            return {name: before[name] for name in ("size_bytes", "modified_ns") if name in before} | identity
        stat = Path(source).stat()
        now = identity | {"size_bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        wishes = ("width", "height", "fps", *wanted)
        if before and before != now and all(before.get(wish) == now.get(wish) for wish in wishes):
            return before if self.contents.is_of(row.video[0], Path(source)) else now
        return now


def _as_json(item: Mapping[str, Any]) -> str:
    return json.dumps(item, sort_keys=True)


def _camera_identity(stage: Stage, said: str) -> dict[str, Any]:
    """What of a camera decides a stage's result: all that is said to one that reads `Cameras`, to one that looks only where it looks.

    Of a clip of whose camera nothing is said, nothing: its parts are those of versions that knew no cameras.
    """
    if said and Cameras in stage.reads:
        return {"camera": identity_said(said), "camera_version": getattr(stage, "camera_version", 1)}
    looks = views_said(said) if Frames in stage.reads or Views in stage.reads else ""
    return {"views": json.loads(looks)} if looks else {}
