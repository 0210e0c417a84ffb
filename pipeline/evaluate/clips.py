"""Evaluate a recipe on whole labelled clips: sides, identities and false hands over all frames, before and after the review."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float64, Int64

from hands.metrics.clip_labels import LabelledClip, load_clips
from hands.metrics.labelled_clips import ClipScore, score_clips
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.store import Store
from pipeline.evaluate.folds import Fold, by_recipe
from pipeline.recipes import Recipe
from stages.media.frames import Reading, decode, grid_point
from stages.split import Split
from stages.tables import Clips, Hands, Manifest, Reviews

RATE = 10.0
"""Frames a second that are looked at: the labels were drawn at this rate."""


Looked = tuple[Int64[np.ndarray, "n"], Float64[np.ndarray, "n"]]
"""Indices and times of the frames that the chain looked at."""


def evaluate_clips(
    labels: Path, media: Path, recipe: Recipe, folds: Sequence[Fold] = (), *, tick: Callable[[str], None] = lambda text: None
) -> dict[str, ClipScore]:
    """Scores of the clips of a label file, `found` and, after the review, `kept`; the chain runs in this process, in a folder of its own.

    With `folds` each clip is annotated by the fold that lists its video. `tick` is told of each part that is made. Raises ValueError for
    a label file with faults or a video that ends without hands.
    """
    clips = load_clips(labels, media)
    annotated = [one for judge, group in by_recipe(clips, recipe, folds) for one in _annotated(group, media, judge, tick)]
    frames, found, kept = zip(*annotated, strict=True)
    return {"found": score_clips(clips, frames, found), "kept": score_clips(clips, frames, kept)}


def _annotated(
    clips: Sequence[LabelledClip], media: Path, recipe: Recipe, tick: Callable[[str], None]
) -> list[tuple[Looked, Hands, Hands]]:
    """What a recipe makes of each clip: the frames that were looked at, the hands found, and those that the review keeps."""
    manifest = _manifest(clips, media)
    with TemporaryDirectory(prefix="whim-clips-") as folder:
        store = Store(Path(folder))
        stages = [replace(s, frames_per_second=RATE) if isinstance(s, Split) else s for s in recipe(manifest, store.root)]
        graph = Graph([stage for stage in stages if stage.key != "shard"], manifest, store).load()
        finish(graph, Where(local=True), on_outcome=lambda task, _: tick(f"{graph.stages[task.stage].name} {task.key}"))
        return [
            (_looked_at(store, video, media / clip.video), _hands(store, video, kept=False), _hands(store, video, kept=True))
            for video, clip in zip(manifest.video, clips, strict=True)
        ]


def _manifest(clips: Sequence[LabelledClip], media: Path) -> Manifest:
    count = len(clips)
    known = {
        "video": np.array([f"clip{i:03d}" for i in range(count)], object),
        "source": np.array([str((media / clip.video).absolute()) for clip in clips], object),
    }
    blank = {n: np.array(["" if c.dtype == object else 0] * count, c.dtype) for n, c in vars(Manifest.empty()).items()}
    return Manifest(**blank | known)


def _looked_at(store: Store, video: str, path: Path) -> Looked:
    """Indices and times of the frames that the chain looked at."""
    if not store.has("clips", video):
        raise ValueError(f"{path} could not be annotated: {store.error_file('clips', video).name} or that of its video says why")
    clips, taken = store.read(Clips, "clips", video), []
    times = np.array([time_s for time_s, _ in decode(path, Reading.of(clips))])
    for clip in clips.rows():
        frame = clip.first_frame[0] + np.arange(clip.num_frames[0])
        grid = grid_point(times[frame], float(clip.start_s[0]), float(clip.frames_per_second[0]))
        taken.append(frame[np.diff(grid, prepend=-1) > 0])
    frame = np.concatenate(taken)
    return frame.astype(np.int64), times[frame]


def _hands(store: Store, video: str, *, kept: bool) -> Hands:
    """Hands of all clips of a video, tracks numbered through; only those that the review keeps where `kept`."""
    found, first = [], 0
    for clip in store.read(Clips, "clips", video).clip:
        if not store.has("reviews", clip):
            raise ValueError(f"clip {clip} has no reviewed hands: whim status on its videos says why")
        hands, reviews = store.read(Hands, "hands", clip), store.read(Reviews, "reviews", clip)
        numbered = replace(hands, track=(hands.track + first).astype(np.int32))
        first += int(hands.track.max(initial=-1)) + 1
        found.append(numbered.take(reviews.keep) if kept else numbered)
    return Hands.concat(found)
