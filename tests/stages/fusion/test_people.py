"""Each person once: detectors' boxes and bodies joined, whatever order they come in, and two people never made one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.fusion.people import groups, limbs_coincide, mean_box, union_of_boxes, union_of_people
from stages.tables import PersonBoxes, PersonDetections


def boxes_table(rows: list[tuple[str, float, tuple[float, float, float, float]]]) -> PersonBoxes:
    n = len(rows)
    return PersonBoxes(
        video=np.full(n, "v", object),
        frame=np.zeros(n, np.int64),
        time_s=np.zeros(n),
        source=np.array([source for source, _, _ in rows], object),
        box=np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        score=np.array([score for _, score, _ in rows], np.float32),
    )


def people_table(score: list[float], box: list[tuple[float, float, float, float]], keypoints: np.ndarray) -> PersonDetections:
    n = len(score)
    return PersonDetections(
        video=np.full(n, "v", object),
        frame=np.zeros(n, np.int64),
        time_s=np.zeros(n),
        source=np.array([f"detector{row}" for row in range(n)], object),
        person=np.arange(4, 4 + n, dtype=np.int16),
        box=np.array(box, np.float32),
        score=np.array(score, np.float32),
        keypoints=keypoints.astype(np.float32),
    )


def standing(x: float, confidence: float = 0.9) -> np.ndarray:
    """A body of which all 17 points lie on a line at x."""
    return np.column_stack([np.full(17, x), np.linspace(0, 200, 17), np.full(17, confidence)])


def test_boxes_are_averaged_by_score_and_the_score_is_the_surest() -> None:
    joined = union_of_boxes(boxes_table([("a", 0.7, (0, 0, 100, 200)), ("b", 0.9, (10, 0, 110, 200))]))
    assert len(joined) == 1
    assert np.allclose(joined.box[0], [0.9 * 10 / 1.6, 0, 100 + 0.9 * 10 / 1.6, 200])
    assert joined.score[0] == pytest.approx(0.9)
    assert joined.source[0] == "b"


def test_one_detectors_two_boxes_stay_two_however_they_overlap() -> None:
    assert len(union_of_boxes(boxes_table([("a", 0.9, (0, 0, 100, 200)), ("a", 0.8, (5, 0, 105, 200))]))) == 2


def test_a_third_box_goes_to_the_nearer_person() -> None:
    rows = [("a", 0.9, (0.0, 0.0, 100.0, 200.0)), ("a", 0.8, (30.0, 0.0, 130.0, 200.0)), ("b", 0.7, (28.0, 0.0, 128.0, 200.0))]
    joined = union_of_boxes(boxes_table(rows))
    assert joined.box[0].tolist() == [0, 0, 100, 200]
    assert 28 < joined.box[1, 0] < 30


@given(st.permutations(range(8)), st.integers(0, 1000))
def test_order_of_the_rows_does_not_matter(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (8, 2))
    table = boxes_table([(f"d{i % 3}", rng.uniform(0.65, 1), (*c, *(c + rng.uniform(60, 120, 2)))) for i, c in enumerate(corner)])
    one, other = union_of_boxes(table), union_of_boxes(table.take(np.array(order)))
    assert one.to_arrow().equals(other.to_arrow())
    assert np.all(np.diff(one.score) <= 0)


@given(st.floats(0.1, 10), st.floats(-500, 500), st.integers(0, 100))
def test_scale_and_offset_of_the_frame_do_not_matter(scale: float, offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (6, 2))
    box, score = np.concatenate([corner, corner + rng.uniform(60, 120, (6, 2))], 1), rng.uniform(0.65, 1, 6)
    alike = ~np.eye(6, dtype=bool)
    one, other = (groups(b, score, alike, min_iou=0.55) for b in (box, box * scale + offset))
    assert [rows.tolist() for rows in one] == [rows.tolist() for rows in other]


def test_bodies_that_coincide_are_one_and_the_clearer_limbs_stay() -> None:
    keypoints = np.stack([standing(50, 0.4), standing(52, 0.8)])
    joined = union_of_people(people_table([0.9, 0.8], [(0, 0, 100, 200), (4, 0, 104, 200)], keypoints))
    assert len(joined) == 1
    assert np.allclose(joined.keypoints[0], keypoints[1])
    assert joined.score[0] == pytest.approx(0.9)
    assert (joined.person.tolist(), joined.sources.tolist()) == ([0], [["detector0", "detector1"]])
    assert joined.source_persons.tolist() == [[4, 5]], "the number that each detector gave"


def test_people_one_behind_the_other_stay_two() -> None:
    keypoints = np.stack([standing(30), standing(75)])
    joined = union_of_people(people_table([0.9, 0.8], [(0, 0, 100, 200), (4, 0, 104, 200)], keypoints))
    assert joined.person.tolist() == [0, 1]
    assert joined.keypoints[:, 0, 0].tolist() == [30, 75]


def test_a_body_without_limbs_joins_by_its_box() -> None:
    keypoints = np.stack([np.full((17, 3), np.nan), standing(50)])
    joined = union_of_people(people_table([0.9, 0.8], [(0, 0, 100, 200), (4, 0, 104, 200)], keypoints))
    assert len(joined) == 1
    assert np.isfinite(joined.keypoints).all()


def test_boxes_join_the_mean_of_those_before_them_by_more_than_the_overlap_and_only_what_is_alike_to_all() -> None:
    box = np.array([[0.0, 0, 100, 100], [0, 0, 100, 50], [0, 0, 100, 60]])
    score, alike = np.array([0.9, 0.8, 0.7]), ~np.eye(3, dtype=bool)
    assert [rows.tolist() for rows in groups(box, score, alike, min_iou=0.5)] == [[0], [1, 2]], "just the overlap is not more"
    assert [rows.tolist() for rows in groups(box, score, alike, min_iou=0.45)] == [[0, 1, 2]]
    alike[2, 1] = False
    assert [rows.tolist() for rows in groups(box, score, alike, min_iou=0.45)] == [[0, 1], [2]]
    assert [rows.tolist() for rows in groups(box, -score, ~np.eye(3, dtype=bool), min_iou=0.9)] == [[2], [1], [0]], "surest first"


def test_people_far_apart_are_two() -> None:
    assert len(union_of_boxes(boxes_table([("a", 0.9, (0, 0, 100, 200)), ("b", 0.8, (300, 0, 400, 200))]))) == 2
    far = people_table([0.9, 0.8], [(0, 0, 100, 200), (300, 0, 400, 200)], np.full((2, 17, 3), np.nan))
    assert len(union_of_people(far)) == 2


def test_nobody_is_sure_of_a_mean() -> None:
    assert mean_box(np.array([[0.0, 0, 10, 10], [4, 0, 14, 10]]), np.zeros(2)).tolist() == [2, 0, 12, 10]
    assert mean_box(np.array([[0.0, 0, 10, 10], [4, 0, 14, 10]]), np.array([0.03, 0.01])).tolist() == pytest.approx([1, 0, 11, 10])


def test_limbs_coincide_within_a_tenth_of_the_larger_box_weighted_by_both_confidences() -> None:
    boxes = [(0.0, 0.0, 100.0, 200.0), (0.0, 0.0, 100.0, 100.0)]
    for apart, same in ((19.5, True), (20.5, False)):
        table = people_table([0.9, 0.8], boxes, np.stack([standing(50), standing(50 + apart)]))
        assert limbs_coincide(table).tolist() == [[True, same], [same, True]]
    far = standing(50)
    far[:9, 0], far[:9, 2] = 500, 0.01  # what neither is sure of
    assert limbs_coincide(people_table([0.9, 0.8], boxes, np.stack([standing(50), far])))[0, 1]
    far[:9, 2] = 0.9
    assert not limbs_coincide(people_table([0.9, 0.8], boxes, np.stack([standing(50), far])))[0, 1]
    faint = np.stack([standing(50, 1e-2), standing(90, 1e-2)])
    assert not limbs_coincide(people_table([0.9, 0.8], boxes, faint))[0, 1]
    sure = [np.stack([standing(50, 1.0), standing(50 + apart, 1.0)]) for apart in (19.99, 20.0)]
    sure[0][1, :, 2] = 0.1
    assert limbs_coincide(people_table([0.9, 0.8], boxes, sure[0]))[0, 1], "whatever their confidences"
    assert not limbs_coincide(people_table([0.9, 0.8], boxes, sure[1]))[0, 1], "just a tenth is not within"
    unseen = np.stack([standing(50, 0.0), standing(90, 0.9)])
    assert limbs_coincide(people_table([0.9, 0.8], boxes, unseen)).all()


def test_nobody_stays_nobody() -> None:
    assert len(union_of_boxes(PersonBoxes.empty())) == 0
    assert len(union_of_people(PersonDetections.empty())) == 0
    alone = people_table([0.7], [(0, 0, 10, 10)], standing(5)[None])
    assert union_of_people(replace(alone, person=np.array([4], np.int16))).person.tolist() == [0]
