"""What a body's wrists say of hands, by hand."""

import numpy as np
import pytest

from stages.fuse_people import fuse_people
from stages.fusion.wrists import share_out, side_log_odds, wrist_witness
from stages.tables import LEFT, RIGHT, PersonDetections
from tests.stages.fused_hands import body


def test_a_wrist_speaks_less_the_farther_it_is() -> None:
    people = fuse_people(body((100, 100), (130, 140), seen=0.5))
    told = wrist_witness(np.array([[100.0, 100.0], [100.0, 130.0], [400.0, 400.0]]), np.array([40.0, 40.0, 40.0]), people, reach=2.0)
    left, right = told[:, 0, 0], told[:, 0, 1]
    np.testing.assert_allclose(left, [0.5, 0.5 * (1 - 30 / 80), 0])
    np.testing.assert_allclose(right, [0.5 * (1 - 50 / 80), 0.5 * (1 - np.hypot(30, 10) / 80), 0])
    nobody_saw = body((100, 100), (np.nan, np.nan), seen=1.5)
    witness = wrist_witness(np.array([[100.0, 100.0]]), np.array([40.0]), fuse_people(nobody_saw), reach=2.0)
    assert witness[0, 0].tolist() == [1, 0], "no confidence is above one, and an unknown wrist says nothing"
    below = fuse_people(body((100, 100), (100, 100), seen=-0.5))
    assert not wrist_witness(np.array([[100.0, 100.0]]), np.array([40.0]), below, reach=2.0).any()


def test_hands_without_people_lean_as_the_detectors_say() -> None:
    person, side = share_out(np.zeros((3, 0, 2)), np.array([0.5, -0.5, 0.0]), np.ones(3), side_weight=2.0)
    assert person.tolist() == [-1, -1, -1]
    assert side.tolist() == [RIGHT, LEFT, LEFT]


def test_hands_are_dealt_to_wrists_by_sides_wrists_and_scores() -> None:
    none = np.zeros(2)
    near_both = np.array([[[0.5, 0.5]], [[0.5, 0.5]]])
    assert share_out(near_both, np.array([1.0, 2.0]), none, side_weight=1.0)[1].tolist() == [LEFT, RIGHT]
    assert share_out(near_both, np.array([2.0, 1.0]), none, side_weight=1.0)[1].tolist() == [RIGHT, LEFT]
    nearer_left = np.array([[[0.5, 0.0]], [[0.6, 0.0]]])
    assert share_out(nearer_left, none, none, side_weight=1.0)[1].tolist() == [RIGHT, LEFT]
    three = np.full((3, 1, 2), 0.5)
    person, side = share_out(three, np.array([0.3, 0.2, -0.1]), np.array([0.9, 0.5, 0.6]), side_weight=1.0)
    assert (person.tolist(), side.tolist()) == ([0, -1, 0], [RIGHT, RIGHT, LEFT]), "the least sure one goes to nobody, and leans as it did"
    for odds, score, owner, sides in (
        ((0.2, 0.5, 0.9), (0.1, 0.5, 0.9), [-1, 0, 0], [RIGHT, LEFT, RIGHT]),
        ((-0.2, -0.5, -0.9), (0.1, 0.5, 0.9), [-1, 0, 0], [LEFT, RIGHT, LEFT]),
        ((-0.2, -0.5, -0.9), (0.3, 0.5, 0.9), [0, -1, 0], [RIGHT, LEFT, LEFT]),
        ((-0.2, -0.9, 0.5), (0.5, 0.5, 0.5), [-1, 0, 0], [LEFT, LEFT, RIGHT]),
        ((-0.9, -0.2, 0.5), (0.5, 0.5, 0.5), [0, -1, 0], [LEFT, LEFT, RIGHT]),
    ):
        person, side = share_out(three, np.array(odds), np.array(score), side_weight=1.0)
        assert (person.tolist(), side.tolist()) == (owner, sides), "sides and scores weigh alike"
    far = np.array([[[0.0, 0.0], [0.2, 0.0]], [[0.0, 0.9], [0.0, 0.0]]])
    person, side = share_out(far, np.array([3.0, -3.0]), none, side_weight=0.1)
    assert (person.tolist(), side.tolist()) == ([1, 0], [RIGHT, LEFT]), (
        "of the person whose wrist is near, on the sides that the detectors say"
    )


def test_a_wrist_that_speaks_fully_adds_its_weight_and_only_its_owners_counts() -> None:
    witness = np.array([[[0.25, 1.0], [1.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]]])
    odds = side_log_odds(witness, np.array([0.5, 0.5, 0.5]), np.array([0, 0, -1]), side_weight=2.0)
    assert odds.tolist() == pytest.approx([0.5 + 2 * 0.75, 0.5 - 1.0, 0.5])
    assert side_log_odds(witness, np.array([0.5, 0.5, 0.5]), np.array([1, -1, -1]), side_weight=2.0)[0] == -1.5


def test_two_peoples_wrists_are_four() -> None:
    people = fuse_people(
        PersonDetections.concat(
            [body((100, 100), (200, 100), box=(50, 0, 250, 400)), body((400, 100), (500, 100), box=(350, 0, 550, 400), person=1)]
        )
    )
    wrists = np.array([[100.0, 100], [200, 100], [400, 100], [500, 100]])
    witness = wrist_witness(wrists, np.full(4, 40.0), people, reach=1.0)
    person, side = share_out(witness, np.zeros(4), np.ones(4), side_weight=1.0)
    assert (person.tolist(), side.tolist()) == ([0, 0, 1, 1], [LEFT, RIGHT] * 2)
