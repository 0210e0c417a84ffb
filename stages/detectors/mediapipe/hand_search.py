"""Finding the hands of one picture: where to look, what the landmark network says there, and each hand once.

Every hand is looked at in the full frame, whatever crop its palm was found in, so no view of a hand is cut by a tile's border.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, UInt8

from stages import boxes
from stages.detectors.mediapipe.crops import Look, Region, alike, region_of_box, upright_angle
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, Landmarks, tracked_region
from stages.detectors.mediapipe.palm import FindPalms, hand_region
from stages.detectors.mediapipe.ssd import Candidates
from stages.detectors.views import few_tiles, whole
from stages.tables import BODY_KEYPOINTS, People

SHOULDERS, ELBOWS, WRISTS, HIPS = (
    [BODY_KEYPOINTS.index(f"{side}_{joint}") for side in ("left", "right")] for joint in ("shoulder", "elbow", "wrist", "hip")
)
HAND_OVER_FOREARM, HAND_OVER_SHOULDERS, HAND_OVER_TORSO = 0.7, 0.5, 0.35
"""An adult's hand is 18 to 19 cm long, the forearm 26, the shoulder joints 36 apart, the torso 50. Ours."""

WRIST_REGIONS, TIGHT_REGIONS = ((2.0, 0.5),), ((1.4, 0.4), (1.0, 0.35))
"""Sides of the squares that are looked at where a forearm ends, and how far beyond the wrist their middles lie, in expected hands.
Ours: the tight ones find four of the 1,044 hands of clips more, of labelled frames none, and in photographs six beside 96, none false."""
SURE_SCORE = 0.6
"""Of a hand that needs no second route to confirm it. Ours."""

EXPLAINED_IOU = 0.4
"""Overlap of a sure hand and the proposal that was about it: no tile is looked at for that one. Ours."""
THINNEST = 0.1
"""Shorter over longer side of the hull of a hand's landmarks, at least. Ours: none of our labelled hands is so thin, and outstretched ones
seen from the edge have a fifth."""
HOPELESS = 0.05
"""Presence of a first look below which a second is not worth its time (measured: none of those became a hand). Ours."""

View = tuple[str, int, Float64[np.ndarray, "4"]]
"""Route, person whose view it is (-1: nobody's), and the xyxy box that is looked at."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Start:
    """A region where a hand may be, and why."""

    route: str
    person: int
    crop: Float64[np.ndarray, "4"]  # xyxy, what was looked at to get here
    region: Region
    score: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Hand:
    """A hand that the landmark network confirmed."""

    start: Start
    landmarks: Landmarks

    @property
    def score(self) -> float:
        """P(b|d): palm score x presence."""
        return self.start.score * self.landmarks.presence

    @property
    def hull(self) -> Float64[np.ndarray, "4"]:
        """The box of the landmarks."""
        points = self.landmarks.points
        return np.concatenate([points.min(axis=0), points.max(axis=0)])

    @property
    def size(self) -> float:
        """The longer side of the hull, in pixels."""
        return float(np.ptp(self.landmarks.points, axis=0).max())


def frame_views(
    width: int, height: int, zooms: Sequence[float], *, shares: Sequence[float] = (), min_side: float = 1.0, most: int = 30
) -> list[View]:
    """The whole frame, once more as each of these shares of a view, and its tiles: squares of the short side divided by each zoom, none
    narrower than `min_side`, `most` of a zoom."""
    frame = whole(width, height)
    found: list[View] = [("frame", -1, frame)]
    found += [("frame", -1, _around((frame[:2] + frame[2:]) / 2, max(width, height) / share / 2)) for share in shares]
    for zoom in zooms:
        side = min(width, height) / zoom
        squares = list(few_tiles(width, height, side, most)) if side >= min_side else []
        if len(squares) > 1:
            found += [("tile", -1, square) for square in squares]
    return found


def holding(views: Sequence[View], points: Float[np.ndarray, "n 2"]) -> list[View]:
    """The views in which at least one of these points lies."""
    return [view for view in views if ((points >= view[2][:2]) & (points <= view[2][2:])).all(1).any()]


def unexplained(guides: Float[np.ndarray, "n 4"], hands: Sequence[Hand], extent: Float64[np.ndarray, "2"]) -> Float[np.ndarray, "m 4"]:
    """The boxes of which none of these hands is known to be the one proposed: each sure hand explains the box that it overlaps best."""
    hulls = np.array([hand.hull for hand in hands if hand.score >= SURE_SCORE]).reshape(-1, 4)
    if not len(guides) or not len(hulls):
        return guides
    overlaps = boxes.iou(boxes.scaled(hulls, extent), guides.astype(np.float64))
    return np.delete(guides, overlaps.argmax(1)[overlaps.max(1) >= EXPLAINED_IOU], 0)


def person_views(people: People, margin: float) -> list[View]:
    """Each person's box, grown by a share of it on every side."""
    box = people.box.astype(np.float64)
    grown = box + margin * np.tile(box[:, 2:] - box[:, :2], 2) * np.array([-1, -1, 1, 1])
    return [("person", int(person), view) for person, view in zip(people.person, grown, strict=True)]


