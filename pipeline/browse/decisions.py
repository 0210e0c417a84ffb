"""Decisions on hands as a person makes them: each names its hand as the tables have it, and joins the verdicts of its video."""

import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pipeline.browse.detail import hands_on, refused_on, refused_with_box, verdict_words
from pipeline.browse.hand_rows import FIRST_REFUSED
from pipeline.engine.store import Store
from pipeline.engine.verdicts import change_verdicts, read_verdicts, videos_with_verdicts
from stages.errors import UserError
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE, Clips, Hands, RefusedHands, Verdicts
from stages.verdicts import LOST, What, decided, in_clip, is_box, same_box, same_hands, standing

NOWHERE = (float("nan"), float("nan"), float("nan"), float("nan"))
NO_NUMBER = -1
"""In place of a hand's number: the hand is added."""
MOST_AT_ONCE = 5000
_Found = TypeVar("_Found", Hands, RefusedHands)


class Subject(NamedTuple):
    """A hand that is decided on."""

    video: str
    clip: str
    frame: int
    hand: int = NO_NUMBER
    time_s: float = float("nan")
    box: tuple[float, float, float, float] = NOWHERE
    """Where whoever decides saw it; nowhere is held against nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is decided on some hands at once."""

    what: What
    who: str
    to_side: int = UNKNOWN_SIDE
    """Of a side: -1 is the other one than it stands on."""
    to_box: tuple[float, float, float, float] = NOWHERE
    audit: str = ""

    def __post_init__(self) -> None:
        """Refuse what says nothing: UserError that names it."""
        if self.what in (What.BOX, What.ADD) and not is_box(self.to_box):
            raise UserError("a box is four numbers x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        if self.what is What.ADD and self.to_side not in (LEFT, RIGHT):
            raise UserError("a hand that is added is a left one (0) or a right one (1)")
        if self.to_side not in (LEFT, RIGHT, UNKNOWN_SIDE) or self.what is What.UNDO:
            raise UserError("no such decision")


def decide(store: Store, decision: Decision, subjects: Sequence[Subject]) -> str:
    """Write down what somebody decided on some hands; its id. Nothing is written where one of the hands is not there.

    Raises UserError for a hand that is not there, and for one of unknown side of which only the other side is said.
    """
    if not 0 < len(subjects) <= MOST_AT_ONCE:
        raise UserError(f"decide on 1 to {MOST_AT_ONCE} hands at once, not {len(subjects)}")
    name, when_s = uuid.uuid4().hex, time.time()
    rows: dict[str, list[Verdicts]] = defaultdict(list)
    for subject in subjects:
        rows[subject.video].append(_row(store, decision, subject, name, when_s))
    for video, new in rows.items():
        change_verdicts(store, video, lambda known, new=new: Verdicts.concat([known, *new]))  # type: ignore[misc]
    return name


def undo(store: Store, who: str, decision: str = "") -> Verdicts:
    """Take back a decision, by default the last one that stands; what it said.

    Raises UserError where there is none.
    """
    held = {video: standing(read_verdicts(store, video)) for video in videos_with_verdicts(store)}
    if not decision:
        last = max(((float(v.when_s[-1]), str(v.decision[-1])) for v in held.values() if len(v)), default=None)
        if last is None:
            raise UserError("nothing is decided: there is nothing to undo")
        decision = last[1]
    said = {video: verdicts.take(verdicts.decision == decision) for video, verdicts in held.items()}
    said = {video: verdicts for video, verdicts in said.items() if len(verdicts)}
    if not said:
        raise UserError(f"no decision {decision[:60]!r} stands")
    name, when_s = uuid.uuid4().hex, time.time()
    for video, of in said.items():
        taken_back = _verdict(of.take(slice(0, 1)), what=What.UNDO, decision=name, who=who, when_s=when_s, undoes=decision)
        change_verdicts(store, video, lambda known, row=taken_back: Verdicts.concat([known, row]))  # type: ignore[misc]
    return Verdicts.concat(list(said.values()))


def said_of(store: Store, video: str) -> list[tuple[int, int, str]]:
    """What stands decided on the hands of a video, as they are now: frame, hand, words."""
    said: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    for clip, hands, held, rows in _matched(store, video):
        for i, (row, what) in enumerate(zip(rows, held.what, strict=True)):
            if row >= 0:
                said[int(hands.frame[row]), int(hands.hand[row])].append((str(what), int(held.to_side[i])))
            elif what == What.ADD:
                number = refused_with_box(store, clip, int(held.frame[i]), held.box[i])
                if number is not None:
                    said[int(held.frame[i]), number].append((str(what), int(held.to_side[i])))
    return [(*place, verdict_words(what)) for place, what in sorted(said.items())]


def added_on(store: Store, video: str, clip: Clips, frame: int) -> list[dict[str, Any]]:
    """Hands that people added to a frame and no run has found since."""
    held = in_clip(standing(read_verdicts(store, video)), clip)
    rows = same_hands(_hands(store, str(clip.clip[0])), held)
    new = held.take((rows == -1) & (held.frame == frame))
    return [
        {"decision": str(v.decision[0]), "box": v.to_box[0].tolist(), "side": int(v.to_side[0]), "who": str(v.who[0])} for v in new.rows()
    ]


def lost_verdicts(store: Store) -> Verdicts:
    """Standing verdicts whose hand no run finds any more."""
    lost = []
    for video in sorted(videos_with_verdicts(store)):
        held = standing(read_verdicts(store, video))
        found: set[tuple[str, int]] = set()
        for _, _, of_clip, rows in _matched(store, video):
            found |= {_place(of_clip, i) for i in np.flatnonzero(rows != LOST).tolist()}
        lost.append(held.take(np.array([_place(held, i) not in found for i in range(len(held))], bool)))
    return Verdicts.concat(lost)


def _place(verdicts: Verdicts, row: int) -> tuple[Any, ...]:
    return str(verdicts.decision[row]), int(verdicts.frame[row]), *verdicts.box[row].tolist()


def _matched(store: Store, video: str) -> Iterator[tuple[str, Hands, Verdicts, np.ndarray]]:
    """For each clip of a video that has standing verdicts: its hands, those verdicts, and the hand's row that each speaks of."""
    held = standing(read_verdicts(store, video))
    try:
        clips = store.read(Clips, "clips", video)
    except FileNotFoundError:
        return
    for clip in clips.rows():
        of_clip = in_clip(held, clip)
        if len(of_clip):
            hands = _hands(store, str(clip.clip[0]))
            yield str(clip.clip[0]), hands, of_clip, same_hands(hands, of_clip)


def _hands(store: Store, clip: str) -> Hands:
    try:
        return store.read(Hands, "hands", clip)
    except FileNotFoundError:
        return Hands.empty()


def _row(store: Store, decision: Decision, subject: Subject, name: str, when_s: float) -> Verdicts:
    made_by = store.made_by("hands", subject.clip) or {}
    known = {
        "decision": name,
        "who": decision.who,
        "when_s": when_s,
        "audit": decision.audit,
        "fingerprint": made_by.get("fingerprint", ""),
    }
    if decision.what is What.ADD:
        place = {"video": subject.video, "frame": subject.frame, "time_s": subject.time_s, "hand": NO_NUMBER, "side": decision.to_side}
        return _verdict(None, what=What.ADD, **place, box=decision.to_box, to_box=decision.to_box, to_side=decision.to_side, **known)
    if subject.hand <= FIRST_REFUSED:
        return _taken_after_all(store, decision, subject, known)
    hand = _numbered(hands_on(store, subject.clip, subject.frame), subject, "no hand {} on")
    to_side = UNKNOWN_SIDE
    if decision.what is What.SIDE:
        to_side = decision.to_side if decision.to_side != UNKNOWN_SIDE else _other_side(store, subject, hand)
    to_box = decision.to_box if decision.what is What.BOX else NOWHERE
    return _verdict(hand, what=decision.what, to_side=to_side, to_box=to_box, **known)


def _taken_after_all(store: Store, decision: Decision, subject: Subject, known: Mapping[str, Any]) -> Verdicts:
    """The row that adds a candidate which fusion refused. Raises UserError for a decision that does not take it for a hand."""
    refused = _numbered(refused_on(store, subject.clip, subject.frame), subject, "no candidate {} was refused on")
    if decision.what not in (What.KEEP, What.SIDE, What.BOX):
        raise UserError("a candidate that was refused is no hand: keep it, put it on a side, or leave it")
    if refused.view[0] != 0:
        raise UserError("hands in views of a camera that bends straight lines cannot be added")
    side = int(refused.side[0])
    if decision.what is What.SIDE:
        side = decision.to_side if decision.to_side != UNKNOWN_SIDE else {LEFT: RIGHT, RIGHT: LEFT}.get(side, UNKNOWN_SIDE)
    if side == UNKNOWN_SIDE:
        raise UserError(f"the candidate on frame {subject.frame} is of unknown side: say left or right")
    box = decision.to_box if decision.what is What.BOX else tuple(refused.box[0].tolist())
    return _verdict(refused, what=What.ADD, hand=NO_NUMBER, side=side, box=box, to_box=box, to_side=side, **known)


def _numbered(of_frame: _Found, subject: Subject, none: str) -> _Found:
    """The hand of a number on its frame.

    Raises UserError where there is none, and where another one of its view, or none, lies where the hand was seen: a run may have
    numbered hands anew.
    """
    found = of_frame.take(of_frame.hand == subject.hand)
    if not len(found):
        raise UserError(f"{none.format(subject.hand)} frame {subject.frame} of {subject.clip[:100]}")
    beside = of_frame.take(of_frame.view == found.view[0])
    seen, same = np.array(subject.box), beside.hand == subject.hand
    if np.isfinite(seen).all():
        best = same_box(seen, beside.box, same)
        if best is None or not same[best]:
            where = f"frame {subject.frame} of {subject.video}"
            raise UserError(f"a run has found the hands on {where} anew since they were shown: load the page again")
    return found


def _other_side(store: Store, subject: Subject, hand: Hands) -> int:
    """The side on which a hand does not stand, as it stands decided now."""
    said = int(decided(hand, standing(read_verdicts(store, subject.video))).side[0])
    side = said if said != UNKNOWN_SIDE else int(hand.side[0])
    if side == UNKNOWN_SIDE:
        raise UserError(f"hand {subject.hand} of frame {subject.frame} is of unknown side: say left or right")
    return 1 - side


def _verdict(of: Hands | Verdicts | None, **said: Any) -> Verdicts:
    """One row: about a hand or an earlier verdict, and what is said."""
    blank = {"to_box": NOWHERE, "to_side": UNKNOWN_SIDE, "undoes": "", "audit": "", "fingerprint": ""}
    about = {} if of is None else {name: getattr(of, name)[0] for name in ("video", "frame", "time_s", "hand", "box", "side")}
    columns = {}
    for name, empty in vars(Verdicts.empty()).items():
        value = (blank | about | said)[name]
        columns[name] = np.array([str(value)], object) if empty.dtype == object else np.array([value], empty.dtype)
    return Verdicts(**columns)
