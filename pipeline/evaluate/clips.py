"""Evaluate a recipe on whole labelled clips: sides, identities and false hands over all frames, before and after the review."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hands.metrics.clip_labels import LabelledClip, load_clips
from hands.metrics.labelled_clips import ClipScore, score_clips
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.store import Store
from pipeline.evaluate.clips_by_others import Looked, Watched, at_half_the_rate, by_others
from pipeline.evaluate.folds import Fold, by_recipe
from pipeline.recipes import Recipe
from stages.fit import Fit
from stages.fuse_hands import FuseHands
from stages.media.frames import Reading, decode, grid_point
from stages.review import Review
from stages.split import Split
from stages.tables import Clips, HandDetections, Hands, Manifest, People, Reviews, Videos

RATE = 10.0
"""Frames a second that are looked at: the labels were drawn at this rate."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Annotated:
    """What a recipe makes of a labelled clip."""

    watched: Watched
    found: Hands
    kept: Hands  # of those, what the review keeps


def evaluate_clips(
    labels: Path, media: Path, recipe: Recipe, folds: Sequence[Fold] = (), *, tick: Callable[[str], None] = lambda text: None
) -> dict[str, ClipScore]:
    """Scores of the clips of a label file, `found` and, after the review, `kept`; the chain runs in this process, in a folder of its own.

    `half_rate`: what is found with every second frame alone. `others_found` and `others_kept`: by what the other videos teach.
    With `folds` each clip is annotated by the fold that lists its video. `tick` is told of each part that is made. Raises ValueError for
    a label file with faults or a video that ends without hands.
    """
    clips = load_clips(labels, media)
    return scores_of([one for judge, group in by_recipe(clips, recipe, folds) for one in _annotated(group, media, judge, tick)], recipe)


def scores_of(annotated: Sequence[Annotated], recipe: Recipe) -> dict[str, ClipScore]:
    """The scores that `evaluate_clips` tells, of what a recipe made of its clips."""
    watched = [one.watched for one in annotated]
    labels, looked = [one.label for one in watched], [one.looked for one in watched]
    stages = recipe(Manifest.empty(), Path())
    fuse = next(stage for stage in stages if isinstance(stage, FuseHands))
    fit = next((stage.build() for stage in stages if isinstance(stage, Fit)), None)
    review = next((stage for stage in stages if isinstance(stage, Review)), None)
    return {
        "found": score_clips(labels, looked, [one.found for one in annotated]),
        "kept": score_clips(labels, looked, [one.kept for one in annotated]),
        "half_rate": at_half_the_rate(watched, fuse),
        **{f"others_{name}": score for name, score in by_others(watched, fuse, fit, review).items()},
    }


def _annotated(clips: Sequence[LabelledClip], media: Path, recipe: Recipe, tick: Callable[[str], None]) -> list[Annotated]:
    """What a recipe makes of each clip."""
    manifest = _manifest(clips, media)
    with TemporaryDirectory(prefix="whim-clips-") as folder:
        store = Store(Path(folder))
        stages = [replace(s, frames_per_second=RATE) if isinstance(s, Split) else s for s in recipe(manifest, store.root)]
        graph = Graph([stage for stage in stages if stage.key != "shard"], manifest, store).load()
        finish(graph, Where(local=True), on_outcome=lambda task, _: tick(f"{graph.stages[task.stage].name} {task.key}"))
        detectors = next(stage.detectors for stage in stages if isinstance(stage, FuseHands))
        return [annotated(store, video, clip, media, detectors) for video, clip in zip(manifest.video, clips, strict=True)]


def annotated(store: Store, video: str, clip: LabelledClip, media: Path, detectors: Sequence[str]) -> Annotated:
    """What a data folder holds of a labelled clip."""
    looked = _looked_at(store, video, media / clip.video)
    found, kept = (_hands(store, video, kept=kept) for kept in (False, True))
    parts = [
        (
            part,
            store.read(People, "people", part.clip[0]),
            HandDetections.concat([store.read(HandDetections, f"hand_detections/{name}", part.clip[0]) for name in detectors]),
        )
        for part in store.read(Clips, "clips", video).rows()
    ]
    watched = Watched(label=clip, looked=looked, videos=store.read(Videos, "videos", video), parts=tuple(parts))
    return Annotated(watched=watched, found=found, kept=kept)


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
