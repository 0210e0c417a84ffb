"""MediaPipe's palm detector: palms of a square region of a frame, and the region of the whole hand each one implies.

Keypoints of a palm: wrist, then the knuckles of index, middle, ring and little finger, then the thumb's first two joints.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from stages.detectors.mediapipe.crops import Look, Region, cut_all, upright_angle
from stages.detectors.mediapipe.models import Engine, load
from stages.detectors.mediapipe.ssd import Candidates, anchor_centres, decode, weighted_suppression

SIZE = 192
STRIDES = (8, 16, 16, 16)
WRIST, MIDDLE_KNUCKLE = 0, 2

FindPalms = Callable[[Sequence[Look], float], list[Candidates]]


def load_palm_detector(engine: Engine = "litert", num_threads: int = 1, *, device: str = "cpu") -> FindPalms:
    """The network as a function of looks at upright regions and least score; boxes and keypoints come back in pixels of the frame."""
    network, anchors = load("palm_detection_full", engine, num_threads, device=device), anchor_centres(SIZE, STRIDES)

    def find(looks: Sequence[Look], min_score: float) -> list[Candidates]:
        if not looks:
            return []
        outputs = network(cut_all(looks, SIZE, border="zero"))
        found = []
        for values, logits, (_, region) in zip(*outputs, looks, strict=True):
            palms = weighted_suppression(decode(values, logits, anchors, size=SIZE, min_score=min_score), max_iou=0.3)
            found.append(palms.in_frame(region))
        return found

    return find


def hand_region(box: Float[np.ndarray, "4"], keypoints: Float[np.ndarray, "7 2"]) -> Region:
    """Where the hand of a palm lies: fingers up, 2.6 palms wide, moved half a palm towards the fingers (MediaPipe's constants)."""
    angle = upright_angle(keypoints[WRIST], keypoints[MIDDLE_KNUCKLE])
    width, height = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + 0.5 * height * np.array([np.sin(angle), -np.cos(angle)])
    return np.array([*centre, 2.6 * max(width, height), angle], np.float64)
