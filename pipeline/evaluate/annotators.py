"""Evaluate the annotators on labelled frames: run a recipe's detectors and fusion around each, score, and draw what went wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, UInt8
from rich.console import Console
from rich.table import Table as Grid

from hands.drawing.sheets import write_image
from hands.metrics.labelled_frames import Score, score_hands
from hands.metrics.labels import LabelledFrame, load_labels, match_hands
from pipeline.engine.store import Store
from pipeline.evaluate.clips import evaluate_clips
from pipeline.evaluate.cross_validate import cross_validated
from pipeline.evaluate.folds import Fold, by_recipe
from pipeline.evaluate.observe import Seen, observe
from pipeline.recipes import Recipe, whim
from stages.fit import Fit
from stages.fuse_hands import FuseHands
from stages.review import Review
from stages.stage import Stage
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE, Clips, HandDetections, Hands, Manifest, People

NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


def evaluate_hands(
    labels: Path,
    media: Path,
    *,
    recipe: Recipe = whim,
    folds: Sequence[Fold] = (),
    mirror: bool = False,
    alone: bool = False,
    overlays: Path | None = None,
    detections: Path | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Score of a recipe on the frames of a label file whose paths are relative to `media`.

    With `folds` each frame is shown to the detectors of the fold that lists its video. With `mirror` all frames are shown mirrored: what
    was tuned on the labels should hold there too. With `alone` they are shown without their neighbours, so that no track helps. With
    `overlays`, one PNG a labelled frame is written into that folder; with `detections`, the labelled frames' detections into that
    Parquet file, for `whim learn calibration`. `tick(done, total)` is called after each frame. Raises ValueError for a label file of
    another format, or one that does not fit its videos or folds, and FileNotFoundError for a missing file.
    """
    frames = load_labels(labels)
    stages = recipe(Manifest.empty(), Path())
    _, fuse = finders_and_fusion(stages)
    fuse_tables, reviewed = fuse.build(), reviewer(stages)
    found, kept, everything = [], [], []
    observed = (
        seen
        for judge, group in by_recipe(frames, recipe, folds)
        for seen in observe(group, media, finders_and_fusion(judge(Manifest.empty(), Path()))[0], mirror=mirror, reach=0 if alone else 2)
    )
    for done, seen in enumerate(observed, 1):
        hands, _ = fuse_tables(seen.videos, seen.clips, seen.people, seen.detections)
        found.append(hands.take(hands.frame == seen.frame))
        kept.append(hands.take(reviewed(seen.clips, hands) & (hands.frame == seen.frame)))
        everything.append(replace(seen, image=NO_IMAGE))
        if overlays is not None:
            overlays.mkdir(parents=True, exist_ok=True)
            draw(seen.image, seen.label, found[-1], overlays / f"{Path(seen.label.name).name}.png")
        tick(done, len(frames))
    here = [seen.here for seen in everything]
    if detections is not None:
        people = People.concat([seen.people.take(seen.people.frame == seen.frame) for seen in everything])
        for path, table in ((detections, HandDetections.concat(here)), (detections.with_name(f"people-{detections.name}"), people)):
            with Store(path.parent).aside(path.absolute()) as temporary:
                pq.write_table(table.to_arrow(), temporary)
    shown = [seen.label for seen in everything]
    return replace(
        score_hands(shown, found, here),
        leave_one_out=leave_one_out(everything, fuse),
        cross_validated=cross_validated(everything, fuse),
        after_review=shares(score_hands(shown, kept)),
    )


def finders_and_fusion(stages: Sequence[Stage]) -> tuple[list[Stage], FuseHands]:
    """The stages of clips before a recipe's fusion, and the fusion. Raises ValueError when it has none."""
    for place, stage in enumerate(stages):
        if isinstance(stage, FuseHands):
            return [before for before in stages[:place] if before.key == "clip"], stage
    raise ValueError("the recipe has no stage fuse-hands: there are no hands to score")


def with_clips(score: Score, labels: Path, media: Path, recipe: Recipe, folds: Sequence[Fold] = ()) -> Score:
    """The score with that of whole labelled clips, found and kept, beside it."""
    return replace(score, clips={name: of.to_dict() for name, of in evaluate_clips(labels, media, recipe, folds).items()})


def reviewer(stages: Sequence[Stage]) -> Callable[[Clips, Hands], Bool[np.ndarray, "n"]]:
    """Which hands a recipe's fit and review keep; all of them where it has neither."""
    fits = [stage.build() for stage in stages if isinstance(stage, Fit)]
    reviews = [stage.build() for stage in stages if isinstance(stage, Review)]
    if not (fits and reviews):
        return lambda clips, hands: np.ones(len(hands), bool)
    return lambda clips, hands: reviews[0](clips, hands, fits[0](clips, hands)).keep


def shares(score: Score) -> dict[str, float]:
    """The three figures that are told everywhere."""
    return {"recall": score.recall, "precision": score.precision, "side_accuracy": score.side_accuracy}


