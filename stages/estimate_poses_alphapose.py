"""Whole-body poses of everybody by AlphaPose, in the boxes that a person detector found.

Its weights are SJTU's, for academic or non-profit, non-commercial use only: a member for those who may use it (`whim weights get
alphapose_136`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float32, Int16

from stages import boxes
from stages.detectors.weights import load_checkpoint, weight_file, weight_sha256
from stages.frames import Frames
from stages.hand_members import check_settings
from stages.people_union import MIN_IOU, union_of_boxes
from stages.stage import Key, Resources, setting
from stages.tables import LEFT, RIGHT, PersonBoxes, Poses, Table

if TYPE_CHECKING:
    from stages.detectors.alphapose import Decode

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

    network: str = "alphapose_136"
    """alphapose_136 or alphapose_26: without hands."""
    person_iou: float = MIN_IOU
    """Boxes of two person detectors above this overlap are one person."""
    bf16: bool = False
    """Convolutions in bfloat16: on recent CPUs and GPUs much faster."""
    device: str = setting("auto", identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    gpus: float = setting(0.0, identity=False)
    """Share of a GPU that a worker holds."""
    batch_size: int = setting(32, identity=False)
    """People at once; halved when memory runs out."""

    def __post_init__(self) -> None:
        check_settings("estimate_poses_alphapose", self, shares=("person_iou",), positive=("batch_size",))
        if self.network not in DECODE:
            raise ValueError(f"estimate_poses_alphapose.network must be one of {', '.join(DECODE)}, got {self.network!r}")

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for."""
        return Resources(cpus=1, gpus=self.gpus)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the network. Raises MissingWeights when nobody fetched it."""
        return weight_sha256(self.network)

    def build(self) -> Callable[[Frames, PersonBoxes], Poses]:
        """Load the network."""
        from stages.detectors.alphapose import keypoint_reader, views_of
        from stages.detectors.fastpose import fastpose

        file = weight_file(self.network)
        network = fastpose(load_checkpoint(file), file)
        decode, batch_size = DECODE[self.network], self.batch_size
        read = keypoint_reader(network, decode=decode, device=self.device, bf16=self.bf16, batch_size=batch_size)

        def estimate(frames: Frames, found: PersonBoxes) -> Poses:
            area = boxes.area(found.box)
            found = found.take((area > 0) & (area < np.inf))
            persons = [union_of_boxes(found.take(found.frame == frame), min_iou=self.person_iou) for frame in frames.frame]
            everybody = PersonBoxes.concat(persons)
            images = [image for image, here in zip(frames.images, persons, strict=True) for _ in range(len(here))]
            keypoints = read(list(zip(images, views_of(everybody.box), strict=True)))
            number = np.concatenate([np.arange(len(here), dtype=np.int16) for here in persons])
            return _rows(everybody, number, keypoints)

        return estimate


def _rows(persons: PersonBoxes, number: Int16[np.ndarray, "n"], keypoints: Float32[np.ndarray, "n k 3"]) -> Poses:
    from stages.detectors.alphapose import BODY, HANDS

    points = np.concatenate([keypoints[..., :2], keypoints[..., 2:].clip(0, 1)], -1)
    unknown = np.full((len(points), 21, 3), np.nan, np.float32)
    left, right = (points[:, HANDS[side]] if points.shape[1] == 136 else unknown for side in (LEFT, RIGHT))
    return Poses(
        video=persons.video,
        frame=persons.frame,
        time_s=persons.time_s,
        source=np.full(len(persons), EstimatePosesAlphaPose.detector, object),
        person=number,
        box=persons.box,
        score=persons.score,
        body=points[:, BODY],
        left_hand=left,
        right_hand=right,
    )
