"""Hands: found, once each, on the right side, by every route; none where none are."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stages import boxes
from stages.detect_hands_mediapipe import DetectHands
from stages.detect_people_blazepose import DetectPeople
from stages.detectors.mediapipe.hand_search import frame_views
from stages.fuse_hands import FuseHands
from stages.fuse_people import fuse_people
from stages.fusion.calibration import calibrated, load_calibrations
from stages.media.frames import images_of
from stages.tables import HandDetections, People, PersonDetections
from tests.labelled_pictures import frames_of, labelled
from tests.small_tables import columns


def detect(*images: np.ndarray, people: People | None = None, settings: DetectHands | None = None) -> HandDetections:
    frames = frames_of(*images)
    people = fuse_people(DetectPeople().build()(frames)) if people is None else people
    return (settings or DetectHands()).build()(frames, people)


def nearest(hands: HandDetections, box: list[float]) -> HandDetections:
    overlap = boxes.iou(np.array([box]), hands.box)[0]
    assert overlap.max() > 0.3
    return hands.take(slice(int(overlap.argmax()), int(overlap.argmax()) + 1))


def test_both_hands_of_a_signer_are_found_once_with_their_sides(media: Path) -> None:
    for name in ("A000", "A012"):
        image, row = labelled(media, name)
        hands = detect(image, people=People.empty())
        strong = hands.take(hands.score > 0.4)
        assert len(strong) == 2
        for hand in row["hands"]:
            assert (nearest(strong, hand["box"]).p_right[0] > 0.5) == (hand["side"] == "right")


def test_a_hand_cut_by_the_border_is_found_where_the_forearm_ends(media: Path) -> None:
    """No palm is seen there in any view, and the region that a forearm promises is too wide for it."""
    image = next(islice((image for _, image in images_of(media / "videos/intel/asl_student.mkv")), 48, None))
    assert nearest(detect(image), [146.0, 446.0, 192.0, 480.0]).route[0] == "wrist"


def test_a_right_hand_is_right_and_its_mirror_image_left(media: Path) -> None:
    image, row = labelled(media, "A062")
    assert row["hands"][0]["side"] == "right"
    assert detect(image, people=People.empty()).p_right[0] > 0.9
    assert detect(np.ascontiguousarray(image[:, ::-1]), people=People.empty()).p_right[0] < 0.1


def test_mirrored_pictures_give_mirrored_world_landmarks(media: Path) -> None:
    image, _ = labelled(media, "A062")
    hand, mirrored = (detect(i, people=People.empty()) for i in (image, np.ascontiguousarray(image[:, ::-1])))
    assert np.linalg.norm(hand.world[0] * [-1, 1, 1] - mirrored.world[0], axis=1).mean() < 0.015
    up_in_picture = hand.keypoints[0, 12, :2] - hand.keypoints[0, 0, :2]
    up_in_world = hand.world[0, 12, :2] - hand.world[0, 0, :2]
    cosine = up_in_picture @ up_in_world / np.linalg.norm(up_in_picture) / np.linalg.norm(up_in_world)
    assert cosine > 0.95


def test_people_lead_to_small_hands_that_the_frame_alone_hides(media: Path) -> None:
    image, row = labelled(media, "A034")
    coarse = DetectHands(tile_zooms=(1.0,))
    alone = detect(image, people=People.empty(), settings=coarse)
    led = detect(image, settings=coarse)
    assert len(alone.take(alone.score > 0.4)) < len(row["hands"])
    for hand in row["hands"]:
        found = nearest(led, hand["box"])
        assert found.route[0] in ("wrist", "person")
        assert found.person[0] == 0


def test_a_hand_on_the_seam_of_two_tiles_is_one_hand(media: Path) -> None:
    image, _ = labelled(media, "A027")
    hands = detect(image, people=People.empty())
    assert len(hands.take(hands.score > 0.4)) == 1


def test_a_hand_that_one_frame_hides_is_tracked_into_it(media: Path) -> None:
    image, row = labelled(media, "A023")
    weak = cv2.GaussianBlur(image, (0, 0), 12)
    settings = DetectHands(min_palm_score=0.92)
    without = detect(weak, people=People.empty(), settings=settings)
    hands = detect(image, weak, people=People.empty(), settings=settings)
    assert len(without) == 0
    assert hands.frame.tolist() == [0, 1]
    assert hands.route.tolist()[1] == "track"
    assert hands.palm_score[1] == pytest.approx(0.9 * hands.palm_score[0])
    nearest(hands.take(hands.frame == 1), row["hands"][0]["box"])


def test_box_is_the_hull_scaled_and_score_is_palm_times_presence(media: Path) -> None:
    image, _ = labelled(media, "A000")
    settings = DetectHands()
    hands = detect(image, people=People.empty(), settings=settings)
    low, high = hands.keypoints[:, :, :2].min(axis=1), hands.keypoints[:, :, :2].max(axis=1)
    np.testing.assert_allclose(
        hands.box[:, 2:] - hands.box[:, :2], (high - low) * [settings.extent_width, settings.extent_height], rtol=1e-4
    )
    np.testing.assert_allclose((hands.box[:, 2:] + hands.box[:, :2]) / 2, (high + low) / 2, rtol=1e-4)
    np.testing.assert_allclose(hands.score, hands.palm_score * hands.presence, rtol=1e-5)
    np.testing.assert_allclose(hands.keypoints[:, :, 2], np.tile(hands.presence[:, None], 21))


def test_cars_black_and_tiny_pictures_hold_no_hand(media: Path) -> None:
    cars, _ = labelled(media, "A022")
    doubtful = calibrated(detect(cars), load_calibrations())
    assert (doubtful.score < FuseHands().min_score).all()
    for image in (np.zeros((90, 160, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)):
        assert len(detect(image)) == 0


def test_a_hand_is_found_in_an_image_wider_than_opencv_can_read_from(media: Path) -> None:
    image, row = labelled(media, "A062")
    height, width = image.shape[:2]
    wide = np.zeros((height, 33_000, 3), np.uint8)
    wide[:, 32_000 - width : 32_000] = image
    settings = DetectHands(max_tiles=200)
    found = detect(wide, people=People.empty(), settings=settings)
    nearest(found, (np.array(row["hands"][0]["box"]) + [32_000 - width, 0] * 2).tolist())


def test_the_same_frames_give_the_same_bytes(media: Path) -> None:
    image, _ = labelled(media, "A000")
    assert detect(image).to_arrow().equals(detect(image).to_arrow())


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"detect_hands_mediapipe\.min_presence"):
        DetectHands(min_presence=0.0)
    with pytest.raises(ValueError, match=r"detect_hands_mediapipe\.extent_width"):
        DetectHands(extent_width=-1.0)


def test_a_person_of_two_detectors_is_searched_once(media: Path) -> None:
    image, _ = labelled(media, "A034")
    people = DetectPeople().build()(frames_of(image))
    nearby = replace(people, score=people.score - 0.01, box=people.box + 1, person=people.person + 5)
    once, again = (detect(image, people=fuse_people(found)) for found in (people, PersonDetections.concat([people, nearby])))
    assert len(once)
    assert again.person.tolist() == once.person.tolist()
    np.testing.assert_allclose(again.box, once.box, atol=3)


def test_people_without_an_area_without_limbs_and_outside_the_frame_change_nothing(media: Path) -> None:
    image, _ = labelled(media, "A000")
    box = [[50, 50, 50, 90], [60, 60, 30, 30], [-900, -900, -500, -400], [np.nan] * 4]
    odd: Any = columns(
        People, 4, box=np.array(box, np.float32), keypoints=np.full((4, 17, 3), np.nan, np.float32), score=np.full(4, 0.9, np.float32)
    )
    alone, beside = (detect(image, people=people) for people in (People.empty(), odd))
    np.testing.assert_array_equal(beside.box, alone.box)


def test_a_frame_is_tiled_at_two_zooms_and_a_strip_by_no_more_than_so_many() -> None:
    zooms, routes = DetectHands().tile_zooms, [("frame", 1), ("tile", 3 + 15)]
    assert [(route, sum(r == route for r, _, _ in frame_views(1920, 1080, zooms))) for route, _ in routes] == routes
    assert len(frame_views(640, 427, zooms, min_side=100)) == 1 + 2 + 12  # 213 pixels wide: hands of 40 fill the network's input
    assert len(frame_views(150, 100, zooms, min_side=100)) == 1 + 2
    strip = frame_views(20_000, 1_000, zooms, most=30)
    assert len(strip) <= 1 + 2 * 30
    assert max(view[2] for _, _, view in strip) >= 20_000
    assert len(frame_views(1_000, 40_000, zooms, most=30)) <= 1 + 2 * 30


def test_a_hand_that_fills_the_image_is_seen_from_further_away(media: Path) -> None:
    image, row = labelled(media, "A054")
    box = max((hand["box"] for hand in row["hands"]), key=lambda box: box[2] - box[0])
    near, far = (detect(image, people=People.empty(), settings=DetectHands(frame_shares=shares)) for shares in ((), (0.5,)))
    assert boxes.iou(np.array([box]), near.box).max(initial=0) < 0.3
    assert nearest(far, box).score[0] > 0.5


def test_a_hand_that_moves_is_looked_for_where_its_track_leads(media: Path) -> None:
    image, row = labelled(media, "A023")
    step = round(0.6 * float(boxes.long_side(np.array([row["hands"][0]["box"]]))[0]))
    settings = DetectHands(min_palm_score=0.92)
    moved = [cv2.copyMakeBorder(image, 0, 0, 2 * step - k * step, k * step, cv2.BORDER_REPLICATE) for k in range(3)]
    weak = cv2.GaussianBlur(moved[2], (0, 0), 8)
    assert len(detect(weak, people=People.empty(), settings=settings)) == 0
    hands = detect(moved[0], moved[1], weak, people=People.empty(), settings=settings)
    assert hands.frame.tolist() == [0, 1, 2]
    assert hands.route[2] == "track"
    centre = boxes.centre(hands.box)
    np.testing.assert_allclose(centre[2] - centre[1], [-step, 0], atol=0.15 * step)


def test_every_listed_hand_is_looked_at_again_unless_told_not_to(media: Path) -> None:
    image, row = labelled(media, "A000")
    hands = detect(image, people=People.empty())
    sure = nearest(hands, row["hands"][0]["box"])
    assert np.isfinite(hands.spread).all()
    assert 0 < sure.spread.mean() < 0.1
    without = detect(image, people=People.empty(), settings=DetectHands(second_looks=0))
    assert np.isnan(without.spread).all()
    np.testing.assert_array_equal(without.keypoints, hands.keypoints)
