"""Room on the disk that a run will need, told before its first download."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.engine.durable import mirror_of
from pipeline.engine.graph import Graph
from stages.download import Download
from stages.split import Split
from stages.tables import Manifest

MEDIAN_S = 204.0
"""Length of a video where the list does not tell it: the median of WHIM's."""
MEDIA_GB_PER_HOUR = ((480, 0.5), (720, 1.0), (1080, 1.8), (1440, 4.0), (100_000, 9.0))
"""Gigabytes an hour of YouTube's streams without sound, by most lines of the image: about, ours."""
SHARD_KB_PER_FRAME = 60.0
"""A frame of 1080 lines as JPEG with its hands; a third of it for every stage's tables."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What videos that are not here yet will take."""

    num_videos: int
    media_gb: float
    shards_gb: float


def needs_of(graph: Graph) -> Needs:
    """The room for all videos that are to be fetched from the web; about, as the list tells lengths and sizes or not."""
    download = next((stage for stage in graph.stages if isinstance(stage, Download)), None)
    split = next((stage for stage in graph.stages if isinstance(stage, Split)), None)
    num_videos, media_gb, frames = 0, 0.0, 0.0
    for task in graph.pending if download else ():
        row = task.row
        if graph.stages[task.stage] is not download or not isinstance(row, Manifest) or str(row.source[0]).startswith("/"):
            continue
        rate = float(row.frames_per_second[0])
        seconds = float(row.num_frames[0]) / rate if rate and row.num_frames[0] else MEDIAN_S
        lines = int(min(row.width[0], row.height[0]) or row.height[0]) or download.default_lines
        num_videos += 1
        media_gb += seconds / 3600 * next(gb for most, gb in MEDIA_GB_PER_HOUR if lines <= most)
        frames += seconds * ((split.frames_per_second if split else 0.0) or rate or 30.0)
    packed = any(stage.key == "shard" for stage in graph.stages)
    return Needs(num_videos, media_gb, frames * SHARD_KB_PER_FRAME / 1e6 if packed else 0.0)


def elsewhere(root: Path) -> str:
    """How a data folder, or the mirror of one in an object store, comes to lie on another disk: in words."""
    return "set WHIM_CACHE to a larger disk" if mirror_of(root) else "name another folder by --data"


def print_needs(graph: Graph, console: Console) -> None:
    """Tell the room needed beside the room there is, if something is to be fetched."""
    needs, mirror = needs_of(graph), graph.store.mirror
    if not needs.num_videos:
        return
    there = next(folder for folder in (graph.store.root, *graph.store.root.parents) if folder.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    media_gb = min(needs.media_gb, mirror.media_gb) if mirror else needs.media_gb  # a mirror drops those used longest ago
    enough = media_gb + needs.shards_gb < free_gb
    told = f"{needs.num_videos:,} videos are to be fetched: about {needs.media_gb:,.1f} GB of media and {needs.shards_gb:,.1f} GB of shards"
    warned = "" if enough else f": that will not do, {elsewhere(graph.store.root)} or make room"
    console.print(
        f"{told}; {free_gb:,.0f} GB are free{' for the mirror here' * bool(mirror)}{warned}", style="" if enough else "yellow", markup=False
    )
