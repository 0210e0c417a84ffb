"""Looking at a found hand again, turned, moved, scaled and mirrored: where the landmark network only guesses, its answers part.

Frame of reference: pixels of the full frame, as the first look's. A mirrored look is mapped back: its points, its side, its metric shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from stages.detectors.mediapipe.crops import Look, Region
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, Landmarks, tracked_region
from stages.detectors.mediapipe.hint import FindHints, is_right_hand
from stages.fusion.landmark_score import is_inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a second look differs from the tracker's region of the hand."""

    shift: tuple[float, float] = (0.0, 0.0)  # of the centre, in sides of the region
    scale: float = 1.0
    turn: float = 0.0  # radians, clockwise as seen
    mirrored: bool = False


SECOND_LOOKS: tuple[Change, ...] = (Change(mirrored=True), Change(mirrored=True, turn=-0.3))
"""The two looks whose spread tells wrong landmarks best. Ours: the second is the best of 36 on the half of the judged hands that is learned
from; areas under ROC on videos that it was not chosen on, in docs/landmarks.md."""
HINT_LOOK = Change(turn=-0.2, scale=1.05)
"""The further look at a right hand by which its hint is asked for; a left one is looked at in the mirror. Ours."""
HAND_M = 0.18
"""Length of an adult's hand, metres: what a spread is a share of, so that a fist's counts as an open hand's."""


def spread(
    points: Float[np.ndarray, "21 2"], again: Sequence[Landmarks], length_px: float, width: int, height: int
) -> Float64[np.ndarray, "21"]:
    """How far the looks put each landmark apart (root mean square about their mean), in lengths of the hand; NaN without second looks.

    A shift of the whole hand counts for nothing: looks are laid over each other by the middle of the landmarks inside the frame.
    """
    if not again:
        return np.full(21, np.nan)
    looks = np.stack([points, *(look.points for look in again)])
    looks = looks - looks[:, is_inside(points, width, height)].mean(axis=1, keepdims=True)
    apart = np.linalg.norm(looks - looks.mean(axis=0), axis=2)
    return np.asarray(np.sqrt((apart**2).mean(axis=0)) / length_px, np.float64)


def judged(
    image: UInt8[np.ndarray, "height width 3"], hands: Sequence[Landmarks], find_landmarks: FindLandmarks, find_hints: FindHints, num: int
) -> dict[str, Float32[np.ndarray, "n *shape"]]:
    """Columns of a detection that come of looking `num` times more: how far the looks put each landmark of each hand apart, in lengths of
    the hand, and where all of them, and one more that the hint alone is asked by, say that the joints lie in space."""
    height, width = image.shape[:2]
    looks = look_again(image, [hand.points for hand in hands], find_landmarks, SECOND_LOOKS[:num])
    seen = [[hand, *again] for hand, again in zip(hands, looks, strict=True)]
    found = [spread(hand.points, again, hand_length_px(hand), width, height) for hand, again in zip(hands, looks, strict=True)]
    if num:
        for is_left in (False, True):
            asked = [of_hand for of_hand in seen if is_right_hand(of_hand) != is_left]
            more = look_again(image, [of_hand[0].points for of_hand in asked], find_landmarks, [hint_look(is_left=is_left)])
            for of_hand, look in zip(asked, more, strict=True):
                of_hand += look
    hints = find_hints(seen)
    return {"spread": np.array(found, np.float32).reshape(-1, 21), "hint": hints}


def hint_look(*, is_left: bool) -> Change:
    """The change of the look by which the hint of a hand is asked for besides: it shows a right hand."""
    return replace(HINT_LOOK, turn=-HINT_LOOK.turn, mirrored=True) if is_left else HINT_LOOK


def hand_length_px(hand: Landmarks) -> float:
    """How long the hand's metric shape would be in the frame, were it stretched out before the camera; at least a pixel."""
    points, shape = hand.points - hand.points.mean(axis=0), hand.world[:, :2] - hand.world[:, :2].mean(axis=0)
    return max(HAND_M * float((points * shape).sum() / max(float((shape**2).sum()), 1e-9)), 1.0)


def look_again(
    image: UInt8[np.ndarray, "height width 3"],
    points: Sequence[Float[np.ndarray, "21 2"]],
    find_landmarks: FindLandmarks,
    changes: Sequence[Change],
) -> list[list[Landmarks]]:
    """What the network says of each hand in each changed look; all looks are one batch."""
    looks: list[Look] = []
    corners: list[tuple[int, int] | None] = []
    for hand in points:
        for change in changes:
            region = changed(tracked_region(hand), change)
            look, corner = mirrored_look(image, region) if change.mirrored else ((image, region), None)
            looks.append(look)
            corners.append(corner)
    found = [
        landmarks if corner is None else mirrored_back(landmarks, corner)
        for landmarks, corner in zip(find_landmarks(looks), corners, strict=True)
    ]
    return [found[i * len(changes) : (i + 1) * len(changes)] for i in range(len(points))]


def changed(region: Region, change: Change) -> Region:
    """The region of a changed look."""
    return np.array([*(region[:2] + region[2] * np.array(change.shift)), region[2] * change.scale, region[3] + change.turn], np.float64)


def mirrored_look(image: UInt8[np.ndarray, "height width 3"], region: Region) -> tuple[Look, tuple[int, int]]:
    """A look at the mirror image of what a region shows, and where its last column and first row lie in the frame.

    Only the part of the frame that the region's corners can reach is copied.
    """
    height, width = image.shape[:2]
    reach = 0.75 * region[2]
    left, right = (int(np.clip(x, 0, width - 1)) for x in (region[0] - reach, region[0] + reach + 1))
    top, bottom = (int(np.clip(y, 0, height - 1)) for y in (region[1] - reach, region[1] + reach + 1))
    part = np.ascontiguousarray(image[top : bottom + 1, left : right + 1][:, ::-1])
    return (part, np.array([right - region[0], region[1] - top, region[2], -region[3]], np.float64)), (right, top)


def mirrored_back(landmarks: Landmarks, corner: tuple[int, int]) -> Landmarks:
    """Landmarks of a mirrored look as those of the frame."""
    right, top = corner
    return replace(
        landmarks,
        p_right=1 - landmarks.p_right,
        points=np.array([right, top]) + landmarks.points * np.array([-1.0, 1.0]),
        world=landmarks.world * np.array([-1.0, 1.0, 1.0]),
        turn=None if landmarks.turn is None else np.diag([-1.0, 1.0]) @ landmarks.turn,
    )
