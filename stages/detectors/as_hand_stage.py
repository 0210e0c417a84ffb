"""The ensemble's members as stages: what a detector finds on a stretch of frames becomes rows of its table, each hand once.

A member is a file in `detectors/` whose `find_hands` gives a `FindHands`, and a stage whose fields are its settings and whose `build`
returns `rows_of(find, detector)`. Nothing else knows its name: fusion reads every table of `HandDetections`.
"""

from collections.abc import Callable

import numpy as np

from stages.detectors.found import FindHands, FoundHands
from stages.fusion.association import without_copies
from stages.media.frames import Frames
from stages.tables import HandDetections, People

COPY_IOU, COPY_DISTANCE = 0.5, 0.2
"""Two boxes, or two sets of landmarks, of one detector that are one hand seen twice: as in `FuseHands`."""


def rows_of(find: FindHands, detector: str) -> Callable[[Frames, People], HandDetections]:
    """The function of a stage: hands of a stretch of frames and the people in it, in the order of the frames."""

    def detect(frames: Frames, people: People) -> HandDetections:
        found = find(frames.images, [people.take(people.frame == frame) for frame in frames.frame])
        everything = _table(found, frames, detector)
        once = []
        for row, image in enumerate(frames.images):
            here = everything.take(found.picture == row)
            if len(here):
                once.append(without_copies(here, image.shape[1], image.shape[0], copy_iou=COPY_IOU, copy_distance=COPY_DISTANCE))
        return HandDetections.concat(once)

    return detect


def _table(found: FoundHands, frames: Frames, detector: str) -> HandDetections:
    """Detections with everything that MediaPipe alone says unknown. Scores are the detector's own until somebody calibrates them."""
    count = len(found.picture)
    unknown = np.full(count, np.nan, np.float32)
    return HandDetections(
        video=np.full(count, frames.video, object),
        frame=frames.frame[found.picture],
        time_s=frames.time_s[found.picture],
        source=np.full(count, detector, object),
        route=found.route,
        person=found.person.astype(np.int16),
        crop=found.crop,
        box=found.box,
        score=found.score,
        palm_score=unknown,
        presence=unknown,
        p_right=found.p_right,
        keypoints=found.keypoints,
        spread=np.full((count, 21), np.nan, np.float32),
        world=np.full((count, 21, 3), np.nan, np.float32),
    )
