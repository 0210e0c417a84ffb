"""Hands of every frame by the detector that this project trains: it proposes, MediaPipe's landmark network looks and decides.

It sees hands that the palm network does not (gripping, seen from behind, small), and knows nothing of bodies: a second, independent
family in the ensemble (self-training).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from fitting.files import sha256_of
from stages import boxes
from stages.detectors.as_hand_stage import COPY_DISTANCE, COPY_IOU
from stages.detectors.found import HAND_EXTENT, FoundHands, hull_boxes
from stages.detectors.mediapipe.box_looks import look_at_boxes
from stages.detectors.mediapipe.hand_landmarks import Landmarks
from stages.detectors.mediapipe.hint import hint_file
from stages.detectors.mediapipe.models import Engine, pinned_sha256
from stages.detectors.mediapipe.second_looks import SECOND_LOOKS, judged
from stages.detectors.weights import MissingWeights, find_weights, hash_of
from stages.fusion.association import without_copies
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import HandDetections, People, Table

SHIPPED = Path(__file__).resolve().parents[1] / "training" / "detector" / "assets" / "palm.onnx"
"""The network that comes with the project: docs/detector_palm.md."""
LANDMARKS = "hand_landmark_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectHandsWhim:
    """Find hands on the whole frame (WiLoR, sec. 4.1), each looked at again by the landmark network, which tells side and keypoints.

    P(b|d) of WiLoR's eq. 1 is the proposal's score x presence, which fusion calibrates.
    """

    name: ClassVar[str] = "detect-hands"
    version: ClassVar[int] = 5
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, People)
    writes: ClassVar[type[Table]] = HandDetections
    detector: ClassVar[str] = "whim"

    file: str = setting("", identity=False)
    """An ONNX file of `whim export detector`; '' = `whim_detector` among the weights, else the one that comes with the project. Its
    sha256 counts, not its place."""
    min_score: float = setting(0.08, least=0, most=1)
    """Proposals below are not looked at. Ours: where they are right the network's scores are low, and the landmark network decides."""
    min_presence: float = setting(0.9, least=0, most=1)
    """The landmark network's word that a hand is there; below, a hand is not listed. Ours: on our labelled frames 0.5, 0.8 and 0.9 find
    the same hands, at a precision of 0.959, 0.959 and 0.969; at 0.8 hair is still a hand."""
    min_overlap: float = setting(0.3, least=0, most=1)
    """Overlap of the proposal and the landmarks' box: below, the second look slid to another hand. Ours."""
    max_iou: float = setting(0.6, least=0, most=1)
    """Overlap of proposals above which the best stays, where the network was trained without its one-to-one head. Ours."""
    second_looks: int = setting(len(SECOND_LOOKS), least=0, most=len(SECOND_LOOKS))
    """Looks at every hand that is listed, which tell wrong landmarks: as in `DetectHands`."""
    engine: Engine = "litert"
    """Who runs the landmark network: as in `DetectHands`."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if onnxruntime has one), cpu or cuda."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds."""
    batch_size: int = setting(8, least=1, identity=False)
    """Images at once."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for."""
        return on_device(self.device, self.gpus, 700, limit_s=3600)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network. Raises MissingWeights when there is none."""
        return {"whim_detector": hash_of(self._network_file()), **pinned_sha256(LANDMARKS), "hint": sha256_of(hint_file())}

    def _network_file(self) -> Path:
        if self.file:
            if not Path(self.file).is_file():
                raise MissingWeights(f"detect_hands_whim.file {self.file} is not there: whim export detector CHECKPOINT --out {self.file}")
            return Path(self.file)
        own = find_weights("whim_detector").path
        return own if own.is_file() else SHIPPED

    def build(self) -> Callable[[Frames, People], HandDetections]:
        """Open both networks."""
        from stages.detectors.mediapipe.hand_landmarks import load_hand_landmarks
        from stages.detectors.mediapipe.hint import load_hint
        from stages.detectors.whim import find_hands, open_network

        network = open_network(self._network_file(), device=self.device)
        find = find_hands(network, min_score=self.min_score, max_iou=self.max_iou, batch_size=self.batch_size)
        find_landmarks = load_hand_landmarks(self.engine, device=self.device)
        judge = partial(judged, find_landmarks=find_landmarks, find_hints=load_hint(), num=self.second_looks)

        def detect(frames: Frames, people: People) -> HandDetections:
            found = find(frames.images, [People.empty()] * len(frames.images))
            rows = []
            for number, image in enumerate(frames.images):
                here = found.take(found.picture == number)
                if len(here.box):
                    seen = look_at_boxes(image, here.box, find_landmarks, keypoints=here.keypoints)
                    rows.append(self._rows(frames, number, here, seen, judge))
            return HandDetections.concat(rows)

        return detect

    def _rows(
        self, frames: Frames, number: int, found: FoundHands, seen: Sequence[Landmarks | None], judge: Callable[..., dict[str, np.ndarray]]
    ) -> HandDetections:
        """The hands of one frame that the landmark network confirmed, each once."""
        image = frames.images[number]
        looks = [one for one in seen if one is not None and one.presence >= self.min_presence]
        found = found.take(np.array([one is not None and one.presence >= self.min_presence for one in seen]))
        points = np.array([one.points for one in looks], np.float32).reshape(-1, 21, 2)
        presence = np.array([one.presence for one in looks], np.float32)
        about = judge(image, looks)
        keypoints = np.concatenate([points, np.repeat(presence[:, None, None], 21, 1)], 2)
        hull = hull_boxes(keypoints, min_score=0.0, extent=HAND_EXTENT)
        stays = boxes.iou(hull, found.box).diagonal() >= self.min_overlap
        count = len(looks)
        table = HandDetections(
            video=np.full(count, frames.video, object),
            frame=np.full(count, frames.frame[number], np.int64),
            time_s=np.full(count, frames.time_s[number], np.float64),
            source=np.full(count, self.detector, object),
            route=found.route,
            person=found.person.astype(np.int16),
            crop=found.crop,
            box=found.box,
            score=(found.score * presence).astype(np.float32),
            palm_score=found.score,
            presence=presence,
            p_right=np.array([one.p_right for one in looks], np.float32),
            keypoints=keypoints.astype(np.float32),
            world=np.array([one.world for one in looks], np.float32).reshape(-1, 21, 3),
            **about,
        ).take(stays)
        if not len(table):
            return table
        return without_copies(table, image.shape[1], image.shape[0], copy_iou=COPY_IOU, copy_distance=COPY_DISTANCE)
