"""Hands drawn on their image."""

import cv2
import numpy as np
from jaxtyping import UInt8

from training.detector.inference import DetectedHands

LEFT_COLOUR, RIGHT_COLOUR = (64, 128, 255), (255, 96, 64)
_FINGERS = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21))
"""Bones: wrist, then four joints of each finger."""


def draw_hands(image: UInt8[np.ndarray, "h w 3"], hands: DetectedHands) -> None:
    """Box, score and bones of each hand, left ones blue, right ones red; onto the image itself."""
    width = max(1, round(max(image.shape) / 400))
    for box, side, score, points in zip(hands.box, hands.side, hands.score, hands.keypoints, strict=True):
        colour = RIGHT_COLOUR if side else LEFT_COLOUR
        draw_box(image, box, colour)
        cv2.putText(image, f"{'right' if side else 'left'} {score:.2f}", _pixel(box[:2] - [0, 3]), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour)
        for a, b in _FINGERS:
            if min(points[a, 2], points[b, 2]) > 0.5:
                cv2.line(image, _pixel(points[a]), _pixel(points[b]), colour, width)


def draw_box(image: UInt8[np.ndarray, "h w 3"], box: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Its outline."""
    cv2.rectangle(image, _pixel(box[:2]), _pixel(box[2:]), colour, max(1, round(max(image.shape) / 400)))


def _pixel(point: np.ndarray) -> tuple[int, int]:
    x, y = np.clip(point[:2], -10_000, 10_000)
    return round(float(x)), round(float(y))
