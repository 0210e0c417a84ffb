"""Fusion against weighted boxes fusion where the two must agree, and the rules that the paper leaves open, one by one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.detect_hands_mediapipe import DetectHands
from stages.fuse_hands import FuseHands
from stages.fusion.association import fuse_keypoints
from stages.fusion.calibration import Calibration, calibrated, load_calibrations
from stages.fusion.sides import VOTE
from stages.tables import LEFT, RIGHT, HandDetections, PersonDetections
from tests.stages.fused_hands import SIZE, body, detection, fuse, quick, shape_of

WBF: dict[str, Any] = {
    "match_iou": 0.55,
    "match_distance": 1e-9,
    "stranger_iou": 0.0,
    "min_score": 0.0,
    "min_agreed_score": 0.0,
    "cover_share": 1.0,
}


def box_at(column: int, row: int, jitter: np.ndarray) -> np.ndarray:
    corner = np.array([20 + 150 * column, 20 + 150 * row])
    return np.concatenate([corner, corner + 100]) + jitter


@quick
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_boxes_and_scores_are_those_of_weighted_boxes_fusion(seed: int, num_sources: int) -> None:
    """One box a source and hand, one label, no calibration (Solovyev et al., 2021; absent_model_aware_avg)."""
    ensemble = pytest.importorskip("ensemble_boxes", reason="pip install ensemble-boxes: the oracle")
    rng = np.random.default_rng(seed)
    names = [chr(97 + i) for i in range(num_sources)]
    seen: dict[str, list[tuple[np.ndarray, float]]] = {name: [] for name in names}
    for cell in range(6):
        for name in rng.permutation(names)[: rng.integers(2, num_sources + 1)]:
            seen[name].append((box_at(cell % 3, cell // 3, rng.uniform(-6, 6, 4)), float(rng.uniform(0.05, 1))))
    names = [name for name in names if seen[name]]
    found = [detection(box, score, source=name, landmarks=False) for name in names for box, score in seen[name]]
    ours = fuse(*found, detectors=tuple(names), **WBF)
    unit = [[(box / np.tile(SIZE, 2)).tolist() for box, _ in seen[name]] for name in names]
    scores = [[score for _, score in seen[name]] for name in names]
    box, score, _ = ensemble.weighted_boxes_fusion(
        unit, scores, [[0] * len(s) for s in scores], iou_thr=0.55, skip_box_thr=0.0, conf_type="absent_model_aware_avg"
    )
    theirs = np.abs(ours.box[:, None] - (box * np.tile(SIZE, 2))[None]).sum(-1).argmin(1)
    assert sorted(theirs.tolist()) == list(range(len(box)))
    np.testing.assert_allclose(ours.box, (box * np.tile(SIZE, 2))[theirs], atol=0.01)
    np.testing.assert_allclose(ours.score, score[theirs], atol=1e-5)


@quick
@given(st.lists(st.tuples(st.floats(-8, 8), st.floats(0.05, 1)), min_size=1, max_size=5))
def test_raw_mode_is_the_papers_average_of_hulls_by_the_detectors_own_scores(views: Any) -> None:
    box = np.array([100, 100, 200, 220], np.float32)
    found = [detection(box + s, p, source=("mediapipe", *"abcd")[i]) for i, (s, p) in enumerate(views)]  # the first has a calibration
    grown = [replace(d, box=d.box + np.array([[-12, -10, 12, 10]], np.float32)) for d in found]  # extents
    hands = fuse(*grown, mode="raw", min_agreed_score=0.0)
    weight = np.array([p for _, p in views])
    expected = (weight[:, None] * np.array([box + s for s, _ in views])).sum(0) / weight.sum()  # WiLoR, eq. 1
    np.testing.assert_allclose(hands.box[0], expected, rtol=1e-4)
    np.testing.assert_allclose(sorted(hands.source_scores[0]), sorted(weight), rtol=1e-6)


def test_raw_mode_drops_nobody_from_the_average() -> None:
    near = [detection([100, 100, 200, 200], 0.9, source=s, landmarks=False) for s in "ab"]
    far = detection([134, 134, 234, 234], 0.9, source="c", landmarks=False)  # IoU 0.28 with the two, 0.41 with the mean of all
    assert fuse(*near, far, mode="raw", match_distance=0.6).box[0, 0] == pytest.approx(100 + 34 / 3, abs=0.01)
    tight = fuse(*near, far, match_distance=0.6, stranger_iou=0.5)
    assert tight.box[0].tolist() == [100, 100, 200, 200]
    assert tight.num_agree[0] == 2


def test_a_calibration_scales_boxes_about_their_centre_and_maps_scores_of_its_source_alone() -> None:
    table = {"a": Calibration(extent=np.array([1.5, 2.0]), knots=np.array([[0.0, 0.0], [0.5, 0.2], [1.0, 1.0]]))}
    found = HandDetections.concat([detection([100, 100, 200, 200], 0.5, source=s) for s in "ab"])
    after = calibrated(found, table)
    assert after.box.tolist() == [[75, 50, 225, 250], [100, 100, 200, 200]]
    np.testing.assert_allclose(after.score, [0.2, 0.5])
    np.testing.assert_allclose(after.score_raw, [0.5, 0.5])


def test_the_embedded_calibration_is_applied_and_rises() -> None:
    (mediapipe,) = (one for name, one in load_calibrations().items() if name == DetectHands.detector)
    assert (np.diff(mediapipe.knots, axis=0) >= 0).all()
    weak, even, sure = (detection([100, 100, 200, 200], p, source="mediapipe") for p in (0.05, 0.5, 0.9))
    assert mediapipe.score(weak)[0] < 0.25 < 0.9 < mediapipe.score(sure)[0]
    hands = fuse(even)
    assert hands.source_scores_raw[0] == [0.5]
    assert hands.score[0] == pytest.approx(mediapipe.score(even)[0])


def test_palm_and_presence_each_make_a_hand_surer() -> None:
    (mediapipe,) = (one for name, one in load_calibrations().items() if name == DetectHands.detector)
    plain = replace(detection([100, 100, 140, 140], 0.4), presence=np.array([0.5], np.float32))
    surer = [
        replace(plain, palm_score=np.array([0.6], np.float32)),
        replace(plain, presence=np.array([0.7], np.float32)),
    ]
    assert all(mediapipe.score(one)[0] > mediapipe.score(plain)[0] for one in surer)
    unknown = replace(plain, presence=np.array([np.nan], np.float32))
    assert mediapipe.score(unknown)[0] == pytest.approx(np.interp(0.4, *mediapipe.knots.T))


def test_a_damaged_calibration_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    for text in ("<html>", '{"sources": []}', '{"sources": {"a": {"extent": [1, 1], "knots": [[0, 1], [1, 0.5]]}}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"c\.json"):
            FuseHands(calibration=str(path)).build()


def test_who_follows_arms_says_nothing_where_nobody_is_and_is_absent_where_somebody_is() -> None:
    hand = detection([100, 100, 200, 200], 0.6, source="mediapipe")
    detectors = ("mediapipe", "openpose")
    alone = fuse(hand, detectors=detectors, calibration="")
    assert (alone.num_agree[0], alone.num_run[0]) == (1, 1)
    elsewhere = fuse(hand, detectors=detectors, people=body((500, 400), (600, 400), box=(400, 0, 640, 480)))
    assert elsewhere.num_run[0] == 1
    assert len(fuse(hand, detectors=detectors, people=body((500, 400), (600, 400), box=(0, 0, 640, 480)))) == 0
    sure = detection([100, 100, 200, 200], 0.99, source="mediapipe")
    theirs = fuse(sure, detectors=detectors, people=body((150, 200), (600, 400)))
    assert theirs.num_run[0] == 2


def test_one_arm_detector_alone_proves_no_hand_unless_no_other_looked() -> None:
    people = body((150, 200), (600, 400))
    hand = detection([100, 100, 200, 200], 0.99, source="openpose")
    assert len(fuse(hand, detectors=("openpose", "contacthands"), people=people)) == 0
    assert len(fuse(replace(hand, source=np.array(["contacthands"], object)), detectors=("openpose", "contacthands"), people=people)) == 1
    assert len(fuse(hand, detectors=("openpose",), people=people)) == 1


def test_two_sources_need_less_than_one() -> None:
    a, b = (detection([100, 100, 200, 200], 0.35, source=s) for s in "ab")
    assert len(fuse(a, b, min_score=0.4)) == 1
    assert len(fuse(a, min_score=0.4)) == 0


def test_what_one_eye_proves_two_prove() -> None:
    one, two = (detection([100, 100, 200, 200], 0.2, source=source) for source in "ab")
    assert len(fuse(one, detectors=("a", "b"), eye_detectors=("a", "b"))) == 1
    assert len(fuse(one, two, eye_detectors=("a", "b"))) == 1
    assert len(fuse(one, two, eye_detectors=("a",), arm_detectors=("b",))) == 0


def test_a_wrist_nearby_lets_a_doubtful_hand_count() -> None:
    hand = detection([100, 100, 200, 200], 0.3)
    assert len(fuse(hand, people=body((500, 400), (600, 400)), min_score=0.5)) == 0
    assert len(fuse(hand, people=body((500, 400), (110, 210)), min_score=0.5)) == 1


@quick
@given(st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_sides_are_a_sum_of_log_odds_and_never_split_a_hand(p: float, q: float) -> None:
    hands = fuse(
        detection([100, 100, 200, 200], 0.9, source="a", p_right=p), detection([104, 100, 204, 200], 0.8, source="b", p_right=q),
        copy_distance=1e-3,
    )  # fmt: skip
    assert len(hands) == 1
    votes = np.log(p / (1 - p)) + np.log(q / (1 - q))
    assert hands.side_log_odds[0] == pytest.approx(np.clip(votes, -VOTE, VOTE), abs=1e-3)


@quick
@given(st.floats(0, 0.6), st.permutations(range(4)))
def test_crossing_hands_stay_two_in_whatever_order_they_come(overlap: float, order: list[int]) -> None:
    shift = 100 * (1 - overlap)
    left, right = np.array([100, 100, 200, 200]), np.array([100 + shift, 100, 200 + shift, 200])
    seen = [detection(b, p, source=s, p_right=r) for s, p in (("a", 0.9), ("b", 0.7)) for b, r in ((left, 0.05), (right, 0.95))]
    hands = fuse(*(seen[i] for i in order), detectors=("a", "b"), people=body((150, 200), (150 + shift, 200)))
    assert sorted(hands.side.tolist()) == [LEFT, RIGHT]
    np.testing.assert_allclose(hands.box[np.argsort(hands.side)], [left, right], atol=1e-3)


def test_a_hand_of_two_overlapping_people_is_one_hand_of_one_of_them() -> None:
    crops = (50, 0, 350, 400), (60, 0, 460, 400)
    people = PersonDetections.concat([body((200, 200), (300, 200), box=crops[0]), body((206, 204), (420, 200), box=crops[1], score=0.8)])
    views = [detection([100, 100, 200, 200], p, crop=crop, p_right=0.1) for p, crop in zip((0.9, 0.8), crops, strict=True)]
    hands = fuse(*views, people=people)
    assert len(hands) == 1
    assert hands.person.tolist() == [0]


def test_two_hundred_people_and_their_hands_are_told_apart() -> None:
    x, y = (axis.ravel().tolist() for axis in np.meshgrid(np.arange(20) * 32 + 6, np.arange(10) * 48 + 20))
    people = PersonDetections.concat(
        [body((a, b), (a + 14, b), box=(a - 5, b - 18, a + 25, b + 28), person=i) for i, (a, b) in enumerate(zip(x, y, strict=True))]
    )
    found = [
        detection([a + shift - 5, b - 10, a + shift + 5, b], 0.9, p_right=p)
        for a, b in zip(x, y, strict=True)
        for shift, p in ((0, 0.1), (14, 0.9))
    ]
    hands = fuse(*found, people=people)
    assert len(hands) == 400
    assert set(zip(hands.person.tolist(), hands.side.tolist(), strict=True)) == {(p, side) for p in range(200) for side in (LEFT, RIGHT)}


def test_a_third_source_decides_between_two_and_who_gave_each_landmark_is_kept() -> None:
    box = np.array([0, 0, 100, 100])
    a, b = shape_of(box, True), shape_of(box, True)
    b[20, 0] += 50
    third = b + np.array([2, 0, 0])
    fused, who = fuse_keypoints(np.stack([a, b, third]), np.array([0.9, 0.6, 0.6]), 100.0)
    assert who[:20].tolist() == [0b111] * 20
    assert who[20] == 0b110
    assert fused[20, 0] == pytest.approx(b[20, 0] + 1)
    assert fused[20, 2] == pytest.approx(0.5)  # a disagrees


def test_a_joint_that_one_source_lacks_is_the_others_and_one_that_all_lack_is_unknown() -> None:
    a, b = (shape_of(np.array([0, 0, 100, 100]), True) for _ in range(2))
    a[3], b[3], a[7] = np.nan, np.nan, np.nan
    fused, who = fuse_keypoints(np.stack([a, b]), np.array([0.9, 0.6]), 100.0)
    assert np.isnan(fused[3]).all()
    assert (who[3], who[7]) == (0, 0b10)
    np.testing.assert_allclose(fused[7], b[7])


def test_landmarks_of_the_table_name_their_sources() -> None:
    found = [detection([100 + s, 100, 200 + s, 200], p, source=n) for n, p, s in (("b", 0.5, 2), ("a", 0.9, 0))]
    blind = detection([100, 100, 200, 200], 0.8, source="c", landmarks=False)
    hands = fuse(*found, blind)
    assert hands.sources[0] == ["a", "c", "b"]
    assert set(hands.keypoint_sources[0]) == {0b101}


def test_an_unknown_mode_and_too_many_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="mode"):
        FuseHands(mode="average")
    with pytest.raises(ValueError, match="15 at most"):
        FuseHands(detectors=tuple(f"d{i}" for i in range(16)))
