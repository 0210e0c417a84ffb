"""Labels in formats of others, field by field: what a line of YOLO's, a note of COCO's and a name say."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from hands.metrics.foreign_labels import (
    YoloClasses,
    coco_images,
    hand_classes,
    marked,
    side_of,
    stored_size,
    yolo_classes,
    yolo_hands,
    yolo_images,
)
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE


def test_a_line_of_yolo_is_a_hand(tmp_path: Path) -> None:
    file = tmp_path / "1.txt"
    two = " ".join(f"{k / 100} {k / 50}" for k in range(21))
    three = " ".join(f"{k / 100} {k / 50} {v}" for k, v in enumerate([2, 1, 0, 0.25] + [2] * 17))
    box = "0.5 0.25 0.2 0.1"
    file.write_text(f"1 {box}\n\n0 {box} {two}\n1.0 {box} {three}\n7 {box} 0.1 0.2\n")
    plain, pairs, triples, other = yolo_hands(file, (200, 100), YoloClasses({0: LEFT, 1: RIGHT}))
    for hand, side in zip((plain, pairs, triples, other), (RIGHT, LEFT, RIGHT, UNKNOWN_SIDE), strict=True):
        assert hand[0] == pytest.approx([80, 20, 120, 30])
        assert hand[1] == side
    assert np.isnan(plain[2]).all()
    assert np.isnan(other[2]).all(), "two numbers are no 21 keypoints"
    np.testing.assert_allclose(pairs[2], [(2 * k, 2 * k, 1) for k in range(21)])
    np.testing.assert_allclose(triples[2][:2], [(0, 0, 1), (2, 2, 1)])
    assert np.isnan(triples[2][2]).all(), "nobody marked it"
    np.testing.assert_allclose(triples[2][3:5], [(6, 6, 0.25), (8, 8, 1)])


def test_the_size_of_an_image_is_that_of_its_file(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.JPEG", "c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((30, 50, 3), np.uint8))
        assert stored_size(tmp_path / name) == (50, 30)
    (tmp_path / "f.jpg").write_bytes((tmp_path / "c.png").read_bytes())
    assert stored_size(tmp_path / "f.jpg") == (50, 30), "a PNG by another name is an image, and its labels are read"
    for name in ("d.jpg", "e.png"):
        (tmp_path / name).write_bytes(b"no image")
        assert stored_size(tmp_path / name) is None


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("left_hand", LEFT),
        ("Right-Hand", RIGHT),
        ("hand", UNKNOWN_SIDE),
        ("left or right", UNKNOWN_SIDE),
        ("cleft", UNKNOWN_SIDE),
        ("righty", RIGHT),
    ],
)
def test_the_side_of_a_name(name: str, side: int) -> None:
    assert side_of(name) == side


def test_keypoints_of_another_number_are_none() -> None:
    assert np.isnan(marked([1.0] * 60)).all()
    assert np.isnan(marked(None)).all()
    assert np.shape(marked([])) == (21, 3)


def test_the_classes_of_a_yolo_folder(tmp_path: Path) -> None:
    assert yolo_classes(tmp_path) == YoloClasses()
    (tmp_path / "dataset.yaml").write_text("names: [right_hand, face]")
    assert yolo_classes(tmp_path) == YoloClasses({0: RIGHT, 1: UNKNOWN_SIDE}, frozenset({0}), has_outlines=True)
    (tmp_path / "data.yaml").write_text("names: {3: left}\nkpt_shape: [21, 3]")
    assert yolo_classes(tmp_path) == YoloClasses({3: LEFT}), "data.yaml goes first"
    for broken, why in {
        "names: 3": "not iterable",
        "[]": "a list, and",
        "": "nothing, and",
        "nothing: 1": "no 'names'",
        "a: [": "line 1",
    }.items():
        (tmp_path / "data.yaml").write_text(broken)
        with pytest.raises(ValueError, match=rf"data\.yaml names no classes \((?!.*0x).*{why}"):
            yolo_classes(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [person, handbag]")
    with pytest.raises(ValueError, match=r"data\.yaml: person is no hand, and no class is called one"):
        yolo_classes(tmp_path)


@pytest.mark.parametrize(
    ("names", "hands"),
    [
        (["hand", "handbag", "person", "handle", "LeftHand", "handleft"], {0, 4, 5}),
        (["Human hand", "Handgun", "hands_up"], {0, 2}),
        (["fist", "like"], None),
        ([], None),
    ],
)
def test_which_classes_are_hands(names: list[str], hands: set[int] | None) -> None:
    assert hand_classes(dict(enumerate(names))) == hands


def test_what_is_no_hand_is_left_out_and_an_outline_is_a_box(tmp_path: Path) -> None:
    """Every class of YOLO's was a hand, a person too, and an outline's first two corners were taken for a box."""
    (tmp_path / "data.yaml").write_text("names: [person, left_hand]")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 100, 3), np.uint8))
    (tmp_path / "labels").mkdir()
    outline = " ".join(["0.2 0.4 0.3 0.2 0.4 0.6"] + ["0.3 0.5"] * 20)
    (tmp_path / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.9 0.9\n1 {outline}\n1 0.5 0.5 0.2 0.2\n")
    (found,) = yolo_images(tmp_path)
    np.testing.assert_allclose(found.box, [[20, 10, 40, 30], [40, 20, 60, 30]])
    assert found.side.tolist() == [LEFT, LEFT]
    assert np.isnan(found.keypoints).all()


def test_people_of_coco_are_no_hands(tmp_path: Path) -> None:
    path, image = tmp_path / "coco.json", {"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}
    told = {"images": [image], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}]}
    path.write_text(json.dumps(told | {"categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "handbag"}]}))
    with pytest.raises(ValueError, match=r"coco\.json .*person is no hand, and no class is called one"):
        coco_images(path)


def test_a_yolo_folder_gives_the_images_that_have_labels(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no labels/"):
        list(yolo_images(tmp_path))
    for name in ("b", "a", "unlabelled"):
        (tmp_path / "images" / "train").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / "train" / f"{name}.png"), np.zeros((30, 50, 3), np.uint8))
    (tmp_path / "labels" / "train").mkdir(parents=True)
    for name, text in (("a", ""), ("b", "0 0.5 0.5 0.2 0.2\n")):
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text(text)
    first, second = yolo_images(tmp_path)
    assert (first.name, first.width, first.height, first.box.shape, first.ignore.shape) == ("images/train/a.png", 50, 30, (0, 4), (0, 4))
    np.testing.assert_allclose(second.box, [[20, 12, 30, 18]])


def test_hands_of_a_body_without_a_box_are_none_and_those_of_a_crowd_are_ignored(tmp_path: Path) -> None:
    body = {"image_id": 1, "bbox": [0, 0, 60, 40], "lefthand_kpts": [5, 6, 2] * 21, "righthand_kpts": [0] * 63}
    seen = {"lefthand_box": [5, 6, 10, 20], "lefthand_valid": True, "righthand_box": [30, 6, 10, 20], "righthand_valid": True}
    none = {"lefthand_box": [5, 6, 0, 20], "lefthand_valid": True, "righthand_box": [5, 6, 10, 0], "righthand_valid": False}
    path = tmp_path / "coco.json"
    image = {"id": 1, "file_name": "1.jpg", "width": 64, "height": 48, "license": 9}
    path.write_text(json.dumps({"images": [image], "annotations": [body | seen, body | none | {"iscrowd": 1, "bbox": [2, 3, 50, 30]}]}))
    (found,) = coco_images(path)
    assert (found.width, found.height, found.licence) == (64, 48, "")
    assert (found.box.tolist(), found.side.tolist()) == ([[5, 6, 15, 26], [30, 6, 40, 26]], [LEFT, RIGHT])
    assert found.ignore.tolist() == [[2, 3, 52, 33]]
    assert np.isfinite(found.keypoints[0]).all()
    assert np.isnan(found.keypoints[1]).all()


def test_a_yolo_class_that_is_not_named_is_told(tmp_path: Path) -> None:
    """Its boxes were left out, and the image counted as one without a hand."""
    (tmp_path / "a.txt").write_text("7 .5 .5 .1 .2\n")
    with pytest.raises(ValueError, match="no class 7 is named"):
        yolo_hands(tmp_path / "a.txt", (64, 48), YoloClasses({0: 0, 1: 1}, frozenset({0, 1})))
