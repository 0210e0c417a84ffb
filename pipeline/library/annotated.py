"""Hands of any image or video by the whole chain, with nothing trained: detect, fuse, track, fit, review, every frame.

The chain runs in this process, in a folder that goes afterwards, on every frame unless another rate is asked for.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.orders import Outcome
from pipeline.engine.plan.tasks import Task, table_of
from pipeline.engine.store import Store
from pipeline.exports.mano import FRAME
from pipeline.library.data import HandTable
from pipeline.manifest import read_manifest
from pipeline.recipes import find_recipe
from pipeline.report.progress import Bars
from pipeline.report.status import failures
from pipeline.stage_settings import with_settings
from pipeline.video_files import find_files
from stages.errors import UserError
from stages.media.probe import is_image, probe
from stages.media.sequence import DEFAULT_RATE, is_pattern
from stages.shards import HAND, HAND_COLUMNS
from stages.stage import Failure
from stages.tables import Clips, Fits, Hands, Manifest, Reviews, Table, Videos

_log = logging.getLogger(__name__)

COLUMNS = pa.schema([*(pa.field(name, kind) for name, kind in FRAME.items() if name not in ("sample", "split", "scale")), *HAND])
"""Columns of a file's hands: the frame's, then a hand's (docs/shards.md)."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Annotated:
    """What the chain finds in one file."""

    video: str
    path: Path
    videos: Videos
    clips: Clips
    hands: Hands
    fits: Fits
    reviews: Reviews

    def table(self) -> HandTable:
        """Every hand, also those that the review would drop: `keep` and `reason` say so."""
        arrow: dict[type[Table], pa.Table] = {type(table): table.to_arrow() for table in (self.hands, self.fits, self.reviews)}
        clip = self.clips.clip[np.searchsorted(self.clips.first_frame, self.hands.frame, side="right") - 1]
        columns: dict[str, Any] = {name: arrow[table].column(column) for name, (table, column) in HAND_COLUMNS.items()}
        columns |= {name: arrow[Hands].column(name) for name in ("video", "frame", "time_s", "width", "height")}
        columns["clip"] = pa.array(clip, pa.string())
        return HandTable(pa.table([columns[name] for name in COLUMNS.names], schema=COLUMNS))


def annotate(source: str | Path, *, frames_per_second: float = 0.0, max_frames: int | None = None, recipe: str = "whim") -> HandTable:
    """The hands of an image, a video, or all of a folder, found and fitted by the chain: a row a hand and frame.

    `frames_per_second`: how often a video is looked at, 0 every frame. Raises UserError that says what cannot be read, and why.
    """
    found = [one.table().arrow for one in annotated([str(source)], frames_per_second, max_frames=max_frames, recipe=recipe)]
    return HandTable(pa.concat_tables([COLUMNS.empty_table(), *found]))


def annotated(
    sources: Sequence[str],
    frames_per_second: float = 0.0,
    *,
    max_frames: int | None = None,
    recipe: str = "whim",
    console: Console | None = None,
    failed: list[str] | None = None,
) -> Iterator[Annotated]:
    """What the chain finds in each file of some files and folders, in their order; a bar a stage on the console, if there is one.

    Raises UserError where no file could be read. Of several, those that cannot be are left out, and so is a clip that fails; each is
    named in `failed`, or else logged.
    """
    manifest = _shortened(read_manifest([file for source in sources for file in _files(Path(source))]), max_frames)
    with tempfile.TemporaryDirectory(prefix="whim-") as folder:
        store = Store(Path(folder))
        stages = with_settings(find_recipe(recipe)(manifest, store.root), {"split.frames_per_second": frames_per_second})
        graph = Graph([stage for stage in stages if stage.key != "shard"], manifest, store).load()
        bars: AbstractContextManager[Callable[[Task, Outcome], None]] = Bars(graph, console) if console else nullcontext(_silent)
        with bars as told:
            finish(graph, Where(local=True), on_outcome=told)
        done = [video for video in map(str, manifest.video) if store.has("clips", video)]
        if not done:
            raise UserError("; ".join(_why(graph, task) for task in failures(graph)) or "nothing to look at")
        for why in (_why(graph, task) for task in failures(graph)):
            if failed is None:
                _log.warning("left out: %s", why)
            else:
                failed.append(why)
        yield from (_read(store, graph, video) for video in done)


def _why(graph: Graph, task: Task) -> str:
    """What a failure says."""
    error = graph.store.error(table_of(graph.stages[task.stage]), task.key)
    return f"{task.key}: {error.message if error else task.reason}"


def _silent(_task: Task, _outcome: Outcome) -> None:
    """Tell nobody."""


def _files(source: Path) -> list[str]:
    """A file, or all videos and images below a folder. Raises UserError where there is none."""
    if source.is_dir():
        found = find_files(source)
        if not found.taken:
            raise UserError(f"{source}: no video and no image below this folder")
        return [str(path) for path in sorted([*found.videos, *found.films, *found.images])]
    if not source.exists():
        raise UserError(f"there is no {source}: name an image, a video or a folder")
    return [str(source)]


def _shortened(manifest: Manifest, max_frames: int | None) -> Manifest:
    """The manifest with an end after so many frames of each video, by its rate."""
    if max_frames is None:
        return manifest
    end_s = manifest.end_s.copy()
    for row, source in enumerate(manifest.source):
        if is_pattern(str(source)):
            end_s[row] = (max_frames - 0.5) / (float(manifest.frames_per_second[row]) or DEFAULT_RATE)
            continue
        found = probe(Path(str(source)), images=True)
        if not isinstance(found, Failure) and not is_image(Path(str(source))):
            rate = 25.0 if math.isnan(found.frames_per_second) else found.frames_per_second
            end_s[row] = (max_frames - 0.5) / rate
    return replace(manifest, end_s=end_s)


def _read(store: Store, graph: Graph, video: str) -> Annotated:
    """The tables of a video; a clip that failed has no rows."""
    videos, clips = store.read(Videos, "videos", video), store.read(Clips, "clips", video)
    whole = [clip for clip in map(str, clips.clip) if all(store.has(table, clip) for table in ("hands", "fits", "reviews"))]
    tables: Mapping[type, list[Any]] = {
        kind: [store.read(kind, name, clip) for clip in whole] for kind, name in ((Hands, "hands"), (Fits, "fits"), (Reviews, "reviews"))
    }
    return Annotated(
        video=video,
        path=store.root / str(videos.path[0]),
        videos=videos,
        clips=clips,
        hands=Hands.concat(tables[Hands]),
        fits=Fits.concat(tables[Fits]),
        reviews=Reviews.concat(tables[Reviews]),
    )
