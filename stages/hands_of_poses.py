"""Hands as a whole-body pose network sees them: the hand blocks of its poses, by HaMeR's rule.

A whole-body network finds both hands of everybody, hidden ones too (HaMeR, issue 114): alone it is a poor witness.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int16

from stages.detectors.found import hull_boxes
from stages.fusion.people import numbers_of
from stages.stage import Key, Resources, check_settings, setting
from stages.tables import HandDetections, People, Poses, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class HandsOfPoses:
    """A hand wherever enough of its keypoints are sure (Pavlakos et al., HaMeR, CVPR 2024)."""

    name: ClassVar[str] = "hands-of-poses"
    version: ClassVar[int] = 2
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
    extent_width: float = setting(1.24, above=0)
    """A hand's box is this many times as wide as the hull of its sure keypoints. As for MediaPipe's, until learned for this source."""
    extent_height: float = setting(1.21, above=0)
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
        mine = replace(mine, person=everybodys_numbers(mine, people))
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
            score_raw=score,
            score=score,
            palm_score=unknown,
            presence=unknown,
            p_right=(1 + np.float32(toward) * score) / 2,
            keypoints=keypoints,
            world=np.full((count, 21, 3), np.nan, np.float32),
        )


def everybodys_numbers(poses: Poses, people: People) -> Int16[np.ndarray, "n"]:
    """Which person of `Everybody` each pose is of, by its body among the people (as `PeopleOfPoses` lists it); -1 where it is not there."""
    number = np.full(len(poses), -1, np.int16)
    for frame in np.unique(poses.frame):
        mine, here = np.flatnonzero(poses.frame == frame), people.take(people.frame == frame)
        of_row = numbers_of(here)
        for row in mine:
            same = (here.box == poses.box[row]).all(1)
            same &= np.isclose(here.keypoints, poses.body[row], rtol=0, atol=0, equal_nan=True).all((1, 2))
            if same.any():
                number[row] = of_row[same.argmax()]
    return number
