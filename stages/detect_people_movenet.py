"""People of every frame by MoveNet: everybody on the whole frame at once, those in a crowd too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fitting.files import sha256_of
from stages.detectors.movenet.network import FILE, FoundPeople, load_people_detector
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import PersonDetections, Table

SEEN = 0.3
"""Heat of a keypoint that is in view. Ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectPeopleMoveNet:
    """Find everybody in a frame with 17 body keypoints (the paper's ViTPose and AlphaPose; here a free, small network)."""

    name: ClassVar[str] = "detect-people-movenet"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames,)
    writes: ClassVar[type[Table]] = PersonDetections
    detector: ClassVar[str] = "movenet"

    min_score: float = setting(0.3, above=0, below=1)
    """Score of a person's middle below which nobody is listed. Ours: MoveNet ranks its six and tells no bound."""
    least_keypoints: int = setting(3, least=0, most=17)
    """How many keypoints must be seen of somebody, with a heat of 0.3. Ours: people have them, cars, clothes and hands alone do not."""
    sure_keypoint: float = setting(0.8, above=0, most=1)
    """Height of a keypoint's heat that counts as certain: confidence is its share of this, at most 1. Ours."""
    image_px: int = setting(256, least=32, most=1024)
    """Longer side of what the network sees. MoveNet learned at 256."""
    gpus: float = setting(0.0, least=0, identity=False)
    """GPUs of a worker, or a share of one; 0 takes what the run shares out."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if onnxruntime has one), cpu or cuda."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """A core, and the network's share of a GPU."""
        return on_device(self.device, self.gpus, 400, limit_s=Resources().limit_s)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network."""
        return {"movenet_multipose": sha256_of(FILE)}

    def build(self) -> Callable[[Frames], PersonDetections]:
        """Open the network."""
        find_people = load_people_detector(self.image_px, device=self.device)

        def detect(frames: Frames) -> PersonDetections:
            parts = [
                self._rows(frames.video, int(frame), float(time_s), find_people(image, self.min_score))
                for frame, time_s, image in zip(frames.frame, frames.time_s, frames.images, strict=True)
            ]
            return PersonDetections.concat(parts)

        return detect

    def _rows(self, video: str, frame: int, time_s: float, people: FoundPeople) -> PersonDetections:
        people = people.take((people.keypoints[..., 2] >= SEEN).sum(1) >= self.least_keypoints)
        count = len(people.score)
        confidence = np.minimum(people.keypoints[..., 2:] / self.sure_keypoint, 1)
        return PersonDetections(
            video=np.full(count, video, object),
            frame=np.full(count, frame, np.int64),
            time_s=np.full(count, time_s, np.float64),
            source=np.full(count, self.detector, object),
            person=np.arange(count, dtype=np.int16),
            box=people.box.astype(np.float32),
            score=people.score.astype(np.float32),
            keypoints=np.concatenate([people.keypoints[..., :2], confidence], -1).astype(np.float32),
        )
