"""Folders of labelled images: three formats read, bad input named."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hands.metrics.labels import load_labels
from pipeline.images.formats import read_images


def image(path: Path, width: int = 64, height: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def jsonl(folder: Path, *rows: dict) -> Path:
    for row in rows:
        image(folder / row["path"])
    lines = [json.dumps({"width": 64, "height": 48} | row) for row in rows]
    (folder / "images.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_line_an_image(tmp_path: Path) -> None:
    one: dict[str, Any] = {"path": "a/1.jpg", "hands": [{"box": [1, 2, 30, 40], "side": None}, {"box": [30, 2, 50, 40], "side": "left"}]}
    one |= {"group": "a", "split": "val", "exhaustive": True, "tier": "a", "licence": "MIT", "source": "s", "repo": "r/x"}
    two = {
        "path": "b/2.jpg",
        "hands": None,
        "region_boxes": [{"box": [0, 0, 9, 9], "class": "both"}],
        "group": "b",
        "split": "train",
        "tier": "b",
    }
    three = {"path": "b/3.jpg", "hands": [], "group": "b", "split": "train", "tier": "a"}
    first, second, third = read_images(jsonl(tmp_path, one, two, three))
    assert first.box.tolist() == [[1, 2, 30, 40], [30, 2, 50, 40]]
    assert first.side.tolist() == [-1, 0]
    assert (first.split, first.group, first.labelled, first.exhaustive) == ("val", "a", True, True)
    assert dict(first.about) == {"source": "s", "origin": "r/x", "licence": "MIT", "tier": "a"}
    assert (second.labelled, len(second.box), second.ignore.tolist()) == (False, 0, [[0, 0, 9, 9]])
    assert (third.labelled, len(third.box)) == (True, 0)
    assert [one.name for one in read_images(tmp_path, ["a"])] == ["a/1.jpg", "b/3.jpg"]


def test_coco(tmp_path: Path) -> None:
    image(tmp_path / "images" / "7.jpg")
    told = {"images": [{"id": 7, "file_name": "7.jpg", "width": 64, "height": 48, "license": 1}], "licenses": [{"id": 1, "name": "CC0"}]}
    boxes = [{"image_id": 7, "bbox": [5, 6, 10, 20]}, {"image_id": 7, "bbox": [40, 6, 10, 20], "iscrowd": 1}]
    (tmp_path / "instances_val.json").write_text(json.dumps(told | {"annotations": boxes}))
    (found,) = read_images(tmp_path)
    assert found.box.tolist() == [[5, 6, 15, 26]]
    assert found.ignore.tolist() == [[40, 6, 50, 26]]
    assert (found.split, found.path, found.about["licence"]) == ("val", tmp_path / "images" / "7.jpg", "CC0")


def test_yolo_and_images_without_labels(tmp_path: Path) -> None:
    image(tmp_path / "images" / "train" / "1.jpg")
    image(tmp_path / "images" / "val" / "2.jpg")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    one, two = read_images(tmp_path)
    assert one.box.tolist() == [[24, 12, 40, 36]]
    assert (one.split, one.labelled, one.exhaustive) == ("train", True, True)
    assert (two.split, two.labelled, len(two.box)) == ("val", False, 0)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"path": "1.jpg"', r"images.jsonl, line 1 is no label of an image .* are wanted"),
        ('{"path": "1.jpg", "width": 64, "height": 48, "hands": [{"box": [1, 2]}]}', r"line 1 is no label of an image"),
        (
            '{"path": "1.jpg", "width": 64, "height": 48, "hands": [{"box": [70, 2, 80, 9]}]}',
            r"line 1, 1.jpg: box 0 .* is not in an image of 64x48",
        ),
        ('{"path": "1.jpg", "width": 64, "height": 48, "hands": [{"box": [9, 2, 9, 9]}]}', r"line 1, 1.jpg: box 0 .* is not in an image"),
        ('{"path": "1.jpg", "width": 64, "height": 48, "hands": [], "split": "dev"}', r"line 1: .*split must be one of train, val, test"),
        (
            '{"path": "1.jpg", "width": 64, "height": 48, "hands": [{"box": [1, 2, 1e30, 9]}]}',
            r"line 1, 1.jpg: box 0 .* is not in an image",
        ),
        ('{"path": "1.jpg", "width": 64, "height": 48, "hands": [{"box": [NaN, 2, 9, 9]}]}', r"line 1, 1.jpg: box 0 .* is not in an image"),
        ('{"path": "1.jpg", "width": Infinity, "height": 48, "hands": []}', r"line 1, 1.jpg: an image of infx48 pixels is none"),
        ('{"path": "1.jpg", "width": 64, "height": 48, "hands": [{"box": [1, 2, 3, 4, 5, 6, 7, 8]}]}', r"line 1 is no label of an image"),
        ('{"path": "1.jpg", "width": 64, "height": 48, "region_boxes": [[1, 2, NaN, 4]]}', r"line 1 .*region_boxes are finite numbers"),
        ('{"path": "1.jpg", "width": 1' + "0" * 400 + ', "height": 48, "hands": []}', r"line 1 is no label of an image .OverflowError"),
        ('{"path": "1.jpg", "width": 64, "height": 48, "hands": 0}', r"line 1 is no label .*hands is a list or null, got 0"),
        ('{"path": "../1.jpg", "width": 64, "height": 48, "hands": []}', r"image ../1.jpg lies outside of the folder: copy it in"),
        ('{"path": "1.jpg", "width": 64, "height": 48, "hands": []}\n' * 2, r"1.jpg is labelled twice: keep one"),
        ("[" * 100_000, r"line 1 is no label of an image \(RecursionError"),
        ("\udcff{}", r"line 1 is no label of an image \(UnicodeDecodeError"),
        ("", r"images.jsonl is empty"),
    ],
)
def test_broken_labels_are_named(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "images.jsonl").write_text(line + "\n", "utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=told):
        read_images(tmp_path)


@pytest.mark.parametrize(
    "note", [[], {"image_id": 1}, *({"image_id": 1, "bbox": box} for box in (["a", 1, 2, 3], [1, 2], [10**400, 1, 2, 3]))]
)
def test_a_broken_note_of_coco_is_named(tmp_path: Path, note: Any) -> None:
    image_of = {"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}
    (tmp_path / "hands.json").write_text(json.dumps({"images": [image_of], "annotations": [note]}))
    with pytest.raises(ValueError, match=r"hands.json is no COCO file"):
        read_images(tmp_path)


def test_a_file_of_coco_is_of_a_split_where_a_word_of_its_name_says_so(tmp_path: Path) -> None:
    """`latest.json` was taken for the images to test on."""
    image(tmp_path / "1.jpg")
    told = {"images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}], "annotations": []}
    for name, split in (("latest", "train"), ("person_keypoints_val2017", "val"), ("Testing", "test")):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(told))
        assert [found.split for found in read_images(tmp_path)] == [split]
        path.unlink()


def test_yolo_by_split(tmp_path: Path) -> None:
    """Roboflow's exports have images and labels below each split; all of it was read as images that nobody labelled."""
    for split in ("train", "valid"):
        image(tmp_path / split / "images" / f"{split}.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / f"{split}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [left hand]\n")
    one, two = read_images(tmp_path)
    assert [(found.split, found.labelled, found.box.tolist(), found.side.tolist()) for found in (one, two)] == [
        (split, True, [[24, 12, 40, 36]], [0]) for split in ("train", "val")
    ]
    assert [label.image for label in load_labels(tmp_path)] == [one.name, two.name]


def test_coco_by_split(tmp_path: Path) -> None:
    """Roboflow's exports have a file of COCO's in each split: all of it was read as images that nobody labelled."""
    for part in ("train", "valid"):
        image(tmp_path / part / "1.jpg")
        told = {"images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}]}
        notes = [{"image_id": 1, "bbox": [5, 6, 10, 20]}]
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(told | {"annotations": notes}))
    found = [(one.name, one.split, one.labelled, one.box.tolist(), one.path) for one in read_images(tmp_path)]
    box = [[5, 6, 15, 26]]
    assert found == [
        ("train/1.jpg", "train", True, box, tmp_path / "train/1.jpg"),
        ("valid/1.jpg", "val", True, box, tmp_path / "valid/1.jpg"),
    ]


def test_a_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    rows = [{"path": f"{k}.jpg", "hands": [], "group": "g", "split": split} for k, split in enumerate(("train", "val"))]
    with pytest.raises(ValueError, match=r"group g lies in train and, by 1.jpg, in val: deal it to one split"):
        read_images(jsonl(tmp_path, *rows))


def test_no_folder_and_no_image_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder"):
        read_images(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"has no image: images.jsonl"):
        read_images(tmp_path)
    (tmp_path / "instances.json").write_text("{}")
    with pytest.raises(ValueError, match=r"instances.json is no COCO file .*: images and annotations are wanted"):
        read_images(tmp_path)


def test_a_broken_file_of_boxes_is_named(tmp_path: Path) -> None:
    image(tmp_path / "1.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.txt").write_text("0 0.5 half 0.25 0.5\n")
    with pytest.raises(ValueError, match=r"1.txt is no file of YOLO's boxes"):
        read_images(tmp_path)


def points(visible: int = 21) -> list[float]:
    return [float(v) for k in range(21) for v in (10 + k, 12 + k / 2, 2 if k < visible else 0)]


def test_coco_says_sides_and_keypoints(tmp_path: Path) -> None:
    """A category says the side, or the annotation itself; what is no hand is left out where hands are named."""
    image(tmp_path / "7.jpg")
    categories = [{"id": 1, "name": "left_hand"}, {"id": 2, "name": "hand"}, {"id": 3, "name": "face"}]
    notes = [
        {"image_id": 7, "category_id": 1, "bbox": [5, 6, 10, 20], "keypoints": points(20)},
        {"image_id": 7, "category_id": 2, "bbox": [25, 6, 10, 20], "side": "right"},
        {"image_id": 7, "category_id": 2, "bbox": [35, 6, 10, 20], "keypoints": [1, 2, 2] * 17},
        {"image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 5]},
    ]
    told = {"images": [{"id": 7, "file_name": "7.jpg", "width": 64, "height": 48}], "categories": categories, "annotations": notes}
    (tmp_path / "train.json").write_text(json.dumps(told))
    (found,) = read_images(tmp_path)
    assert found.side.tolist() == [0, 1, -1]
    assert found.keypoints is not None
    assert found.keypoints[0, 1].tolist() == [11, 12.5, 1]
    assert np.isnan(found.keypoints[0, 20]).all()
    assert np.isnan(found.keypoints[1:]).all(), "17 keypoints are a body's"


def test_hands_of_whole_bodies(tmp_path: Path) -> None:
    image(tmp_path / "val2017" / "7.jpg")
    body = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 60, 40]}
    body |= {"lefthand_box": [5, 6, 10, 20], "lefthand_valid": True, "lefthand_kpts": points()}
    body |= {"righthand_box": [30, 6, 10, 20], "righthand_valid": False, "righthand_kpts": [0] * 63}
    told = {"images": [{"id": 7, "file_name": "7.jpg", "width": 64, "height": 48}], "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "val2017.json").write_text(json.dumps(told | {"annotations": [body]}))
    (found,) = read_images(tmp_path)
    assert (found.box.tolist(), found.side.tolist(), found.ignore.tolist()) == ([[5, 6, 15, 26]], [0], [[30, 6, 40, 26]])
    assert found.keypoints is not None
    assert np.isfinite(found.keypoints).all()


def test_an_export_comes_back(tmp_path: Path) -> None:
    """What `whim export coco` and `yolo` write is read as labels: boxes, sides and keypoints; to train on and to measure on."""
    from rich.console import Console

    from hands.metrics.labels import load_labels
    from pipeline.exports.export import export
    from pipeline.exports.formats import FORMATS
    from tests.pipeline.exports.shards import as_held, truth, write_small_shards
    from training.data.readers.labelled_frames import labelled_frames

    data = write_small_shards(tmp_path / "data")
    for format, labels in (("coco", "annotations/train.json"), ("yolo", "")):
        out = tmp_path / format
        export(FORMATS[format], data, out, console=Console(quiet=True))
        wanted = as_held(format, {name: hands for name, hands in truth(data).items() if name.startswith("train/") or format == "yolo"})
        found = {one.name: one for one in read_images(out)}
        frames = {frame.name: frame for frame in load_labels(out / labels)}
        measured = {one.name: one for one in labelled_frames(out / labels)}
        for name, hands in wanted.items():
            key = f"{name}.jpg" if format == "coco" else f"images/{name}.jpg"
            sides = [("left", "right").index(side) for side, _, _ in hands]
            assert found[key].side.tolist() == frames[key].side.tolist() == measured[key].side.tolist() == sides
            for one in (found[key], frames[key], measured[key]):
                np.testing.assert_allclose(one.box, np.reshape([box for _, box, _ in hands], (-1, 4)), atol=2e-3)
            keypoints = found[key].keypoints
            assert keypoints is not None
            told = np.array([[p or [np.nan] * 2 for p in marked] for *_, marked in hands]).reshape(-1, 21, 2)
            np.testing.assert_allclose(keypoints[..., :2], told, atol=2e-3)


def test_an_image_whose_name_is_no_text_is_taken_under_one_that_is(tmp_path: Path) -> None:
    image(tmp_path / "sound.jpg")
    (tmp_path / "sound.jpg").rename(tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    image(tmp_path / "sound.jpg")
    found = {one.name: one.path for one in read_images(tmp_path)}
    assert {name.encode() for name in found} == {rb"caf\xe9.jpg", b"sound.jpg"}
    assert all(path.is_file() for path in found.values())
