"""Pose networks as stages: what one sees in everybody's box on a stretch of frames becomes rows of `Poses`.

A member is a file in `detectors/` with a `keypoint_reader` and its `views_of` boxes, and a stage whose fields are its settings and whose
`build` returns `rows_of(...)`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from stages import boxes
from stages.fusion.people import union_of_boxes
from stages.media.frames import Frames
from stages.tables import LEFT, RIGHT, PersonBoxes, Poses

ViewsOf = Callable[[Float[np.ndarray, "n 4"]], Float64[np.ndarray, "n 4"]]
"""Person boxes to what the network is shown of the frame about each."""
Reader = Callable[[Sequence[tuple[Any, Any]]], Float32[np.ndarray, "n k 3"]]
"""Pictures and views to x, y in pixels of the frame and score of each keypoint."""


def rows_of(
    read: Reader, views_of: ViewsOf, *, detector: str, body: slice, hands: Mapping[int, slice] | None, person_iou: float
) -> Callable[[Frames, PersonBoxes], Poses]:
    """The function of a stage: poses of everybody once, by frame, surest person first; `hands` by side, or None when it knows none.

    Boxes without an area, and those that are not finite, are nobody's.
    """

    def estimate(frames: Frames, found: PersonBoxes) -> Poses:
        area = boxes.area(found.box)
        found = found.take((area > 0) & (area < np.inf))
        persons = [union_of_boxes(found.take(found.frame == frame), min_iou=person_iou) for frame in frames.frame]
        everybody = PersonBoxes.concat(persons)
        images = [image for image, here in zip(frames.images, persons, strict=True) for _ in range(len(here))]
        keypoints = read(list(zip(images, views_of(everybody.box), strict=True)))
        points = np.concatenate([keypoints[..., :2], keypoints[..., 2:].clip(0, 1)], -1)
        unknown = np.full((len(points), 21, 3), np.nan, np.float32)
        return Poses(
            video=everybody.video,
            frame=everybody.frame,
            time_s=everybody.time_s,
            source=np.full(len(everybody), detector, object),
            person=np.concatenate([np.arange(len(here), dtype=np.int16) for here in persons]),
            box=everybody.box,
            score=everybody.score,
            body=points[:, body],
            left_hand=points[:, hands[LEFT]] if hands else unknown,
            right_hand=points[:, hands[RIGHT]] if hands else unknown,
        )

    return estimate
