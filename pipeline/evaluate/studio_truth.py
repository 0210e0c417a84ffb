"""Score a run against the studio's exact truth: boxes, sides, keypoints, and the hand in space. Pure functions on tables.

Boxes are xyxy in pixels of the frame, keypoints 21 in OpenPose's order, joints metres in camera axes (x right, y down, z forward).
A run of several videos is scored at once: rows are told apart by video and frame.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from fitting.hand.similarity import aligned
from hands.metrics.labels import match
from stages import boxes
from stages.media.frames import grid_point
from stages.tables import Clips, Fits, Hands, Reviews
from studio.truth import CLEAR_VISIBLE

Truth = Mapping[str, np.ndarray]
"""Columns of `studio.truth.TRUTH`, of one video or of several after another."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Pairs:
    """Which hand of a run is which true hand."""

    truth: Int64[np.ndarray, "n"]  # of each hand: the row of the truth that it matches, or -1
    looked_at: Bool[np.ndarray, "t"]  # of each true hand: its frame was annotated and it is clearly seen


def score_run(truth: Truth, clips: Clips, hands: Hands, fits: Fits, reviews: Reviews) -> dict[str, dict[str, float]]:
    """Figures of all hands, and of those that the review kept; a figure without a single hand to count is NaN.

    `fits` and `reviews` hold one row a hand, in `hands`' order (ValueError if not). Of true hands seen clearly: `recall` and
    `side_accuracy`; of hands found: `precision`, `box_iou`; means over matched hands, errors as pixels and as a share of the true
    box's longer side: `keypoint_error_px`, `keypoint_error` (the landmarks), `fit_error_px`, `fit_error` (the fitted joints, both
    against the truth), `error_px` (fitted joints against landmarks); in millimetres after the best similarity:
    `pa_mpjpe_mm` of the fitted joints, `world_pa_mpjpe_mm` of the detector's own world landmarks.
    """
    for table in (fits, reviews):
        if not (np.array_equal(table.frame, hands.frame) and np.array_equal(table.hand, hands.hand)):
            raise ValueError(f"{type(table).__name__} must hold one row a hand, in the order of Hands: {len(table)} rows, not {len(hands)}")
    return {
        name: _figures(truth, match_truth(truth, clips, hands.take(rows)), hands.take(rows), fits.take(rows))
        for name, rows in (("all", np.ones(len(hands), bool)), ("kept", reviews.keep.astype(bool)))
    }


def match_truth(truth: Truth, clips: Clips, hands: Hands) -> Pairs:
    """Which hand is which true hand of its frame, by `match`, and which true hands were looked at."""
    size = np.stack([truth["width"], truth["height"]] * 2, axis=1)
    true_box = np.clip(truth["box"].astype(np.float64), 0, size)
    present = truth["inside"] > 0
    true_rows: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row in np.flatnonzero(present).tolist():
        true_rows[str(truth["video"][row]), int(truth["frame"][row])].append(row)
    hand_rows: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row, place in enumerate(zip(hands.video.tolist(), hands.frame.tolist(), strict=True)):
        hand_rows[place].append(row)
    found = np.full(len(hands), -1, np.int64)
    for place, rows in hand_rows.items():
        true = np.array(true_rows[place], np.int64)
        target = match(hands.box[rows], hands.score[rows], true_box[true])
        found[np.array(rows)[target >= 0]] = true[target[target >= 0]]
    return Pairs(truth=found, looked_at=present & (truth["visible"] >= CLEAR_VISIBLE) & annotated(truth, clips))


def annotated(truth: Truth, clips: Clips) -> Bool[np.ndarray, "t"]:
    """Whether each true hand's frame is one that the clips' rates take (the first at or after each point of the grid)."""
    taken = np.zeros(len(truth["frame"]), bool)
    for clip in clips.rows():
        rate, start_s = float(clip.frames_per_second[0]), float(clip.start_s[0])
        rows = np.flatnonzero(
            (truth["video"] == clip.video[0]) & (truth["frame"] >= clip.first_frame[0])
            & (truth["frame"] < clip.first_frame[0] + clip.num_frames[0])
        )  # fmt: skip
        frames, first = np.unique(truth["frame"][rows], return_index=True)
        grid = grid_point(truth["time_s"][rows][first], start_s, rate)
        sampled = frames[np.diff(grid, prepend=-1) > 0] if rate else frames
        taken[rows] = np.isin(truth["frame"][rows], sampled)
    return taken


def _figures(truth: Truth, pairs: Pairs, hands: Hands, fits: Fits) -> dict[str, float]:
    matched = np.flatnonzero(pairs.truth >= 0)
    clear = matched[pairs.looked_at[pairs.truth[matched]]]
    row = pairs.truth[clear]
    size = np.stack([truth["width"], truth["height"]] * 2, axis=1)[row]
    overlap = [boxes.iou(a[None], b[None])[0, 0] for a, b in zip(hands.box[clear].astype(np.float64),
               np.clip(truth["box"][row].astype(np.float64), 0, size), strict=True)]  # fmt: skip
    length = boxes.long_side(truth["box"][row].astype(np.float64))
    landmark = np.linalg.norm(hands.keypoints[clear][..., :2] - truth["keypoints"][row], axis=2).mean(1)
    joint = np.linalg.norm(fits.joints_2d[clear] - truth["keypoints"][row], axis=2).mean(1)
    fitted = pa_mpjpe_mm(fits.joints_3d[clear].astype(np.float64), truth["joints_3d"][row].astype(np.float64))
    world = pa_mpjpe_mm(hands.world[clear].astype(np.float64), truth["joints_3d"][row].astype(np.float64))
    return {
        "num_true": int(pairs.looked_at.sum()),
        "num_hands": len(hands),
        "num_matched": len(clear),
        "recall": _mean(np.isin(np.flatnonzero(pairs.looked_at), row)),
        "precision": _mean(pairs.truth >= 0),
        "side_accuracy": _mean(hands.side[clear] == truth["side"][row]),
        "box_iou": _mean(overlap),
        "keypoint_error_px": _mean(landmark),
        "keypoint_error": _mean(landmark / length),
        "keypoint_error_median": _median(landmark / length),
        "fit_error_px": _mean(joint),
        "fit_error": _mean(joint / length),
        "error_px": _mean(fits.error_px[clear]),
        "pa_mpjpe_mm": _mean(fitted),
        "pa_mpjpe_median_mm": _median(fitted),
        "world_pa_mpjpe_mm": _mean(world),
        "world_pa_mpjpe_median_mm": _median(world),
    }


def pa_mpjpe_mm(found: Float64[np.ndarray, "n points 3"], true: Float64[np.ndarray, "n points 3"]) -> Float64[np.ndarray, "n"]:
    """Mean joint error in millimetres after the best rotation, scale and shift of each hand, never a reflection (Umeyama, 1991).

    Lengths in metres; NaN where a point is NaN.
    """
    known = np.isfinite(found).all((1, 2)) & np.isfinite(true).all((1, 2))
    error = np.full(len(found), np.nan)
    error[known] = 1000 * np.linalg.norm(aligned(found[known], true[known]) - true[known], axis=2).mean(1)
    return error


def _mean(values: Any) -> float:
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")


def _median(values: Float[np.ndarray, "n"]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
