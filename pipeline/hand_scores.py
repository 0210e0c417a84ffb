"""Scores of hands against labelled frames: pure functions.

Boxes are xyxy in pixels of the full frame; a labelled hand is found when a hand overlaps it by IoU >= 0.3.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from stages import boxes
from stages.tables import LEFT, RIGHT, HandDetections, Hands

FORMAT = "handmedia-bench/1"
MATCH_IOU = 0.3
"""The labels are drawn by eye: higher overlaps would measure the drawing."""
SIZES: tuple[tuple[str, float], ...] = (("<4%", 0.04), ("4-10%", 0.10), ("10-25%", 0.25), (">25%", np.inf))
"""Classes of a hand's longer side as a share of the frame's longer side, by their upper ends."""
UNKNOWN = -1
"""A label without a side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrame:
    """One frame and all the hands in it."""

    name: str
    video: str  # path relative to the media folder, or ''
    frame: int  # index in decode order
    image: str  # path relative to the media folder, or ''
    width: int
    height: int
    box: Float[np.ndarray, "n 4"]
    side: Int64[np.ndarray, "n"]  # 0 left, 1 right, -1 not decidable
    ignore: Float[np.ndarray, "m 4"]  # detections in here count neither way


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What became of the hands of one labelled frame."""

    found: Int64[np.ndarray, "n"]  # of each label: the row of the hand that matches it, or -1
    false: Bool[np.ndarray, "m"]  # of each hand: matches no label and lies in no ignored region


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Recall, precision and side accuracy at IoU 0.3; shares are NaN (null in JSON) where nothing can be counted."""

    recall: float
    precision: float
    side_accuracy: float
    by_size: Mapping[str, Mapping[str, float]]
    num_hands: int
    num_frames: int
    num_found: int
    num_false: int
    num_sided: int
    mean_iou: float
    routes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    by_video: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """In the order of the fields, numbers rounded to 4 digits."""
        return json.dumps(_rounded(asdict(self)), indent=1)


def load_labels(path: Path) -> list[LabelledFrame]:
    """Frames of a label file. Raises ValueError that says what is wrong when it is not of this format."""
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}, wanted {FORMAT!r}: a JSON object with 'format' and a list 'images'")
    frames = []
    for i, item in enumerate(content.get("images", [])):
        try:
            frames.append(_labelled(item))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: image {i} ({item.get('id') if isinstance(item, dict) else item}): {error!r}") from error
    return frames


def _labelled(item: Mapping[str, Any]) -> LabelledFrame:
    sides = {"left": LEFT, "right": RIGHT, None: UNKNOWN}
    return LabelledFrame(
        name=str(item["id"]),
        video=item.get("video") or "",
        frame=int(item.get("frame") or 0),
        image=item.get("jpeg") or item.get("image") or "",
        width=int(item["width"]),
        height=int(item["height"]),
        box=np.array([h["box"] for h in item["hands"]], np.float64).reshape(-1, 4),
        side=np.array([sides[h["side"]] for h in item["hands"]], np.int64),
        ignore=np.array(item.get("ignore", []), np.float64).reshape(-1, 4),
    )


def match_hands(label: LabelledFrame, box: Float[np.ndarray, "m 4"], score: Float[np.ndarray, "m"]) -> Match:
    """Greedy, surest hand first: each takes the free label it overlaps most, at IoU >= 0.3.

    A hand without a label whose centre or greater part lies in an ignored region is not false.
    """
    overlap = boxes.iou(box.astype(np.float64), label.box)
    found = np.full(len(label.box), -1, np.int64)
    for i in np.argsort(-score, kind="stable"):
        free = np.where(found < 0, overlap[i], -1.0)
        if len(free) and free.max() >= MATCH_IOU:
            found[free.argmax()] = i
    middle = boxes.centre(box)[:, None]
    covered = boxes.intersection(box.astype(np.float64), label.ignore) > 0.5 * boxes.area(box)[:, None]
    inside = ((middle >= label.ignore[None, :, :2]) & (middle <= label.ignore[None, :, 2:])).all(-1)
    false = np.logical_not((covered | inside).any(-1)).reshape(len(box))
    false[found[found >= 0]] = False
    return Match(found=found, false=false)


def score_hands(labels: Sequence[LabelledFrame], hands: Sequence[Hands], detections: Sequence[HandDetections] = ()) -> Score:
    """Score of the hands found in each labelled frame (one table a label); with `detections`, also what each route found."""
    matches = [match_hands(label, h.box, h.score) for label, h in zip(labels, hands, strict=True)]
    size = np.concatenate([boxes.long_side(la.box) / max(la.width, la.height) for la in labels] or [np.zeros(0)])
    seen = np.concatenate([m.found >= 0 for m in matches] or [np.zeros(0, bool)])
    right = np.concatenate([_side_right(la, h, m) for la, h, m in zip(labels, hands, matches, strict=True)] or [np.zeros(0)])
    overlap = [boxes.iou(la.box, h.box.astype(np.float64))[m.found >= 0, m.found[m.found >= 0]]
               for la, h, m in zip(labels, hands, matches, strict=True)]  # fmt: skip
    num_false = int(sum(m.false.sum() for m in matches))
    edges = np.digitize(size, [end for _, end in SIZES[:-1]])
    return Score(
        recall=_share(seen.sum(), len(seen)),
        precision=_share(seen.sum(), seen.sum() + num_false),
        side_accuracy=_share(np.nansum(right), np.isfinite(right).sum()),
        by_size={
            name: {
                "recall": _share(seen[edges == i].sum(), (edges == i).sum()),
                "side_accuracy": _share(np.nansum(right[edges == i]), np.isfinite(right[edges == i]).sum()),
                "num_hands": int((edges == i).sum()),
            }
            for i, (name, _) in enumerate(SIZES)
        },
        num_hands=len(seen),
        num_frames=len(labels),
        num_found=int(seen.sum()),
        num_false=num_false,
        num_sided=int(np.isfinite(right).sum()),
        mean_iou=float(np.mean(np.concatenate(overlap))) if seen.any() else float("nan"),
        routes=_by_route(labels, detections),
        by_video=_by_video(labels, matches),
    )


def _side_right(label: LabelledFrame, hands: Hands, match: Match) -> Float[np.ndarray, "n"]:
    """Of each label: 1 if its hand has its side, 0 if not, NaN if it was not found or has no side."""
    told = np.append(hands.side.astype(np.int64), UNKNOWN)[match.found]
    return np.where((match.found >= 0) & (label.side != UNKNOWN), (told == label.side).astype(float), np.nan)


def _by_route(labels: Sequence[LabelledFrame], detections: Sequence[HandDetections]) -> dict[str, dict[str, int]]:
    """Of each route: detections, and those that match a label."""
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
