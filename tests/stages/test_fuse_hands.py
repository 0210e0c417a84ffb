"""Fusion keeps the promises of equation 1 and of the rules around it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.fuse_hands import FuseHands
from stages.fuse_people import fuse_people
from stages.fusion.association import associate, fuse_box, fuse_keypoints, weighted_box
from stages.tables import LEFT, RIGHT, Clips, HandDetections, Hands, People, PersonDetections, RefusedHands, Videos
from tests.stages.fused_hands import body, detection, fuse, quick, shape_of

boxes_in_frame = st.tuples(st.floats(50, 400), st.floats(50, 300), st.floats(30, 150), st.floats(30, 150)).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]], np.float32)
)
shares = st.floats(0.1, 1.0)


def views(box: np.ndarray, shifts: list[float], scores: list[float]) -> list[HandDetections]:
    side = float((box[2:] - box[:2]).min())
    return [detection(box + s * side, p, source=chr(97 + i)) for i, (s, p) in enumerate(zip(shifts, scores, strict=True))]


three_shifts = st.lists(st.floats(-0.1, 0.1), min_size=3, max_size=3)
three_scores = st.lists(shares, min_size=3, max_size=3)


def test_equation_1_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10]], np.float64)
    # (0.75 * 0 + 0.25 * 4) / 1 = 1 and (0.75 * 10 + 0.25 * 14) / 1 = 11
    assert weighted_box(boxes, np.array([0.75, 0.25])).tolist() == [1, 0, 11, 10]
    hands = fuse(detection([100, 100, 200, 200], 0.9, source="a"), detection([140, 100, 240, 200], 0.3, source="b"))
    assert np.allclose(hands.box, [[110, 100, 210, 200]], rtol=1e-6)  # (0.9 * 100 + 0.3 * 140) / 1.2 = 110
    assert hands.score[0] == pytest.approx(0.6)
    assert (hands.num_agree[0], hands.num_run[0]) == (2, 2)
    assert hands.sources[0] == ["a", "b"]
    assert hands.source_boxes[0][1] == [140, 100, 240, 200]


def test_a_detector_that_ran_and_found_nothing_counts_against_a_hand_and_one_that_did_not_run_does_not() -> None:
    found = (detection([100, 100, 200, 200], 0.9, source="a"), detection([100, 100, 200, 200], 0.6, source="b"))
    assert fuse(*found).score[0] == pytest.approx(0.75)
    assert fuse(*found, detectors=("a", "b", "c")).score[0] == pytest.approx(0.5)


@quick
@given(boxes_in_frame, shares)
def test_one_source_alone_keeps_its_box_landmarks_and_side(box: np.ndarray, score: float) -> None:
    one = detection(box, score, p_right=0.2)
    hands = fuse(one)
    assert np.array_equal(hands.box, one.box)
    assert np.array_equal(hands.keypoints, one.keypoints)
    assert np.array_equal(hands.world, one.world)
    assert hands.side.tolist() == [LEFT]
    assert hands.score[0] == pytest.approx(score)


@quick
@given(boxes_in_frame, three_shifts, three_scores, st.permutations(range(3)))
def test_the_order_of_sources_does_not_matter(box: np.ndarray, shifts: list[float], scores: list[float], order: list[int]) -> None:
    seen = views(box, shifts, scores)
    straight, shuffled = (fuse(*v, detectors=("a", "b", "c")) for v in (seen, [seen[i] for i in order]))
    assert np.allclose(straight.box, shuffled.box, rtol=1e-5)
    assert np.allclose(straight.score, shuffled.score)
    assert np.allclose(straight.keypoints, shuffled.keypoints, atol=1e-2)


@quick
@given(boxes_in_frame, three_shifts, three_scores, st.floats(0.5, 3), st.tuples(st.integers(-40, 40), st.integers(-40, 40)))
def test_boxes_follow_a_larger_picture_and_a_shifted_crop(
    box: np.ndarray, shifts: list[float], scores: list[float], scale: float, offset: float
) -> None:
    before = fuse(*views(box, shifts, scores))
    after = fuse(*views(box * np.float32(scale), shifts, scores))
    assert np.allclose(after.box, before.box * scale, rtol=1e-3)
    moved = fuse(*views(box + np.tile(np.array(offset, np.float32), 2), shifts, scores))
    assert np.allclose(moved.box, before.box + np.tile(offset, 2), atol=0.05)


@quick
@given(boxes_in_frame, three_shifts, three_scores, st.floats(0.01, 1))
def test_a_surer_source_draws_the_box_to_itself(box: np.ndarray, shifts: list[float], scores: list[float], more: float) -> None:
    boxes = np.concatenate([v.box for v in views(box, shifts, scores)]).astype(np.float64)
    before, _ = fuse_box(boxes, np.array(scores), stranger_iou=0.0)
    after, _ = fuse_box(boxes, np.array([scores[0] + more, *scores[1:]]), stranger_iou=0.0)
    assert np.all(np.abs(after - boxes[0]) <= np.abs(before - boxes[0]) + 1e-9)


def test_a_member_far_from_the_fused_box_is_dropped_and_the_box_computed_again() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [9, 9, 19, 19]], np.float64)
    fused, stays = fuse_box(boxes, np.array([0.9, 0.9, 0.3]), stranger_iou=0.3)
    assert fused.tolist() == [0, 0, 10, 10]
    assert stays.tolist() == [True, True, False]


def test_sources_that_differ_on_the_side_still_mean_one_hand() -> None:
    hands = fuse(
        detection([100, 100, 200, 200], 0.9, source="a", p_right=0.95), detection([105, 100, 205, 200], 0.8, source="b", p_right=0.3)
    )
    assert len(hands) == 1
    assert hands.side.tolist() == [RIGHT]


def test_crossing_hands_stay_two_within_and_across_sources() -> None:
    left, right = [100, 100, 200, 200], [125, 110, 225, 210]  # IoU 0.51
    seen = [detection(b, p, source=s, p_right=r) for s, p in (("a", 0.9), ("b", 0.7)) for b, r in ((left, 0.05), (right, 0.95))]
    hands = fuse(*seen)
    assert sorted(hands.side.tolist()) == [LEFT, RIGHT]
    assert hands.num_agree.tolist() == [2, 2]
    assert np.allclose(hands.box[np.argsort(hands.side)], [left, right], atol=1e-3)


def test_close_hands_are_paired_for_the_least_total_cost_not_greedily() -> None:
    a = [detection([100, 100, 200, 200], 0.9, source="a", p_right=0.5), detection([150, 100, 250, 200], 0.5, source="a", p_right=0.5)]
    b = [detection([130, 100, 230, 200], 0.9, source="b", p_right=0.5), detection([180, 100, 280, 200], 0.5, source="b", p_right=0.5)]
    clusters = associate(HandDetections.concat(a + b), match_iou=0.3, match_distance=0.35)
    assert sorted(sorted(c.tolist()) for c in clusters) == [[0, 2], [1, 3]]


def test_one_hand_seen_from_two_crops_is_one_hand_and_the_cut_view_goes() -> None:
    whole = detection([100, 100, 200, 200], 0.7, crop=(0, 0, 640, 480))
    cut = detection([104, 100, 201, 200], 0.9, crop=(50, 50, 201, 300))
    assert fuse(cut, whole).box.tolist() == whole.box.tolist()


def test_nobody_has_two_right_hands_and_the_weaker_vote_yields() -> None:
    people = body(left=(300, 200), right=(200, 200))
    sure, unsure = detection([150, 100, 250, 200], 0.9, p_right=0.95), detection([250, 100, 350, 200], 0.9, p_right=0.6)
    hands = fuse(sure, unsure, people=people)
    assert dict(zip(hands.box[:, 0].tolist(), hands.side.tolist(), strict=True)) == {150: RIGHT, 250: LEFT}
    assert hands.person.tolist() == [0, 0]


def test_a_third_hand_of_two_people_goes_to_the_other_person() -> None:
    people = PersonDetections.concat(
        [body((340, 200), (160, 200), person=0, box=(150, 0, 400, 400)), body((420, 200), (300, 200), person=1, box=(300, 0, 500, 400))]
    )
    found = [detection([x - 40, 100, x + 40, 200], 0.9, p_right=p) for x, p in ((200, 0.9), (300, 0.1), (345, 0.9))]
    hands = fuse(*found, people=people)
    order = np.argsort(hands.box[:, 0])
    assert hands.person[order].tolist() == [0, 0, 1]
    assert hands.side[order].tolist() == [RIGHT, LEFT, RIGHT]


def test_the_bodys_wrist_decides_the_side_where_the_detector_is_unsure_and_raises_the_score() -> None:
    people = body(left=(150, 200), right=(500, 400))
    plain, helped = (fuse(detection([100, 100, 200, 200], 0.6, p_right=0.6), people=p) for p in (None, people))
    assert plain.side.tolist() == [RIGHT]
    assert helped.side.tolist() == [LEFT]
    assert helped.score[0] > plain.score[0]


def test_a_wrist_speaks_for_one_hand_only() -> None:
    people = body(left=(150, 210), right=(600, 400))
    seen = detection([100, 100, 200, 200], 0.6, p_right=0.1), detection([100, 220, 200, 320], 0.3, p_right=0.1)
    hands = fuse(*seen, people=people, min_score=0.0)
    assert hands.score[0] > 0.6
    assert hands.score[1] < 0.3


def test_a_surer_hand_seen_again_in_another_size_goes_but_a_hand_held_by_the_other_stays() -> None:
    hand, part = [100, 100, 200, 200], [105, 110, 188, 193]
    assert fuse(detection(hand, 0.9), detection(part, 0.6)).box.tolist() == [hand]
    people = body(left=(130, 160), right=(150, 200))
    held = fuse(detection(hand, 0.9, p_right=0.95), detection(part, 0.6, p_right=0.05), people=people)
    assert sorted(held.side.tolist()) == [LEFT, RIGHT]


def test_fingers_taken_for_a_hand_of_the_other_side_go_whoever_claims_them() -> None:
    hand, fingers = [100, 100, 200, 200], [120, 110, 160, 150]
    found = detection(hand, 0.9, p_right=0.95), detection(fingers, 0.8, p_right=0.05)
    assert fuse(*found).box.tolist() == [hand]
    assert fuse(*found, people=body(left=(130, 150), right=(150, 200))).box.tolist() == [hand]


def test_half_of_a_hand_found_again_within_it_goes_though_both_wrists_claim_one() -> None:
    hand, half = [244, 203, 375, 440], [246, 265, 351, 409]
    found = detection(hand, 0.95, p_right=0.95), detection(half, 0.9, p_right=0.05)
    assert fuse(*found, people=body(left=(300, 400), right=(310, 435))).box.tolist() == [hand]


def test_fingers_that_one_source_saw_within_the_hand_of_another_are_that_hand_and_half_way_its_box() -> None:
    """Seen at a cup and a bottle: one network boxed the fingers, the other the hand with what it held; the surer box stood alone."""
    whole, fingers = [100, 100, 200, 200], [110, 110, 160, 160]
    hands = fuse(detection(whole, 0.8), detection(fingers, 0.8, source="b", p_right=0.2))
    assert hands.num_agree.tolist() == [2]
    assert hands.box[0].tolist() == pytest.approx([105, 105, 180, 180])


def test_a_hand_without_a_body_in_view_is_kept() -> None:
    hands = fuse(detection([100, 100, 200, 200], 0.6))
    assert hands.person.tolist() == [-1]


def test_a_person_seen_by_two_detectors_has_two_wrists_not_four() -> None:
    people = PersonDetections.concat([body((300, 200), (200, 200), person=0), body((301, 200), (201, 200), person=1, score=0.8)])
    found = [detection([x - 40, 100, x + 40, 200], 0.9, p_right=0.95) for x in (200, 300)]
    assert sorted(fuse(*found, people=people).side.tolist()) == [LEFT, RIGHT]


def test_a_track_follows_a_hand_over_a_gap_and_ends_after_a_longer_one() -> None:
    def at(frame: int) -> Any:
        return detection([100 + 20 * frame, 100, 180 + 20 * frame, 180], 0.9, frame=frame)

    hands = fuse(*[at(f) for f in (0, 1, 2, 4, 5)])
    assert hands.track.tolist() == [0] * 5
    assert hands.track_length.tolist() == [5] * 5
    assert fuse(at(0), at(1), at(6)).track.tolist() == [0, 0, 1]


def test_one_frame_never_flips_the_side_of_its_track() -> None:
    votes = (0.9, 0.95, 0.2, 0.9)
    hands = fuse(*[detection([100, 100, 180, 180], 0.9, p_right=p, frame=f) for f, p in enumerate(votes)])
    assert hands.side.tolist() == [RIGHT] * 4
    assert np.ptp(hands.side_log_odds) == 0


def test_hands_that_cross_keep_their_tracks() -> None:
    found = []
    for f in range(7):
        found.append(detection([100 + 30 * f, 100, 170 + 30 * f, 170], 0.9, frame=f, p_right=0.9))
        found.append(detection([280 - 30 * f, 110, 350 - 30 * f, 180], 0.8, frame=f, p_right=0.1))
    hands = fuse(*found)
    for side in (LEFT, RIGHT):
        assert len(set(hands.track[hands.side == side])) == 1
    assert len(hands) == 14


def test_nothing_found_gives_an_empty_table_of_the_schema() -> None:
    one_video = Videos(**{n: np.array(["" if c.dtype == object else 9], c.dtype) for n, c in vars(Videos.empty()).items()})
    hands, refused = FuseHands().build()(one_video, Clips.empty(), People.empty(), HandDetections.empty())
    assert len(hands) == len(refused) == 0
    assert hands.to_arrow().schema == Hands.schema()
    assert refused.to_arrow().schema == RefusedHands.schema()


def test_the_table_survives_arrow() -> None:
    hands = fuse(detection([100, 100, 200, 200], 0.9), detection([300, 100, 400, 200], 0.8, frame=1))
    again = Hands.from_arrow(hands.to_arrow())
    assert np.array_equal(again.box, hands.box)
    assert list(again.sources) == list(hands.sources)


def test_landmarks_are_averaged_where_sources_agree_and_halved_in_confidence_where_not() -> None:
    a = shape_of(np.array([0, 0, 100, 100]), True)
    b = a + np.array([4, 0, 0])
    b[20, 0] += 50
    fused, who = fuse_keypoints(np.stack([a, b]), np.array([0.75, 0.25]), 100.0)
    assert who.tolist() == [0b11] * 20 + [0b01]
    assert np.allclose(fused[:20, 0], a[:20, 0] + 1)  # (0.75 * 0 + 0.25 * 4) / 1
    assert np.allclose(fused[20], [*a[20, :2], 0.5])


def test_hands_of_a_detector_that_did_not_run_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'b'"):
        fuse(detection([100, 100, 200, 200], 0.9, source="b"), detectors=("a",))


@pytest.mark.parametrize(
    "change", [{"match_iou": 2.0}, {"detectors": ()}, {"detectors": ("a", "a")}, {"max_gap_s": 0.0}, {"min_score": float("nan")}]
)
def test_a_bad_setting_is_refused_by_name(change: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(FuseHands(), **change)


def test_hands_name_people_by_their_number_a_doubtful_one_between_them_too() -> None:
    people = PersonDetections.concat(
        [
            body((100, 200), (150, 200), person=7, box=(50, 0, 200, 400), score=0.95),
            body((500, 200), (450, 200), person=3, box=(400, 0, 600, 400), score=0.7),
            body((501, 200), (451, 200), person=4, box=(402, 0, 600, 400), score=0.9),
            body((300, 200), (350, 200), person=5, box=(250, 0, 380, 400), score=0.6),
        ]
    )
    found = [detection([x - 30, 120, x + 30, 200], 0.9, p_right=0.05) for x in (100, 300, 500)]
    hands = fuse(*found, people=people)
    numbers = fuse_people(people)
    order = np.argsort(hands.box[:, 0])
    assert hands.person[order].tolist() == [0, -1, 1]  # the one of 0.6 is too doubtful to own a hand
    assert numbers.person.tolist() == [0, 1, 2]
    assert numbers.box[hands.person[order][[0, 2]], 0].round().tolist() == [50, 401]
