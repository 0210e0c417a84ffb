"""Scores of hands through whole labelled clips: sides, identities and false hands, as pure functions.

A found hand is the labelled one that it overlaps best, at IoU >= 0.3, one to one over the frame. Where it overlaps a second labelled
hand nearly as much, as clasped hands do, it counts as found, and neither its side nor its identity is judged.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np
from jaxtyping import Bool, Float, Int64

from hands.metrics.clip_labels import LabelledClip
from hands.metrics.labels import MATCH_IOU, UNKNOWN, LabelledFrame, in_ignored
from stages import boxes
from stages.tables import LEFT, RIGHT, Hands

CLEAR_IOU = 0.1
"""Least lead by which a found hand must overlap its label more than any other, to be judged by it."""
RELINK_S = 0.6
"""A hand that was not found for longer may come back as another track."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCounts:
    """Counts over the frames of a clip, or of several."""

    num_frames: int = 0  # sampled, without those that are wholly ignored
    num_hands: int = 0  # labelled, over all frames
    num_found: int = 0
    num_false: int = 0
    num_judged: int = 0  # found, clearly one labelled hand of known side
    num_wrong_side: int = 0  # of these
    num_unknown_side: int = 0  # of these: the side is left open
    same_side_pairs: int = 0  # frames that give a person two hands of one side
    identity_switches: int = 0  # a track comes to lie on another hand, or a hand gets another track without having been lost
    track_breaks: int = 0  # a hand in view was lost for longer than RELINK_S, and has another track since

    def __add__(self, other: "ClipCounts") -> "ClipCounts":
        return ClipCounts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def figures(self) -> dict[str, float | None]:
        """The shares that these counts give, null where nothing was counted."""
        return {
            "recall": _ratio(self.num_found, self.num_hands),
            "precision": _ratio(self.num_found, self.num_found + self.num_false),
            "wrong_side": _ratio(self.num_wrong_side, self.num_judged),
            "unknown_side": _ratio(self.num_unknown_side, self.num_judged),
            "false_per_100": _ratio(100 * self.num_false, self.num_frames),
            "identity_switches_per_1000": _ratio(1000 * self.identity_switches, self.num_frames),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScore:
    """All clips together, and each by itself."""

    total: ClipCounts
    by_video: Mapping[str, ClipCounts] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """For JSON: counts and shares of all clips, then by video."""

        def row(counts: ClipCounts) -> dict[str, object]:
            return {**asdict(counts), **counts.figures()}

        return {**row(self.total), "by_video": {video: row(counts) for video, counts in self.by_video.items()}}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1)


def score_clips(
    clips: Sequence[LabelledClip],
    frames: Sequence[tuple[Int64[np.ndarray, "frames"], Float[np.ndarray, "frames"]]],
    hands: Sequence[Hands],
) -> ClipScore:
    """Scores of the hands found in each clip; `frames` are the indices and times (seconds) of all its frames that were looked at."""
    by_video: dict[str, ClipCounts] = {}
    for clip, (frame, time_s), found in zip(clips, frames, hands, strict=True):
        counts = count_clip(clip, frame, time_s, found)
        by_video[clip.video] = by_video.get(clip.video, ClipCounts()) + counts
    return ClipScore(total=sum(by_video.values(), ClipCounts()), by_video=by_video)


def count_clip(clip: LabelledClip, frame: Int64[np.ndarray, "frames"], time_s: Float[np.ndarray, "frames"], hands: Hands) -> ClipCounts:
    """The counts of one clip."""
    total = ClipCounts()
    identities = _Identities()
    for number, now in sorted(zip(frame.tolist(), time_s.tolist(), strict=True)):
        label, here = clip.at(number, now)
        if any((region == clip.everywhere).all() for region in label.ignore):
            continue
        rows = hands.take(hands.frame == number)
        found, clear, false = _matched(label, rows)
        counted = false | (found >= 0)
        owner = np.array([here[k].person for k in found[found >= 0]], object)
        total += ClipCounts(
            num_frames=1,
            num_hands=len(here),
            num_found=int((found >= 0).sum()),
            num_false=int(false.sum()),
            same_side_pairs=int(_has_pair(owner, rows.side[found >= 0]) or _has_pair(rows.person[counted], rows.side[counted])),
        )
        for row in np.flatnonzero(clear):
            hand = here[found[row]]
            told = int(rows.side[row])
            switches, breaks = identities.see(hand.hand, hand.start_s, int(rows.track[row]), now)
            total += ClipCounts(
                num_judged=int(hand.side != UNKNOWN),
                num_wrong_side=int(hand.side != UNKNOWN and told in (LEFT, RIGHT) and told != hand.side),
                num_unknown_side=int(hand.side != UNKNOWN and told not in (LEFT, RIGHT)),
                identity_switches=switches,
                track_breaks=breaks,
            )
    return total


class _Identities:
    """Who was who so far: the last track of each hand, and the last hand of each track."""

    def __init__(self) -> None:
        self.track_of: dict[
            tuple[str, float], tuple[int, float]
        ] = {}  # by hand and stretch: what leaves the frame may come back as another
        self.hand_of: dict[int, str] = {}

    def see(self, hand: str, start_s: float, track: int, time_s: float) -> tuple[int, int]:
        """Whether this sight of a hand is a switch of identity, and whether it is a break of its track."""
        last_track, last_s = self.track_of.get((hand, start_s), (track, time_s))
        jumps = self.hand_of.get(track, hand) != hand
        lost = time_s - last_s > RELINK_S + 1e-6
        self.track_of[hand, start_s] = track, time_s
        self.hand_of[track] = hand
        switched = jumps or (last_track != track and not lost)
        return int(switched), int(last_track != track and lost and not jumps)


def _matched(label: LabelledFrame, rows: Hands) -> tuple[Int64[np.ndarray, "n"], Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Each found hand's labelled one or -1, whether it is clearly that one, and whether it is false."""
    from scipy.optimize import linear_sum_assignment

    overlap = boxes.iou(rows.box.astype(np.float64), label.box)
    found, clear = np.full(len(rows), -1, np.int64), np.zeros(len(rows), bool)
    for row, k in zip(*linear_sum_assignment(np.where(overlap >= MATCH_IOU, -overlap, 0.0)), strict=True):
        if overlap[row, k] >= MATCH_IOU:
            found[row] = k
            clear[row] = overlap[row, k] - np.delete(overlap[row], k).max(initial=0.0) >= CLEAR_IOU
    return found, clear, (found < 0) & ~in_ignored(label, rows.box)


def _has_pair(person: np.ndarray, side: np.ndarray) -> bool:
    """Whether anybody has two hands of one side; nobody's hands (-1) and open sides make no pair."""
    count: dict[tuple[object, int], int] = defaultdict(int)
    for who, told in zip(person.tolist(), side.tolist(), strict=True):
        if who != -1 and told in (LEFT, RIGHT):
            count[who, told] += 1
    return any(number > 1 for number in count.values())


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
