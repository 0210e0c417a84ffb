"""The hint of a hand's joints: better depths than the landmark network's own, the same for a mirrored image, surer where it is right."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fit.rendered_hands import render
from fitting.hand.mano import RIGHT
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, Landmarks, at, load_hand_landmarks, tracked_region
from stages.detectors.mediapipe.hint import SHIPPED, FindHints, asked, is_right_hand, load_hint
from stages.detectors.mediapipe.second_looks import SECOND_LOOKS, Change, hint_look, judged, look_again

NUM_HANDS = 24


@pytest.fixture(scope="module")
def find() -> FindLandmarks:
    return load_hand_landmarks()


@pytest.fixture(scope="module")
def find_hints() -> FindHints:
    return load_hint()


@pytest.fixture(scope="module")
def rendered(find: FindLandmarks) -> tuple[list[list[Landmarks]], np.ndarray]:
    """Looks at hands of seeds that nobody trained on, and their joints about the wrist, metres."""
    looks: list[list[Landmarks]] = []
    joints = []
    scenes = render("still", 77_000)
    while len(looks) < NUM_HANDS:
        scene = next(scenes)
        (first,) = find([(scene.image, tracked_region(scene.joints_2d[0]))])
        if first.presence > 0.8:
            looks.append([first, *look_again(scene.image, [first.points], find, SECOND_LOOKS)[0]])
            joints.append(scene.joints_3d[0] - scene.joints_3d[0, 0])
    return looks, np.stack(joints)


def test_depths_are_better_than_the_networks_own(rendered: tuple[list[list[Landmarks]], np.ndarray], find_hints: FindHints) -> None:
    looks, joints = rendered
    hint = find_hints(looks)
    world = np.stack([of_hand[0].world - of_hand[0].world[:1] for of_hand in looks])
    error, before = (np.abs(found[..., 2] - joints[..., 2])[:, 1:] for found in (hint[..., :3], world))
    assert error.mean() < 0.75 * before.mean()
    assert (hint[:, 0, :3] == 0).all(), "about the wrist"
    sure = hint[:, 1:, 3] < np.median(hint[:, 1:, 3])
    assert error[sure].mean() < 0.8 * error[~sure].mean(), "where it says that it is sure it is nearer"


def test_a_mirrored_image_has_the_mirrored_hint(find: FindLandmarks, find_hints: FindHints) -> None:
    scene = next(render("still", 78_000))
    width = scene.image.shape[1]
    flipped = np.array([width, 0]) + scene.joints_2d[0] * [-1, 1]
    hints = []
    for image, points in ((scene.image, scene.joints_2d[0]), (np.ascontiguousarray(scene.image[:, ::-1]), flipped)):
        (first,) = find([(image, tracked_region(points))])
        hints.append(find_hints([[first, *look_again(image, [first.points], find, SECOND_LOOKS)[0]]])[0])
    gap = np.linalg.norm(hints[0][:, :3] * [-1, 1, 1] - hints[1][:, :3], axis=1).mean()
    assert gap < 0.012, "metres"


def test_a_turned_image_has_the_turned_hint(find: FindLandmarks, find_hints: FindHints) -> None:
    scene = next(scene for scene in render("still", 79_000) if scene.side[0] == RIGHT)
    height, width = scene.image.shape[:2]
    assert height < width
    hints = []
    beside = np.stack([scene.joints_2d[0][:, 1], width - scene.joints_2d[0][:, 0]], 1)
    for image, points in ((scene.image, scene.joints_2d[0]), (np.ascontiguousarray(np.rot90(scene.image)), beside)):
        hints.append(find_hints([find([(image, tracked_region(points))])])[0])
    turned = np.stack([hints[0][:, 1], -hints[0][:, 0], hints[0][:, 2]], 1)
    assert np.linalg.norm(turned - hints[1][:, :3], axis=1).mean() < 0.004
    assert np.linalg.norm(hints[0][:, :3] - hints[1][:, :3], axis=1).mean() > 0.02


def test_the_most_upright_look_at_a_right_hand_is_asked(
    rendered: tuple[list[list[Landmarks]], np.ndarray], find: FindLandmarks, find_hints: FindHints
) -> None:
    looks, _ = rendered
    mirrored = [asked(of_hand)[0] is not of_hand[0] for of_hand in looks]
    assert len(set(mirrored)) == 2, "the plain look of a right hand, a mirrored one of a left"
    for of_hand, is_left in zip(looks, mirrored, strict=True):
        one = find_hints([of_hand[:1] if is_left else of_hand[1:], of_hand])
        assert np.isnan(one[0]).all(), "none of these shows a right hand"
        assert np.isfinite(one[1]).all()
    scene = next(scene for scene in render("still", 79_500) if scene.side[0] == RIGHT)
    region = tracked_region(scene.joints_2d[0])
    turned, plain = find([(scene.image, region + np.array([0, 0, 0, 0.5])), (scene.image, region)])
    assert asked([turned, plain]) == [plain], "one that leans so much is no second"


def test_a_hint_is_the_mean_of_two_looks_that_hardly_lean(find: FindLandmarks, find_hints: FindHints) -> None:
    scenes, counted = render("still", 79_600), set[bool]()
    while len(counted) < 2:
        scene = next(scenes)
        (first,) = find([(scene.image, tracked_region(scene.joints_2d[0]))])
        is_left = bool(scene.side[0] != RIGHT)
        again = [hint_look(is_left=is_left), Change(mirrored=True)]
        looks = [first, *look_again(scene.image, [first.points], find, again)[0]]
        if is_right_hand(looks) == is_left or is_left in counted:
            continue
        two = asked(looks)
        assert {id(look) for look in two} == {id(look) for look in (looks[1:] if is_left else looks[:2])}
        alone = find_hints([[look] if not is_left else [look, replace(first, p_right=0.0)] for look in two])
        np.testing.assert_allclose(find_hints([looks])[0], alone.mean(0), atol=1e-5)
        assert np.abs(alone[0] - alone[1]).max() > 1e-3
        counted.add(is_left)


def test_the_hint_is_asked_for_once_more_by_a_look_of_its_own(find: FindLandmarks) -> None:
    scenes = render("still", 79_700)
    told: list[list[Landmarks]] = []

    def told_of(looks: Sequence[Sequence[Landmarks]]) -> np.ndarray:
        told.extend(list(of_hand) for of_hand in looks)
        return np.zeros((len(looks), 21, 4), np.float32)

    for num in (0, 2, 2):
        scene = next(scenes)
        (first,) = find([(scene.image, tracked_region(scene.joints_2d[0]))])
        judged(scene.image, [first], find, told_of, num)
    assert [len(of_hand) for of_hand in told] == [1, 4, 4]
    shown_right = [[bool(np.linalg.det(look.turn) > 0) == is_right_hand(of_hand) for look in of_hand] for of_hand in told[1:]]  # type: ignore[arg-type]
    assert all(of_hand[-1] for of_hand in shown_right)
    assert {len(asked(of_hand)) for of_hand in told[1:]} == {2}


def test_maps_are_read_at_the_landmarks(find: FindLandmarks) -> None:
    values = np.random.default_rng(0).normal(size=(7, 9, 2)).astype(np.float32)
    cells = (np.stack(np.meshgrid(range(9), range(7)), -1).reshape(-1, 2) + 0.5) / [9, 7]
    np.testing.assert_allclose(at(values, cells), values.reshape(-1, 2), atol=1e-5)
    np.testing.assert_allclose(at(values, np.array([[-1.0, 2.0]])), values[-1:, 0], atol=1e-6)
    between = at(values, (cells[:1] + cells[1:2]) / 2)
    np.testing.assert_allclose(between, (values[0, :1] + values[0, 1:2]) / 2, atol=1e-5)


def test_no_hand_has_no_hint(find_hints: FindHints) -> None:
    assert find_hints([]).shape == (0, 21, 4)


def test_another_file_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "hint.npz"
    np.savez(path, mean=np.zeros(3), scale=np.ones(3))
    with pytest.raises(ValueError, match="is not what whim train landmarks writes"):
        load_hint(path)
    with np.load(SHIPPED) as arrays:
        np.savez(path, **{name: arrays[name] for name in arrays.files} | {"mean": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="of another shape"):
        load_hint(path)
