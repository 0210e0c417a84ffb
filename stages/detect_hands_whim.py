"""Hands where the detector that this project trains proposes them: MediaPipe's landmark network looks there and decides.

It sees hands that the palm network does not (gripping, seen from behind, small), and knows nothing of bodies: a second, independent
family in the ensemble (self-training).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from fitting.files import sha256_of
from stages import boxes
from stages.detectors.as_hand_stage import COPY_DISTANCE, COPY_IOU
from stages.detectors.found import HAND_EXTENT, hull_boxes
from stages.detectors.mediapipe.box_looks import look_at_boxes
from stages.detectors.mediapipe.hand_landmarks import Landmarks
from stages.detectors.mediapipe.hint import hint_file
from stages.detectors.mediapipe.models import Engine, pinned_sha256
from stages.detectors.mediapipe.second_looks import SECOND_LOOKS, judged
from stages.fusion.association import without_copies
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import HandDetections, HandProposals, Table

LANDMARKS = "hand_landmark_full"
Judge = Callable[[UInt8[np.ndarray, "height width 3"], Sequence[Landmarks]], dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectHandsWhim:
    """Look at each proposed box with the landmark network, which tells side and keypoints.

    P(b|d) of WiLoR's eq. 1 is the proposal's score x presence, which fusion calibrates.
    """

    name: ClassVar[str] = "detect-hands"
    version: ClassVar[int] = 9
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, HandProposals, HandDetections)
    may_lack: ClassVar[tuple[type, ...]] = (HandDetections,)
    writes: ClassVar[type[Table]] = HandDetections
    detector: ClassVar[str] = "whim"

    min_presence: float = setting(0.9, least=0, most=1)
    """The landmark network's word that a hand is there; below, a hand is not listed. Ours: on our labelled frames 0.5, 0.8 and 0.9 find
    the same hands, at a precision of 0.959, 0.959 and 0.969; at 0.8 hair is still a hand."""
    min_overlap: float = setting(0.3, least=0, most=1)
    """Overlap of the proposal and the landmarks' box: below, the second look slid to another hand. Ours."""
    known_iou: float = setting(0.5, least=0, most=1)
    """A hand that overlaps by more than this one that a detector before found with the landmark network is that one: what second
    looks told of it is taken, not asked for again, nor is it looked at itself where it lies alone. 1 asks always. Ours."""
    second_looks: int = setting(len(SECOND_LOOKS), least=0, most=len(SECOND_LOOKS))
    """Looks at every hand that is listed, which tell wrong landmarks: as in `DetectHands`."""
    engine: Engine = "litert"
    """Who runs the landmark network: as in `DetectHands`."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for."""
        return on_device(self.device, self.gpus, 400, limit_s=3600)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the landmark network and of the one that reads its features."""
        return {**pinned_sha256(LANDMARKS), "hint": sha256_of(hint_file())}

    def build(self) -> Callable[..., HandDetections]:
        """Open the network."""
        from stages.detectors.mediapipe.hand_landmarks import load_hand_landmarks
        from stages.detectors.mediapipe.hint import load_hint

        find_landmarks = load_hand_landmarks(self.engine, device=self.device)
        judge: Judge = partial(judged, find_landmarks=find_landmarks, find_hints=load_hint(), num=self.second_looks)

        def detect(frames: Frames, proposals: HandProposals, known: HandDetections | None = None) -> HandDetections:
            known = HandDetections.empty() if known is None or not self.second_looks else known
            known = known.take(np.isfinite(known.palm_score) & np.isfinite(known.spread).all(1))
            rows = []
            for number, image in enumerate(frames.images):
                here = proposals.take(proposals.frame == frames.frame[number])
                there = known.take(known.frame == frames.frame[number])
                rows_there = lone_hands(here.box, there, min_iou=self.known_iou, min_presence=self.min_presence)
                asked = here.take(rows_there < 0)
                seen = iter(look_at_boxes(image, asked.box, find_landmarks, keypoints=asked.keypoints))
                looks = [next(seen) if row < 0 else landmarks_of(there, row) for row in rows_there.tolist()]
                rows.append(self._rows(frames, number, here, looks, there, judge))
            return HandDetections.concat(rows)

        return detect

    def _rows(
        self,
        frames: Frames,
        number: int,
        here: HandProposals,
        looks: Sequence[Landmarks | None],
        known: HandDetections,
        judge: Judge,
    ) -> HandDetections:
        """The proposals of one frame that the landmark network confirmed, each once."""
        image = frames.images[number]
        hands = [(look, row) for row, look in enumerate(looks) if look is not None and look.presence >= self.min_presence]
        hull = hull_boxes(np.array([keypoints_of(look) for look, _ in hands]).reshape(-1, 21, 3), min_score=0.0, extent=HAND_EXTENT)
        stays = boxes.iou(hull, here.box[[row for _, row in hands]]).diagonal() >= self.min_overlap
        hands, hull = [hand for hand, is_there in zip(hands, stays, strict=True) if is_there], hull[stays]
        if not hands:
            return HandDetections.empty()
        seen, here = [look for look, _ in hands], here.take(np.array([row for _, row in hands]))
        count, presence = len(seen), np.array([one.presence for one in seen], np.float32)
        table = HandDetections(
            video=np.full(count, frames.video, object),
            frame=np.full(count, frames.frame[number], np.int64),
            time_s=np.full(count, frames.time_s[number], np.float64),
            source=np.full(count, self.detector, object),
            route=np.full(count, "frame", object),
            person=np.full(count, -1, np.int16),
            crop=np.tile(np.array([0, 0, *image.shape[1::-1]], np.float32), (count, 1)),
            box=here.box,
            score=(here.score * presence).astype(np.float32),
            palm_score=here.score,
            presence=presence,
            p_right=np.array([one.p_right for one in seen], np.float32),
            keypoints=np.stack([keypoints_of(look) for look in seen]),
            world=np.array([one.world for one in seen], np.float32),
            **self._told(image, seen, hull, known, judge),
        )
        return without_copies(table, image.shape[1], image.shape[0], copy_iou=COPY_IOU, copy_distance=COPY_DISTANCE)

    def _told(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        seen: Sequence[Landmarks],
        hull: Float32[np.ndarray, "n 4"],
        known: HandDetections,
        judge: Judge,
    ) -> dict[str, np.ndarray]:
        """What second looks tell of each hand: of one that is known, what they told before."""
        overlap = boxes.iou(hull.astype(np.float64), known.box.astype(np.float64)) if len(known) else np.zeros((len(hull), 1))
        if len(known):  # of two hands that clasp the other one is no word on this
            overlap *= (np.array([one.p_right for one in seen])[:, None] > 0.5) == (known.p_right[None] > 0.5)
        same, new = overlap.argmax(1), np.flatnonzero(overlap.max(1) <= self.known_iou)
        told = judge(image, [seen[row] for row in new.tolist()])
        columns = {}
        for name, values in told.items():
            columns[name] = getattr(known, name)[same] if len(known) else np.empty((len(hull), *values.shape[1:]), np.float32)
            columns[name][new] = values
        return columns


def lone_hands(box: Float32[np.ndarray, "n 4"], known: HandDetections, *, min_iou: float, min_presence: float) -> Int64[np.ndarray, "n"]:
    """Row of the known hand that each box lies upon, where box and hand touch nothing else and the hand is present enough; -1 elsewhere.

    Where hands lie together a look is a vote of its own for whose they are; of one that lies by itself it says what was said before.
    """
    if not len(box) or not len(known):
        return np.full(len(box), -1)
    every = np.concatenate([box, known.box]).astype(np.float64)
    overlap = boxes.iou(every, every)
    is_paired = (overlap > 0).sum(1) == 2  # with itself and one other
    upon = overlap[: len(box), len(box) :]
    same = upon.argmax(1)
    is_known = is_paired[: len(box)] & is_paired[len(box) + same] & (upon.max(1) > min_iou) & (known.presence[same] >= min_presence)
    return np.where(is_known, same, -1)


def landmarks_of(known: HandDetections, row: int) -> Landmarks:
    """What the landmark network said of a hand that is listed."""
    return Landmarks(
        presence=float(known.presence[row]),
        p_right=float(known.p_right[row]),
        points=known.keypoints[row, :, :2].astype(np.float64),
        world=known.world[row].astype(np.float64),
    )


def keypoints_of(look: Landmarks) -> Float32[np.ndarray, "21 3"]:
    """Landmarks as keypoints, each as sure as the hand."""
    return np.column_stack([look.points, np.full(21, look.presence)]).astype(np.float32)
