"""Fuse hands: all sources' views of a hand become one row (WiLoR, eq. 1). The paper gives the average; the rules around it are ours.

Frame of reference as in `tables`: xyxy boxes in pixels of the full frame. Detectors that ran and found nothing count as absent,
detectors that did not run do not count. Bodies are a weaker witness: their wrists say that a hand is there, whose and which.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from stages import bodies, boxes, tracks
from stages.association import WRIST, associate, fuse_box, fuse_keypoints, log_odds, without_copies
from stages.stage import Resources
from stages.tables import Clips, HandDetections, Hands, People, Table, Videos


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseHands:
    """Average the boxes of all detectors, weighted by confidence, and say whose hand it is, which side, and since when."""

    name: ClassVar[str] = "fuse-hands"
    version: ClassVar[int] = 1
    key: ClassVar[Literal["video", "clip", "shard"]] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Videos, Clips, People, HandDetections)
    writes: ClassVar[type[Table]] = Hands
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=1.0, limit_s=120.0)

    detectors: tuple[str, ...] = ("mediapipe",)
    """Sources that ran, by name: rows of others are refused, and one that found nothing counts against a hand. Ours."""
    match_iou: float = 0.4
    """Boxes of two sources above this overlap are the same hand. Ours; hulls and full boxes overlap by 0.56 at the median."""
    match_distance: float = 0.35
    """So are boxes of similar area whose centres are nearer than this many box sides. Ours."""
    stranger_iou: float = 0.3
    """A member that overlaps the fused box by less is dropped, and the box computed again. Ours."""
    copy_iou: float = 0.5
    """One source's boxes above this overlap are one hand seen twice, where there are no landmarks to compare. Ours."""
    copy_distance: float = 0.2
    """One source's hands whose landmarks are nearer than this many box sides on average are one hand seen twice. MediaPipe's own."""
    min_score: float = 0.3
    """Least score (calibrated confidences averaged over the sources that ran, raised by a wrist nearby), in [0, 1]. Ours."""
    lone_score: float = 0.9
    """A hand that one of several sources saw needs this confidence and a wrist nearby, in [0, 1]. Ours."""
    person_score: float = 0.65
    """People below this detection score do not count, in [0, 1]. Paper, sec. 3."""
    person_iou: float = 0.55
    """Bodies above this overlap with the same keypoints are one person. Ours."""
    wrist_reach: float = 1.0
    """How far, in hand box sides, a body's wrist may lie from the hand's to speak for it. Ours."""
    wrist_weight: float = 0.3
    """Share of the missing score that a confident wrist at the very place makes good, in [0, 1). Ours."""
    wrist_side_weight: float = 4.0
    """Log-odds that such a wrist adds for its side; a detector's vote is at most 3.9. Ours."""
    max_gap_s: float = 0.6
    """A track ends when its hand is not seen for longer, seconds. Ours."""
    max_speed: float = 5.0
    """A hand may leave its constant-velocity guess by this many hand sizes a second. Ours."""

    def __post_init__(self) -> None:
        if not self.detectors or len(set(self.detectors)) != len(self.detectors):
            raise ValueError(f"fuse_hands.detectors must name each detector that ran once, got {self.detectors}")
        for field in ("match_iou", "stranger_iou", "copy_iou", "min_score", "lone_score", "person_score", "person_iou", "wrist_weight"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"fuse_hands.{field} must lie in [0, 1], got {getattr(self, field)}")
        for field in ("match_distance", "copy_distance", "wrist_reach", "wrist_side_weight", "max_gap_s", "max_speed"):
            if not 0 < getattr(self, field) < np.inf:
                raise ValueError(f"fuse_hands.{field} must be positive, got {getattr(self, field)}")

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[[Videos, Clips, People, HandDetections], Hands]:
        return self._fuse

    def _fuse(self, videos: Videos, clips: Clips, people: People, detections: HandDetections) -> Hands:
        """Hands of one clip, by frame, best score first within it.

        Raises ValueError for rows of a detector that `detectors` does not name.
        """
        strangers = set(detections.source) - set(self.detectors)
        if strangers:
            raise ValueError(f"fuse_hands.detectors is {self.detectors}, but there are hands of {sorted(strangers)}: name them")
        people = people.take(people.score >= self.person_score)
        frames = [
            fuse_frame(
                self, detections.take(detections.frame == f), people.take(people.frame == f), int(videos.width[0]), int(videos.height[0])
            )
            for f in np.unique(detections.frame)
        ]
        hands = Hands.concat(frames)
        return follow(hands, max_gap_s=self.max_gap_s, max_speed=self.max_speed) if len(hands) else Hands.empty()


