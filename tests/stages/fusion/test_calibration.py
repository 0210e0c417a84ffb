"""Calibrations by hand: extents about the centre, straight lines between knots, a sum of log-odds, and files that are none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.fusion import calibration
from stages.fusion.calibration import EMBEDDED, Calibration, calibrated, calibration_file, load_calibrations, terms, uncalibrated
from stages.tables import HandDetections
from tests.stages.fused_hands import detection

ENTRY = {"extent": [1.2, 1.5], "knots": [[0.0, 0.1], [0.5, 0.5], [1.0, 0.9]]}


def palm(score: float, palm_score: float, presence: float, side_px: float = 32.0) -> HandDetections:
    one = detection([0, 0, side_px, side_px / 2], score)
    return replace(one, palm_score=np.array([palm_score], np.float32), presence=np.array([presence], np.float32))


def write(folder: Path, **sources: Any) -> Path:
    path = folder / "calibration.json"
    path.write_text(json.dumps({"sources": sources}))
    return path


def test_a_score_lies_on_the_line_between_two_knots() -> None:
    one = Calibration(extent=np.ones(2), knots=np.array(ENTRY["knots"]))
    for own, share in ((0.0, 0.1), (0.25, 0.3), (0.5, 0.5), (0.75, 0.7), (1.0, 0.9)):
        assert one.score(detection([0, 0, 9, 9], own))[0] == pytest.approx(share)


def test_a_box_is_scaled_about_its_centre_and_who_is_not_calibrated_is_taken_at_his_word() -> None:
    table = {"a": Calibration(extent=np.array([1.5, 2.0]), knots=np.array(ENTRY["knots"]))}
    found = calibrated(HandDetections.concat([detection([100, 120, 200, 180], 0.25, source=name) for name in "ab"]), table)
    assert found.box.tolist() == [[75, 90, 225, 210], [100, 120, 200, 180]]
    np.testing.assert_allclose(found.score, [0.3, 0.25])
    np.testing.assert_allclose(found.score_raw, [0.25, 0.25])


@pytest.mark.parametrize(("box", "widened"), [([100, 120, 200, 130], [100, 105, 200, 145]), ([50, 0, 60, 200], [15, 0, 95, 200])])
def test_a_hand_seen_from_its_edge_is_as_thick_as_a_hand(box: list[float], widened: list[float]) -> None:
    same = Calibration(extent=np.ones(2), knots=np.array(ENTRY["knots"]))
    assert same.box(np.array([box], np.float32)).tolist() == [widened]


def test_terms_are_log_odds_within_bounds() -> None:
    one, bounded, even = (terms(found)[0] for found in (palm(0.5, 0.9, 0.2), palm(0.5, 1.0, 0.0), palm(0.5, 0.5, 0.5)))
    np.testing.assert_allclose(one, [1, np.log(9), np.log(0.25)], rtol=1e-5)
    np.testing.assert_allclose(bounded, [1, np.log(199), -np.log(199)], rtol=1e-5)
    np.testing.assert_allclose(even, [1, 0, 0], atol=1e-6)


def test_a_sum_of_log_odds_counts_where_palm_and_presence_are_known(tmp_path: Path) -> None:
    weights = {"one": -1.0, "palm": 0.5, "presence": 0.25}
    one = load_calibrations(write(tmp_path, a=ENTRY | {"log_odds": weights}))["a"]
    odds = -1 + 0.5 * np.log(9) + 0.25 * np.log(4)
    assert one.score(palm(0.25, 0.9, 0.8))[0] == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-5)
    for unknown in (palm(0.25, np.nan, 0.8), palm(0.25, 0.9, np.nan)):
        assert one.score(unknown)[0] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"extent": [1.0]}, "an extent has 2 numbers and a knot 2, got"),
        ({"knots": []}, "an extent has 2 numbers and a knot 2, got"),
        ({"knots": [[0.1, 0.2, 0.3]]}, "an extent has 2 numbers and a knot 2, got"),
        ({"knots": [0.1, 0.2]}, "an extent has 2 numbers and a knot 2, got"),
        ({"extent": [0.0, 1.0]}, "extents of a must be positive"),
        ({"knots": [[0.0, 0.5], [1.0, 0.4]]}, "knots must rise"),
        ({"knots": [[0.5, 0.1], [0.4, 0.2]]}, "knots must rise"),
        ({"knots": [[-0.1, 0.1], [0.4, 0.2]]}, "knots must rise within"),
        ({"knots": [[0.1, 0.1], [0.4, 1.1]]}, "knots must rise within"),
        ({"log_odds": {"one": 1.0}}, "is no calibration.*log_odds has weights of one, palm, presence, got one'.*whim learn calibration"),
        ({"log_odds": {"one": 1.0, "palm": 1.0, "presence": 1.0, "size": 1.0}}, "got one, palm, presence, size"),
        ({"log_odds": {"one": 1.0, "palm": float("nan"), "presence": 1.0}}, "weights of log_odds are finite numbers"),
        ({"log_odds": {"one": 1.0, "palm": 10**400, "presence": 1.0}}, "is no calibration: OverflowError"),
    ],
)
def test_an_entry_that_is_none_is_refused(tmp_path: Path, entry: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"calibration\.json.*{told}"):
        load_calibrations(write(tmp_path, b=ENTRY, a=ENTRY | entry))


def test_knots_may_stay_level_and_reach_both_ends(tmp_path: Path) -> None:
    level = {"extent": [0.5, 0.5], "knots": [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [1.0, 1.0]]}
    assert load_calibrations(write(tmp_path, a=level))["a"].knots.tolist() == level["knots"]
    assert load_calibrations(write(tmp_path, a={"extent": [1, 1], "knots": [[0.5, 0.5]]}))["a"].knots.tolist() == [[0.5, 0.5]]


def test_the_learned_calibration_is_taken_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "weights_folder", lambda: tmp_path)
    assert calibration_file() == EMBEDDED
    assert "mediapipe" in load_calibrations()
    learned = write(tmp_path, a=ENTRY)
    assert calibration_file() == learned


def test_a_hull_is_of_the_landmarks_of_a_tenth_confidence_or_more_and_else_the_box_stays() -> None:
    one = detection([100, 100, 200, 200], 0.7)
    points = np.zeros((1, 21, 3), np.float32)
    points[0, :, :2], points[0, :, 2] = [50, 60], 0.9
    points[0, 3], points[0, 4], points[0, 5] = (80, 60, 0.2), (500, 60, 0.05), (50, 95, 0.9)
    blind = detection([10, 10, 20, 30], 0.6, landmarks=False)
    found = uncalibrated(HandDetections.concat([replace(one, keypoints=points), blind]))
    assert found.box.tolist() == [[50, 60, 80, 95], [10, 10, 20, 30]]
    np.testing.assert_allclose(found.score, [0.7, 0.6])
    np.testing.assert_allclose(found.score_raw, [0.7, 0.6])
    assert np.isnan(found.landmark_score).all()
