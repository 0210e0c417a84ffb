"""Hands as a whole-body pose network sees them: the hand blocks of its poses, by HaMeR's rule.

A whole-body network finds both hands of every person, hidden ones too (HaMeR, issue 114): alone it is a poor witness.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int16

from stages.detectors.found import HAND_EXTENT, hull_boxes
from stages.stage import Key, Resources, check_settings, setting
from stages.tables import HandDetections, People, Poses, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class HandsOfPoses:
    """A hand wherever enough of its keypoints are sure (Pavlakos et al., HaMeR, CVPR 2024)."""

    name: ClassVar[str] = "hands-of-poses"
    version: ClassVar[int] = 3
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Poses, People)
    writes: ClassVar[type[Table]] = HandDetections
    resources: ClassVar[Resources] = Resources(cpus=1)

    detector: str = "vitpose"
    """Whose poses."""
    min_keypoint: float = setting(0.5, least=0, below=1)
    """A keypoint of more than this score is sure, in [0, 1]. HaMeR's."""
    more_than: int = setting(3, least=1, most=20)
    """A hand has more sure keypoints than this. HaMeR's."""
    crop_scale: float = setting(2.0, above=0)
    """The `crop` column is so many times the hull of the sure keypoints. HaMeR's."""
    extent_width: float = setting(HAND_EXTENT[0], above=0)
    """A hand's box is this many times as wide as the hull of its sure keypoints. MediaPipe's figure, to be measured here. Ours."""
    extent_height: float = setting(HAND_EXTENT[1], above=0)
    """The same for the height."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def weights(self) -> Mapping[str, str]:
        """No model files."""
        return {}

    def build(self) -> Callable[[Poses, People], HandDetections]:
        return self._hands

    def _hands(self, poses: Poses, people: People) -> HandDetections:
        mine = poses.take(poses.source == self.detector)
        mine = replace(mine, person=persons_of(mine, people, self.detector))
        of_side = [self._of_side(mine, keypoints, toward) for keypoints, toward in ((mine.left_hand, -1.0), (mine.right_hand, 1.0))]
        hands = HandDetections.concat(of_side)
        return hands.take(np.lexsort((hands.p_right > 0.5, hands.person, hands.frame)))

    def _of_side(self, poses: Poses, keypoints: Float32[np.ndarray, "n 21 3"], toward: float) -> HandDetections:
        """The left (`toward` -1) or right (1) hands that are sure enough. Their score is the keypoints' mean."""
        there = (keypoints[..., 2] > self.min_keypoint).sum(1) > self.more_than
        poses, keypoints = poses.take(there), keypoints[there]
        count = len(poses)
        score = keypoints[..., 2].mean(1)
        crop = hull_boxes(keypoints, min_score=self.min_keypoint, extent=(self.crop_scale, self.crop_scale))
        unknown = np.full(count, np.nan, np.float32)
        return HandDetections(
            video=poses.video,
            frame=poses.frame,
            time_s=poses.time_s,
            source=poses.source,
            route=np.full(count, "person", object),
            person=poses.person,
            crop=crop,
            box=hull_boxes(keypoints, min_score=self.min_keypoint, extent=(self.extent_width, self.extent_height)),
            score=score,
            palm_score=unknown,
            presence=unknown,
            p_right=(1 + np.float32(toward) * score) / 2,
            keypoints=keypoints,
            spread=np.full((count, 21), np.nan, np.float32),
            world=np.full((count, 21, 3), np.nan, np.float32),
        )


def persons_of(poses: Poses, people: People, detector: str) -> Int16[np.ndarray, "n"]:
    """The person that each pose of one network is of, as `People` numbers them; -1 where it is nobody there."""
    person = {
        (frame, its_own): person
        for frame, person, sources, numbers in zip(
            people.frame.tolist(), people.person.tolist(), people.sources, people.source_persons, strict=True
        )
        for source, its_own in zip(sources, numbers, strict=True)
        if source == detector
    }
    return np.array([person.get(row, -1) for row in zip(poses.frame.tolist(), poses.person.tolist(), strict=True)], np.int16)
