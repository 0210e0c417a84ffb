"""People: found, once each, with their limbs on the right side; nobody where nobody is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import boxes
from stages.detect_people_blazepose import MOST_TILES, DetectPeople, people_of_image
from stages.detectors.mediapipe.blazepose import load_body_landmarks, load_person_detector
from stages.tables import BODY_KEYPOINTS
from tests.labelled_pictures import frames_of, labelled


def test_two_people_are_found_where_the_labels_have_them(media: Path) -> None:
    detect = DetectPeople().build()
    for name in ("A052", "A060"):
        image, row = labelled(media, name)
        people = detect(frames_of(image))
        for person in row["persons"]:
            box = np.array(person["box"] if isinstance(person, dict) else person, np.float64)
            assert boxes.iou(box[None], people.box).max() > 0.6
        assert people.person.tolist() == list(range(len(people)))


def test_a_person_seen_by_frame_and_tiles_is_one_person(media: Path) -> None:
    image, _ = labelled(media, "A047")
    assert len(DetectPeople().build()(frames_of(image))) == 1


def test_left_is_the_persons_own_left_and_mirrors(media: Path) -> None:
    image, _ = labelled(media, "A000")
    detect = DetectPeople().build()
    left, right = (BODY_KEYPOINTS.index(f"{side}_shoulder") for side in ("left", "right"))
    for turned in (image, np.ascontiguousarray(image[:, ::-1])):
        keypoints = detect(frames_of(turned)).keypoints[0]
        assert keypoints[left, 0] > keypoints[right, 0]  # they face the camera


def test_the_box_holds_the_hands(media: Path) -> None:
    image, row = labelled(media, "A033")
    box = DetectPeople().build()(frames_of(image)).box[0]
    for hand in row["hands"]:
        x, y = (hand["box"][0] + hand["box"][2]) / 2, (hand["box"][1] + hand["box"][3]) / 2
        assert box[0] < x < box[2]
        assert box[1] < y < box[3]


def test_cars_black_and_tiny_pictures_hold_nobody(media: Path) -> None:
    cars, _ = labelled(media, "A022")
    detect = DetectPeople().build()
    for image in (cars, np.zeros((90, 160, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)):
        assert len(detect(frames_of(image))) == 0


def test_a_strip_is_looked_at_a_few_times() -> None:
    """An image of 5,000 x 3 pixels is allowed by its size; a look at each square of it took minutes and 2 GB."""
    looks = []

    def find(images: Any, least: float) -> Any:
        looks.extend(images)
        return find_people(images[:1], least)

    find_people = load_person_detector("cpu")
    assert people_of_image(np.zeros((3, 5000, 3), np.uint8), find, load_body_landmarks("cpu"), DetectPeople()) == ([], [])
    assert 1 < len(looks) <= 1 + MOST_TILES


def test_rows_name_their_frame_and_repeat_exactly(media: Path) -> None:
    image, _ = labelled(media, "A000")
    frames = frames_of(np.zeros_like(image), image)
    first, second = DetectPeople().build()(frames), DetectPeople().build()(frames)
    assert first.frame.tolist() == [1]
    assert first.to_arrow().equals(second.to_arrow())
    assert first.score[0] > DetectPeople().min_score


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"detect_people_blazepose\.min_score"):
        DetectPeople(min_score=1.5)
    with pytest.raises(ValueError, match=r"detect_people_blazepose\.tile_zooms"):
        DetectPeople(tile_zooms=(0.5,))
