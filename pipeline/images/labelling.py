"""Hands that an image is trained with: people's boxes joined with the ensemble's; where nobody is sure, boxes that count neither way.

A box that somebody drew is a hand; what people did not mark of side and keypoints the ensemble says, or the landmark network's look at that
very box. Where
people drew nothing, a hand that the ensemble is sure of is one; whatever else it saw, and a wrist that it saw no hand at, is ignored:
background would teach the network not to see what its teachers missed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from hands.metrics.labels import UNKNOWN, LabelledFrame
from pipeline.evaluate.annotators import finders_and_fusion
from pipeline.evaluate.observe import seen_on
from pipeline.images.formats import LabelledImage
from stages import boxes
from stages.detectors.mediapipe.box_looks import look_at_boxes
from stages.detectors.mediapipe.hand_landmarks import Landmarks, load_hand_landmarks
from stages.detectors.mediapipe.hand_search import ELBOWS, WRISTS, hand_length
from stages.media.frames import Frames
from stages.stage import Stage
from stages.tables import LEFT, RIGHT, Hands, People, RefusedHands

PEOPLE = "people"
"""Source of a box that somebody drew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How far the teachers are believed. Ours, all of them."""

    sure_score: float = 0.5
    """Least score of a hand that only the ensemble saw; below, it is ignored."""
    match_iou: float = 0.4
    """Overlap of a drawn box with a hand that the ensemble saw there."""
    presence: float = 0.8
    """Presence at the landmark network's look at a drawn box: below, nobody knows side and keypoints."""
    person_score: float = 0.5
    """Least score of somebody whose wrists are looked after."""
    wrist: float = 0.5
    """Confidence of a wrist that should have a hand."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"import_images.{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Taught:
    """The hands of one image and what to ignore, pixels."""

    box: Float64[np.ndarray, "n 4"]
    side: Int64[np.ndarray, "n"]  # -1 nobody knows
    keypoints: Float64[np.ndarray, "n 21 3"]  # NaN where nobody knows
    score: Float64[np.ndarray, "n"]
    sources: list[list[str]]
    ignore: Float64[np.ndarray, "m 4"]


Teach = Callable[[LabelledImage, UInt8[np.ndarray, "height width 3"]], Taught]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Candidates:
    """All that the ensemble saw on one image: its hands, and what it refused."""

    box: Float64[np.ndarray, "n 4"]
    score: Float64[np.ndarray, "n"]
    side: Int64[np.ndarray, "n"]
    keypoints: Float64[np.ndarray, "n 21 3"]
    sources: list[list[str]]
    is_hand: Bool[np.ndarray, "n"]

    @classmethod
    def of(cls, hands: Hands, refused: RefusedHands) -> "Candidates":
        """From both tables of the fusion."""
        return cls(
            box=np.concatenate([hands.box, refused.box]).astype(np.float64),
            score=np.concatenate([hands.score, refused.score]).astype(np.float64),
            side=np.concatenate([hands.side, refused.side]).astype(np.int64),
            keypoints=np.concatenate([hands.keypoints, refused.keypoints]).astype(np.float64),
            sources=[list(row) for row in [*hands.sources, *refused.sources]],
            is_hand=np.arange(len(hands) + len(refused)) < len(hands),
        )


def teacher(stages: Sequence[Stage], trust: Trust) -> Teach:
    """The ensemble of a recipe as a function of an image and what people drew on it."""
    finders, fuse = finders_and_fusion(stages)
    functions = [(stage, stage.build()) for stage in finders]
    fuse_tables, find_landmarks = fuse.build(), load_hand_landmarks()

    def teach(label: LabelledImage, image: UInt8[np.ndarray, "height width 3"]) -> Taught:
        frames = Frames(video=label.name, frame=np.array([0]), time_s=np.array([0.0]), images=[image])
        here = seen_on(functions, _as_frame(label, image), frames, 0, 1.0)
        seen = Candidates.of(*fuse_tables(here.videos, here.clips, here.people, here.detections))
        if not label.labelled:
            return seen_alone(label, seen, here.people, trust)
        unseen = np.flatnonzero(boxes.iou(label.box, seen.box).max(1, initial=0) < trust.match_iou)
        looked = dict(zip(unseen.tolist(), look_at_boxes(image, label.box[unseen], find_landmarks), strict=True))
        return joined(label, seen, looked, here.people, trust)

    return teach


def _as_frame(label: LabelledImage, image: UInt8[np.ndarray, "height width 3"]) -> LabelledFrame:
    return LabelledFrame(
        name=label.name,
        video=label.name,
        frame=0,
        image=str(label.path),
        width=image.shape[1],
        height=image.shape[0],
        box=label.box,
        side=label.side,
        ignore=label.ignore,
    )


def joined(label: LabelledImage, seen: Candidates, looked: Mapping[int, Landmarks | None], everybody: People, trust: Trust) -> Taught:
    """Drawn boxes with side and keypoints of whoever saw a hand there; what nobody drew is ignored where the ensemble took it for a hand
    and, where not all hands are drawn, whatever else might be one."""
    overlap = boxes.iou(label.box, seen.box)
    side, count = label.side.copy(), len(label.box)
    keypoints, sources = np.full((count, 21, 3), np.nan), [[PEOPLE] for _ in range(count)]
    free = np.ones(len(seen.box), bool)
    for row in range(count):
        match = int(np.where(free, overlap[row], -1).argmax()) if len(seen.box) else -1
        look = looked.get(row)
        if match >= 0 and free[match] and overlap[row, match] >= trust.match_iou:
            free[match] = False
            keypoints[row] = seen.keypoints[match]
            sources[row] += seen.sources[match]
            said = int(seen.side[match])
        elif look is not None and look.presence >= trust.presence:
            keypoints[row] = np.column_stack([look.points, np.full(21, look.presence)])
            sources[row] += ["mediapipe"]
            said = RIGHT if look.p_right >= 0.5 else LEFT
        else:
            continue
        side[row] = said if side[row] == UNKNOWN else side[row]
    if label.keypoints is not None:  # what people marked is better than what anybody saw
        by_people = np.isfinite(label.keypoints[..., :2]).all(-1)
        keypoints = np.where(by_people[..., None], label.keypoints, keypoints)
    doubtful = free & (overlap.max(0, initial=0) < trust.match_iou) & (seen.is_hand | (not label.exhaustive))
    ignore = [label.ignore, seen.box[doubtful]]
    if not label.exhaustive:
        ignore.append(_bare_wrists(everybody, np.concatenate([label.box, seen.box]), trust))
    return Taught(box=label.box, side=side, keypoints=keypoints, score=np.ones(count), sources=sources, ignore=np.concatenate(ignore))


def seen_alone(label: LabelledImage, seen: Candidates, everybody: People, trust: Trust) -> Taught:
    """The ensemble's own sure hands; the rest of what it saw is ignored, as are wrists that it saw no hand at."""
    sure = seen.is_hand & (seen.score >= trust.sure_score)
    ignore = [label.ignore, seen.box[~sure], _bare_wrists(everybody, seen.box[sure], trust)]
    return Taught(
        box=seen.box[sure],
        side=seen.side[sure],
        keypoints=seen.keypoints[sure],
        score=seen.score[sure],
        sources=[seen.sources[row] for row in np.flatnonzero(sure)],
        ignore=np.concatenate(ignore),
    )


def _bare_wrists(everybody: People, box: Float64[np.ndarray, "n 4"], trust: Trust) -> Float64[np.ndarray, "m 4"]:
    """Squares about the hands that people's wrists promise and no box holds."""
    found = []
    for row in np.flatnonzero(everybody.score >= trust.person_score):
        points = everybody.keypoints[row].astype(np.float64)
        length = hand_length(points)
        for elbow, wrist in zip(ELBOWS, WRISTS, strict=True):
            along = points[wrist, :2] - points[elbow, :2]
            middle = points[wrist, :2] + 0.5 * length * along / max(float(np.linalg.norm(along)), 1e-6)
            nearest = np.abs(boxes.centre(box) - middle).max(1).min(initial=np.inf)
            if points[wrist, 2] < trust.wrist or length < 1 or nearest < length:
                continue
            found.append(np.concatenate([middle - 0.9 * length, middle + 0.9 * length]))
    return np.array(found, np.float64).reshape(-1, 4)