def hand_length(keypoints: Float[np.ndarray, "17 3"]) -> float:
    """Expected length of a person's hands in pixels: the largest that its limbs suggest (foreshortening only shrinks)."""
    points = keypoints[:, :2].astype(np.float64)

    def apart(a: int, b: int) -> float:
        return float(np.linalg.norm(points[a] - points[b]))

    return max(
        *(HAND_OVER_FOREARM * apart(elbow, wrist) for elbow, wrist in zip(ELBOWS, WRISTS, strict=True)),
        HAND_OVER_SHOULDERS * apart(*SHOULDERS),
        *(HAND_OVER_TORSO * apart(shoulder, hip) for shoulder, hip in zip(SHOULDERS, HIPS, strict=True)),
    )


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Arm:
    """A person's forearm, at whose end a hand may be."""

    person: int
    score: float  # the person's x the wrist's: it stands in for a palm's
    elbow: Float64[np.ndarray, "2"]
    wrist: Float64[np.ndarray, "2"]
    hand_px: float  # expected length of the hand


def arms_of(people: People, min_score: float) -> list[Arm]:
    """Forearms of that score of people whose limbs say how long a hand is."""
    found = []
    for row in range(len(people)):
        keypoints = people.keypoints[row].astype(np.float64)
        hand_px = hand_length(keypoints)
        for elbow, wrist in zip(ELBOWS, WRISTS, strict=True):
            score = float(people.score[row] * keypoints[wrist, 2])
            if score >= min_score and not hand_px < 1:
                ends = {"elbow": keypoints[elbow, :2], "wrist": keypoints[wrist, :2]}
                found.append(Arm(person=int(people.person[row]), score=score, hand_px=hand_px, **ends))
    return found


def begins_at(hand: Hand, arm: Arm) -> bool:
    """Whether a hand begins where an arm ends, to within half a hand."""
    return bool(np.linalg.norm(hand.landmarks.points[0] - arm.wrist) < 0.5 * max(arm.hand_px, hand.size))


def without_hand(arms: Sequence[Arm], hands: Sequence[Hand]) -> list[Arm]:
    """The arms at which none of these hands begins."""
    return [arm for arm in arms if not any(begins_at(hand, arm) for hand in hands)]


def wrist_starts(arms: Sequence[Arm], regions: Sequence[tuple[float, float]]) -> list[Start]:
    """Where each arm says its hand is: beyond the wrist along the forearm, fingers away from the elbow, no palm needed. `regions` are
    `WRIST_REGIONS` or, for fists and hands seen from the edge, small beside what a forearm promises, `TIGHT_REGIONS`."""
    found = []
    for arm in arms:
        along = (arm.wrist - arm.elbow) / max(float(np.linalg.norm(arm.wrist - arm.elbow)), 1e-6)
        for side, beyond in regions:
            centre = arm.wrist + beyond * arm.hand_px * along
            region = np.array([*centre, side * arm.hand_px, upright_angle(arm.elbow, arm.wrist)], np.float64)
            found.append(Start(route="wrist", person=arm.person, crop=_around(centre, arm.hand_px), region=region, score=arm.score))
    return found


def wrist_views(arms: Sequence[Arm], scale: float) -> list[View]:
    """Squares, `scale` hands wide, about the expected hand of each arm."""
    return [("wrist", arm.person, _around(arm.wrist + 0.33 * (arm.wrist - arm.elbow), scale * arm.hand_px / 2)) for arm in arms]


def _around(centre: Float64[np.ndarray, "2"], half: float) -> Float64[np.ndarray, "4"]:
    return np.concatenate([centre - half, centre + half])


def palm_starts(
    image: UInt8[np.ndarray, "height width 3"],
    views: Iterable[View],
    find_palms: FindPalms,
    min_score: float,
) -> list[Start]:
    """Palms of each view; those cut by a border where the frame goes on are left to the views that hold them whole."""
    return palm_starts_of_all([image], [list(views)], find_palms, min_score)[0]


def palm_starts_of_all(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], views: Sequence[Sequence[View]], find_palms: FindPalms, min_score: float
) -> list[list[Start]]:
    """`palm_starts` of each image in its views, all looks of all images in one batch."""
    looks = [(image, region_of_box(view)) for image, of_image in zip(images, views, strict=True) for _, _, view in of_image]
    everywhere = iter(find_palms(looks, min_score))
    return [
        [start for one in of_image for start in _starts(image, one, next(everywhere))]
        for image, of_image in zip(images, views, strict=True)
    ]


def _starts(image: UInt8[np.ndarray, "height width 3"], view: View, palms: Candidates) -> list[Start]:
    """The palms of one view as places to look at."""
    route, person, box = view
    palms = palms.take(~boxes.is_cut(palms.box, box, *image.shape[1::-1]))
    found = zip(palms.score, palms.box, palms.keypoints, strict=True)
    return [
        Start(route=route, person=person, crop=box, region=hand_region(palm, keypoints), score=float(score))
        for score, palm, keypoints in found
    ]


