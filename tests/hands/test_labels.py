"""Labelled frames: what is read, which hands are found, and that scores count what they say they count."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from hands.metrics.labelled_frames import score_hands
from hands.metrics.labels import LabelledFrame, in_ignored, load_labels, match, match_hands, mirrored
from stages.tables import LEFT, RIGHT, HandDetections, Hands

NO_HANDS = Hands.empty()


def label(*hands: tuple[tuple[float, ...], int], ignore: Sequence[tuple[float, ...]] = ()) -> LabelledFrame:
    return LabelledFrame(
        name="A", video="v.mp4", frame=0, image="", width=1000, height=500, box=np.array([b for b, _ in hands], float).reshape(-1, 4),
        side=np.array([s for _, s in hands], np.int64), ignore=np.array(ignore, float).reshape(-1, 4),
    )  # fmt: skip


def found(*hands: tuple[tuple[float, ...], float, int]) -> Hands:
    n, known = len(hands), {"box": [b for b, _, _ in hands], "score": [s for _, s, _ in hands], "side": [s for _, _, s in hands]}
    columns = {}
    for name, column in vars(NO_HANDS).items():
        blank = np.full((n, *column.shape[1:]), "" if column.dtype == object else 0, column.dtype)
        columns[name] = np.array(known[name], column.dtype).reshape(blank.shape) if name in known else blank
    return Hands(**columns)


A, B, FAR = (100, 100, 200, 200), (300, 100, 400, 200), (600, 300, 700, 400)


def test_recall_precision_and_side_are_counted_over_all_frames() -> None:
    score = score_hands([label((A, LEFT), (B, RIGHT)), label((A, RIGHT))], [found((A, 0.9, LEFT), (FAR, 0.8, LEFT)), found((A, 0.9, LEFT))])
    assert score.recall == pytest.approx(2 / 3)
    assert score.precision == pytest.approx(2 / 3)
    assert score.side_accuracy == pytest.approx(1 / 2)
    assert (score.num_hands, score.num_found, score.num_false) == (3, 2, 1)


def test_two_hands_on_one_label_are_one_find_and_one_false() -> None:
    match = match_hands(label((A, LEFT)), *(lambda h: (h.box, h.score))(found((A, 0.5, LEFT), ((110, 100, 210, 200), 0.9, LEFT))))
    assert match.found.tolist() == [1]
    assert match.false.tolist() == [True, False]


def test_overlap_below_0_3_is_a_miss_and_a_false_hand() -> None:
    score = score_hands([label((A, LEFT))], [found(((160, 100, 260, 200), 0.9, LEFT))])  # IoU 0.25
    assert (score.num_found, score.num_false) == (0, 1)


def test_a_hand_in_an_ignored_region_counts_neither_way() -> None:
    frame = label(ignore=[(550, 250, 750, 450)])
    score = score_hands([frame], [found((FAR, 0.9, LEFT))])
    assert score.num_false == 0
    assert np.isnan(score.precision)
    assert score_hands([frame], [found((A, 0.9, LEFT))]).num_false == 1


def test_a_label_without_a_side_does_not_count_for_sides() -> None:
    score = score_hands([label((A, -1), (B, LEFT))], [found((A, 0.9, LEFT), (B, 0.9, LEFT))])
    assert score.num_sided == 1
    assert score.side_accuracy == 1


def test_sizes_are_shares_of_the_frames_longer_side() -> None:
    score = score_hands([label(((0, 0, 39, 10), LEFT), ((100, 0, 140, 10), LEFT), (A, LEFT), ((0, 200, 300, 400), LEFT))], [found()])
    assert [part["num_hands"] for part in score.by_size.values()] == [1, 1, 1, 1]


def test_another_format_is_refused_and_says_which_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"format": "coco", "images": []}))
    with pytest.raises(ValueError, match="'coco', wanted 'handmedia-bench/1'"):
        load_labels(path)
    path.write_text("<html>")
    with pytest.raises(ValueError, match="is not JSON"):
        load_labels(path)
    path.write_text(json.dumps({"format": "handmedia-bench/1", "images": [{"id": "A"}]}))
    with pytest.raises(ValueError, match="image 0"):
        load_labels(path)


def test_matching_prefers_the_surer_hand() -> None:
    frame = label((A, LEFT))
    hands = found((A, 0.4, LEFT), (A, 0.8, RIGHT))
    assert match_hands(frame, hands.box, hands.score).found.tolist() == [1]
    flipped = replace(hands, score=hands.score[::-1].copy())
    assert match_hands(frame, flipped.box, flipped.score).found.tolist() == [0]


def test_frames_of_several_people_are_counted_by_themselves() -> None:
    two = replace(label((A, LEFT), (B, RIGHT)), num_persons=2)
    score = score_hands([two, label((A, LEFT))], [found((A, 0.9, LEFT), (FAR, 0.9, LEFT)), found()])
    assert score.multi_person == {"recall": 0.5, "precision": 0.5, "side_accuracy": 1.0, "num_hands": 2}


def test_every_figure_of_a_score_by_hand() -> None:
    """Two frames of two videos: a small hand found with the wrong side, a large one found, one of no side found, one missed."""
    small, large = (0, 0, 30, 20), (500, 0, 800, 400)
    first = replace(label((small, LEFT), (large, RIGHT), (B, LEFT)), video="one.mp4")
    second = replace(label((A, -1)), video="", image="two.jpg")
    hands = [found((small, 0.9, RIGHT), ((500, 0, 800, 200), 0.8, RIGHT), (FAR, 0.7, LEFT)), found((A, 0.9, LEFT))]
    score = asdict(score_hands([first, second], hands))
    expected = {
        "recall": 3 / 4,
        "precision": 3 / 4,
        "side_accuracy": 1 / 2,
        "num_hands": 4,
        "num_frames": 2,
        "num_found": 3,
        "num_false": 1,
    }
    assert {name: score[name] for name in expected} == pytest.approx(expected)
    assert score["num_sided"] == 2
    assert score["mean_iou"] == pytest.approx((1 + 0.5 + 1) / 3)
    by_size = [(of["recall"], of["side_accuracy"], of["num_hands"]) for of in score["by_size"].values()]
    np.testing.assert_equal(by_size, [(1, 0, 1), (np.nan, np.nan, 0), (0.5, np.nan, 2), (1, 1, 1)])
    assert score["multi_person"] == pytest.approx({"recall": 2 / 3, "precision": 2 / 3, "side_accuracy": 0.5, "num_hands": 3})
    assert score["by_video"] == {
        "one.mp4": {"num_hands": 3, "num_found": 2, "num_false": 1},
        "two.jpg": {"num_hands": 1, "num_found": 1, "num_false": 0},
    }
    assert score["routes"] == {}


def test_no_frame_has_no_figures_and_two_hands_of_one_person_are_no_several_people() -> None:
    nothing = score_hands([], [])
    assert (nothing.num_hands, nothing.num_frames, nothing.num_found, nothing.num_false, nothing.num_sided) == (0, 0, 0, 0, 0)
    assert np.isnan([nothing.recall, nothing.precision, nothing.side_accuracy, nothing.mean_iou]).all()
    for num_persons in (0, 1):
        one = replace(label((A, LEFT), (B, RIGHT)), num_persons=num_persons)
        assert score_hands([one], [found()]).multi_person["num_hands"] == 0


def test_what_is_written_is_rounded_and_null_where_nothing_was_counted() -> None:
    written = json.loads(score_hands([label((A, LEFT), (B, LEFT), (FAR, LEFT))], [found((A, 0.9, LEFT))]).to_json())
    assert written["recall"] == 0.3333
    nothing = json.loads(score_hands([label((A, LEFT))], [found((FAR, 0.9, LEFT))]).to_json())
    assert (nothing["recall"], nothing["precision"], nothing["side_accuracy"], nothing["mean_iou"]) == (0, 0, None, None)


def test_each_route_is_counted_by_what_it_found() -> None:
    def seen(*rows: tuple[str, tuple[float, ...]]) -> HandDetections:
        known = {"route": [route for route, _ in rows], "box": [box for _, box in rows], "score": [0.9] * len(rows)}
        columns = {}
        for name, column in vars(HandDetections.empty()).items():
            blank = np.full((len(rows), *column.shape[1:]), "" if column.dtype == object else 0, column.dtype)
            columns[name] = np.array(known[name], column.dtype).reshape(blank.shape) if name in known else blank
        return HandDetections(**columns)

    frames = [label((A, LEFT), (B, RIGHT)), label((A, LEFT))]
    routes = score_hands(frames, [found(), found()], [seen(("tile", A), ("tile", B), ("wrist", FAR)), seen(("wrist", A))]).routes
    assert routes == {"tile": {"num": 2, "num_found": 2}, "wrist": {"num": 2, "num_found": 1}}


def test_a_mirrored_label_lies_on_the_other_side_of_the_frame() -> None:
    plain = label((A, LEFT), (B, RIGHT), (FAR, -1), ignore=[(0, 300, 50, 500)])
    there = mirrored(plain)
    assert (there.name, there.video, there.image) == ("mirrored/A", "mirrored/v.mp4", "")
    assert there.box.tolist() == [[800, 100, 900, 200], [600, 100, 700, 200], [300, 300, 400, 400]]
    assert there.ignore.tolist() == [[950, 300, 1000, 500]]
    assert there.side.tolist() == [RIGHT, LEFT, -1]
    assert mirrored(replace(plain, video="")).video == ""


def test_a_hand_is_ignored_where_its_middle_lies_within_the_border_or_on_it() -> None:
    region = [(100, 100, 200, 200)]
    box = np.array([(150, 150, 250, 250), (0, 100, 200, 200), (151, 150, 251, 200), (100, 201, 200, 300), (150, 40, 170, 160)], np.float32)
    assert in_ignored(label(ignore=region), box).tolist() == [True, True, False, False, True]
    assert in_ignored(label(), box).tolist() == [False] * 5
    two = label(ignore=[*region, (100, 202, 200, 298)])
    assert in_ignored(two, box).tolist() == [True, True, False, True, True], "in one of them is enough"


def test_an_overlap_of_0_3_is_a_find_and_a_taken_label_is_not_found_again() -> None:
    box, target = np.array([[0.0, 0, 3, 1], [0, 0, 4, 1]]), np.array([[0.0, 0, 10, 1]])
    assert match(box[:1], np.ones(1), target).tolist() == [0]
    assert match(box, np.array([0.5, 0.9]), target).tolist() == [-1, 0]
    assert match(box, np.array([0.9, 0.9]), target).tolist() == [0, -1], "of two equally sure hands the first"
    assert match(box, np.ones(2), target, min_iou=0.41).tolist() == [-1, -1]
    assert match(box, np.ones(2), target[:0]).tolist() == [-1, -1]


def test_the_best_free_label_is_taken() -> None:
    target = np.array([[0.0, 0, 10, 10], [2, 0, 12, 10], [3, 0, 13, 10]])
    box = np.array([[0.0, 0, 10, 10], [1.0, 0, 11, 10]])
    assert match(box, np.array([0.9, 0.5]), target).tolist() == [0, 1]


def test_a_file_of_labels_is_read_column_by_column(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    first = {"id": 7, "video": "a.mp4", "frame": 12, "width": 640, "height": 480, "persons": ["x", "y"], "ignore": [[0, 0, 9, 9]]}
    first["hands"] = [{"box": [1, 2, 3, 4], "side": "right"}, {"box": [5, 6, 7, 8], "side": None}]
    second = {"id": "b", "jpeg": "b.jpg", "width": 64, "height": 48, "hands": []}
    path.write_text(json.dumps({"format": "handmedia-bench/1", "images": [first, second]}))
    one, two = load_labels(path)
    assert (one.name, one.video, one.frame, one.image, one.width, one.height, one.num_persons) == ("7", "a.mp4", 12, "", 640, 480, 2)
    assert (one.box.tolist(), one.side.tolist(), one.ignore.tolist()) == ([[1, 2, 3, 4], [5, 6, 7, 8]], [RIGHT, -1], [[0, 0, 9, 9]])
    assert (two.name, two.video, two.frame, two.image, two.num_persons) == ("b", "", 0, "b.jpg", 0)
    assert two.box.shape == two.ignore.shape == (0, 4)


@pytest.mark.parametrize(
    "item",
    [
        {"hands": [{"box": [1, 2, 3], "side": None}]},
        {"hands": [{"box": [1, 2, 3, 4, 5, 6, 7, 8], "side": None}]},
        {"hands": [{"box": [9, 2, 3, 4], "side": None}]},
        {"hands": [], "ignore": [[1, float("nan"), 3, 4]]},
        {"hands": [], "video": "../v.mp4"},
        {"hands": [], "video": "v.mp4", "frame": -1},
        7,
    ],
)
def test_a_bad_image_of_a_file_of_labels_is_named(tmp_path: Path, item: object) -> None:
    path = tmp_path / "labels.json"
    image = {"id": "good", "width": 64, "height": 48, "hands": []}
    path.write_text(json.dumps({"format": "handmedia-bench/1", "images": [image, image | item if isinstance(item, dict) else item]}))
    with pytest.raises(ValueError, match=r"labels\.json: image 1 \((good|7)\): "):
        load_labels(path)
    path.write_text(json.dumps({"format": "handmedia-bench/1", "images": [{"id": "x" * 200}]}))
    with pytest.raises(ValueError, match=rf"image 0 \({'x' * 100}\)"):
        load_labels(path)
    for content, told in (([], r"has format None"), ({"format": "handmedia-bench/1", "images": {}}, r"'images' is no list")):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=told):
            load_labels(path)


def test_labels_of_others_are_images_without_a_video(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    image = {"id": 7, "file_name": "a/7.jpg", "width": 64, "height": 48}
    note = {"image_id": 7, "bbox": [5, 6, 10, 20], "side": "right"}
    path.write_text(json.dumps({"images": [image], "annotations": [note]}))
    (frame,) = load_labels(path)
    assert (frame.name, frame.video, frame.frame, frame.image, frame.width, frame.height) == ("a/7.jpg", "", 0, "a/7.jpg", 64, 48)
    assert (frame.box.tolist(), frame.side.tolist(), frame.num_persons) == ([[5, 6, 15, 26]], [RIGHT], 0)
    path.write_text(json.dumps({"images": [image | {"file_name": "../7.jpg"}], "annotations": []}))
    with pytest.raises(ValueError, match=r"\.\./7\.jpg"):
        load_labels(path)
