"""Hands of every frame by MediaPipe's palm and landmark networks, looked for along several routes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float64, UInt8

from fitting.files import sha256_of
from stages import boxes
from stages.detectors.found import HAND_EXTENT
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, load_hand_landmarks
from stages.detectors.mediapipe.hand_search import (
    SURE_SCORE,
    TIGHT_REGIONS,
    WRIST_REGIONS,
    Hand,
    Start,
    View,
    arms_of,
    begins_at,
    confirm_all,
    confirming,
    each_once,
    frame_views,
    holding,
    palm_starts_of_all,
    person_views,
    unexplained,
    without_hand,
    wrist_starts,
    wrist_views,
)
from stages.detectors.mediapipe.hand_tracks import fill_gaps
from stages.detectors.mediapipe.hint import hint_file, load_hint
from stages.detectors.mediapipe.models import Engine, check_engine, is_gpu, pinned_sha256
from stages.detectors.mediapipe.palm import FindPalms, load_palm_detector
from stages.detectors.mediapipe.second_looks import SECOND_LOOKS, judged
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import HandDetections, HandProposals, People, Table

NETWORKS = ("palm_detection_full", "hand_landmark_full")
Places = tuple[list[View], list[Start]]
"""Where hands of an image are looked for: views for palms, and regions for the landmark network itself."""
FRAMES_AT_ONCE = 8
"""Whose looks are one batch on a GPU: about 160 palm views of 16:9, by `models.MOST_AT_ONCE`. On a CPU larger batches leave the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectHands:
    """Find hands on the whole frame, on tiles, on people, at their wrists, and where the neighbouring frames had one.

    P(b|d) of WiLoR's eq. 1 is palm score x presence: MediaPipe's packages expose neither. Fusion calibrates it.
    """

    name: ClassVar[str] = "detect-hands"
    version: ClassVar[int] = 16
    key: ClassVar[Key] = "clip"
    writes: ClassVar[type[Table]] = HandDetections
    detector: ClassVar[str] = "mediapipe"

    engine: Engine = "litert"
    """Who runs the networks on a CPU: `openvino`, an extra, is faster and gives the same hands but for rounding."""
    min_palm_score: float = setting(0.25, above=0, most=1)
    """Palms below are not looked at. Ours: MediaPipe has 0.5, but the landmark network decides better."""
    min_presence: float = setting(0.2, above=0, most=1)
    """The landmark network's word that a hand is there. Ours; MediaPipe has 0.5."""
    min_score: float = setting(0.05, above=0, most=1)
    """Palm score x presence below which a hand is not listed; fusion decides on the rest. Ours."""
    frame_shares: tuple[float, ...] = setting((0.5,), above=0, below=1)
    """Besides as a whole, the frame is looked at as each of these shares of a view: a hand that fills the image is too large for the palm
    network. Ours: 0.5 finds one hand in a hundred more, and hardly a false one."""
    tile_zooms: tuple[float, ...] = setting((1.0, 2.0), least=1)
    """Besides the whole frame, look at square tiles of its short side divided by each of these. Ours: without 2 a tenth of the hands
    of frames that nobody tuned on is missed, 3 finds one more of 150 for twice the time."""
    max_tiles: int = setting(30, least=1)
    """Tiles of a zoom, at most: those of a long strip are enlarged until they are so few. Ours; 16:9 has 3 and 15."""
    min_tile_px: float = setting(100.0, above=0)
    """Tiles are at least so wide: hands in narrower ones are too few pixels for the landmark network. Ours."""
    guided: bool = False
    """Whether `ProposeHands` tells where to look: tiles and shares are looked at only where it proposes a hand, people and arms only where
    the whole frame leaves a proposal or a wrist without one. Ours: on labelled clips it finds 949 of 1,044 hands
    (948 without) with 21 false ones instead of 27, by a third of the looks for palms."""
    person_margin: float = setting(0.1, least=0)
    """A person's crop is the box grown by this share on every side. Ours."""
    min_wrist_score: float = setting(0.25, least=0, most=1)
    """Person's score x wrist's below which an arm is not followed to a hand. Ours: on labelled clips 0.05, 0.15 and 0.25 find the same
    hands, by 17.1, 15.8 and 13.1 looks for landmarks a frame."""
    wrist_scale: float = setting(4.0, above=0)
    """A wrist's crop is as wide as this many expected hands. Ours: tighter crops starve the palm network."""
    track_min_score: float = setting(0.4, above=0, most=1)
    """Only hands of this score are followed to the next frame. Ours."""
    track_min_presence: float = setting(0.5, above=0, most=1)
    """A followed hand must be this present. MediaPipe's tracker has 0.5."""
    track_decay: float = setting(0.9, above=0, most=1)
    """The palm score fades by this factor a frame. Ours."""
    second_looks: int = setting(len(SECOND_LOOKS), least=0, most=len(SECOND_LOOKS))
    """How often each listed hand is looked at again, mirrored and turned: what landmarks are judged by, and depths made better with. Where
    it is not 0, which leaves that open, a further look is taken for the hint alone. Ours."""
    extent_width: float = setting(HAND_EXTENT[0], above=0)
    """A hand's box is this many times as wide as the hull of its landmarks. See `HAND_EXTENT`."""
    extent_height: float = setting(HAND_EXTENT[1], above=0)
    """The same for the height. Ours."""
    cpus: int = setting(1, least=1, identity=False)
    """Cores of a worker. More than one pay where there are fewer clips than cores; the result is the same."""
    gpus: float = setting(0.0, least=0, identity=False)
    """GPUs of a worker, or a share of one; 0 takes what the run shares out."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """Where the networks run; auto is a GPU if the worker has one, by torch, equal to the CPU's numbers but for rounding."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_engine(self.engine)

    @property
    def extent(self) -> Float64[np.ndarray, "2"]:
        """Width and height of a hand's box over those of its landmarks."""
        return np.array([self.extent_width, self.extent_height])

    @property
    def reads(self) -> tuple[type, ...]:
        """Frames and people, and where it is guided the proposals that guide it."""
        return (Frames, People, HandProposals) if self.guided else (Frames, People)

    @property
    def resources(self) -> Resources:
        """The cores that the networks run on, and their share of a GPU."""
        return on_device(self.device, self.gpus, 400, limit_s=Resources().limit_s, cpus=self.cpus)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the two networks, and of the one that reads the second's features."""
        return {**pinned_sha256(*NETWORKS), "hint": sha256_of(hint_file())}

    def build(self) -> Callable[..., HandDetections]:
        """Load both networks."""
        find_palms = load_palm_detector(self.engine, self.cpus, device=self.device)
        find_landmarks = load_hand_landmarks(self.engine, self.cpus, device=self.device)
        find_hints = load_hint()
        at_once = FRAMES_AT_ONCE if is_gpu(self.device) else 1

        def detect(frames: Frames, people: People, proposals: HandProposals | None = None) -> HandDetections:
            hands = []
            for first in range(0, len(frames.images), at_once):
                some = slice(first, first + at_once)
                here = [people.take(people.frame == frame) for frame in frames.frame[some]]
                guides = [None if proposals is None else proposals.box[proposals.frame == frame] for frame in frames.frame[some]]
                hands += hands_of_images(frames.images[some], here, guides, find_palms, find_landmarks, self)
            hands = fill_gaps(
                frames.images,
                hands,
                find_landmarks,
                min_parent=self.track_min_score,
                min_presence=self.track_min_presence,
                decay=self.track_decay,
            )
            rows = []
            for frame, time_s, image, found in zip(frames.frame, frames.time_s, frames.images, hands, strict=True):
                listed = [hand for hand in found if hand.score >= self.min_score]
                about = judged(image, [hand.landmarks for hand in listed], find_landmarks, find_hints, self.second_looks)
                rows.append(_rows(frames.video, int(frame), float(time_s), listed, self.extent, about))
            return HandDetections.concat(rows)

        return detect