def leave_one_out(frames: Sequence[Seen], fuse: FuseHands) -> dict[str, dict[str, float]]:
    """Recall, precision and side accuracy without the people, without each detector and without each of its routes.

    A detector lists a hand once, by its best route: without that route's rows the hand is gone even where another route saw it too, so
    the loss is the most that the route can add.
    """

    def part(name: str, seen: Seen) -> Seen:
        if name == "people":
            return replace(seen, people=People.empty())
        source, _, route = name.partition("/")
        rows = (seen.detections.source == source) & ((seen.detections.route == route) | (route == ""))
        return replace(seen, detections=seen.detections.take(~rows))

    routes = {f"{s}/{r}" for seen in frames for s, r in zip(seen.detections.source, seen.detections.route, strict=True)}
    scores = {}
    for name in ["people", *fuse.detectors, *sorted(routes)]:
        others = tuple(detector for detector in fuse.detectors if detector != name) or fuse.detectors
        fuse_tables = replace(fuse, detectors=others).build()
        score = score_hands([seen.label for seen in frames], [part(name, seen).fused(fuse_tables) for seen in frames])
        scores[name] = shares(score)
    return scores


def draw(image: UInt8[np.ndarray, "height width 3"], label: LabelledFrame, hands: Hands, path: Path) -> None:
    """Write a PNG: labels green, or red when missed; hands blue, or red when false (a wrong side has '!'); ignored regions grey."""
    import cv2

    canvas = np.ascontiguousarray(image[..., ::-1])
    thick = max(1, round(max(canvas.shape) / 500))
    match = match_hands(label, hands.box, hands.score)
    green, blue, red, grey = (60, 200, 60), (255, 120, 30), (40, 40, 255), (150, 150, 150)

    def rectangle(box: Any, colour: tuple[int, int, int], text: str, below: bool) -> None:
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, thick)
        place = (x0, y1 + 12 * thick) if below else (x0, y0 - 3 * thick)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thick, colour, thick)

    for box in label.ignore:
        rectangle(box, grey, "ignore", False)
    letters = {RIGHT: "R", LEFT: "L", UNKNOWN_SIDE: "?"}
    for i, box in enumerate(label.box):
        rectangle(box, green if match.found[i] >= 0 else red, letters.get(int(label.side[i]), "?"), False)
    for i, box in enumerate(hands.box):
        truth = label.side[match.found == i]
        wrong = "!" if len(truth) and truth[0] >= 0 and truth[0] != hands.side[i] else ""
        text = f"{letters[int(hands.side[i])]}{wrong} {hands.score[i]:.2f} t{hands.track_length[i]}"
        rectangle(box, red if match.false[i] else blue, ("false " if match.false[i] else "") + text, True)
    write_image(path, canvas[..., ::-1])


def write_score(score: Score, path: Path) -> None:
    """The score as JSON, whole or not at all."""
    with Store(path.parent).aside(path.absolute()) as temporary:
        temporary.write_text(score.to_json() + "\n")


def print_score(score: Score, console: Console) -> None:
    """The score as a table on the terminal: everything, then by size, of several people, by route, and without each part."""

    def share(value: float | None) -> str:
        return "" if value is None or value != value else f"{value:.3f}"  # None, NaN: there was nothing to count

    table = Grid(title=f"hands at IoU 0.3, {score.num_frames} frames")
    for column in ("hands", "number", "recall", "precision", "side accuracy"):
        table.add_column(column, justify="left" if column == "hands" else "right")
    table.add_row("all", str(score.num_hands), share(score.recall), share(score.precision), share(score.side_accuracy))
    for name, part in score.by_size.items():
        table.add_row(f"{name} of the frame", f"{part['num_hands']:.0f}", share(part["recall"]), "", share(part["side_accuracy"]))
    several = score.multi_person
    shares = [share(several[name]) for name in ("recall", "precision", "side_accuracy")]
    table.add_row("of several people", f"{several['num_hands']:.0f}", *shares)
    if score.landmarks:
        told = score.landmarks
        table.add_row("landmarks", str(told["num_hands"]), "", f"auc {told['auc']:.3f}", f"{told['grossly_wrong_kept']:.3f} wrong of kept")
    for name, count in score.routes.items():
        table.add_row(f"route {name}", str(count["num"]), "", f"{count['num_found'] / max(count['num'], 1):.3f}", "")
    for name, part in (("chosen on other videos", score.cross_validated), ("after review", score.after_review)):
        if part:
            table.add_row(name, "", *(share(part[of]) for of in ("recall", "precision", "side_accuracy")))
    for name, part in score.clips.items():
        table.add_row(f"clips, {name}", str(part["num_hands"]), share(part["recall"]), share(part["precision"]), _sides(part))
    for name, part in score.leave_one_out.items():
        table.add_row(f"without {name}", "", *(share(part[of]) for of in ("recall", "precision", "side_accuracy")))
    console.print(table)


def _sides(clips: Mapping[str, Any]) -> str:
    """Sides and identities of whole clips, as the text of a cell; shares of nothing are left out."""
    right = "" if clips["wrong_side"] is None else f"{1 - clips['wrong_side']:.3f}, "
    false = "" if clips["false_per_100"] is None else f", {clips['false_per_100']} false per 100"
    return f"{right}{clips['same_side_pairs']} equal pairs, {clips['identity_switches']} switches{false}"
