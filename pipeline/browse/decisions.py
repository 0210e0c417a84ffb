"""Decisions on hands as a person makes them: each names its hand as the tables have it, and joins the verdicts of its video."""

import math
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pipeline.browse.detail import hands_in, refused_in, refused_with_box, verdict_words
from pipeline.browse.hand_rows import FIRST_REFUSED
from pipeline.engine.store import Store
from pipeline.engine.verdicts import TABLE, change_verdicts, read_verdicts, videos_with_verdicts
from stages.digest import CorruptFileError
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
    refuse_many(len(subjects))
    known = _Known(store)
    about = {"decision": uuid.uuid4().hex, "who": decision.who, "when_s": _moment(store), "audit": decision.audit}
    rows: dict[str, list[Verdicts]] = defaultdict(list)
    for subject in sorted(subjects, key=lambda one: (one.video, one.clip)):  # what is known of a clip is read once
        rows[subject.video].append(_row(known, decision, subject, about | {"fingerprint": known.fingerprint(subject.clip)}))
    for video, new in rows.items():
        change_verdicts(store, video, lambda before, new=new: Verdicts.concat([before, *new]))  # type: ignore[misc]
    return str(about["decision"])


def refuse_many(num_hands: int) -> None:
    """Raise UserError for a decision on no hand, or on more than one decision may be about."""
    if not 0 < num_hands <= MOST_AT_ONCE:
        raise UserError(f"decide on 1 to {MOST_AT_ONCE} hands at once, not {num_hands}")


def refuse_beyond(box: Sequence[float], width: int, height: int) -> None:
    """Raise UserError for a box that shows nothing of its image, whose size is in pixels."""
    x0, y0, x1, y1 = box
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise UserError(f"the box lies beside the image, which has {width} x {height} pixels")


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
    name, when_s = uuid.uuid4().hex, _moment(store)
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


class _Known:
    """Tables of a data folder that a decision looks up, each read once: hands and candidates of the clip, verdicts of the video."""

    def __init__(self, store: Store) -> None:
        self.fingerprint = lru_cache(1)(lambda clip: (store.made_by("hands", clip) or {}).get("fingerprint", ""))
        self.hands = lru_cache(1)(lambda clip: hands_in(store, clip))
        self.refused = lru_cache(1)(lambda clip: refused_in(store, clip))
        self.standing = lru_cache(1)(lambda video: standing(read_verdicts(store, video)))


def _moment(store: Store) -> float:
    """Seconds since 1970, later than every decision that is known though a clock was set back: the last one is the one to undo."""
    last_s = max((_last_s(store, video, stamp) for video, stamp in store.stamps(TABLE).items()), default=0.0)
    return max(time.time(), math.nextafter(last_s, math.inf))


@lru_cache(1 << 14)
def _last_s(store: Store, video: str, stamp: str) -> float:
    """When the last decision on a video was made; 0 where its verdicts cannot be read."""
    try:
        return float(read_verdicts(store, video).when_s.max(initial=0))
    except CorruptFileError:
        return 0.0


def _row(known: _Known, decision: Decision, subject: Subject, about: Mapping[str, Any]) -> Verdicts:
    if decision.what is What.ADD:
        place = {"video": subject.video, "frame": subject.frame, "time_s": subject.time_s, "hand": NO_NUMBER, "side": decision.to_side}
        return _verdict(None, what=What.ADD, **place, box=decision.to_box, to_box=decision.to_box, to_side=decision.to_side, **about)
    if subject.hand <= FIRST_REFUSED:
        return _taken_after_all(known, decision, subject, about)
    hand = _numbered(known.hands(subject.clip), subject, "no hand {} on")
    to_side = UNKNOWN_SIDE
    if decision.what is What.SIDE:
        to_side = decision.to_side if decision.to_side != UNKNOWN_SIDE else _other_side(known, subject, hand)
    to_box = decision.to_box if decision.what is What.BOX else NOWHERE
    if decision.what is What.BOX:
        refuse_beyond(to_box, int(hand.width[0]), int(hand.height[0]))
    return _verdict(hand, what=decision.what, to_side=to_side, to_box=to_box, **about)


def _taken_after_all(known: _Known, decision: Decision, subject: Subject, about: Mapping[str, Any]) -> Verdicts:
    """The row that adds a candidate which fusion refused. Raises UserError for a decision that does not take it for a hand."""
    refused = _numbered(known.refused(subject.clip), subject, "no candidate {} was refused on")
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
    refuse_beyond(box, int(refused.width[0]), int(refused.height[0]))
    return _verdict(refused, what=What.ADD, hand=NO_NUMBER, side=side, box=box, to_box=box, to_side=side, **about)


def _numbered(of_clip: _Found, subject: Subject, none: str) -> _Found:
    """The hand of a number on its frame.

    Raises UserError where there is none, and where another one of its view, or none, lies where the hand was seen: a run may have
    numbered hands anew.
    """
    of_frame = np.flatnonzero(of_clip.frame == subject.frame)
    found = of_frame[of_clip.hand[of_frame] == subject.hand][:1]
    if not len(found):
        raise UserError(f"{none.format(subject.hand)} frame {subject.frame} of {subject.clip[:100]}")
    beside = of_frame[of_clip.view[of_frame] == of_clip.view[found]]
    seen, same = np.array(subject.box), of_clip.hand[beside] == subject.hand
    if np.isfinite(seen).all():
        best = same_box(seen, of_clip.box[beside], same)
        if best is None or not same[best]:
            where = f"frame {subject.frame} of {subject.video}"
            raise UserError(f"a run has found the hands on {where} anew since they were shown: load the page again")
    return of_clip.take(found)


def _other_side(known: _Known, subject: Subject, hand: Hands) -> int:
    """The side on which a hand does not stand, as it stands decided now."""
    of_frame = known.standing(subject.video)
    said = int(decided(hand, of_frame.take(of_frame.frame == subject.frame)).side[0])
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
