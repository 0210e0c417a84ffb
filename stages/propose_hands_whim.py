"""Boxes of every frame where the detector that this project trains sees a hand: what is looked at more closely after it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.detectors.weights import MissingWeights, find_weights, hash_of
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import HandProposals, People, Table

SHIPPED = Path(__file__).resolve().parents[1] / "training" / "detector" / "assets" / "palm.onnx"
"""The network that comes with the project: docs/detector_palm.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeHands:
    """Find boxes on the whole frame (WiLoR, sec. 4.1) that may be hands; nothing is decided yet."""

    name: ClassVar[str] = "propose-hands"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames,)
    writes: ClassVar[type[Table]] = HandProposals
    detector: ClassVar[str] = "whim"

    file: str = setting("", identity=False)
    """An ONNX file of `whim export detector`; '' = `whim_detector` among the weights, else the one that comes with the project. Its
    sha256 counts, not its place."""
    min_score: float = setting(0.08, least=0, most=1)
    """Boxes below are not proposed. Ours: where they are right the network's scores are low, and the landmark network decides."""
    max_iou: float = setting(0.6, least=0, most=1)
    """Overlap of boxes above which the best stays, where the network was trained without its one-to-one head. Ours."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if onnxruntime has one), cpu or cuda."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds."""
    batch_size: int = setting(8, least=1, identity=False)
    """Images at once on a GPU; on a CPU it is one, which is faster there."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for."""
        return on_device(self.device, self.gpus, 700, limit_s=3600)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network. Raises MissingWeights when there is none."""
        return {"whim_detector": hash_of(self._network_file())}

    def _network_file(self) -> Path:
        if self.file:
            if not Path(self.file).is_file():
                raise MissingWeights(f"propose_hands_whim.file {self.file} is not there: whim export detector CHECKPOINT --out {self.file}")
            return Path(self.file)
        own = find_weights("whim_detector").path
        return own if own.is_file() else SHIPPED

    def build(self) -> Callable[[Frames], HandProposals]:
        """Open the network."""
        from stages.detectors.whim import find_hands, open_network

        network = open_network(self._network_file(), device=self.device)
        find = find_hands(network, min_score=self.min_score, max_iou=self.max_iou, batch_size=self.batch_size)

        def propose(frames: Frames) -> HandProposals:
            found = find(frames.images, [People.empty()] * len(frames.images))
            rows = found.picture
            return HandProposals(
                video=np.full(len(rows), frames.video, object),
                frame=frames.frame[rows],
                time_s=frames.time_s[rows],
                source=np.full(len(rows), self.detector, object),
                box=found.box,
                score=found.score,
                p_right=found.p_right,
                keypoints=found.keypoints,
            )

        return propose
