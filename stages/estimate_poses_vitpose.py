"""Whole-body poses of everybody that was boxed, by ViTPose: body and both hands in one pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar, Literal

from stages.detectors.as_pose_stage import rows_of
from stages.detectors.weights import load_checkpoint, weight_file, weight_sha256
from stages.fusion.people import MIN_IOU
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import PersonBoxes, Poses, Table

NETWORKS: Mapping[str, int] = {"vitpose_wholebody_huge": 133, "vitpose_wholebody_base": 133, "vitpose_huge": 17, "vitpose_base": 17}
"""Keypoints by name in the manifest."""
Engine = Literal["transformers", "mmpose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatePoses:
    """ViTPose on every person box. Of a network of the body alone the hands are unknown."""

    name: ClassVar[str] = "estimate-poses"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, PersonBoxes)
    writes: ClassVar[type[Table]] = Poses
    detector: ClassVar[str] = "vitpose"

    network: str = setting("vitpose_wholebody_huge", choices=NETWORKS)
    """Which of `NETWORKS`; the largest has 61.2 AP on COCO-WholeBody, the base one 57.4."""
    engine: Engine = "transformers"
    """Who runs it. mmpose crops, mirrors and decodes in its own way too, in an environment of its own: `make env-mmpose`."""
    person_iou: float = setting(MIN_IOU, above=0, below=1)
    """Boxes of two person detectors above this overlap are one person."""
    flip: bool = True
    """Average with the mirrored crop: twice the work, as ViTPose's figures are measured."""
    bf16: bool = True
    """Compute in bfloat16: three times as fast on a CPU that has it; moves a keypoint by less than a tenth of a heatmap cell."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds; 0 runs on the CPU."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    batch_size: int = setting(0, least=0, identity=False)
    """People at once, halved when memory runs out. 0: 64 on a GPU, 8 on a CPU, where one and 32 take a fifth more time each."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for; without one a clip may take an hour."""
        return on_device(self.device, self.gpus, 4200, limit_s=6 * 3600, environment="mmpose" if self.engine == "mmpose" else "")

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network's file. Raises MissingWeights when it is not here."""
        return weight_sha256(self.network)

    def build(self) -> Callable[[Frames, PersonBoxes], Poses]:
        """Load the network."""
        from stages.detectors.networks import pick_device
        from stages.detectors.vitpose import checkpoint as vitpose_checkpoint
        from stages.detectors.vitpose import keypoints as vitpose
        from stages.detectors.vitpose import mmpose as vitpose_mmpose

        path, num_keypoints = weight_file(self.network), NETWORKS[self.network]
        engine: ModuleType
        if self.engine == "mmpose":
            engine, network = vitpose_mmpose, vitpose_mmpose.pose_estimator(load_checkpoint(path), num_keypoints, path)
        else:
            engine, network = vitpose, vitpose_checkpoint.vitpose(load_checkpoint(path), num_keypoints, path)
        batch_size = self.batch_size or (64 if pick_device(self.device).type == "cuda" else 8)
        read = engine.keypoint_reader(network, flip=self.flip, device=self.device, bf16=self.bf16, batch_size=batch_size)
        hands = vitpose.HANDS if num_keypoints == 133 else None
        return rows_of(read, engine.views_of, detector=self.detector, body=vitpose.BODY, hands=hands, person_iou=self.person_iou)
