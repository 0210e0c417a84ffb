"""Hands of every frame by the detector that this project trains: the ensemble's word, learned, joins the ensemble (self-training)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stages.detectors.as_hand_stage import rows_of
from stages.detectors.weights import MissingWeights, hash_of, weight_file, weight_sha256
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, setting
from stages.tables import HandDetections, People, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectHandsWhim:
    """Find hands with their sides and keypoints on the whole frame (WiLoR, sec. 4.1).

    P(b|d) of WiLoR's eq. 1 is the score of the surer side.
    """

    name: ClassVar[str] = "detect-hands"
    version: ClassVar[int] = 2
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, People)
    writes: ClassVar[type[Table]] = HandDetections
    detector: ClassVar[str] = "whim"

    file: str = setting("", identity=False)
    """An ONNX file of `whim export detector`; '' = `whim_detector` of manifests/weights.toml. Its sha256 counts, not its place."""
    min_score: float = setting(0.1, least=0, most=1)
    """Below, a hand is not listed. Ours: calibration wants to see the doubtful ones too."""
    max_iou: float = setting(0.6, least=0, most=1)
    """Of boxes that overlap by more the best stays, where the network was trained without its one-to-one head. Ours."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if onnxruntime has one), cpu or cuda."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds."""
    batch_size: int = setting(8, least=1, identity=False)
    """Pictures at once."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for."""
        return Resources(cpus=1, gpus=self.gpus, limit_s=3600)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network. Raises MissingWeights when there is none."""
        if not self.file:
            return weight_sha256("whim_detector")
        if not Path(self.file).is_file():
            raise MissingWeights(f"detect_hands_whim.file {self.file} is not there: whim export detector CHECKPOINT --out {self.file}")
        return {"whim_detector": hash_of(Path(self.file))}

    def build(self) -> Callable[[Frames, People], HandDetections]:
        """Open the network."""
        from stages.detectors.whim import find_hands, open_network

        network = open_network(Path(self.file) if self.file else weight_file("whim_detector"), device=self.device)
        return rows_of(find_hands(network, min_score=self.min_score, max_iou=self.max_iou, batch_size=self.batch_size), self.detector)
