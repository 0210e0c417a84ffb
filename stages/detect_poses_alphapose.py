"""Whole-body poses of everybody by AlphaPose, in the boxes that a person detector found.

Its weights are SJTU's, for academic or non-profit, non-commercial use only: a member for those who may use it (`whim weights get
alphapose_136`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stages import boxes
from stages.detectors.weights import load_checkpoint, weight_file, weight_sha256
from stages.frames import Frames
from stages.hand_members import check_settings
from stages.stage import Key, Resources, setting
from stages.tables import LEFT, RIGHT, PersonBoxes, Poses, Table

if TYPE_CHECKING:
    from stages.detectors.alphapose import Decode, FindKeypoints

DECODE: Mapping[str, "Decode"] = {"alphapose_136": "integral", "alphapose_26": "peak"}
"""By network: the one of 136 keypoints was trained by regression, the one of 26 on heatmaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectPosesAlphaPose:
    """Find the body and, with 136 keypoints, both hands of each boxed person (Fang et al., 2022; WiLoR, sec. 3).

    A person's score is the person detector's. A keypoint's is the network's own, in [0, 1]; those of the network of 136
    keypoints are far lower than other networks' (its authors draw hands from 0.05 on).
    """

    name: ClassVar[str] = "detect-poses"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, PersonBoxes)
    writes: ClassVar[type[Table]] = Poses
    detector: ClassVar[str] = "alphapose"

    network: str = "alphapose_136"
    """alphapose_136 or alphapose_26: without hands."""
    person_score: float = 0.65
    """People below this score of their detector's are not looked at. Paper, sec. 3; never AlphaPose's own score, which goes to 3.25."""
    person_iou: float = 0.55
    """Of two boxes of one frame that overlap by more, the surer one stays. Ours."""
    bf16: bool = False
    """Convolutions in bfloat16: on recent CPUs and GPUs much faster."""
    device: str = setting("auto", identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    gpus: float = setting(0.0, identity=False)
    """Share of a GPU that a worker holds."""
    batch_size: int = setting(32, identity=False)
    """People at once; halved when memory runs out."""

    def __post_init__(self) -> None:
        check_settings("detect_poses_alphapose", self, shares=("person_score", "person_iou"), positive=("batch_size",))
        if self.network not in DECODE:
            raise ValueError(f"detect_poses_alphapose.network must be one of {', '.join(DECODE)}, got {self.network!r}")

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
        from stages.detectors.alphapose import find_keypoints, keypoint_reader
        from stages.detectors.fastpose import fastpose

        file = weight_file(self.network)
        network = fastpose(load_checkpoint(file), file)
        decode, batch_size = DECODE[self.network], self.batch_size
        find = find_keypoints(keypoint_reader(network, decode=decode, device=self.device, bf16=self.bf16, batch_size=batch_size))

        def detect(frames: Frames, persons: PersonBoxes) -> Poses:
            area = boxes.area(persons.box)
            sure = persons.take((persons.score >= self.person_score) & (area > 0) & (area < np.inf))
            everybody = [_each_once(sure.take(sure.frame == frame), self.person_iou) for frame in frames.frame]
            return _poses(frames, everybody, find)

        return detect


def _each_once(persons: PersonBoxes, max_iou: float) -> PersonBoxes:
    """People of one frame, best first, without boxes that overlap a better one by more than `max_iou`."""
    ranked = persons.take(np.argsort(-persons.score, kind="stable"))
    return ranked.take(boxes.each_once(boxes.iou(ranked.box, ranked.box) > max_iou))


def _poses(frames: Frames, everybody: list[PersonBoxes], find: "FindKeypoints") -> Poses:
    from stages.detectors.alphapose import BODY, HANDS

    persons = PersonBoxes.concat(everybody)
    found = np.concatenate(find(frames.images, [here.box for here in everybody]))
    found[..., 2] = found[..., 2].clip(0, 1)
    no_hands = np.full((len(persons), 21, 3), np.nan, np.float32)
    left, right = (found[:, HANDS[side]] if found.shape[1] == 136 else no_hands for side in (LEFT, RIGHT))
    return Poses(
        video=persons.video,
        frame=persons.frame,
        time_s=persons.time_s,
        source=np.full(len(persons), DetectPosesAlphaPose.detector, object),
        person=np.concatenate([np.arange(len(here), dtype=np.int16) for here in everybody]),
        box=persons.box,
        score=persons.score,
        body=found[:, BODY],
        left_hand=left,
        right_hand=right,
    )