def hands_of_images(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    people: Sequence[People],
    guides: Sequence[Float[np.ndarray, "n 4"] | None],
    find_palms: FindPalms,
    find_landmarks: FindLandmarks,
    settings: DetectHands,
) -> list[list[Hand]]:
    """Hands of each image, best first, each once. With guides they are looked for in the whole frame, then at people and arms that this
    leaves `unfinished`, without guides everywhere at once, people and arms too; then, with guides, in tiles that hold one which is still
    unexplained, and in both cases more closely at wrists at which no hand begins.

    All images are looked at together, and each gets what it would get alone.
    """
    hands, places = [list[Hand]() for _ in images], list(zip(images, people, guides, strict=True))

    def look(at: Sequence[Places]) -> None:
        palms = palm_starts_of_all(images, [views for views, _ in at], find_palms, settings.min_palm_score)
        searches = [
            confirming(image, of + arms, min_presence=settings.min_presence, known=known)
            for image, of, (_, arms), known in zip(images, palms, at, hands, strict=True)
        ]
        hands[:] = map(each_once, confirm_all(searches, find_landmarks))

    if settings.guided:
        look([(views_of(image, settings)[:1], []) for image in images])
    look([unfinished(*place, found, settings) for place, found in zip(places, hands, strict=True)])
    look([closer(*place, found, settings) for place, found in zip(places, hands, strict=True)])
    return hands


