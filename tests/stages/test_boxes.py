"""Boxes: overlap, what a view cuts, and each once."""

import numpy as np

from stages import boxes


def test_overlap_by_hand_and_none_of_empty_boxes() -> None:
    assert boxes.iou(np.zeros((1, 4)), np.zeros((1, 4)))[0, 0] == 0
    np.testing.assert_allclose(boxes.iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])), [[1 / 3]])


def test_only_borders_within_the_frame_cut() -> None:
    box = np.array([[90.0, 40.0, 99.5, 50.0], [0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 60.0, 60.0]])
    assert boxes.is_cut(box, np.array([0.0, 0.0, 100.0, 100.0]), 200, 100).tolist() == [True, False, False]
    assert not boxes.is_cut(box, np.array([0.0, 0.0, 200.0, 100.0]), 200, 100).any()


def test_a_view_that_ends_with_the_frame_but_for_rounding_cuts_nothing() -> None:
    view = np.array([100.0, 0.0, np.nextafter(200.0, 0), 100.0])
    assert not boxes.is_cut(np.array([[150.0, 40.0, 199.9, 60.0]]), view, 200, 100).any()


def test_a_copy_of_a_copy_stays() -> None:
    same = np.array([[True, True, False], [True, True, True], [False, True, True]])
    assert boxes.each_once(same).tolist() == [0, 2]
