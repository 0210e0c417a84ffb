"""Learn what each detector's word is worth, on any labelled frames: `whim learn calibration --labels LABELS --detections TABLES`.

Extents: a labelled hand's width and height over those of the detector's box, medians. Scores: isotonic regression from the detector's
own score to whether its box, so scaled, is a labelled hand (IoU >= 0.3). Tables of detections come from `whim evaluate annotators
--alone [--mirror] --recipe whim_full --detections FILE`, every member's whose weights are here, or from a run's `hand_detections`;
every set weighs by its detections. Frames alone and mirrored teach more than those that tracks have tidied. What is learned lies
among the weights, where fusion finds it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Float64, Shaped
from rich.console import Console

from fitting.files import sha256_of, weights_folder
from hands.metrics.labels import MIRRORED, LabelledFrame, load_labels, match_hands, mirrored
from stages import boxes
from stages.fusion.calibration import Calibration
from stages.tables import HandDetections

MIN_DETECTIONS = 50
"""Of a source: fewer say little about a curve."""
DOUBT = 2.0
"""Imagined detections at either end, misses at score 0 and hits at 1: nobody is sure of a score that a few detections bore out."""
RESAMPLINGS = 100
SURE = 0.5
"""Extents come from hands of at least this score: a doubtful one is often another's part."""


def learn(labels: Sequence[LabelledFrame], detections: HandDetections) -> dict[str, dict[str, Any]]:
    """Calibration and figures of each source with enough detections on the labelled frames, ready for JSON.

    Rows are matched by video (a still's label by its name) and frame; rows on other frames count neither way, nor do those on
    ignored regions. Brier scores are means of squared errors; `held_out` leaves each video out of its own calibration.
    """
    found = {}
    for source in sorted(set(detections.source)):
        mine = detections.take(detections.source == source)
        frames = [(label, mine.take(_on(mine, label))) for label in labels]
        frames = [(label, here) for label, here in frames if len(here)]
        extent = _extent(frames)
        score, hit, video = _hits(frames, extent)
        if len(score) < MIN_DETECTIONS:
            continue
        knots = _isotonic(score, hit, video)
        held_out = np.full(len(score), np.nan)
        for one in set(video):
            rest = video != one
            if rest.any():
                held_out[~rest] = np.interp(score[~rest], *_isotonic(score[rest], hit[rest], video[rest]).T)
        found[source] = {
            "extent": np.round(extent, 3).tolist(),
            "knots": knots.tolist(),
            "num_detections": len(score),
            "num_hands": int(hit.sum()),
            "brier": {name: round(float(np.nanmean((p - hit) ** 2)), 4) for name, p in
                      (("held_out", held_out), ("raw", score), ("constant", np.full(len(hit), hit.mean())))},
        }  # fmt: skip
    return found


def _on(detections: HandDetections, label: LabelledFrame) -> Bool[np.ndarray, "n"]:
    """Rows of the labelled frame: of its video, or of the picture that stands in for it."""
    in_video = (detections.video == label.video) & (detections.frame == label.frame) & (label.video != "")
    return np.asarray(in_video | ((detections.video == label.name) & (detections.frame == 0)), np.bool_)


def _extent(frames: Sequence[tuple[LabelledFrame, HandDetections]]) -> Float64[np.ndarray, "2"]:
    """Median width and height of labelled hands over those of the boxes that lie on them; 1, 1 where there is none."""
    ratio = []
    for label, here in frames:
        sure = here.take(here.score >= SURE)
        match = match_hands(label, sure.box, sure.score)
        rows = match.found >= 0
        mine, theirs = sure.box[match.found[rows]], label.box[rows]
        whole = _inside(theirs, label)  # a label ends at the picture's border, a detector's box does not
        ratio.append(((theirs[:, 2:] - theirs[:, :2]) / (mine[:, 2:] - mine[:, :2]))[whole])
    pairs = np.concatenate(ratio) if ratio else np.zeros((0, 2))
    return np.exp(np.median(np.log(pairs), 0)) if len(pairs) else np.ones(2)


def _inside(box: Float[np.ndarray, "n 4"], label: LabelledFrame) -> Bool[np.ndarray, "n"]:
    return np.asarray(((box[:, :2] > 1) & (box[:, 2:] < np.array([label.width, label.height]) - 1)).all(1), np.bool_)


def _hits(
    frames: Sequence[tuple[LabelledFrame, HandDetections]], extent: Float64[np.ndarray, "2"]
) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n"], Shaped[np.ndarray, "n"]]:
    """Own score of each detection, whether it is a labelled hand, and its video; without those on ignored regions."""
    scaled = Calibration(extent=extent, knots=np.eye(2))
    score, hit, video = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, object)]
    for label, here in frames:
        box = scaled.box(here.box)
        match = match_hands(label, box, here.score)
        is_hand = np.isin(np.arange(len(here)), match.found)
        again = boxes.iou(box.astype(np.float64), label.box).max(1, initial=0) >= 0.3  # a hand's second box is no hand of its own
        counts = is_hand | match.false | (again & ~is_hand)
        score.append(here.score[counts].astype(np.float64))
        hit.append(is_hand[counts].astype(np.float64))
        video.append(np.full(counts.sum(), (label.video or label.name).removeprefix(MIRRORED), object))
    return np.concatenate(score), np.concatenate(hit), np.concatenate(video)


def _isotonic(score: Float64[np.ndarray, "n"], hit: Float64[np.ndarray, "n"], video: Shaped[np.ndarray, "n"]) -> Float64[np.ndarray, "k 2"]:
    """Knots of a curve that never falls: the mean of isotonic regressions on resampled videos, whose steps lie elsewhere each time."""
    from sklearn.isotonic import IsotonicRegression

    rng, grid = np.random.default_rng(0), np.linspace(0, 1, 51)
    videos = sorted(set(video))
    of_video = np.searchsorted(videos, video.astype(str))
    curves = []
    for _ in range(RESAMPLINGS):
        times = np.bincount(rng.integers(0, len(videos), len(videos)), minlength=len(videos))[of_video]
        drawn = times > 0
        weight = np.concatenate([times[drawn], [DOUBT, DOUBT]])
        fit = IsotonicRegression(y_min=0, y_max=1).fit(np.append(score[drawn], [0, 1]), np.append(hit[drawn], [0, 1]), sample_weight=weight)
        curves.append(fit.predict(grid))
    return np.round(np.column_stack([grid, np.maximum.accumulate(np.mean(curves, 0))]), 4)


def write_calibration(label_files: Sequence[Path], tables: Sequence[Path], out: Path | None, console: Console) -> None:
    """Learn from labelled frames and the detections on them, and write. Raises ValueError when no source has enough of them."""
    out = out or weights_folder() / "calibration.json"
    labels = [label for path in label_files for label in load_labels(path)]
    labels += [mirrored(label) for label in labels]  # of `whim evaluate annotators --mirror`
    detections = HandDetections.concat([HandDetections.from_arrow(pq.read_table(path)) for path in tables])
    sources = learn(labels, detections)
    if not sources:
        raise ValueError(f"no source has {MIN_DETECTIONS} detections on the {len(labels)} labelled frames: do the videos' names agree?")
    data = {path.name: sha256_of(path) for path in [*label_files, *tables]}
    content = {"sources": sources, "learned_on": {"num_frames": len(labels) // 2, "sha256": data}}
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.aside")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(out)
    console.print(f"{out}: {', '.join(sources)}", markup=False)
    for source in sorted(set(detections.source) - set(sources)):
        console.print(f"{source}: fewer than {MIN_DETECTIONS} detections on the labelled frames, left as it is", markup=False)
