"""People of every frame by BlazePose: its detector on the whole frame and on tiles, its landmark network on each person found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, UInt8

from stages import boxes
from stages.detectors.mediapipe.blazepose import (
    COCO,
    LANDMARKS,
    Body,
    FindBodies,
    FindPeople,
    body_region,
    load_body_landmarks,
    load_person_detector,
)
from stages.detectors.mediapipe.crops import Region, alike, region_of_box
from stages.detectors.mediapipe.models import pinned_sha256
from stages.detectors.views import few_tiles, whole
from stages.media.frames import Frames
from stages.stage import DEVICES, Key, Resources, check_settings, on_device, setting
from stages.tables import PersonDetections, Table

NETWORKS = ("pose_detection", "pose_landmark_full")
MOST_TILES = 30
"""Tiles of a zoom: a strip of 5,000 x 3 pixels would have thousands, and a frame take minutes and gigabytes. Ours."""
VISIBLE = 0.5
FINGERTIPS = tuple((LANDMARKS.index(f"{side}_wrist"), LANDMARKS.index(f"{side}_index")) for side in ("left", "right"))
SHOULDERS = [LANDMARKS.index("left_shoulder"), LANDMARKS.index("right_shoulder")]
NOSE = LANDMARKS.index("nose")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectPeople:
    """Find every person, small ones too, with 17 body keypoints (the paper's ViTPose and AlphaPose; here a free, small network)."""

    name: ClassVar[str] = "detect-people"
    version: ClassVar[int] = 1
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames,)
    writes: ClassVar[type[Table]] = PersonDetections
    detector: ClassVar[str] = "blazepose"

    min_score: float = setting(0.7, above=0, below=1)
    """Detector's score x the landmark network's presence. Ours: the people of our labelled frames have 0.72 and more, knees, arms and
    curtains mostly less. The paper's 0.65 (sec. 3) is for other detectors' boxes."""
    min_detector_score: float = setting(0.5, above=0, below=1)
    """What goes on to the landmark network (MediaPipe)."""
    tile_zooms: tuple[float, ...] = setting((1.0,), least=1)
    """Besides the whole frame, look at square tiles of its short side divided by each of these. Ours."""
    gpus: float = setting(0.0, least=0, identity=False)
    """GPUs of a worker, or a share of one; 0 takes what the run shares out."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """Where the networks run; auto is a GPU if the worker has one, by torch, equal to the CPU's numbers but for rounding."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """A core, and the networks' share of a GPU."""
        return on_device(self.device, self.gpus, 400, limit_s=Resources().limit_s)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the two networks."""
        return pinned_sha256(*NETWORKS)

    def build(self) -> Callable[[Frames], PersonDetections]:
        """Load both networks."""
        find_people, find_bodies = load_person_detector(self.device), load_body_landmarks(self.device)

        def detect(frames: Frames) -> PersonDetections:
            parts = []
            for frame, time_s, image in zip(frames.frame, frames.time_s, frames.images, strict=True):
                bodies, scores = people_of_image(image, find_people, find_bodies, self)
                parts.append(_rows(frames.video, int(frame), float(time_s), bodies, scores))
            return PersonDetections.concat(parts)

        return detect


def people_of_image(
    image: UInt8[np.ndarray, "height width 3"],
    find_people: FindPeople,
    find_bodies: FindBodies,
    settings: DetectPeople,
) -> tuple[list[Body], list[float]]:
    """Bodies of one picture and their scores, best first, each person once."""
    height, width = image.shape[:2]
    sides = [min(width, height) / zoom for zoom in settings.tile_zooms]
    views = [whole(width, height)[None], *(few_tiles(width, height, side, MOST_TILES) for side in sides)]
    regions: list[Region] = []
    scores: list[float] = []
    looks = [(image, region_of_box(view)) for view in np.concatenate(views)]
    for found in find_people(looks, settings.min_detector_score):
        regions += [body_region(keypoints) for keypoints in found.keypoints]
        scores += [float(score) for score in found.score]
    bodies: list[Body] = []
    kept: list[float] = []
    distinct = _distinct_regions(regions, scores)
    for i, body in zip(distinct, find_bodies([(image, regions[i]) for i in distinct]), strict=True):
        score = scores[i] * body.presence
        if score >= settings.min_score and not any(same_person(body, other) for other in bodies):
            bodies.append(body)
            kept.append(score)
    return bodies, kept


def _distinct_regions(regions: list[Region], scores: list[float]) -> list[int]:
    """Best first, without those whose centre and size are nearly those of a better one: the same person from another tile."""
    kept: list[int] = []
    for i in sorted(range(len(regions)), key=lambda i: -scores[i]):
        if not any(alike(regions[i], regions[j], shift=0.1, growth=4 / 3) for j in kept):
            kept.append(i)
    return kept


def same_person(one: Body, other: Body) -> bool:
    """Whether two bodies lie on one another: by the points that both see if there are four, else by their boxes."""
    both = (one.visibility > VISIBLE) & (other.visibility > VISIBLE)
    pair = np.stack([person_box(one), person_box(other)])
    if both.sum() < 4:
        return bool(boxes.iou(pair[:1], pair[1:])[0, 0] > 0.4)
    size = np.sqrt(boxes.area(pair)).min()
    distance = np.median(np.linalg.norm(one.points[both] - other.points[both], axis=1))
    return bool(distance < 0.15 * size)


def person_box(body: Body) -> Float64[np.ndarray, "4"]:
    """The box of the visible body: its landmarks, the fingertips (twice as far from the wrist as the knuckle) and the top of the head.

    The crown lies above the nose by 0.8 of the way from the shoulders to the nose. Ours.
    """
    seen = body.visibility > VISIBLE
    if not seen.any():
        seen = body.visibility >= body.visibility.max()
    points = [body.points[seen]]
    for wrist, knuckle in FINGERTIPS:
        if seen[wrist]:
            points.append(2 * body.points[knuckle] - body.points[wrist][None])
    if seen[NOSE] and seen[SHOULDERS].any():
        points.append(body.points[NOSE][None] + 0.8 * (body.points[NOSE] - body.points[SHOULDERS].mean(axis=0)))
    hull = np.concatenate(points)
    margin = 0.05 * (hull.max(axis=0) - hull.min(axis=0))
    return np.concatenate([hull.min(axis=0) - margin, hull.max(axis=0) + margin])


def _rows(video: str, frame: int, time_s: float, bodies: list[Body], scores: list[float]) -> PersonDetections:
    if not bodies:
        return PersonDetections.empty()
    count = len(bodies)
    coco = list(COCO)
    keypoints = np.stack([np.column_stack([b.points, b.visibility * b.inside])[coco] for b in bodies])
    return PersonDetections(
        video=np.full(count, video, object),
        frame=np.full(count, frame, np.int64),
        time_s=np.full(count, time_s, np.float64),
        source=np.full(count, DetectPeople.detector, object),
        person=np.arange(count, dtype=np.int16),
        box=np.stack([person_box(b) for b in bodies]).astype(np.float32),
        score=np.array(scores, np.float32),
        keypoints=keypoints.astype(np.float32),
    )
