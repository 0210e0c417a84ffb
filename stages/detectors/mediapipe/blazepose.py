"""BlazePose: people of a square region of a frame, and 33 landmarks of each, of which 17 are COCO's.

The detector gives no body box but two points: the hips' middle, and one at a distance that spans the body. The landmark network
looks at the turned square about them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from stages.detectors.mediapipe.crops import Look, Region, cut_all, to_frame, upright_angle
from stages.detectors.mediapipe.models import load
from stages.detectors.mediapipe.ssd import Candidates, anchor_centres, decode, weighted_suppression
from stages.tables import BODY_KEYPOINTS

DETECTOR_SIZE, LANDMARK_SIZE = 224, 256
STRIDES = (8, 16, 32, 32, 32)
HIPS, SPAN = 0, 1
NUM_LANDMARKS = 33

LANDMARKS: tuple[str, ...] = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer", "left_ear", "right_ear",
    "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
"""MediaPipe's names and order. The person's own left and right."""

COCO = tuple(LANDMARKS.index(name) for name in BODY_KEYPOINTS)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Body:
    """One person as the network sees them in one region."""

    presence: float
    points: Float64[np.ndarray, "33 2"]  # pixels of the frame
    visibility: Float64[np.ndarray, "33"]  # in the picture and not hidden
    inside: Float64[np.ndarray, "33"]  # in the picture, hidden or not (MediaPipe's "presence" of a landmark)


FindPeople = Callable[[Sequence[Look], float], list[Candidates]]
FindBodies = Callable[[Sequence[Look]], list[Body]]


def load_person_detector(device: str = "cpu") -> FindPeople:
    """The detector as a function of looks at upright regions and least score; boxes (of heads) and keypoints in pixels of the frame."""
    network, anchors = load("pose_detection", device=device), anchor_centres(DETECTOR_SIZE, STRIDES)

    def find(looks: Sequence[Look], min_score: float) -> list[Candidates]:
        if not looks:
            return []
        outputs = network(cut_all(looks, DETECTOR_SIZE, border="zero") * np.float32(2) - np.float32(1))
        found = []
        for values, logits, (_, region) in zip(*outputs, looks, strict=True):
            heads = weighted_suppression(decode(values, logits, anchors, size=DETECTOR_SIZE, min_score=min_score), max_iou=0.3)
            found.append(heads.in_frame(region))
        return found

    return find


def load_body_landmarks(device: str = "cpu") -> FindBodies:
    """The landmark network as a function of looks."""
    network = load("pose_landmark_full", device=device)

    def find(looks: Sequence[Look]) -> list[Body]:
        if not looks:
            return []
        screen, presence, *_ = network(cut_all(looks, LANDMARK_SIZE, border="repeat"))
        found = []
        for row, present, (_, region) in zip(screen, presence, looks, strict=True):
            values = row.reshape(-1, 5)[:NUM_LANDMARKS].astype(np.float64)
            visibility, inside = (1 / (1 + np.exp(-values[:, column])) for column in (3, 4))
            points = to_frame(values[:, :2] / LANDMARK_SIZE, region)
            found.append(Body(presence=float(present.reshape(())), points=points, visibility=visibility, inside=inside))
        return found

    return find


def body_region(keypoints: Float[np.ndarray, "4 2"]) -> Region:
    """The square about the hips that holds the body, head up, with MediaPipe's margin of 25 %."""
    span = float(np.linalg.norm(keypoints[SPAN] - keypoints[HIPS]))
    return np.array([*keypoints[HIPS], 2 * 1.25 * max(span, 1.0), upright_angle(keypoints[HIPS], keypoints[SPAN])], np.float64)
