"""What people decided on hands, applied to the tables that stages made. Boxes in pixels of the full upright frame.

A verdict names its hand by frame and box, not by number: a later run may number hands anew. The hand whose box overlaps that box most,
by half at least, is the same hand; a verdict that finds none is lost, which is told and never forgotten.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64

from stages import boxes
from stages.tables import UNKNOWN_SIDE, Clips, Fits, Hands, Reviews, Table, Verdicts

PERSON = "person"
"""The source of hands that a person drew or confirmed."""
SAME_IOU = 0.5
"""Boxes that overlap so much on one frame are the same hand. Ours."""

FARTHEST_PX = 1e6
"""No corner of a box that anybody drew lies farther off."""


class What(StrEnum):
    """Decisions on a hand."""

    KEEP = "keep"
    REJECT = "reject"
    SIDE = "side"
    LANDMARKS = "landmarks"
    BOX = "box"
    ADD = "add"
    UNDO = "undo"


TO_ADD, LOST = -1, -2
"""In place of a hand's row: the verdict adds one, or finds none."""

ON_SIDES: tuple[What, ...] = (What.SIDE,)
ON_HANDS: tuple[What, ...] = (What.KEEP, What.REJECT, What.SIDE, What.LANDMARKS, What.BOX, What.ADD)
"""Decisions that change what a stage makes: those on sides the fit, all of them review and shards."""


