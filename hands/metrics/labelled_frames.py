"""Scores of hands against labelled frames: pure functions.

Boxes are xyxy in pixels of the full frame; a labelled hand is found when a hand overlaps it by IoU >= 0.3.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from hands.metrics.labels import SIZES, UNKNOWN, LabelledFrame, Match, match_hands
from stages import boxes
from stages.tables import HandDetections, Hands


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Recall, precision and side accuracy at IoU 0.3; shares are NaN (null in JSON) where nothing can be counted."""

    recall: float
    precision: float
    side_accuracy: float
    by_size: Mapping[str, Mapping[str, float]]
    multi_person: Mapping[str, float]  # the same of the frames that show two people or more
    num_hands: int
    num_frames: int
    num_found: int
    num_false: int
    num_sided: int
    mean_iou: float
    landmarks: Mapping[str, Any] = field(default_factory=dict)  # whether landmarks are right, by hands judged by eye
    routes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    by_video: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    leave_one_out: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by what was left out
    cross_validated: Mapping[str, Any] = field(default_factory=dict)  # chosen on other videos
    after_review: Mapping[str, Any] = field(default_factory=dict)  # of the hands that the review keeps
    clips: Mapping[str, Any] = field(default_factory=dict)  # whole clips, found and kept

    def to_json(self) -> str:
        """In the order of the fields, numbers rounded to 4 digits."""
        return json.dumps(_rounded(asdict(self)), indent=1)


def score_hands(labels: Sequence[LabelledFrame], hands: Sequence[Hands], detections: Sequence[HandDetections] = ()) -> Score:
    """Score of the hands found in each labelled frame (one table a label); with `detections`, also what each route found.

    A frame of two labelled persons or of three hands shows several people.
    """
    matches = [match_hands(label, h.box, h.score) for label, h in zip(labels, hands, strict=True)]
    size = np.concatenate([boxes.long_side(la.box) / max(la.width, la.height) for la in labels] or [np.zeros(0)])
    seen = np.concatenate([m.found >= 0 for m in matches] or [np.zeros(0, bool)])
    right = np.concatenate([_side_right(la, h, m) for la, h, m in zip(labels, hands, matches, strict=True)] or [np.zeros(0)])
    overlap = [boxes.iou(la.box, h.box.astype(np.float64))[m.found >= 0, m.found[m.found >= 0]]
               for la, h, m in zip(labels, hands, matches, strict=True)]  # fmt: skip
    false = np.array([m.false.sum() for m in matches])
    several = np.array([la.num_persons > 1 or len(la.box) > 2 for la in labels], bool)
    of_several = np.repeat(several, [len(la.box) for la in labels])
    edges = np.digitize(size, list(SIZES.values())[:-1])
    return Score(
        recall=_share(seen.sum(), len(seen)),
        precision=_share(seen.sum(), seen.sum() + false.sum()),
        side_accuracy=_share(np.nansum(right), np.isfinite(right).sum()),
        by_size={
            name: {
                "recall": _share(seen[edges == i].sum(), (edges == i).sum()),
                "side_accuracy": _share(np.nansum(right[edges == i]), np.isfinite(right[edges == i]).sum()),
                "num_hands": int((edges == i).sum()),
            }
            for i, name in enumerate(SIZES)
        },
        multi_person={
            "recall": _share(seen[of_several].sum(), of_several.sum()),
            "precision": _share(seen[of_several].sum(), seen[of_several].sum() + false[several].sum()),
            "side_accuracy": _share(np.nansum(right[of_several]), np.isfinite(right[of_several]).sum()),
            "num_hands": int(of_several.sum()),
        },
        num_hands=len(seen),
        num_frames=len(labels),
        num_found=int(seen.sum()),
        num_false=int(false.sum()),
        num_sided=int(np.isfinite(right).sum()),
        mean_iou=float(np.mean(np.concatenate(overlap))) if seen.any() else float("nan"),
        routes=_by_route(labels, detections),
        by_video=_by_video(labels, matches),
    )


def _side_right(label: LabelledFrame, hands: Hands, match: Match) -> Float[np.ndarray, "n"]:
    """For each label: 1 if its hand has its side, 0 if not, NaN if it was not found or has no side."""
    told = np.append(hands.side.astype(np.int64), UNKNOWN)[match.found]
    return np.where((match.found >= 0) & (label.side != UNKNOWN), (told == label.side).astype(float), np.nan)


def _by_route(labels: Sequence[LabelledFrame], detections: Sequence[HandDetections]) -> dict[str, dict[str, int]]:
    """For each route: detections, and those that match a label."""
    counts: dict[str, dict[str, int]] = {}
    for label, found in zip(labels, detections, strict=bool(detections)):
        for route in sorted(set(found.route)):
            rows = found.take(found.route == route)
            count = counts.setdefault(str(route), {"num": 0, "num_found": 0})
            count["num"] += len(rows)
            count["num_found"] += int((match_hands(label, rows.box, rows.score).found >= 0).sum())
    return counts


def _by_video(labels: Sequence[LabelledFrame], matches: Sequence[Match]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for label, match in zip(labels, matches, strict=True):
        count = counts.setdefault(label.video or label.image, {"num_hands": 0, "num_found": 0, "num_false": 0})
        for key, value in (("num_hands", len(match.found)), ("num_found", (match.found >= 0).sum()), ("num_false", match.false.sum())):
            count[key] += int(value)
    return counts


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else float("nan")


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value
