"""MediaPipe's palm detector: palms of a square region of a frame, and the region of the whole hand each one implies.

Keypoints of a palm: wrist, then the knuckles of index, middle, ring and little finger, then the thumb's first two joints.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from stages.detectors.crops import Region, cut, upright_angle
from stages.detectors.models import load
from stages.detectors.ssd import Candidates, anchor_centres, decode, weighted_suppression

SIZE = 192
STRIDES = (8, 16, 16, 16)
WRIST, MIDDLE_KNUCKLE = 0, 2

FindPalms = Callable[[UInt8[np.ndarray, "height width 3"], Region, float], Candidates]


def load_palm_detector() -> FindPalms:
    """The network as a function of image, upright region and least score; boxes and keypoints come back in pixels of the frame."""
    network, anchors = load("palm_detection_full"), anchor_centres(SIZE, STRIDES)

    def find(image: UInt8[np.ndarray, "height width 3"], region: Region, min_score: float) -> Candidates:
        values, logits = network(cut(image, region, SIZE, border="zero"))
        found = weighted_suppression(decode(values, logits, anchors, size=SIZE, min_score=min_score), max_iou=0.3)
        return found.in_frame(region)

    return find


def hand_region(box: Float[np.ndarray, "4"], keypoints: Float[np.ndarray, "7 2"]) -> Region:
    """Where the hand of a palm lies: fingers up, 2.6 palms wide, moved half a palm towards the fingers (MediaPipe's constants)."""
    angle = upright_angle(keypoints[WRIST], keypoints[MIDDLE_KNUCKLE])
    width, height = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + 0.5 * height * np.array([np.sin(angle), -np.cos(angle)])
    return np.array([*centre, 2.6 * max(width, height), angle], np.float64)