def is_box(corners: Sequence[float | None]) -> bool:
    """Whether four numbers are a box as a person draws one: of some size, and within reach of an image."""
    known = [corner for corner in corners if corner is not None and abs(corner) <= FARTHEST_PX]
    return len(known) == 4 and known[0] < known[2] and known[1] < known[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What stands decided on each hand of a clip."""

    keep: Int8[np.ndarray, "n"]  # 1 kept, 0 rejected, -1 nobody said
    side: Int8[np.ndarray, "n"]  # 0 left, 1 right, -1 nobody said
    wrong_landmarks: Bool[np.ndarray, "n"]
    box: Float32[np.ndarray, "n 4"]  # where it was moved to; NaN where nobody moved it
    rows: Int64[np.ndarray, "m"]  # of each verdict, the hand that it speaks of, TO_ADD or LOST

    @property
    def confirmed(self) -> Bool[np.ndarray, "n"]:
        """Hands of which a person said that they are there."""
        said = (self.keep == 1) | (self.side != UNKNOWN_SIDE) | np.isfinite(self.box[:, 0])
        return np.asarray(said & (self.keep != 0), np.bool_)


def standing(verdicts: Verdicts) -> Verdicts:
    """Verdicts that nobody took back, in order; an undo may be undone itself."""
    undone: set[str] = set()
    kept = np.zeros(len(verdicts), bool)
    for row in range(len(verdicts) - 1, -1, -1):
        if verdicts.decision[row] in undone:
            continue
        if verdicts.what[row] == What.UNDO:
            undone.add(str(verdicts.undoes[row]))
        else:
            kept[row] = True
    return verdicts.take(kept)


def in_clip(verdicts: Verdicts, clip: Clips) -> Verdicts:
    """The verdicts on frames of a clip (one row)."""
    first, count = int(clip.first_frame[0]), int(clip.num_frames[0])
    return verdicts.take((verdicts.frame >= first) & (verdicts.frame < first + count))


def digest(verdicts: Verdicts, kinds: Collection[str]) -> str:
    """sha256 of what stands decided, of these kinds: who and when do not count. '' where nothing is."""
    if not len(verdicts):
        return ""
    held = standing(verdicts)
    held = held.take(np.isin(held.what.astype(str), [str(kind) for kind in kinds]))
    if not len(held):
        return ""
    said = [(str(v.what[0]), int(v.frame[0]), v.box[0].tolist(), v.to_box[0].tolist(), int(v.to_side[0])) for v in held.rows()]
    return hashlib.sha256(repr(said).encode()).hexdigest()


def decided(hands: Hands, verdicts: Verdicts) -> Decided:
    """What `standing` verdicts say of each hand; a later one outdoes an earlier one."""
    n = len(hands)
    keep, side = np.full(n, -1, np.int8), np.full(n, UNKNOWN_SIDE, np.int8)
    wrong, moved = np.zeros(n, bool), np.full((n, 4), np.nan, np.float32)
    rows = same_hands(hands, verdicts)
    for i in np.flatnonzero(rows >= 0):
        hand, what = rows[i], verdicts.what[i]
        if what in (What.KEEP, What.REJECT):
            keep[hand] = what == What.KEEP
        elif what == What.LANDMARKS:
            wrong[hand] = True
        elif what == What.BOX:
            moved[hand] = verdicts.to_box[i]
        elif what == What.ADD:  # a later run found it by itself
            keep[hand] = 1
        if what in (What.SIDE, What.ADD):
            side[hand] = verdicts.to_side[i]
    return Decided(keep=keep, side=side, wrong_landmarks=wrong, box=moved, rows=rows)


def same_hands(hands: Hands, verdicts: Verdicts) -> Int64[np.ndarray, "m"]:
    """The hand that each verdict speaks of: of the frame's the one that overlaps most; of two alike the one of its side and number."""
    rows = np.where(verdicts.what == What.ADD, TO_ADD, LOST).astype(np.int64)
    by_frame = np.argsort(hands.frame, kind="stable")
    first, end = (np.searchsorted(hands.frame, verdicts.frame, side, sorter=by_frame) for side in ("left", "right"))
    for i in np.flatnonzero(first < end):
        here = by_frame[first[i] : end[i]]
        alike = (hands.side[here] == verdicts.side[i]) + 0.5 * (hands.hand[here] == verdicts.hand[i])
        best = same_box(verdicts.box[i], hands.box[here], alike)
        if best is not None:
            rows[i] = here[best]
    return rows


def same_box(box: np.ndarray, of_frame: np.ndarray, alike: np.ndarray) -> int | None:
    """The box of a frame that overlaps another most, by half at least; of two that do the one that is more alike."""
    if not len(of_frame):
        return None
    overlap = boxes.iou(np.asarray(box, np.float64)[None], of_frame.astype(np.float64))[0]
    best = max(range(len(of_frame)), key=lambda j: (round(float(overlap[j]), 3), alike[j]))
    return best if overlap[best] >= SAME_IOU else None


def with_sides(hands: Hands, verdicts: Verdicts | None) -> Hands:
    """Hands on the sides that people put them."""
    if verdicts is None or not len(verdicts):
        return hands
    side = decided(hands, standing(verdicts)).side
    return replace(hands, side=np.where(side == UNKNOWN_SIDE, hands.side, side).astype(np.int8))


def corrected(
    hands: Hands, fits: Fits, reviews: Reviews, verdicts: Verdicts, width: int, height: int
) -> tuple[Hands, Fits, Reviews, Bool[np.ndarray, "n"]]:
    """The tables of a clip as people corrected them, and which hands a person keeps whatever their quality.

    Sides, boxes, and hands that were added, last of their frames; `width` and `height`: of those frames. What the review made of the
    verdicts (kept, dropped, box alone) stands in `reviews` already. A person is one more source of what they confirmed.
    """
    held = standing(verdicts)
    if not len(held):
        return hands, fits, reviews, np.zeros(len(hands), bool)
    said = decided(hands, held)
    box = np.where(np.isfinite(said.box), said.box, hands.box)
    side = np.where(said.side == UNKNOWN_SIDE, hands.side, said.side).astype(np.int8)
    hands = _told_by_person(replace(hands, box=box, side=side), np.flatnonzero(said.confirmed))
    kept = (said.keep == 1) & reviews.keep
    new = held.take(said.rows == TO_ADD)
    if len(new):
        added, blank_fits, blank_reviews = _added(new, hands, width, height)
        hands, fits = Hands.concat([hands, added]), Fits.concat([fits, blank_fits])
        reviews, kept = Reviews.concat([reviews, blank_reviews]), np.append(kept, np.ones(len(new), bool))
        order = np.argsort(hands.frame, kind="stable")
        hands, fits, reviews, kept = hands.take(order), fits.take(order), reviews.take(order), kept[order]
    return hands, fits, reviews, kept


def _told_by_person(hands: Hands, rows: Int64[np.ndarray, "k"]) -> Hands:
    """Hands of which some have one more source, last."""
    told: dict[str, Any] = {name: getattr(hands, name).copy() for name in ("sources", "source_scores", "source_scores_raw", "source_boxes")}
    for row in rows:
        for name, item in (
            ("sources", PERSON),
            ("source_scores", 1.0),
            ("source_scores_raw", 1.0),
            ("source_boxes", hands.box[row].tolist()),
        ):
            told[name][row] = [*told[name][row], item]
    return replace(hands, **told)


def _added(new: Verdicts, hands: Hands, width: int, height: int) -> tuple[Hands, Fits, Reviews]:
    """Rows of hands that a person drew: box and side are known, nothing else."""
    n = len(new)
    taken = [int(hands.hand[hands.frame == frame].max(initial=-1)) + 1 for frame in new.frame]
    number = np.array([taken[i] + int((new.frame[:i] == new.frame[i]).sum()) for i in range(n)], np.int16)
    key = {"video": new.video, "frame": new.frame, "time_s": new.time_s, "hand": number}
    ones = _objects([[1.0]] * n)
    drawn: dict[str, Any] = {"sources": _objects([[PERSON]] * n), "source_scores": ones, "source_scores_raw": ones}
    drawn |= {"source_boxes": _objects([[box.tolist()] for box in new.to_box]), "box": new.to_box, "side": new.to_side, "score": 1.0}
    alone = {"width": width, "height": height, "person": -1, "track": -1, "track_length": 1, "num_agree": 1, "num_run": 1}
    fits = _rows(Fits, n, **key, side=new.to_side, outcome=PERSON)
    return _rows(Hands, n, **key, **drawn, **alone), fits, _rows(Reviews, n, **key, quality=1.0, keep=True, box_only=True)


def _objects(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _rows(kind: type[Any], n: int, **known: Any) -> Any:
    """Rows of a table of which some columns are known: other numbers are NaN or 0, texts ''."""
    blank: Table = kind.empty()
    columns = {}
    for name, column in vars(blank).items():
        value = known.get(name, "" if column.dtype == object else np.nan if column.dtype.kind == "f" else 0)
        columns[name] = value if isinstance(value, np.ndarray) else np.full((n, *column.shape[1:]), value, column.dtype)
    return kind(**columns)