def fuse_frame(settings: FuseHands, detections: HandDetections, people: People, width: int, height: int) -> Hands:
    """Hands of one frame (at least one detection), untracked: track -1, sides by this frame's votes alone."""
    people = bodies.without_copies(people, copy_iou=settings.person_iou)
    detections = without_copies(detections, width, height, copy_iou=settings.copy_iou, copy_distance=settings.copy_distance)
    clusters = associate(detections, match_iou=settings.match_iou, match_distance=settings.match_distance)
    fused = [fuse_box(detections.box[c], detections.score[c], stranger_iou=settings.stranger_iou) for c in clusters]
    clusters = [c[stays] for c, (_, stays) in zip(clusters, fused, strict=True)]
    box = np.stack([b for b, _ in fused]).astype(np.float64)
    size = boxes.long_side(box)
    keypoints = np.stack(
        [fuse_keypoints(detections.keypoints[c], detections.score[c], float(s)) for c, s in zip(clusters, size, strict=True)]
    )
    wrist = np.where(np.isfinite(keypoints[:, WRIST, :2]), keypoints[:, WRIST, :2], boxes.centre(box))
    witness = bodies.wrist_witness(wrist, size, people, reach=settings.wrist_reach)
    seen = np.array([detections.score[c].sum() for c in clusters]) / len(settings.detectors)
    near = witness.max((1, 2), initial=0)
    score = np.clip(1 - (1 - seen) * (1 - settings.wrist_weight * near), 0, 1)
    top = np.array([detections.score[c].max() for c in clusters])
    num_agree = np.array([len(c) for c in clusters])
    exists = exists_rule(settings, score, top, num_agree, near)
    votes = np.array([log_odds(detections.p_right[c]).sum() for c in clusters], np.float64)
    person, side, odds = bodies.share_out(witness[exists], votes[exists], score[exists], side_weight=settings.wrist_side_weight)
    members = [clusters[i] for i in np.flatnonzero(exists)]
    n = len(members)
    return Hands(
        video=np.full(n, detections.video[0], object),
        frame=np.full(n, detections.frame[0]),
        time_s=np.full(n, detections.time_s[0]),
        hand=np.arange(n, dtype=np.int16),
        width=np.full(n, width, np.int32),
        height=np.full(n, height, np.int32),
        box=box[exists].astype(np.float32),
        score=score[exists].astype(np.float32),
        side=side.astype(np.int8),
        side_log_odds=odds.astype(np.float32),
        keypoints=keypoints[exists].astype(np.float32),
        world=_world(detections, members),
        person=np.where(person >= 0, np.append(people.person, -1)[person], -1).astype(np.int16),
        track=np.full(n, -1, np.int32),
        track_length=np.zeros(n, np.int32),
        num_agree=num_agree[exists].astype(np.int16),
        num_run=np.full(n, len(settings.detectors), np.int16),
        sources=_ragged([detections.source[c] for c in members]),
        source_scores=_ragged([detections.score[c] for c in members]),
        source_boxes=_ragged([detections.box[c] for c in members]),
    )


def exists_rule(
    settings: FuseHands,
    score: Float64[np.ndarray, "n"],
    top: np.ndarray,
    num_agree: Int64[np.ndarray, "n"],
    near: Float64[np.ndarray, "n"],
) -> Bool[np.ndarray, "n"]:
    """Which hands are there: enough score and, when several sources looked, two that agree or a very sure one by a wrist."""
    agreed = num_agree >= min(2, len(settings.detectors))
    return (agreed & (score >= settings.min_score)) | (~agreed & (top >= settings.lone_score) & (near > 0))


def follow(hands: Hands, *, max_gap_s: float, max_speed: float) -> Hands:
    """The same hands with tracks, in order of frame and falling score; a side is its whole track's, never one frame's alone."""
    hands = hands.take(np.lexsort((*hands.box.T, -hands.score, hands.frame)))
    track = tracks.link(hands.frame, hands.time_s, hands.box, hands.side_log_odds, max_gap_s=max_gap_s, speed=max_speed)
    length = np.bincount(track)[track]
    odds = np.bincount(track, hands.side_log_odds)[track]
    undecided = np.bincount(track, hands.side)[track] * 2 > length
    side = np.where(odds == 0, undecided, odds > 0)
    first = np.searchsorted(hands.frame, hands.frame)
    return replace(
        hands,
        hand=(np.arange(len(hands)) - first).astype(np.int16),
        side=side.astype(np.int8),
        side_log_odds=odds.astype(np.float32),
        person=_one_of_each(hands, side, np.abs(odds)),
        track=track,
        track_length=length.astype(np.int32),
    )


def _one_of_each(hands: Hands, side: np.ndarray, sureness: Float64[np.ndarray, "n"]) -> np.ndarray:
    """People, without the less sure of two hands that came to have one side of one person in one frame."""
    person = hands.person.copy()
    taken: set[tuple[int, int, int]] = set()
    for i in np.argsort(-sureness, kind="stable"):
        slot = (int(hands.frame[i]), int(person[i]), int(side[i]))
        if slot in taken and person[i] >= 0:
            person[i] = -1
        taken.add(slot)
    return person


def _world(detections: HandDetections, clusters: list[Int64[np.ndarray, "k"]]) -> np.ndarray:
    """World landmarks of the surest source that has them."""
    world = np.full((len(clusters), *detections.world.shape[1:]), np.nan, np.float32)
    for i, rows in enumerate(clusters):
        have = rows[np.isfinite(detections.world[rows]).all((1, 2))]
        if len(have):
            world[i] = detections.world[have[detections.score[have].argmax()]]
    return world


def _ragged(items: list[np.ndarray]) -> np.ndarray:
    column = np.empty(len(items), object)
    column[:] = [item.tolist() for item in items]
    return column