def views_of(image: UInt8[np.ndarray, "_ _ 3"], settings: DetectHands) -> list[View]:
    """The whole frame, its shares and its tiles."""
    height, width = image.shape[:2]
    least, most = settings.min_tile_px, settings.max_tiles
    return frame_views(width, height, settings.tile_zooms, shares=settings.frame_shares, min_side=least, most=most)


def unfinished(
    image: UInt8[np.ndarray, "_ _ 3"], people: People, guides: Float[np.ndarray, "n 4"] | None, found: Sequence[Hand], settings: DetectHands
) -> Places:
    """People and arms; with guides those arms at which no sure hand begins, and people in whose view lies the wrist of one or a guide that
    no sure hand explains; without guides everything of the frame, too. A hand at which two arms end may be either's, and says of neither
    that it is done with."""
    arms, persons = arms_of(people, settings.min_wrist_score), person_views(people, settings.person_margin)
    if guides is None:
        return views_of(image, settings) + persons, wrist_starts(arms, WRIST_REGIONS)
    every = arms_of(people, 0.0)
    sure = [hand for hand in found if hand.score >= SURE_SCORE and sum(begins_at(hand, arm) for arm in every) == 1]
    arms = without_hand(arms, sure)
    points = [boxes.centre(unexplained(guides, found, settings.extent)), *(arm.wrist[None] for arm in arms)]
    return holding(persons, np.concatenate(points)), wrist_starts(arms, WRIST_REGIONS)


def closer(
    image: UInt8[np.ndarray, "_ _ 3"], people: People, guides: Float[np.ndarray, "n 4"] | None, found: Sequence[Hand], settings: DetectHands
) -> Places:
    """Tiles and shares of the frame that hold a guide which no sure hand explains, and the wrists at which no hand begins."""
    arms = without_hand(arms_of(people, settings.min_wrist_score), found)
    left = [] if guides is None else holding(views_of(image, settings)[1:], boxes.centre(unexplained(guides, found, settings.extent)))
    return left + wrist_views(arms, settings.wrist_scale), wrist_starts(arms, TIGHT_REGIONS)


def _rows(
    video: str, frame: int, time_s: float, hands: list[Hand], extent: Float64[np.ndarray, "2"], about: Mapping[str, np.ndarray]
) -> HandDetections:
    if not hands:
        return HandDetections.empty()
    count = len(hands)
    hulls = np.stack([hand.hull for hand in hands])
    presence = np.array([hand.landmarks.presence for hand in hands])
    score = np.array([hand.score for hand in hands], np.float32)
    points = np.stack([hand.landmarks.points for hand in hands])
    return HandDetections(
        video=np.full(count, video, object),
        frame=np.full(count, frame, np.int64),
        time_s=np.full(count, time_s, np.float64),
        source=np.full(count, DetectHands.detector, object),
        route=np.array([hand.start.route for hand in hands], object),
        person=np.array([hand.start.person for hand in hands], np.int16),
        crop=np.stack([hand.start.crop for hand in hands]).astype(np.float32),
        box=boxes.scaled(hulls, extent).astype(np.float32),
        score=score,
        palm_score=np.array([hand.start.score for hand in hands], np.float32),
        presence=presence.astype(np.float32),
        p_right=np.array([hand.landmarks.p_right for hand in hands], np.float32),
        keypoints=np.concatenate([points, np.tile(presence[:, None, None], (1, 21, 1))], axis=2).astype(np.float32),
        world=np.stack([hand.landmarks.world for hand in hands]).astype(np.float32),
        **about,
    )
