"""The hint of a hand's joints: better depths than the landmark network's own, the same for a mirrored image, surer where it is right."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fit.rendered_hands import render
from fitting.hand.mano import RIGHT
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, Landmarks, at, load_hand_landmarks, tracked_region
from stages.detectors.mediapipe.hint import SHIPPED, FindHints, load_hint, most_upright
from stages.detectors.mediapipe.second_looks import SECOND_LOOKS, look_again

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
    mirrored = [most_upright(of_hand) is not of_hand[0] for of_hand in looks]
    assert len(set(mirrored)) == 2, "the plain look of a right hand, a mirrored one of a left"
    for of_hand, is_left in zip(looks, mirrored, strict=True):
        one = find_hints([of_hand[:1] if is_left else of_hand[1:], of_hand])
        assert np.isnan(one[0]).all(), "none of these shows a right hand"
        assert np.isfinite(one[1]).all()
    scene = next(scene for scene in render("still", 79_500) if scene.side[0] == RIGHT)
    region = tracked_region(scene.joints_2d[0])
    turned, plain = find([(scene.image, region + np.array([0, 0, 0, 0.5])), (scene.image, region)])
    assert most_upright([turned, plain]) is plain


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
