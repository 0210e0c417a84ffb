"""The score of landmarks falls with what second looks put apart, and leaves alone what nobody looked at twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.fusion.calibration import calibrated
from stages.fusion.landmark_score import features_of, judged, load_landmark_score
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


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"hand": {"weights": [1, 2]}, "keypoint": {"weights": [1, 2, 3, 4]}})])
def test_a_file_that_is_no_score_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "landmark_score.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"landmark_score.json is no score of landmarks") as raised:
        load_landmark_score(path)
    assert len(str(raised.value).splitlines()) == 1
