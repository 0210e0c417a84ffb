"""Hands of every frame by ContactHands' detector, on the whole frame and on people who are small in it.

Its code is MIT; its weights learned from pictures for research, on a base that is CC BY-SA 3.0 (`whim weights get contacthands`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from stages.detectors.as_hand_stage import rows_of
from stages.detectors.weights import load_checkpoint, weight_file, weight_sha256
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import HandDetections, People, Table

Engine = Literal["torch", "detectron2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectHandsContactHands:
    """Find hands by their boxes alone, those that hold or touch something too (Narasimhaswamy et al., 2020; WiLoR, sec. 3).

    P(b|d) of WiLoR's eq. 1 is the softmax score. Sides and keypoints are unknown.
    """

    name: ClassVar[str] = "detect-hands"
    version: ClassVar[int] = 2
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, People)
    writes: ClassVar[type[Table]] = HandDetections
    detector: ClassVar[str] = "contacthands"

    engine: Engine = "torch"
    """Who runs it: our Faster R-CNN, or detectron2's in an environment of its own (`make env-detectron2`)."""
    min_score: float = setting(0.05, least=0, most=1)
    """Below, a hand is not listed. Ours: its authors' 0.7 leaves too little to average."""
    max_iou: float = setting(0.3, least=0, most=1)
    """Of boxes that overlap by more the best stays. The authors'."""
    person_margin: float = setting(0.125, least=0, most=1)
    """A person's crop is the box grown by this share on every side. Ours."""
    person_gain: float = setting(1.5, above=0)
    """People are looked at by themselves where that shows them this many times larger than the whole frame does. Ours."""
    max_zoom: float = setting(4.0, above=0)
    """Nothing is enlarged further: there is no more to see. Ours."""
    bf16: bool = False
    """Convolutions in bfloat16: on recent CPUs and GPUs much faster, boxes within a pixel or so."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds."""
    batch_size: int = setting(0, least=0, identity=False)
    """Pictures at once, halved when memory runs out. 0: 4 on a GPU, 1 on a CPU, where 8 take half as long again a picture."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for; without one a clip may take an hour."""
        return on_device(self.device, self.gpus, 3000, limit_s=6 * 3600, environment="detectron2" if self.engine == "detectron2" else "")

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network. Raises MissingWeights when nobody fetched it."""
        return weight_sha256("contacthands")

    def build(self) -> Callable[[Frames, People], HandDetections]:
        """Load the network."""
        from stages.detectors.contacthands.boxes import contact_hands, find_hands
        from stages.detectors.contacthands.detectron2 import generalized_rcnn
        from stages.detectors.networks import pick_device

        file = weight_file("contacthands")
        load = generalized_rcnn if self.engine == "detectron2" else contact_hands
        network = load(load_checkpoint(file), file, min_score=self.min_score, max_iou=self.max_iou)
        find = find_hands(
            network,
            device=self.device,
            bf16=self.bf16,
            batch_size=self.batch_size or (4 if pick_device(self.device).type == "cuda" else 1),
            margin=self.person_margin,
            gain=self.person_gain,
            max_zoom=self.max_zoom,
        )
        return rows_of(find, self.detector)
