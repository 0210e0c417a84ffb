"""Our run of MediaPipe's networks against MediaPipe: recorded results of 0.10.21, and the installed package fed the same files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.peer import landmarker
from stages.detectors.mediapipe.blazepose import body_region, load_body_landmarks, load_person_detector
from stages.detectors.mediapipe.crops import region_of_box
from stages.detectors.mediapipe.hand_landmarks import Landmarks, load_hand_landmarks, tracked_region
from stages.detectors.mediapipe.palm import hand_region, load_palm_detector
from stages.detectors.views import whole

RECORDED = json.loads((Path(__file__).resolve().parents[2] / "data" / "mediapipe_0_10_21.json").read_text())["frames"]


def picture(media: Path, name: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(media / "frames" / f"{name}.jpg")), cv2.COLOR_BGR2RGB)


def nearest(points: np.ndarray, candidates: list[np.ndarray]) -> int:
    return int(np.argmin([np.abs(candidate - points).mean() for candidate in candidates]))


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_palms_and_landmarks_are_those_of_mediapipe_0_10_21(media: Path, name: str) -> None:
    image, recorded = picture(media, name), RECORDED[name]
    (palms,) = load_palm_detector()([(image, region_of_box(whole(image.shape[1], image.shape[0])))], 0.3)
    np.testing.assert_allclose(sorted(palms.score), sorted(recorded["palm_scores"]), atol=0.005)
    regions = [hand_region(box, keypoints) for box, keypoints in zip(palms.box, palms.keypoints, strict=True)]
    find = load_hand_landmarks()
    for region, landmarks, following in zip(recorded["hand_regions"], recorded["landmarks"], recorded["next_regions"], strict=True):
        x, y, width, angle = region
        ours = regions[nearest(np.array([x, y]), [r[:2] for r in regions])]
        np.testing.assert_allclose(ours[:3], [x, y, width], atol=0.005 * width)
        assert ours[3] == pytest.approx(angle, abs=0.02)
        points = find([(image, np.array([x, y, width, angle]))])[0].points
        assert np.linalg.norm(points - np.array(landmarks), axis=1).mean() < 0.1
        np.testing.assert_allclose(tracked_region(np.array(landmarks)), np.array(following), atol=0.1)


@pytest.fixture(scope="module")
def tasks() -> Iterator[tuple[Any, Any]]:
    """The installed package's hand and pose landmarkers, fed our files."""
    pytest.importorskip("mediapipe")
    with landmarker("hand", 4) as hands, landmarker("pose", 2) as poses:
        yield hands, poses


@pytest.mark.parametrize("name", ["A000", "A012", "A023", "A062"])
def test_hands_agree_with_the_installed_package(media: Path, tasks: tuple[Any, Any], name: str) -> None:
    image = picture(media, name)
    height, width = image.shape[:2]
    (palms,) = load_palm_detector()([(image, region_of_box(whole(width, height)))], 0.5)
    find = load_hand_landmarks()
    ours: list[Landmarks] = find([(image, hand_region(b, k)) for b, k in zip(palms.box, palms.keypoints, strict=True)])
    theirs = tasks[0](image)
    assert len(theirs.hand_landmarks) == len(ours) > 0
    for landmarks, side, world in zip(theirs.hand_landmarks, theirs.handedness, theirs.hand_world_landmarks, strict=True):
        points = np.array([[point.x * width, point.y * height] for point in landmarks])
        hand = ours[nearest(points, [h.points for h in ours])]
        size = np.ptp(points, axis=0).max()
        assert np.linalg.norm(hand.points - points, axis=1).mean() < max(3.0, 0.04 * size)
        assert (hand.p_right > 0.5) == (side[0].category_name == "Right")
        metres = np.array([[point.x, point.y, point.z] for point in world])
        assert np.linalg.norm(hand.world - metres, axis=1).mean() < 0.015


@pytest.mark.parametrize("name", ["A000", "A033"])
def test_bodies_agree_with_the_installed_package(media: Path, tasks: tuple[Any, Any], name: str) -> None:
    image = picture(media, name)
    height, width = image.shape[:2]
    (people,) = load_person_detector()([(image, region_of_box(whole(width, height)))], 0.5)
    find = load_body_landmarks()
    ours = find([(image, body_region(keypoints)) for keypoints in people.keypoints])
    theirs = tasks[1](image).pose_landmarks
    assert len(theirs) == len(ours) == 1
    points = np.array([[point.x * width, point.y * height] for point in theirs[0]])
    seen = np.array([point.visibility for point in theirs[0]]) > 0.5
    size = np.ptp(points[seen], axis=0).max()
    assert np.linalg.norm(ours[0].points - points, axis=1)[seen].mean() < 0.03 * size
    np.testing.assert_allclose(ours[0].visibility, [point.visibility for point in theirs[0]], atol=0.1)
