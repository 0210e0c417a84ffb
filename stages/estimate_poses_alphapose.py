"""Whole-body poses of everybody by AlphaPose, in the boxes that a person detector found.

Its weights are SJTU's, for academic or non-profit, non-commercial use only: a member for those who may use it (`whim weights get
alphapose_136`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from stages.detectors.as_pose_stage import rows_of
from stages.detectors.weights import load_checkpoint, weight_file, weight_sha256
from stages.fusion.people import MIN_IOU
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import PersonBoxes, Poses, Table

if TYPE_CHECKING:
    from stages.detectors.alphapose.keypoints import Decode

DECODE: Mapping[str, "Decode"] = {"alphapose_136": "integral", "alphapose_26": "peak"}
"""By network: the one of 136 keypoints was trained by regression, the one of 26 on heatmaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatePosesAlphaPose:
    """Find the body and, with 136 keypoints, both hands of each boxed person (Fang et al., 2022; WiLoR, sec. 3).

    Nobody is let in or put out by AlphaPose's own score of a person, which goes to 3.25: the person detector's counts. A keypoint's
    score is the network's own, in [0, 1]; that of 136 keypoints gives far lower ones than others (its authors draw hands from 0.05 on).
    """

    name: ClassVar[str] = "estimate-poses"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, PersonBoxes)
    writes: ClassVar[type[Table]] = Poses
    detector: ClassVar[str] = "alphapose"

    network: str = setting("alphapose_136", choices=DECODE)
    """alphapose_136 or alphapose_26: without hands."""
    person_iou: float = setting(MIN_IOU, least=0, most=1)
    """Boxes of two person detectors above this overlap are one person."""
    bf16: bool = False
    """Convolutions in bfloat16: on recent CPUs and GPUs much faster."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds."""
    batch_size: int = setting(32, least=1, identity=False)
    """People at once; halved when memory runs out."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for; without one a clip may take an hour."""
        return on_device(self.device, self.gpus, 900, limit_s=6 * 3600)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network. Raises MissingWeights when nobody fetched it."""
        return weight_sha256(self.network)

    def build(self) -> Callable[[Frames, PersonBoxes], Poses]:
        """Load the network."""
        from stages.detectors.alphapose.keypoints import BODY, HANDS, keypoint_reader, views_of
        from stages.detectors.alphapose.network import fastpose

        file, decode = weight_file(self.network), DECODE[self.network]
        network = fastpose(load_checkpoint(file), file)
        read = keypoint_reader(network, decode=decode, device=self.device, bf16=self.bf16, batch_size=self.batch_size)
        hands = HANDS if network.conv_out.out_channels == 136 else None
        return rows_of(read, views_of, detector=self.detector, body=BODY, hands=hands, person_iou=self.person_iou)
