"""The trained detector, exported, is a member of the ensemble: it says there what it says in training, and the chain runs with it."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

from fitting.files import sha256_of
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import whim
from stages.detect_hands_whim import DetectHandsWhim
from stages.detectors.found import FoundHands
from stages.detectors.mediapipe.box_looks import look_at_boxes
from stages.detectors.mediapipe.hand_landmarks import load_hand_landmarks
from stages.detectors.weights import BadWeights, MissingWeights, find_weights
from stages.detectors.whim import find_hands, in_rectangle, open_network
from stages.fuse_hands import FuseHands
from stages.propose_hands_whim import SHIPPED, ProposeHands
from stages.tables import HandDetections, Hands, Manifest, People
from tests.labelled_pictures import frames_of, labelled
from tests.training.detector.small import random_detector, save
from training.detector.export import export
from training.detector.inference import HandDetector, detections
from training.detector.network import Detector

SIZE, HANDS = 96, 12  # the size at which squares alone are computed


@pytest.fixture(scope="module")
def network() -> Detector:
    return random_detector()


@pytest.fixture(scope="module")
def exported(network: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whim")
    export(folder / "hands.onnx", save(network, folder / "best.pt"), size=SIZE, max_hands=HANDS)
    return folder / "hands.onnx"


def with_facts(exported: Path, to: Path, **facts: str) -> Path:
    """A detector's file that says something else of itself."""
    model = onnx.load(exported)
    for entry in model.metadata_props:
        entry.value = facts.get(entry.key, entry.value)
    onnx.save(model, to)
    return to


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), shape) for shape in ((160, 120), (90, 200), (64, 48))]


def found(file: Path, **settings: Any) -> FoundHands:
    find = find_hands(open_network(file, device="cpu"), **({"min_score": 0.0, "max_iou": 0.6, "batch_size": 2} | settings))
    return find(pictures(), [People.empty()] * 3)


def test_the_member_says_what_training_says(network: Detector, exported: Path) -> None:
    hands = found(exported)
    wanted = HandDetector(network, size=SIZE, threshold=0.0, max_hands=HANDS)(pictures())
    for number, true in enumerate(wanted):
        here = hands.take(hands.picture == number)
        np.testing.assert_allclose(here.score, true.score, atol=1e-4)
        np.testing.assert_allclose(here.box, true.box, atol=5e-3)
        np.testing.assert_allclose(here.keypoints, true.keypoints, atol=5e-3)
        np.testing.assert_allclose(here.p_right, np.where(true.side == 1, true.side_score, 1 - true.side_score), atol=1e-4)
        assert here.crop[0].tolist() == [0, 0, *pictures()[number].shape[1::-1]]


def test_of_a_wide_picture_a_rectangle_is_computed(network: Detector, tmp_path: Path) -> None:
    export(tmp_path / "hands.onnx", save(network, tmp_path / "best.pt"), size=128, max_hands=12)
    opened = open_network(tmp_path / "hands.onnx", device="cpu")
    wide = cv2.resize(pictures()[0], (256, 140))
    images, (scale, left, top) = in_rectangle(wide, opened.size, opened.least_side)
    assert images.shape == (3, 96, 128)
    assert (scale, left, top) == (0.5, 0, 13)
    np.testing.assert_allclose(images[:, :13], 114 / 255)
    with torch.no_grad():
        said = detections(network, torch.from_numpy(images)[None])
    best = said.score[0].amax(1).argmax()
    hands = find_hands(opened, min_score=0.0, max_iou=0.6, batch_size=3)([pictures()[0], wide, pictures()[1]], [People.empty()] * 3)
    box = hands.box[hands.picture == 1][0]
    np.testing.assert_allclose(box, (said.box[0, best].numpy() - [0, 13, 0, 13]) * 2, atol=5e-3)


def test_scores_below_the_least_are_left_out_and_doubles_where_the_file_has_them(exported: Path, tmp_path: Path) -> None:
    everything = found(exported)
    least = float(np.median(everything.score))
    some = found(exported, min_score=least)
    assert len(some.score) == (everything.score >= least).sum()
    doubles = with_facts(exported, tmp_path / "doubles.onnx", without_doubles="false", landmarks="false")
    alone = found(doubles, max_iou=0.05)
    assert 0 < len(alone.score) < len(everything.score)
    assert np.isnan(alone.keypoints).all()


