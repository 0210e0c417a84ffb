"""Learn what each detector's word is worth, on any labelled frames: `whim learn calibration --labels LABELS --detections TABLES`.

Extents: a labelled hand's width and height over those of the detector's box, medians. Scores: isotonic regression from the detector's
own score to whether its box, so scaled, is a labelled hand (IoU >= 0.3). Tables of detections come from `whim evaluate annotators
--alone [--mirror] --recipe whim_full --detections FILE`, every member's whose weights are here, or from a run's `hand_detections`;
every set weighs by its detections. Frames alone and mirrored teach more than those that tracks have tidied. What is learned lies
among the weights, where fusion finds it.
"""

import hashlib
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
from stages.fuse_hands import FuseHands, body_log_odds
from stages.fusion.association import WRIST
from stages.fusion.calibration import TERMS, Calibration, load_calibrations, terms
from stages.fusion.wrists import wrist_witness
from stages.tables import HandDetections, People

MIN_DETECTIONS = 50
"""Of a source: fewer say little about a curve."""
RIDGE = 1.0
"""On the squares of the weights of the log-odds, the constant's excepted."""
DOUBT = 2.0
"""Imagined detections at either end, misses at score 0 and hits at 1: nobody is sure of a score that a few detections bore out."""
RESAMPLINGS = 100
SURE = 0.5
"""Extents come from hands of at least this score: a doubtful one is often another's part."""


def learn(labels: Sequence[LabelledFrame], detections: HandDetections, people: People | None = None) -> dict[str, dict[str, Any]]:
    """Calibration and figures of each source with enough detections on the labelled frames, ready for JSON.

    With the `people` of those frames, what their wrists say of a hand is left to fusion, which adds it.

    Rows are matched by video (a still's label by its name) and frame; rows on other frames count neither way, nor do those on
    ignored regions. Brier scores are means of squared errors; `held_out` leaves each video out of its own calibration.
    """
    found = {}
    for source in sorted(set(detections.source)):
        mine = detections.take(detections.source == source)
        frames = [(label, mine.take(_on(mine, label))) for label in labels]
        frames = [(label, here) for label, here in frames if len(here)]
        extent = _extent(frames)
        score, hit, video, term, bodies = _hits(frames, extent, people)
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
            **_log_odds(term, hit, bodies),
            "num_detections": len(score),
            "num_hands": int(hit.sum()),
            "brier": {name: _brier(p, hit) for name, p in
                      (("held_out", held_out), ("raw", score), ("constant", np.full(len(hit), hit.mean())))},
        }  # fmt: skip
    return found


def _brier(p: Float64[np.ndarray, "n"], hit: Float64[np.ndarray, "n"]) -> float:
    """Mean of squared errors where somebody said something; NaN where nobody did, as of the only video held out."""
    known = np.isfinite(p)
    return round(float(((p - hit)[known] ** 2).mean()), 4) if known.any() else float("nan")


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
    frames: Sequence[tuple[LabelledFrame, HandDetections]], extent: Float64[np.ndarray, "2"], people: People | None
) -> tuple[
    Float64[np.ndarray, "n"], Float64[np.ndarray, "n"], Shaped[np.ndarray, "n"], Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n"]
]:
    """Own score of each detection, whether it is a labelled hand, its video, its terms and what bodies say; without those on ignored
    regions."""
    scaled = Calibration(extent=extent, knots=np.eye(2))
    score, hit, video, term = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, object)], [np.zeros((0, len(TERMS)))]
    bodies = [np.zeros(0)]
    for label, here in frames:
        box = scaled.box(here.box)
        match = match_hands(label, box, here.score)
        is_hand = np.isin(np.arange(len(here)), match.found)
        again = boxes.iou(box.astype(np.float64), label.box).max(1, initial=0) >= 0.3  # a hand's second box is no hand of its own
        counts = is_hand | match.false | (again & ~is_hand)
        score.append(here.score[counts].astype(np.float64))
        hit.append(is_hand[counts].astype(np.float64))
        video.append(np.full(counts.sum(), (label.video or label.name).removeprefix(MIRRORED), object))
        term.append(terms(here)[counts])
        bodies.append(_of_bodies(here, box, people)[counts])
    return np.concatenate(score), np.concatenate(hit), np.concatenate(video), np.concatenate(term), np.concatenate(bodies)


def _of_bodies(here: HandDetections, box: Float[np.ndarray, "n 4"], people: People | None) -> Float64[np.ndarray, "n"]:
    """Log-odds that fusion adds for the wrists in the same frame."""
    fuse = FuseHands()
    if people is None or not len(here):
        return np.zeros(len(here))
    same = people.take((people.video == here.video[0]) & (people.frame == here.frame[0]) & (people.score >= fuse.person_score))
    wrist = np.where(np.isfinite(here.keypoints[:, WRIST, :2]), here.keypoints[:, WRIST, :2], boxes.centre(box)).astype(np.float64)
    support = wrist_witness(wrist, boxes.long_side(box), same, reach=fuse.wrist_reach).max((1, 2), initial=0.0)
    return body_log_odds(fuse, support, somebody=len(same) > 0)


