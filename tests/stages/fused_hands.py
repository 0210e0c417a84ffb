"""Hands as detectors see them and people, built by hand for the tests of fusion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import settings

from stages.fuse_hands import FuseHands
from stages.fuse_people import fuse_people
from stages.tables import BODY_KEYPOINTS, Clips, HandDetections, Hands, People, PersonDetections, Videos

SIZE = (640, 480)
NO_DETECTIONS, NO_VIDEOS = HandDetections.empty(), Videos.empty()
Corners = Sequence[float] | np.ndarray
quick = settings(max_examples=40)


def shape_of(box: np.ndarray, right: bool) -> np.ndarray:
    """21 landmarks that fill a box, wrist at the bottom, mirrored for a left hand."""
    unit = np.stack([np.linspace(0, 1, 21) ** 2, 1 - np.linspace(0, 1, 21)], -1)
    unit = unit if right else np.stack([1 - unit[:, 0], unit[:, 1]], -1)
    return np.concatenate([box[:2] + unit * (box[2:] - box[:2]), np.ones((21, 1))], -1)


def detection(
    corners: Corners,
    score: float,
    *,
    source: str = "a",
    p_right: float = 0.9,
    frame: int = 0,
    landmarks: bool = True,
    crop: Corners = (0, 0, *SIZE),
) -> HandDetections:
    box = np.asarray(corners, np.float32)
    points = shape_of(box, p_right > 0.5) if landmarks else np.full((21, 3), np.nan)
    known: dict[str, Any] = {"video": "v", "source": source, "route": "frame", "frame": frame, "time_s": frame / 5, "person": -1}
    known |= {"crop": crop, "box": box}
    known |= {"score": score, "palm_score": score, "presence": 1.0, "p_right": p_right, "keypoints": points}
    known |= {"spread": np.full(21, np.nan), "world": points / 1000}
    empty = vars(NO_DETECTIONS)
    stated = {name: column for name, column in empty.items() if name in known}
    columns = {name: np.array([known[name]], column.dtype).reshape(1, *column.shape[1:]) for name, column in stated.items()}
    return HandDetections(**columns)


def body(
    left: Sequence[float],
    right: Sequence[float],
    *,
    box: Corners = (0, 0, 640, 480),
    frame: int = 0,
    person: int = 0,
    score: float = 0.9,
    seen: float = 0.9,
) -> PersonDetections:
    points = np.zeros((1, 17, 3), np.float32)
    points[0, BODY_KEYPOINTS.index("left_wrist")] = (*left, seen)
    points[0, BODY_KEYPOINTS.index("right_wrist")] = (*right, seen)
    return PersonDetections(
        video=np.array(["v"], object), frame=np.array([frame]), time_s=np.array([frame / 5]),
        source=np.array(["b"], object), person=np.array([person], np.int16),
        box=np.array([box], np.float32), score=np.array([score], np.float32), keypoints=points,
    )  # fmt: skip


def fuse(*detections: HandDetections, people: PersonDetections | None = None, **changes: Any) -> Hands:
    """Hands of a clip of 30 frames; scores at which they count are low unless `changes` say otherwise."""
    hands, _ = fusion(*detections, **changes).build()(*clip_of(*detections, people=people))
    return hands


def fusion(*detections: HandDetections, **changes: Any) -> FuseHands:
    names = tuple(dict.fromkeys(s for d in detections for s in d.source)) or ("a",)
    return FuseHands(**{"detectors": names, "min_score": 0.05, **changes})


def clip_of(*detections: HandDetections, people: PersonDetections | None = None) -> tuple[Videos, Clips, People, HandDetections]:
    """The tables that fusion reads."""
    clip = Clips.of(
        clip=np.array(["v-0000"], object), video=np.array(["v"], object), start_s=np.zeros(1), end_s=np.ones(1),
        first_frame=np.array([0]), num_frames=np.array([30]), frames_per_second=np.array([5.0]), ends_with=np.array(["end"], object),
    )  # fmt: skip
    known = {"width": SIZE[0], "height": SIZE[1]}
    blank = {n: np.array([known.get(n, "" if c.dtype == object else 0)], c.dtype) for n, c in vars(NO_VIDEOS).items()}
    return Videos(**blank), clip, fuse_people(people or PersonDetections.empty()), HandDetections.concat(detections)
