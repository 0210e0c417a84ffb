"""The exported files say what the network says, for any number of images; as members of the ensemble they say it of its frames."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from stages.detect_hands_whim import DetectHandsWhim
from stages.detectors.found import FoundHands
from stages.detectors.weights import BadWeights, MissingWeights
from stages.detectors.whim import find_hands, in_rectangle, open_network
from stages.propose_hands_whim import ProposeHands
from stages.tables import HandDetections, People
from tests.labelled_pictures import frames_of
from tests.training.detector.small import random_detector, save
from training.detector.export import export
from training.detector.inference import HandDetector, detections
from training.detector.network import Detector, DetectorSettings

SIZE, LEAST, HANDS = 128, 96, 12  # the finest level has cells enough that only those of its best hands are computed, the others have not


@pytest.fixture(scope="module")
def network() -> Detector:
    return random_detector()


@pytest.fixture(scope="module")
def exported(network: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of the one-to-one head, sides open."""
    folder = tmp_path_factory.mktemp("export")
    export(folder / "hands.onnx", save(network, folder / "best.pt"), size=SIZE, max_hands=HANDS)
    return folder / "hands.onnx"


@pytest.fixture(scope="module")
def palm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Path]:
    """The palm network with the head that finds a hand several times, and the folder of its files: of squares, ONNX in half the bytes."""
    folder = tmp_path_factory.mktemp("palm")
    network = random_detector(DetectorSettings(backbone="palm", one_to_one=False))
    checkpoint = save(network, folder / "best.pt")
    for name in ("hands.onnx", "hands.pt2"):
        export(folder / name, checkpoint, size=LEAST, max_hands=HANDS, half=True)
    return network, folder


def wanted(network: Detector, images: Tensor) -> Any:
    """The best anchors, one image after the other."""
    with torch.no_grad():
        said = detections(network, images)
    best, side = said.score.max(2)
    rows = best.argsort(1, descending=True)[:, :HANDS]
    pick = lambda values: torch.stack([values[k, row] for k, row in enumerate(rows)])  # noqa: E731
    return pick(said.box), pick(best), pick(side), pick(best / said.score.sum(2)), pick(said.keypoints)


@pytest.mark.parametrize("shape", [(1, SIZE, SIZE), (3, SIZE, SIZE), (2, LEAST, SIZE), (1, SIZE, LEAST)])
def test_onnxruntime_says_what_torch_says(network: Detector, exported: Path, shape: tuple[int, int, int]) -> None:
    batch, height, width = shape
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    names = ["box", "score", "side", "side_score", "keypoints"]
    box, score, side, side_score, keypoints = session.run(names, {"images": images.numpy()})
    true_box, true_score, true_side, true_side_score, true_keypoints = wanted(network, images)
    assert true_score.diff(dim=1).max() < -1e-6, "ties, whose order nobody promises"
    np.testing.assert_allclose(score, true_score, atol=1e-4)
    assert box.shape == (batch, HANDS, 4)
    np.testing.assert_allclose(box, true_box, atol=1e-3, rtol=0)
    np.testing.assert_allclose(keypoints[..., :2], true_keypoints[..., :2], atol=1e-3, rtol=0)
    np.testing.assert_allclose(keypoints[..., 2], true_keypoints[..., 2], atol=1e-4)
    assert np.array_equal(side, true_side)
    np.testing.assert_allclose(side_score, true_side_score, atol=1e-4)


def facts_of(file: Path) -> dict[str, str]:
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert model.opset_import[0].version >= 17
    return {entry.key: entry.value for entry in model.metadata_props}


def test_a_file_holds_one_head_and_says_what_it_is(exported: Path, palm: tuple[Detector, Path]) -> None:
    ours, theirs = facts_of(exported), facts_of(palm[1] / "hands.onnx")
    for facts, size, without_doubles in ((ours, SIZE, "true"), (theirs, LEAST, "false")):
        assert facts["format"] == "whim detector 2"
        assert (facts["size"], facts["max_hands"], facts["classes"]) == (str(size), str(HANDS), "left,right")
        assert facts["least_side"] == str(LEAST)
        assert facts["landmarks"] == "true"
        assert facts["without_doubles"] == without_doubles
    assert exported.stat().st_size < 1.1 * 4 * 3.385e6
    assert not [*exported.parent.glob("partial-*"), *palm[1].glob("partial-*")]


