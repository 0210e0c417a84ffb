"""The pieces of the detectors, by hand-worked numbers: anchors, weighted suppression, crops, tiles, the pinned files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.detectors.mediapipe import blazepose, models, palm
from stages.detectors.mediapipe.crops import cut, to_crop, to_frame, upright_angle
from stages.detectors.mediapipe.hand_landmarks import Landmarks, tracked_region
from stages.detectors.mediapipe.hand_search import (
    TIGHT_REGIONS,
    WRIST_REGIONS,
    Hand,
    Start,
    arms_of,
    is_plausible,
    without_hand,
    wrist_starts,
    wrist_views,
)
from stages.detectors.mediapipe.ssd import Candidates, anchor_centres, decode, weighted_suppression
from stages.detectors.views import tiles
from stages.tables import BODY_KEYPOINTS, People

ROOT = Path(__file__).resolve().parents[3]


def test_anchors_are_as_many_as_the_networks_have_outputs() -> None:
    assert anchor_centres(palm.SIZE, palm.STRIDES).shape == (2016, 2)
    assert anchor_centres(blazepose.DETECTOR_SIZE, blazepose.STRIDES).shape == (2254, 2)


def test_anchors_run_row_by_row_two_a_cell_then_six_in_the_coarse_layers() -> None:
    anchors = anchor_centres(192, (8, 16, 16, 16))
    np.testing.assert_allclose(anchors[:4], [[0.5 / 24, 0.5 / 24]] * 2 + [[1.5 / 24, 0.5 / 24]] * 2, rtol=1e-6)
    np.testing.assert_allclose(anchors[24 * 24 * 2 :][5:7], [[0.5 / 12, 0.5 / 12], [1.5 / 12, 0.5 / 12]], rtol=1e-6)


def test_decoding_adds_offsets_to_the_anchor_and_drops_weak_ones() -> None:
    anchors = np.array([[0.5, 0.5], [0.25, 0.25]], np.float32)
    values = np.array([[19.2, 0, 38.4, 19.2, 0, -19.2], [0, 0, 0, 0, 0, 0]], np.float32)
    found = decode(values, np.array([[0.0], [-5.0]], np.float32), anchors, size=192, min_score=0.4)
    np.testing.assert_allclose(found.score, [0.5])
    np.testing.assert_allclose(found.box, [[0.5, 0.45, 0.7, 0.55]], atol=1e-6)
    np.testing.assert_allclose(found.keypoints, [[[0.5, 0.4]]], atol=1e-6)


def test_weighted_suppression_averages_a_group_by_score() -> None:
    found = Candidates(
        score=np.array([0.6, 0.9, 0.5]),
        box=np.array([[0.1, 0.0, 1.1, 1.0], [0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0]]),
        keypoints=np.array([[[1.0, 0.0]], [[0.0, 0.0]], [[5.0, 5.0]]]),
    )
    kept = weighted_suppression(found, max_iou=0.3)
    np.testing.assert_allclose(kept.score, [0.9, 0.5])
    np.testing.assert_allclose(kept.box, [[0.04, 0.0, 1.04, 1.0], [5.0, 5.0, 6.0, 6.0]])
    np.testing.assert_allclose(kept.keypoints, [[[0.4, 0.0]], [[5.0, 5.0]]])


def test_crop_coordinates_invert() -> None:
    region = np.array([120.0, 80.0, 55.0, 0.7])
    points = np.random.default_rng(0).uniform(-0.2, 1.2, (20, 2))
    np.testing.assert_allclose(to_crop(to_frame(points, region), region), points, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, np.pi, -np.pi / 2])
def test_a_turned_crop_shows_what_its_coordinates_say(angle: float) -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[12, 47] = 255
    region = np.array([40.0, 20.0, 32.0, angle])
    crop = cut(image, region, 32, border="zero")
    row, column = np.unravel_index(crop[..., 0].argmax(), (32, 32))
    shown = to_frame(np.array([[column, row]]) / 32, region)[0]
    np.testing.assert_allclose(shown, [47, 12], atol=1e-6)
    assert crop[row, column, 0] == pytest.approx(1)


def test_beyond_the_border_is_black_or_the_edge() -> None:
    image = np.full((10, 10, 3), 255, np.uint8)
    region = np.array([5.0, 5.0, 40.0, 0.0])
    assert cut(image, region, 40, border="zero")[0, 0, 0] == 0
    assert cut(image, region, 40, border="repeat")[0, 0, 0] == 1


def test_fingers_point_up_in_the_region_of_a_palm() -> None:
    keypoints = np.zeros((7, 2))
    keypoints[palm.WRIST], keypoints[palm.MIDDLE_KNUCKLE] = (100, 50), (140, 50)  # fingers to the right
    region = palm.hand_region(np.array([100.0, 30.0, 140.0, 70.0]), keypoints)
    np.testing.assert_allclose(region, [140, 50, 2.6 * 40, np.pi / 2])
    wrist, knuckle = to_crop(keypoints[[palm.WRIST, palm.MIDDLE_KNUCKLE]], region)
    assert wrist[0] == pytest.approx(knuckle[0])
    assert wrist[1] > knuckle[1]


def test_upright_angle_of_a_hand_that_points_up_is_zero() -> None:
    assert upright_angle(np.array([0.0, 10.0]), np.array([0.0, 0.0])) == pytest.approx(0)


def test_tracked_region_turns_with_the_hand() -> None:
    points = np.random.default_rng(1).uniform(0, 100, (21, 2))
    region = tracked_region(points)
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])  # a quarter clockwise on the screen
    turned = tracked_region(points @ turn.T)
    np.testing.assert_allclose(turned[:2], turn @ region[:2], atol=1e-9)
    assert turned[2] == pytest.approx(region[2])
    assert (turned[3] - region[3] - np.pi / 2) % (2 * np.pi) == pytest.approx(0, abs=1e-9)


def test_tiles_cover_the_frame_with_overlap() -> None:
    for width, height, side in [(1920, 1080, 1080), (640, 480, 240), (100, 100, 100)]:
        boxes = tiles(width, height, side)
        assert boxes[:, :2].min(axis=0).tolist() == [0, 0]
        assert boxes[:, 2:].max(axis=0).tolist() == [width, height]
        steps = np.diff(np.unique(boxes[:, 0]))
        assert (steps <= 0.75 * side + 1e-6).all()


def test_a_damaged_network_is_refused_with_the_mending_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"python -m stages.detectors.mediapipe.models"):
        models.load("palm_detection_full")
    (tmp_path / "mediapipe").mkdir()
    (tmp_path / "mediapipe" / "palm_detection_full.tflite").write_bytes(b"not a network")
    with pytest.raises(ValueError, match=r"damaged.*python -m stages.detectors.mediapipe.models"):
        models.load("palm_detection_full")


def test_the_command_says_that_nothing_is_missing() -> None:
    for name in models.manifest()["files"]:
        models.find(name)
    done = subprocess.run([sys.executable, "-m", "stages.detectors.mediapipe.models"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "networks" in done.stdout


def hand_at(wrist: tuple[float, float], width: float = 30.0, height: float = 60.0) -> Hand:
    """A hand whose landmarks fill a box above its wrist."""
    points = np.array(wrist) + np.stack([np.linspace(0, width, 21), -np.linspace(0, height, 21)], 1)
    start = Start(route="frame", person=-1, crop=np.zeros(4), region=np.array([0.0, 0, 1, 0]), score=0.9)
    return Hand(start=start, landmarks=Landmarks(presence=0.9, p_right=0.5, points=points, world=np.zeros((21, 3))))


def somebody(**places: tuple[float, float]) -> People:
    """A person with shoulders 200 pixels apart, whose hands are 100 long by that, and these keypoints."""
    points = np.zeros((1, 17, 3), np.float32)
    known = {"left_shoulder": (400, 100), "right_shoulder": (200, 100), "left_hip": (350, 300), "right_hip": (250, 300)} | places
    for name, place in known.items():
        points[0, BODY_KEYPOINTS.index(name)] = (*place, 0.5)
    found = {"video": "v", "frame": 0, "time_s": 0.0, "person": 3, "score": 0.8}
    columns = {name: np.array([found[name]], column.dtype) for name, column in vars(People.empty()).items() if name in found}
    lists = {name: np.array([[0], None], object)[:1] for name in ("sources", "source_persons")}
    return People(**columns, **lists, box=np.array([[150, 0, 450, 500]], np.float32), keypoints=points)


def test_a_wrist_at_which_no_hand_begins_is_looked_at_more_closely() -> None:
    people = somebody(left_elbow=(400, 200), left_wrist=(400, 300), right_elbow=(200, 200), right_wrist=(120, 200))
    arms = arms_of(people, 0.05)
    wide = wrist_starts(arms, WRIST_REGIONS)
    assert [start.region[:3].tolist() for start in wide] == [[400, 350, 200], [70, 200, 200]], "both wrists"
    free = without_hand(arms, [hand_at((125, 195))])
    tight = wrist_starts(free, TIGHT_REGIONS)
    assert [start.region[:3].tolist() for start in tight] == [[400, 340, 140], [400, 335, 100]], "the free one"
    assert {(start.person, start.route) for start in tight} == {(3, "wrist")}
    assert [start.score for start in tight] == pytest.approx([0.4, 0.4])
    assert np.cos(tight[0].region[3]) == pytest.approx(-1), "fingers away from the elbow, which lies above"
    assert [person for _, person, _ in wrist_views(free, 4.0)] == [3]
    assert not arms_of(people, 0.5), "doubtful wrists"


def test_landmarks_on_a_line_are_no_hand() -> None:
    assert is_plausible(hand_at((100, 100), width=7), 640, 480)
    assert not is_plausible(hand_at((100, 100), width=5), 640, 480), "less than a tenth as wide as long"
    assert not is_plausible(hand_at((100, 100), width=60, height=5), 640, 480)