def test_what_is_no_detector_of_ours_is_named(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"other.onnx has format 'another', this code reads 'whim detector 2'"):
        open_network(with_facts(exported, tmp_path / "other.onnx", format="another"), device="cpu")
    (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:1000])
    with pytest.raises(BadWeights, match=r"cut.onnx is no ONNX file, or cut short"):
        open_network(tmp_path / "cut.onnx", device="cpu")
    with pytest.raises(MissingWeights, match=r"gone.onnx is not there: whim export detector"):
        _ = ProposeHands(file=str(tmp_path / "gone.onnx")).weights
    with pytest.raises(ValueError, match=r"propose_hands_whim.min_score must lie in \[0, 1\], got 2"):
        ProposeHands(min_score=2)


def test_a_files_place_is_no_setting_but_its_content_is(exported: Path, tmp_path: Path) -> None:
    other = with_facts(exported, tmp_path / "other.onnx", max_hands="21")
    here, copy, changed = (ProposeHands(file=str(path)).weights for path in (exported, with_copy(exported, tmp_path), other))
    assert here == copy != changed


def with_copy(file: Path, folder: Path) -> Path:
    (folder / "copy.onnx").write_bytes(file.read_bytes())
    return folder / "copy.onnx"


def test_the_shipped_detector_is_the_one_unless_another_lies_among_the_weights(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    (shipped,) = (stage for stage in whim(Manifest.empty(), tmp_path) if isinstance(stage, ProposeHands))
    before = dict(shipped.weights)
    assert before["whim_detector"] == sha256_of(SHIPPED)
    path = find_weights("whim_detector").path
    path.parent.mkdir()
    path.write_bytes(exported.read_bytes())
    assert shipped.weights["whim_detector"] == sha256_of(exported)


def test_the_chain_runs_with_the_shipped_detector(media: Path, tmp_path: Path) -> None:
    data, manifest = tmp_path / "data", read_manifest(media / "odd" / "oneframe_thanks.mp4")
    stages = whim(manifest, data)
    (fuse,) = (stage for stage in stages if isinstance(stage, FuseHands))
    assert fuse.detectors == ("mediapipe", "whim")
    assert not fuse.uncalibrated
    stages = stages[: stages.index(fuse) + 1]
    run(Graph(stages, manifest, Store(data)).load(), Local(data, stages))
    assert not list(data.rglob("*.error.json"))
    (part,) = (data / "hand_detections" / "whim").glob("*.parquet")
    found = Store(data).read(HandDetections, "hand_detections/whim", part.stem)
    assert len(found)
    for column in (found.keypoints, found.world, found.palm_score, found.presence, found.p_right):
        assert np.isfinite(column).all()
    hands = Store(data).read(Hands, "hands", part.stem)
    assert 2 in hands.num_agree


def test_what_the_landmark_network_sees_no_hand_in_is_no_hand(exported: Path) -> None:
    frames = frames_of(*(cv2.resize(picture, (160, 120)) for picture in pictures()))
    proposed = ProposeHands(file=str(exported), min_score=0.0).build()(frames)
    assert len(proposed) > 10
    assert not len(DetectHandsWhim().build()(frames, proposed, HandDetections.empty()))


def test_a_second_look_tells_side_and_landmarks_from_the_box_alone(media: Path) -> None:
    find_landmarks = load_hand_landmarks()
    for name in ("A000", "A001"):
        image, label = labelled(media, name)
        box = np.array([hand["box"] for hand in label["hands"]], np.float32)
        for hand, look in zip(label["hands"], look_at_boxes(image, box, find_landmarks), strict=True):
            assert look is not None
            assert (look.p_right >= 0.5) == (hand["side"] == "right")
            inside = (look.points > np.array(hand["box"][:2]) - 15) & (look.points < np.array(hand["box"][2:]) + 15)
            assert inside.all(1).mean() > 0.9
