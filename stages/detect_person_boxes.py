"""Person boxes of every frame by RT-DETR or D-FINE: where the pose networks look."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stages.detectors.weights import load_checkpoint, weight_file, weight_sha256
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import PersonBoxes, Table

NETWORKS = ("rtdetr_r50", "dfine_large")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectPersonBoxes:
    """Find everybody on the frame. WiLoR's "boxes with confidence over 0.65" (sec. 3) are such a detector's; the paper does not name it."""

    name: ClassVar[str] = "detect-person-boxes"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames,)
    writes: ClassVar[type[Table]] = PersonBoxes

    network: str = setting("rtdetr_r50", choices=NETWORKS)
    """Which detector: rtdetr_r50 (55.3 AP on COCO) or dfine_large (54.0 AP)."""
    min_score: float = setting(0.65, least=0, most=1)
    """Least score, in [0, 1]. Paper, sec. 3."""
    bf16: bool = False
    """Compute in bfloat16: faster, with boxes and scores a little off. Ours: off, the choice of queries hangs on close scores."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds; 0 runs on the CPU."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    batch_size: int = setting(0, least=0, identity=False)
    """Frames at once, halved when memory runs out. 0: 8 on a GPU, 1 on a CPU, where 8 take twice the time a frame."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def detector(self) -> str:
        """One table a network."""
        return self.network

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for; without one a clip may take an hour."""
        return on_device(self.device, self.gpus, 700, limit_s=6 * 3600)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network's file. Raises MissingWeights when it is not here."""
        return weight_sha256(self.network)

    def build(self) -> Callable[[Frames], PersonBoxes]:
        """Load the network."""
        from stages.detectors.networks import pick_device
        from stages.detectors.person_boxes import person_detector, person_finder

        path = weight_file(self.network)
        network = person_detector(self.network, load_checkpoint(path), path)
        batch_size = self.batch_size or (8 if pick_device(self.device).type == "cuda" else 1)
        find = person_finder(network, device=self.device, bf16=self.bf16, batch_size=batch_size)

        def detect(frames: Frames) -> PersonBoxes:
            found = find(frames.images, self.min_score)
            frame = np.repeat(np.arange(len(found)), [len(persons) for persons in found])
            rows = np.concatenate([np.zeros((0, 5), np.float32), *found])
            return PersonBoxes(
                video=np.full(len(rows), frames.video, object),
                frame=frames.frame[frame],
                time_s=frames.time_s[frame],
                source=np.full(len(rows), self.network, object),
                box=rows[:, :4],
                score=rows[:, 4],
            )

        return detect
