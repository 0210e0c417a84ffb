"""Whole-body poses of everybody that was boxed, by ViTPose: body and both hands in one pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from stages.detectors.weights import load_checkpoint, weight_file, weight_sha256
from stages.frames import Frames
from stages.people_union import MIN_IOU, union_of_boxes
from stages.stage import Key, Resources, setting
from stages.tables import LEFT, RIGHT, PersonBoxes, Poses, Table

NETWORKS: Mapping[str, int] = {"vitpose_wholebody_huge": 133, "vitpose_wholebody_base": 133, "vitpose_huge": 17, "vitpose_base": 17}
"""Keypoints by name in the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatePoses:
    """ViTPose on every person box. Of a network of the body alone the hands are unknown."""

    name: ClassVar[str] = "estimate-poses"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, PersonBoxes)
    writes: ClassVar[type[Table]] = Poses
    detector: ClassVar[str] = "vitpose"

    network: str = "vitpose_wholebody_huge"
    """Which of `NETWORKS`; the largest has 61.2 AP on COCO-WholeBody, the base one 57.4."""
    person_iou: float = MIN_IOU
    """Boxes of two person detectors above this overlap are one person."""
    flip: bool = True
    """Average with the mirrored crop: twice the work, as ViTPose's figures are measured."""
    bf16: bool = True
    """Compute in bfloat16: three times as fast on a CPU that has it; moves a keypoint by less than a tenth of a heatmap cell."""
    gpus: float = setting(0.0, identity=False)
    """Share of a GPU that a worker holds; 0 runs on the CPU."""
    device: str = setting("auto", identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    batch_size: int = setting(32, identity=False)
    """People at once; halved when memory runs out."""

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"estimate_poses.network must be one of {', '.join(NETWORKS)}, got {self.network!r}")
        if not 0 < self.person_iou < 1:
            raise ValueError(f"estimate_poses.person_iou must lie in (0, 1), got {self.person_iou}")
        if not self.batch_size >= 1:
            raise ValueError(f"estimate_poses.batch_size must be 1 or more, got {self.batch_size}")

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for."""
        return Resources(cpus=1, gpus=self.gpus)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network's file. Raises MissingWeights when it is not here."""
        return weight_sha256(self.network)

    def build(self) -> Callable[[Frames, PersonBoxes], Poses]:
        """Load the network."""
        from stages.detectors.vitpose import keypoint_reader, views_of
        from stages.detectors.vitpose_checkpoint import vitpose

        path = weight_file(self.network)
        network = vitpose(load_checkpoint(path), NETWORKS[self.network], path)
        read = keypoint_reader(network, flip=self.flip, device=self.device, bf16=self.bf16, batch_size=self.batch_size)

        def estimate(frames: Frames, found: PersonBoxes) -> Poses:
            persons = [union_of_boxes(found.take(found.frame == frame), min_iou=self.person_iou) for frame in frames.frame]
            everybody = PersonBoxes.concat(persons)
            images = [image for image, here in zip(frames.images, persons, strict=True) for _ in range(len(here))]
            keypoints = read(list(zip(images, views_of(everybody.box), strict=True)))
            number = np.concatenate([np.zeros(0, np.int16), *(np.arange(len(here), dtype=np.int16) for here in persons)])
            return _rows(everybody, number, keypoints)

        return estimate


def _rows(persons: PersonBoxes, number: np.ndarray, keypoints: Float32[np.ndarray, "n k 3"]) -> Poses:
    from stages.detectors.vitpose import BODY, HANDS

    points = np.concatenate([keypoints[..., :2], keypoints[..., 2:].clip(0, 1)], -1)
    unknown = np.full((len(points), 21, 3), np.nan, np.float32)
    left, right = (points[:, HANDS[side]] if points.shape[1] == 133 else unknown for side in (LEFT, RIGHT))
    return Poses(
        video=persons.video,
        frame=persons.frame,
        time_s=persons.time_s,
        source=np.full(len(persons), EstimatePoses.detector, object),
        person=number,
        box=persons.box,
        score=persons.score,
        body=points[:, BODY],
        left_hand=left,
        right_hand=right,
    )
