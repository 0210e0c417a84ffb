"""The hint of a hand's joints: better depths than the landmark network's own, the same for a mirrored image, surer where it is right."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fit.rendered_hands import render
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, Landmarks, load_hand_landmarks, tracked_region
from stages.detectors.mediapipe.hint import SHIPPED, FindHints, agreed, load_hint
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
    assert error.mean() < 0.85 * before.mean()
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


def test_a_turned_look_says_the_same_in_the_frame(find: FindLandmarks, find_hints: FindHints) -> None:
    scene = next(render("still", 79_000))
    region = tracked_region(scene.joints_2d[0])
    plain, turned = find([(scene.image, region), (scene.image, region + np.array([0, 0, 0, 0.5]))])
    one, other = find_hints([[plain], [turned]])
    assert plain.said is not None
    assert turned.said is not None
    unturned = (plain.said[-63:] - turned.said[-63:]).reshape(21, 3)
    assert np.linalg.norm(one[:, :3] - other[:, :3], axis=1).mean() < 0.02
    assert np.linalg.norm(unturned, axis=1).mean() > 0.02, "in the looks' own axes they differ"


def test_surer_looks_count_more_and_looks_that_part_are_unsure() -> None:
    joints = np.zeros((2, 21, 3))
    joints[1, :, 2] = 0.03
    told = agreed(joints, np.stack([np.full(21, 0.01), np.full(21, 0.02)]))
    np.testing.assert_allclose(told[:, 2], 0.03 / 5, atol=1e-12)
    alike = agreed(np.zeros((2, 21, 3)), np.full((2, 21), 0.01))
    np.testing.assert_allclose(alike[:, 3], 0.01, atol=1e-12)
    assert (told[:, 3] > 0.012).all()


def test_no_hand_has_no_hint(find_hints: FindHints) -> None:
    assert find_hints([]).shape == (0, 21, 4)


def test_another_file_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "hint.npz"
    np.savez(path, mean=np.zeros(3), scale=np.ones(3))
    with pytest.raises(ValueError, match="holds no hint network"):
        load_hint(path)
    with np.load(SHIPPED) as arrays:
        np.savez(path, **{name: arrays[name] for name in arrays.files} | {"mean": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="of another shape"):
        load_hint(path)
