"""Hands of every frame by OpenPose's hand network, at the end of each arm that a body detector saw.

Its weights are CMU's, for academic or non-profit, non-commercial use only: a member for those who may use it (`whim weights get
openpose_hand`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from stages.detectors.as_hand_stage import rows_of
from stages.detectors.found import HAND_EXTENT
from stages.detectors.weights import load_checkpoint, weight_file, weight_sha256
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import HandDetections, People, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectHandsOpenPose:
    """Find 21 keypoints of each hand whose wrist, elbow and shoulder are seen (Simon et al., 2017; WiLoR, sec. 3).

    P(b|d) of WiLoR's eq. 1 is the mean of the 21 peaks. The side is the arm's, so the detector itself says none, but of doubtful arms.
    """

    name: ClassVar[str] = "detect-hands"
    version: ClassVar[int] = 3
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, People)
    writes: ClassVar[type[Table]] = HandDetections
    detector: ClassVar[str] = "openpose"

    resolution: int = setting(368, least=16)
    """Crops are this many pixels wide, a multiple of 16 (OpenPose's net_resolution of hands)."""
    scales: tuple[float, ...] = setting((1.0,), above=0, below=10)
    """Each hand is looked at in crops this many times OpenPose's, and the surest look counts. OpenPose's best results take six from
    0.8 to 1.2."""
    sure_wrist: float = setting(0.5, least=0, most=1)
    """An arm whose wrist is less sure than this is looked at as a left and as a right hand: the surer look counts, and is half a vote
    for the side. Ours; 0 believes every arm."""
    min_joints: int = setting(10, least=0, most=21)
    """A hand has this many joints whose peak is above 0.1. Ours: the network cannot say that there is none."""
    min_score: float = setting(0.2, least=0, most=1)
    """Mean peak below which a hand is not listed. Ours."""
    extent_width: float = setting(HAND_EXTENT[0], above=0)
    """A hand's box is this many times as wide as the hull of its keypoints. MediaPipe's figure, to be measured for this source. Ours."""
    extent_height: float = setting(HAND_EXTENT[1], above=0)
    """The same for the height. Ours."""
    bf16: bool = False
    """Convolutions in bfloat16: on recent CPUs and GPUs much faster, peaks within 1 % or so."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds."""
    batch_size: int = setting(16, least=1, identity=False)
    """Crops at once; halved when memory runs out."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.resolution % 16:
            raise ValueError(f"detect_hands_openpose.resolution must be a multiple of 16, got {self.resolution}")
        if not self.scales:
            raise ValueError("detect_hands_openpose.scales must be one or more, got none")

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for; without one a clip may take an hour."""
        return on_device(self.device, self.gpus, 1200, limit_s=6 * 3600)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network. Raises MissingWeights when nobody fetched it."""
        return weight_sha256("openpose_hand")

    def build(self) -> Callable[[Frames, People], HandDetections]:
        """Load the network."""
        from stages.detectors.openpose_hand import find_hands, hand_network, hand_reader

        file = weight_file("openpose_hand")
        network = hand_network(load_checkpoint(file), file)
        read = hand_reader(network, device=self.device, bf16=self.bf16, batch_size=self.batch_size, size=self.resolution)
        extent = self.extent_width, self.extent_height
        find = find_hands(
            read,
            scales=self.scales,
            sure_wrist=self.sure_wrist,
            min_joints=self.min_joints,
            min_score=self.min_score,
            extent=extent,
        )
        return rows_of(find, self.detector)