def by_place(said: Any) -> list[Tensor]:
    """Each image's hands from left to right: close scores may change places."""
    rows = said[0][..., 0].argsort(1)
    return [torch.stack([values[k, row] for k, row in enumerate(rows)]) for values in said]


def test_torch_reads_its_own_export(palm: tuple[Detector, Path]) -> None:
    network, folder = palm
    extra = {"whim.json": ""}
    program = torch.export.load(folder / "hands.pt2", extra_files=extra)
    images = torch.rand(3, 3, LEAST, LEAST)
    for got, true in zip(by_place(program.module()(images)), by_place(wanted(network, images)), strict=True):
        torch.testing.assert_close(got, true, atol=1e-3, rtol=0)
    assert '"classes": "left,right"' in extra["whim.json"]


def test_the_palm_network_is_exported_without_slopes_and_says_what_torch_says(palm: tuple[Detector, Path]) -> None:
    network, folder = palm
    made = onnx.load(folder / "hands.onnx")
    assert "PRelu" not in {node.op_type for node in made.graph.node}, "half of the network's time in onnxruntime"
    pixelwise = [one for one in made.graph.initializer if len(one.dims) == 4 and list(one.dims[1:]) == [1, 1, 1]]
    assert {one.data_type for one in pixelwise} == {onnx.TensorProto.FLOAT}, "slope and 1 - slope are rounded apart"
    images = torch.rand(2, 3, LEAST, LEAST)
    session = onnxruntime.InferenceSession(folder / "hands.onnx", providers=["CPUExecutionProvider"])
    (score,) = session.run(["score"], {"images": images.numpy()})
    true_score = wanted(network, images)[1]
    np.testing.assert_allclose(score, true_score, atol=2e-2)  # weights in half precision
    assert np.corrcoef(score.ravel(), true_score.ravel())[0, 1] > 0.999


def test_senseless_exports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in .onnx or .pt2, got .*hands.pb"):
        export(tmp_path / "hands.pb", tmp_path / "best.pt")
    with pytest.raises(ValueError, match="multiple of 32, got 100"):
        export(tmp_path / "hands.onnx", tmp_path / "best.pt", size=100)


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


def test_the_member_says_what_training_says(network: Detector, exported: Path, tmp_path: Path) -> None:
    hands = found(with_facts(exported, tmp_path / "squares.onnx", least_side=str(SIZE)))  # in training images are squares
    wanted = HandDetector(network, size=SIZE, threshold=0.0, max_hands=HANDS)(pictures())
    for number, true in enumerate(wanted):
        here = hands.take(hands.picture == number)
        np.testing.assert_allclose(here.score, true.score, atol=1e-4)
        np.testing.assert_allclose(here.box, true.box, atol=5e-3)
        np.testing.assert_allclose(here.keypoints, true.keypoints, atol=5e-3)
        np.testing.assert_allclose(here.p_right, np.where(true.side == 1, true.side_score, 1 - true.side_score), atol=1e-4)
        assert here.crop[0].tolist() == [0, 0, *pictures()[number].shape[1::-1]]


def test_of_a_wide_picture_a_rectangle_is_computed(network: Detector, exported: Path) -> None:
    opened = open_network(exported, device="cpu")
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
    (tmp_path / "copy.onnx").write_bytes(exported.read_bytes())
    with_facts(exported, tmp_path / "other.onnx", max_hands="21")
    here, copy, changed = (ProposeHands(file=str(path)).weights for path in (exported, tmp_path / "copy.onnx", tmp_path / "other.onnx"))
    assert here == copy != changed


def test_what_the_landmark_network_sees_no_hand_in_is_no_hand(exported: Path) -> None:
    frames = frames_of(*(cv2.resize(picture, (160, 120)) for picture in pictures()))
    proposed = ProposeHands(file=str(exported), min_score=0.0).build()(frames)
    assert len(proposed) > 10
    assert not len(DetectHandsWhim().build()(frames, proposed, HandDetections.empty()))