Confirming = Generator[Look, Landmarks, list[Hand]]
"""Asks for looks, one at a time, is sent what the network says of each, and ends with the hands of an image."""


def confirm(
    image: UInt8[np.ndarray, "height width 3"],
    starts: Sequence[Start],
    find_landmarks: FindLandmarks,
    *,
    min_presence: float,
) -> list[Hand]:
    """The hands that `confirming` finds in one image."""
    return confirm_all([confirming(image, starts, min_presence=min_presence)], find_landmarks)[0]


def confirm_all(searches: Sequence[Confirming], find_landmarks: FindLandmarks) -> list[list[Hand]]:
    """The hands of several images: what all of them ask for next is looked at in one batch."""
    hands: list[list[Hand]] = [[] for _ in searches]
    asked: dict[int, Look] = {}

    def go_on(k: int, said: Landmarks | None) -> None:
        try:
            asked[k] = searches[k].send(said)  # type: ignore[arg-type]  # a generator begins with None
        except StopIteration as end:
            hands[k] = end.value

    for k in range(len(searches)):
        go_on(k, None)
    while asked:
        waiting, looks = list(asked), list(asked.values())
        asked.clear()
        for k, said in zip(waiting, find_landmarks(looks), strict=True):
            go_on(k, said)
    return hands


def confirming(
    image: UInt8[np.ndarray, "height width 3"], starts: Sequence[Start], *, min_presence: float, known: Sequence[Hand] = ()
) -> Confirming:
    """Starts where the landmark network sees a hand, twice: on the start's region, then on the region its landmarks give.

    The second look is the tracker's of MediaPipe; it centres the hand and is the one that counts. A region that is all but
    another's, or about that of a hand already sure, or surer than any from here can be, is not looked at, nor is an arm at whose end there
    is one; a first look that is hopeless, or shows such a hand, ends the matter. Hands that are `known` come first among those found.
    """
    hands = list(known)
    for start in _distinct(starts):
        sure = [hand for hand in hands if hand.score >= min(SURE_SCORE, start.score)]
        if any(_same_arm(start, hand) or alike(start.region, _last_region(hand), shift=0.2, growth=1.5, turn=0.6) for hand in sure):
            continue
        first = yield image, start.region
        if first.presence < HOPELESS or any(_shows(first, start, hand) for hand in sure):
            continue
        second = yield image, tracked_region(first.points)
        hand = Hand(start=start, landmarks=second)
        if second.presence >= min_presence and is_plausible(hand, image.shape[1], image.shape[0]):
            hands.append(hand)
    return hands


def _shows(look: Landmarks, start: Start, hand: Hand) -> bool:
    """Whether a first look at a palm shows a hand that is known, as one of its side: beside a clasped one, and from a wrist, a second
    look may find the other."""
    same_side = (look.p_right > 0.5) == (hand.landmarks.p_right > 0.5)
    return start.route != "wrist" and same_side and same_hand(Hand(start=start, landmarks=look), hand)


def _same_arm(start: Start, hand: Hand) -> bool:
    """Whether a hand was found from the wrist that a start begins at: its score tells it from the other wrist's."""
    return start.route == "wrist" and (start.route, start.person, start.score) == (hand.start.route, hand.start.person, hand.start.score)


def _last_region(hand: Hand) -> Region:
    return tracked_region(hand.landmarks.points)


def _distinct(starts: Sequence[Start]) -> list[Start]:
    """Best first, without those that look at nearly the same place in nearly the same way."""
    kept: list[Start] = []
    for start in sorted(starts, key=lambda start: -start.score):
        if not any(alike(start.region, other.region, shift=0.05, growth=1.25, turn=0.25) for other in kept):
            kept.append(start)
    return kept


def is_plausible(hand: Hand, width: int, height: int) -> bool:
    """Whether the landmarks can be a hand: not collapsed, to a line neither, not larger than the frame, not all outside it."""
    points = hand.landmarks.points
    inside = ((points >= 0) & (points < (width, height))).all(axis=1).mean()
    is_flat = float(np.ptp(points, axis=0).min()) < THINNEST * hand.size
    return bool(4 <= hand.size <= 1.5 * max(width, height) and not is_flat and inside >= 0.15)


def overlap(one: Hand, other: Hand) -> float:
    """Intersection over union of two hands' hulls."""
    return float(boxes.iou(one.hull[None], other.hull[None])[0, 0])


def same_hand(one: Hand, other: Hand) -> bool:
    """Whether two views are of one hand: their boxes overlap by half, or their landmarks lie within a quarter of the smaller."""
    if overlap(one, other) > 0.5:
        return True
    distance = np.linalg.norm(one.landmarks.points - other.landmarks.points, axis=1).mean()
    return bool(distance < 0.25 * min(one.size, other.size))


def each_once(hands: Sequence[Hand]) -> list[Hand]:
    """The best view of every hand, best first."""
    kept: list[Hand] = []
    for hand in sorted(hands, key=lambda hand: -hand.score):
        if not any(same_hand(hand, other) for other in kept):
            kept.append(hand)
    return kept