def _log_odds(
    term: Float64[np.ndarray, "n 3"], hit: Float64[np.ndarray, "n"], bodies: Float64[np.ndarray, "n"]
) -> dict[str, dict[str, float]]:
    """Weights of the terms beside what bodies say, by logistic regression, where palm and presence are known."""
    known = np.isfinite(term).all(1)
    x, y, offset = term[known], hit[known], bodies[known]
    if len(y) < MIN_DETECTIONS or len(set(y)) < 2:
        return {}
    weights = _logistic(x, y, offset)
    rising = np.append(True, weights[1:] > 0)  # nobody is less of a hand for a better palm or presence: what few frames say so is noise
    if not rising.all():
        weights = np.zeros(len(TERMS))
        weights[rising] = _logistic(x[:, rising], y, offset)
    return {"log_odds": dict(zip(TERMS, np.round(weights, 3).tolist(), strict=True))}


def _logistic(x: Float64[np.ndarray, "n k"], y: Float64[np.ndarray, "n"], offset: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "k"]:
    """Weights of the columns, the first a constant, that make `y` most likely beside `offset` (log-odds), by Newton's steps."""
    weights, ridge = np.zeros(x.shape[1]), np.diag([1e-6, *[RIDGE] * (x.shape[1] - 1)])
    for _ in range(50):  # the ridge keeps the steps small where everything is told apart
        share = 1 / (1 + np.exp(-np.clip(x @ weights + offset, -30, 30)))
        slope = x.T @ (share - y) + ridge @ weights
        step = np.linalg.solve(x.T * (share * (1 - share)) @ x + ridge, slope)
        weights -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _isotonic(score: Float64[np.ndarray, "n"], hit: Float64[np.ndarray, "n"], video: Shaped[np.ndarray, "n"]) -> Float64[np.ndarray, "k 2"]:
    """Knots of a curve that never falls: the mean of isotonic regressions on resampled videos, whose steps lie elsewhere each time."""
    from scipy.optimize import isotonic_regression

    rng, grid = np.random.default_rng(0), np.linspace(0, 1, 51)
    videos = sorted(set(video))
    of_video = np.searchsorted(videos, video.astype(str))
    curves = []
    for _ in range(RESAMPLINGS):
        times = np.bincount(rng.integers(0, len(videos), len(videos)), minlength=len(videos))[of_video]
        drawn = times > 0
        at, row = np.unique(np.append(score[drawn], [0, 1]), return_inverse=True)
        weight = np.append(times[drawn], [DOUBT, DOUBT])
        weight_there = np.bincount(row, weight)
        share = np.bincount(row, weight * np.append(hit[drawn], [0, 1])) / weight_there
        curves.append(np.interp(grid, at, isotonic_regression(share, weights=weight_there).x))
    return np.round(np.column_stack([grid, np.maximum.accumulate(np.mean(curves, 0))]), 4)


def _sha256(path: Path) -> str:
    """The sha256 of a file; of a folder of YOLO's that of all its labels."""
    if not path.is_dir():
        return sha256_of(path)
    told = [f"{sha256_of(file)} {file.relative_to(path)}\n" for file in sorted([*path.rglob("*.txt"), *path.glob("*.yaml")])]
    return hashlib.sha256("".join(told).encode()).hexdigest()


def write_calibration(
    label_files: Sequence[Path],
    tables: Sequence[Path],
    out: Path | None,
    console: Console,
    *,
    people_tables: Sequence[Path] = (),
) -> None:
    """Learn from labelled frames, the detections on them and, where there are any, the people, and write; sources of `out` that were not
    learned stay.

    Raises ValueError when no source has enough of them, or `out` is no calibration.
    """
    out = out or weights_folder() / "calibration.json"
    labels = [label for path in label_files for label in load_labels(path)]
    labels += [mirrored(label) for label in labels]  # of `whim evaluate annotators --mirror`
    detections = HandDetections.concat([HandDetections.from_arrow(pq.read_table(path)) for path in tables])
    people = [People.from_arrow(pq.read_table(path)) for path in people_tables]
    sources = learn(labels, detections, People.concat(people) if people else None)
    if not sources:
        raise ValueError(f"no source has {MIN_DETECTIONS} detections on the {len(labels)} labelled frames: do the videos' names agree?")
    data = {path.name: _sha256(path) for path in [*label_files, *tables, *people_tables]}
    content = {"sources": sources, "learned_on": {"num_frames": len(labels) // 2, "sha256": data}}
    if out.exists():  # sources that were learned from other frames stay
        load_calibrations(out)
        content["sources"] = json.loads(out.read_text())["sources"] | sources
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.aside")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(out)
    console.print(f"{out}: {', '.join(sources)}", markup=False)
    for source in sorted(set(detections.source) - set(sources)):
        console.print(f"{source}: fewer than {MIN_DETECTIONS} detections on the labelled frames, left as it is", markup=False)
