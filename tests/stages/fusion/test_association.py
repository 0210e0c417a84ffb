"""What makes detections one hand, by hand: copies, sizes, nearness, strangers, who looked, and what covers what."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stages.fusion.association import associate, covered, fuse_box, fuse_keypoints, log_odds, looked, weighted_box, without_copies
from stages.tables import LEFT, RIGHT, HandDetections
from tests.stages.fused_hands import SIZE, detection

A = (100.0, 100.0, 200.0, 200.0)


def seen(*rows: tuple[Any, float, str], **told: Any) -> HandDetections:
    return HandDetections.concat([detection(box, score, source=source, **told) for box, score, source in rows])


def test_a_vote_is_no_surer_than_0_98() -> None:
    odds = log_odds(np.array([0.5, np.nan, 0.9, 0.999, 0.0]))
    np.testing.assert_allclose(odds, np.log([1, 1, 9, 49, 1 / 49]), atol=1e-9)


def test_boxes_that_nobody_is_sure_of_count_alike() -> None:
    assert weighted_box(np.array([[0.0, 0, 10, 10], [4, 0, 14, 10]]), np.zeros(2)).tolist() == [2, 0, 12, 10]


def kept(found: HandDetections, copy_iou: float = 0.5) -> list[float]:
    """Scores of those that are no copies."""
    told = without_copies(found, *SIZE, copy_iou=copy_iou, copy_distance=0.125)
    return [round(float(score), 2) for score in told.score]


def test_copies_lie_at_one_place_by_their_landmarks() -> None:
    for shift, wanted in ((12.5, [0.9]), (12.75, [0.9, 0.8])):
        moved = (100.0 + shift, 100.0, 200.0 + shift, 200.0)
        assert kept(seen((moved, 0.8, "a"), (A, 0.9, "a"))) == wanted
        assert kept(seen((moved, 0.8, "a"), (A, 0.9, "b"))) == [0.9, 0.8], "another source's is no copy"
    unsure = detection((112.5, 100.0, 212.5, 200.0), 0.8)
    unsure.keypoints[..., 2] = 0
    assert kept(HandDetections.concat([detection(A, 0.9), unsure])) == [0.9], "whatever their confidences"
    down = (100.0, 112.75, 200.0, 212.75)
    assert kept(seen((down, 0.8, "a"), (A, 0.9, "a"))) == [0.9, 0.8]


def test_copies_without_landmarks_overlap_by_more_than_the_share() -> None:
    half = (100.0, 100.0, 200.0, 150.0)
    assert kept(seen((A, 0.9, "a"), (half, 0.8, "a"), landmarks=False)) == [0.9, 0.8]
    assert kept(seen((A, 0.9, "a"), (half, 0.8, "a"), landmarks=False), copy_iou=0.49) == [0.9]
    nowhere = (400.0, 300.0, 500.0, 400.0)
    assert kept(seen((A, 0.7, "a"), (nowhere, 0.8, "a"), landmarks=False)) == [0.8, 0.7], "best first"


def test_of_copies_one_that_its_crop_cuts_comes_last() -> None:
    whole, cut = detection(A, 0.5), detection(A, 0.9, crop=(100, 0, 400, 480))
    assert kept(HandDetections.concat([cut, whole])) == [0.5]


def groups(found: HandDetections, match_iou: float = 0.3, match_distance: float = 0.0, nested_share: float = 1.0) -> list[list[int]]:
    told = associate(found, match_iou=match_iou, match_distance=match_distance, nested_share=nested_share)
    return sorted(sorted(rows.tolist()) for rows in told)


def test_one_hand_overlaps_enough_or_lies_near_and_is_as_large() -> None:
    beside = (150.0, 100.0, 250.0, 200.0)  # IoU 1/3, half a size away
    two = seen((A, 0.9, "a"), (beside, 0.8, "b"), landmarks=False)
    assert groups(two, match_iou=0.33) == [[0, 1]]
    assert groups(two, match_iou=0.34) == [[0], [1]]
    assert groups(two, match_iou=2, match_distance=0.5) == [[0, 1]]
    assert groups(two, match_iou=2, match_distance=0.49) == [[0], [1]]
    whole = (0.0, 0.0, 90.0, 90.0)
    for high, wanted in ((30.0, [[0, 1]]), (29.0, [[0], [1]])):  # a third of the area, and less
        strip = (0.0, 45 - high / 2, 90.0, 45 + high / 2)
        for rows in (((whole, 0.5, "a"), (strip, 0.25, "b")), ((whole, 0.25, "a"), (strip, 0.5, "b"))):
            assert groups(seen(*rows, landmarks=False), match_iou=2, match_distance=0.5) == wanted
    nothing = (150.0, 150.0, 150.0, 150.0)
    assert groups(seen((A, 0.9, "a"), (nothing, 0.8, "b"), landmarks=False), match_distance=9) == [[0], [1]]
    assert groups(seen((nothing, 0.9, "a"), (nothing, 0.8, "b"), landmarks=False), match_distance=9) == [[0, 1]]


def test_a_box_that_lies_within_anothers_is_of_that_hand_unless_it_is_a_crumb_of_it() -> None:
    for inner, wanted in (
        ((110.0, 110.0, 150.0, 150.0), [[0, 1]]),  # 0.16 of the box around it
        ((110.0, 110.0, 150.0, 145.0), [[0], [1]]),  # 0.14
        ((154.0, 110.0, 204.0, 160.0), [[0, 1]]),  # 0.92 of it lies within
        ((156.0, 110.0, 206.0, 160.0), [[0], [1]]),  # 0.88
    ):
        for rows in (((A, 0.9, "a"), (inner, 0.8, "b")), ((inner, 0.9, "a"), (A, 0.8, "b"))):
            assert groups(seen(*rows, landmarks=False), nested_share=0.9) == wanted
            assert groups(seen(*rows, landmarks=False)) == [[0], [1]], "unless boxes within others count"


def test_an_exact_overlap_is_one_and_the_size_between_two_is_their_mean() -> None:
    half = (100.0, 100.0, 200.0, 150.0)
    assert groups(seen((A, 0.9, "a"), (half, 0.8, "b"), landmarks=False), match_iou=0.5) == [[0, 1]]
    large, small = (0.0, 0.0, 120.0, 120.0), (90.0, 20.0, 170.0, 100.0)  # sizes 120 and 80, middles 70 apart
    for match_distance, wanted in ((0.71, [[0, 1]]), (0.69, [[0], [1]])):
        assert groups(seen((large, 0.9, "a"), (small, 0.8, "b"), landmarks=False), match_iou=2, match_distance=match_distance) == wanted


def test_a_hand_of_the_other_side_joins_where_no_other_does_and_yields_where_one_overlaps_half_less() -> None:
    left = detection(A, 0.9, source="a", p_right=0.1, landmarks=False)
    for shift, wanted in ((24.0, [[0, 1], [2]]), (40.0, [[0, 2], [1]])):  # overlaps of 0.61 and 0.43 against 1 less a half
        right = detection(A, 0.5, source="b", p_right=0.9, landmarks=False)
        beside = detection((100 + shift, 100, 200 + shift, 200), 0.6, source="b", p_right=0.1, landmarks=False)
        found = HandDetections.concat([left, beside, right])
        assert groups(found, match_iou=0.1) == wanted
    assert groups(HandDetections.concat([left, right]), match_iou=0.1) == [[0, 1]]


def test_the_source_of_the_surest_hand_opens_the_groups() -> None:
    """The first source's two hands stay two; the other's one joins the nearer."""
    found = seen((A, 0.5, "b"), ((140, 100, 240, 200), 0.9, "b"), ((130, 100, 230, 200), 0.7, "a"), landmarks=False)
    assert groups(found) == [[0], [1, 2]]
    assert [rows.tolist() for rows in associate(found, match_iou=0.3, match_distance=0)][1] == [1, 2], "surest source first"


def test_a_stranger_to_the_mean_is_left_out_and_somebody_always_stays() -> None:
    box = np.array([[0.0, 0, 100, 100], [0, 0, 100, 100], [60, 0, 160, 100]])
    fused, stays = fuse_box(box, np.array([0.9, 0.9, 0.3]), stranger_iou=0.5)
    assert (fused.tolist(), stays.tolist()) == ([0, 0, 100, 100], [True, True, False])
    fused, stays = fuse_box(box[[0, 2]], np.array([0.5, 0.4]), stranger_iou=0.9)
    assert (fused.tolist(), stays.tolist()) == ([0, 0, 100, 100], [True, False])
    half = np.array([[0.0, 0, 100, 100], [0, 0, 100, 50]])  # the mean of one sure and one that is not: the first
    assert fuse_box(half, np.array([1.0, 0.0]), stranger_iou=0.5)[1].tolist() == [True, True]


def keypoints(*x: float, sure: float = 1.0) -> np.ndarray:
    """Sources that see all joints at some x."""
    found = np.zeros((len(x), 21, 3))
    found[..., 0], found[..., 2] = np.array(x)[:, None], sure
    return found


def test_joints_agree_within_a_tenth_of_the_box() -> None:
    fused, who = fuse_keypoints(keypoints(0, 12.5), np.array([0.75, 0.25]), 125.0)
    assert (fused[0].tolist(), who[0]) == ([12.5 / 4, 0, 1], 0b11)
    fused, who = fuse_keypoints(keypoints(0, 12.75), np.array([0.75, 0.25]), 125.0)
    assert (fused[0].tolist(), who[0]) == ([0, 0, 0.5], 0b01)


def test_those_who_agree_weigh_what_they_weigh_together() -> None:
    fused, who = fuse_keypoints(keypoints(0, 50, 50, 50), np.array([0.8, 0.1, 0.5, 0.1]), 100.0)
    assert (fused[0, 0], who[0]) == (0, 0b0001)
    fused, who = fuse_keypoints(keypoints(0, 50, 50, 50), np.array([0.6, 0.1, 0.5, 0.1]), 100.0)
    assert (fused[0, 0], who[0]) == (50, 0b1110)


def test_a_joint_is_disputed_by_more_than_a_tenth_of_its_weight() -> None:
    for other, sure in ((0.09, 1.0), (0.11, 0.5)):
        fused, who = fuse_keypoints(keypoints(0, 50), np.array([1.0, other]), 100.0)
        assert (fused[3, 2], who[3]) == (sure, 0b01)


def test_a_joint_of_no_confidence_still_has_a_place() -> None:
    fused, who = fuse_keypoints(keypoints(0, 50, sure=0), np.array([0.2, 0.9]), 100.0)
    assert fused[0].tolist()[:2] == [0, 0]
    assert fused[0, 2] == 0
    assert who[0] == 0b01
    found = keypoints(0, 4, 8)
    found[0, :, 2], found[1, :, 2] = 0.5, 0.25
    fused, who = fuse_keypoints(found, np.array([0.8, 0.8, 0.0]), 100.0)
    assert fused[0, 0] == pytest.approx(4 / 3, abs=1e-4)
    assert (fused[0, 2], who[0]) == (1.0, 0b111), "as sure as its surest source"


def test_a_joint_that_nobody_has_is_unknown() -> None:
    found = keypoints(0, 4)
    found[:, 3], found[0, 5] = np.nan, np.nan
    fused, who = fuse_keypoints(found, np.array([0.8, 0.8]), 100.0)
    assert np.isnan(fused[3]).all()
    assert (who[3], who[5], fused[5].tolist()) == (0, 0b10, [4, 0, 1])


def test_who_follows_arms_looked_within_a_persons_box_and_an_eighth_of_it_beyond() -> None:
    person, arms = np.array([[100.0, 100, 200, 300]]), np.array([True, False])
    middle = np.array([[87.5, 75], [87, 76], [88, 74], [212.5, 325], [213, 324], [212, 326], [150, 200]], np.float64)
    box = np.concatenate([middle - 10, middle + 10], 1)
    nobody = np.zeros((7, 2), bool)
    assert looked(box, nobody, arms, person)[:, 0].tolist() == [True, False, False, True, False, False, True]
    assert looked(box, nobody, arms, person)[:, 1].all()
    assert not looked(box, nobody, arms, np.zeros((0, 4)))[:, 0].any()
    saw = nobody | np.array([True, False])
    assert looked(box, saw, arms, np.zeros((0, 4))).all()
    by_eye = np.array([True, True])
    assert looked(box, saw, arms & False, person, by_eye).tolist() == [[True, False]] * 7
    assert looked(box, saw, arms & False, person, np.array([False, True])).all()


def gone(
    *rows: tuple[Any, float, int, bool],
    votes: tuple[float, ...] = (),
    wrists: tuple[tuple[float, float], ...] = (),
    share: float = 0.6,
    nested_share: float = 0.9,
) -> list[bool]:
    box, score, side, claimed = (list(column) for column in zip(*rows, strict=True))
    own = np.array(votes or [0.0] * len(rows)), np.array(wrists or [(150, 150)] * len(rows), np.float64)
    told = np.array(box, np.float64), np.array(score), np.array(side), np.array(claimed)
    return covered(*told, *own, share=share, nested_share=nested_share).tolist()


def test_a_hand_that_shares_its_box_with_a_surer_one_of_its_side_is_covered() -> None:
    beside = (140.0, 100.0, 240.0, 200.0)  # shares just 0.6
    assert gone((A, 0.9, LEFT, False), (beside, 0.8, LEFT, False)) == [False, False]
    assert gone((A, 0.9, LEFT, False), (beside, 0.8, LEFT, False), share=0.59) == [False, True]
    assert gone((A, 0.8, LEFT, False), (beside, 0.9, LEFT, False), share=0.59) == [True, False]
    assert gone((A, 0.9, LEFT, False), (beside, 0.8, RIGHT, False), share=0.59) == [False, False]
    assert gone((A, 0.9, LEFT, True), (beside, 0.8, RIGHT, False), share=0.59) == [False, True], "a wrist claims the other"
    assert gone((A, 0.9, LEFT, False), (beside, 0.8, RIGHT, True), share=0.59) == [False, False]
    assert gone((A, 0.9, LEFT, True), (beside, 0.8, RIGHT, True), share=0.59) == [False, False]


def test_two_hands_one_on_the_other_whose_own_wrists_lie_apart_are_two() -> None:
    beside, larger = (140.0, 100.0, 240.0, 200.0), (140.0, 100.0, 300.0, 200.0)  # sides of 100 and 160
    two = (A, 0.9, LEFT, False), (beside, 0.8, LEFT, False)
    assert gone(*two, share=0.5, wrists=((100, 150), (160, 150))) == [False, True], "just six tenths are not farther"
    assert gone(*two, share=0.5, wrists=((100, 150), (161, 150))) == [False, False]
    assert gone(*two, share=0.5, wrists=((150, 100), (150, 161))) == [False, False]
    assert gone(two[0], (larger, 0.8, LEFT, False), share=0.5, wrists=((100, 150), (196, 150))) == [False, True], "of the larger box"
    assert gone(two[0], (larger, 0.8, LEFT, False), share=0.5, wrists=((100, 150), (197, 150))) == [False, False]


def test_two_hands_one_on_the_other_that_both_vote_surely_for_one_side_are_one() -> None:
    beside = (140.0, 100.0, 240.0, 200.0)  # shares just 0.6
    two = (A, 0.9, LEFT, True), (beside, 0.8, RIGHT, True)  # sides are shared out: nobody has two of one
    assert gone(*two, votes=(3.1, 3.1), share=0.59) == [False, True]
    assert gone(*two, votes=(-3.1, -3.1), share=0.59) == [False, True]
    assert gone(*two, votes=(3.1, 3.1), share=0.6) == [False, False], "two hands side by side"
    assert gone(*two, votes=(3.1, -3.1), share=0.59) == [False, False], "they hold each other"
    assert gone(*two, votes=(3.1, 2.9), share=0.59) == [False, False], "one is not sure"


def test_a_box_within_another_is_a_part_of_it_unless_two_wrists_claim_two_hands_of_a_size() -> None:
    part, most = (110.0, 110.0, 180.0, 180.0), (105.0, 105.0, 185.0, 185.0)  # 0.49 and 0.64 of the area
    assert gone((A, 0.9, LEFT, False), (most, 0.8, RIGHT, False)) == [False, True]
    assert gone((A, 0.9, LEFT, False), (most, 0.8, RIGHT, True)) == [False, True]
    assert gone((A, 0.9, LEFT, True), (most, 0.8, RIGHT, True)) == [False, False]
    assert gone((A, 0.9, LEFT, True), (part, 0.8, RIGHT, True)) == [False, True]
    just = (100.0, 100.0, 200.0, 160.0)
    assert gone((A, 0.9, LEFT, True), (just, 0.8, RIGHT, True)) == [False, False], "six tenths are not less"
    edge = (190.0, 100.0, 290.0, 200.0)
    assert gone((A, 0.9, LEFT, False), (edge, 0.8, RIGHT, False)) == [False, False]
    nine_tenths = (110.0, 100.0, 210.0, 200.0)
    assert gone((A, 0.9, LEFT, False), (nine_tenths, 0.8, RIGHT, False)) == [False, False], "just the share is not more"


def test_what_is_covered_covers_nothing_and_of_equally_sure_ones_the_larger_stays() -> None:
    one, two, three = A, (130.0, 100.0, 230.0, 200.0), (160.0, 100.0, 260.0, 200.0)
    rows = [(box, score, LEFT, False) for box, score in ((one, 0.9), (two, 0.8), (three, 0.7))]
    assert gone(*rows, share=0.6) == [False, True, False]
    part = (110.0, 110.0, 180.0, 180.0)
    assert gone((part, 0.9, LEFT, False), (A, 0.9, LEFT, False)) == [True, False]
    flat = (120.0, 120.0, 120.0, 150.0)
    assert gone((A, 0.9, LEFT, False), (flat, 0.8, LEFT, False)) == [False, False], "a box of no size shares nothing"


def test_a_hand_that_was_found_once_is_itself() -> None:
    one = replace(detection(A, 0.9), p_right=np.array([np.nan], np.float32))
    assert groups(one) == [[0]]
    assert kept(one) == [0.9]
