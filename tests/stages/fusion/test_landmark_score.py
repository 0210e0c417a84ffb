"""The score of landmarks falls with what second looks put apart, and leaves alone what nobody looked at twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.fusion.calibration import calibrated
from stages.fusion.landmark_score import LandmarkScore, features_of, is_inside, judged, load_landmark_score
from stages.tables import HandDetections
from tests.stages.fused_hands import SIZE, detection, fuse

BOX = (100, 100, 220, 240)


def looked(spread: float | np.ndarray, score: float = 0.9, **given: Any) -> HandDetections:
    seen = detection(BOX, score, source="mediapipe", **given)
    return replace(seen, spread=np.full((1, 21), spread, np.float32))


def test_scores_fall_with_the_spread_and_rise_with_the_palm() -> None:
    score = load_landmark_score()
    keypoints = np.tile(looked(0.01).keypoints, (4, 1, 1))
    spread = np.repeat(np.array([[0.005], [0.02], [0.1], [0.02]]), 21, 1)
    features = features_of(keypoints, spread, np.array([0.9, 0.9, 0.9, 0.5]), *SIZE)
    hands, each = score.of_hands(features), score.of_keypoints(spread, features)
    assert hands[0] > hands[1] > hands[2]
    assert hands[1] > hands[3]
    assert hands[0] > 0.95
    assert hands[2] < 0.7
    assert (each[0] > each[1]).all()
    assert (each[1] > each[2]).all()


def test_the_score_of_another_detectors_proposal_is_no_palm_score() -> None:
    seen = [replace(looked(0.02), palm_score=np.array([palm], np.float32)) for palm in (0.1, 0.9)]
    others = [replace(one, source=np.array(["whim"], object)) for one in seen]
    (low, high), (one, other) = (
        [judged(calibrated(hand, {}), load_landmark_score(), *SIZE).landmark_score[0] for hand in hands] for hands in (seen, others)
    )
    assert low < high
    assert low < one == other < 1


def test_one_keypoint_that_parts_is_less_sure_than_its_neighbours() -> None:
    spread = np.full(21, 0.02)
    spread[8] = 0.3
    one = judged(calibrated(looked(spread), {}), load_landmark_score(), *SIZE)
    confidence = one.keypoints[0, :, 2]
    assert confidence[8] < confidence[7] == confidence[9]


def test_landmarks_outside_the_frame_do_not_count_against_the_hand() -> None:
    seen = looked(0.01)
    beyond = seen.keypoints.copy()
    beyond[0, 12:, 0] += 2000
    spread = np.full((1, 21), 0.01)
    spread[0, 12:] = 1.0
    inside = features_of(beyond, spread, seen.palm_score, *SIZE)
    np.testing.assert_allclose(inside, features_of(seen.keypoints, np.full((1, 21), 0.01), seen.palm_score, *SIZE))


def test_the_hand_carries_the_score_of_the_source_that_looked_twice() -> None:
    alone = fuse(looked(0.01))
    assert alone.landmark_score[0] > 0.9
    assert (alone.keypoints[0, :, 2] < 1).all(), "its confidences are those that it is right"
    doubtful = fuse(looked(0.2))
    assert doubtful.landmark_score[0] < 0.6
    assert (doubtful.keypoints[0, :, 2] < alone.keypoints[0, :, 2]).all()
    both = fuse(looked(0.01), detection(BOX, 0.95, source="other"))
    assert both.landmark_score[0] == pytest.approx(alone.landmark_score[0])


def test_what_nobody_looked_at_twice_is_left_alone() -> None:
    hands = fuse(detection(BOX, 0.9, source="other"))
    assert np.isnan(hands.landmark_score[0])
    np.testing.assert_allclose(hands.keypoints[0, :, 2], 1)
    raw = fuse(looked(0.01), mode="raw")
    assert np.isnan(raw.landmark_score[0])
    np.testing.assert_allclose(raw.keypoints[0, :, 2], 1)


def test_features_and_scores_by_hand() -> None:
    points = np.tile(np.linspace(0, 639, 21)[:, None], (3, 1, 2)).reshape(3, 21, 2)
    points[..., 1] = np.linspace(0, 479, 21)
    points[1, 5:] += 1000  # five are left in the frame
    points[2, 4:] -= 1000  # four
    spread = np.tile(np.where(np.arange(21) < 5, 0.01, 0.03), (3, 1))
    features = features_of(points, spread, np.array([0.75, np.nan, 1.0]), *SIZE)
    mean = (5 * 0.01 + 16 * 0.03) / 21
    np.testing.assert_allclose(features[:, 0], np.log(np.array([mean, 0.01, mean]) + 0.003))
    np.testing.assert_allclose(features[:, 1], [np.log(3), 2.77, np.log(9999)])
    np.testing.assert_allclose(features_of(points, spread, np.zeros(3), *SIZE)[0, 1], -np.log(9999))
    score = LandmarkScore(hand=np.array([0.5, -1.0, 0.25]), keypoint=np.array([0.1, -0.5, -0.75, 0.125]))
    by_hand = 0.5 - features[:, 0] + 0.25 * features[:, 1]
    np.testing.assert_allclose(score.of_hands(features), 1 / (1 + np.exp(-by_hand)), rtol=1e-5)
    each = 0.1 - 0.5 * np.log(spread + 0.003) + (-0.75 * features[:, 0] + 0.125 * features[:, 1])[:, None]
    np.testing.assert_allclose(score.of_keypoints(spread, features), 1 / (1 + np.exp(-each)), rtol=1e-5)


def test_a_landmark_lies_in_the_frame_from_its_first_pixel_to_before_its_end() -> None:
    points = np.full((21, 2), 9.0)
    points[:6] = [(0, 0), (639.5, 479.5), (640, 9), (9, 480), (-0.5, 9), (9, -0.5)]
    assert is_inside(points, *SIZE).tolist() == [True, True, False, False, False, False] + [True] * 15


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"hand": {"weights": [1, 2]}, "keypoint": {"weights": [1, 2, 3, 4]}}),
        json.dumps({"hand": {"weights": [1, 2, 3]}, "keypoint": {"weights": [1, 2, 3]}}),
        json.dumps({"hand": {"weights": [1, 2, float("nan")]}, "keypoint": {"weights": [1, 2, 3, 4]}}),
    ],
)
def test_a_file_that_is_no_score_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "landmark_score.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"landmark_score.json is no score of landmarks") as raised:
        load_landmark_score(path)
    assert len(str(raised.value).splitlines()) == 1
