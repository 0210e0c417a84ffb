"""The exported files say what the network says, for any number of images."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.training.detector.small import random_detector, save
from training.detector.export import export
from training.detector.inference import detections
from training.detector.network import Detector, DetectorSettings

SIZE, LEAST, HANDS = 128, 96, 12  # the finest level has cells enough that only those of its best hands are computed, the others have not


@pytest.fixture(scope="module", params=[SIZE, LEAST], ids=["one to one, sides open", "one to many, squares"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A detector, the folder of what was exported of it, and the size of that."""
    folder = tmp_path_factory.mktemp("export")
    network = random_detector(DetectorSettings(one_to_one=request.param == SIZE))
    checkpoint = save(network, folder / "best.pt")
    for name in ("hands.onnx", "hands.pt2") if request.param == SIZE else ("hands.onnx",):
        export(folder / name, checkpoint, size=request.param, max_hands=HANDS)
    return network, folder, request.param


def wanted(network: Detector, images: Tensor) -> Any:
    """The best anchors, one image after the other."""
    with torch.no_grad():
        said = detections(network, images)
    best, side = said.score.max(2)
    rows = best.argsort(1, descending=True)[:, :HANDS]
    pick = lambda values: torch.stack([values[k, row] for k, row in enumerate(rows)])  # noqa: E731
    return pick(said.box), pick(best), pick(side), pick(best / said.score.sum(2)), pick(said.keypoints)


@pytest.mark.parametrize("shape", [(1, SIZE, SIZE), (3, SIZE, SIZE), (2, LEAST, SIZE), (1, SIZE, LEAST)])
def test_onnxruntime_says_what_torch_says(files: Any, shape: tuple[int, int, int]) -> None:
    network, folder, size = files
    batch, height, width = (shape[0], *(min(side, size) for side in shape[1:]))
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(folder / "hands.onnx", providers=["CPUExecutionProvider"])
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


def test_the_file_holds_one_head_and_says_what_it_is(files: Any) -> None:
    network, folder, size = files
    model = onnx.load(folder / "hands.onnx")
    onnx.checker.check_model(model)
    assert model.opset_import[0].version >= 17
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["format"] == "whim detector 2"
    assert (facts["size"], facts["max_hands"], facts["classes"]) == (str(size), str(HANDS), "left,right")
    assert facts["least_side"] == str(LEAST)
    assert facts["landmarks"] == "true"
    assert facts["without_doubles"] == str(network.single is not None).lower()
    assert (folder / "hands.onnx").stat().st_size < 1.1 * 4 * 3.385e6
    assert not list(folder.glob("partial-*"))


def test_torch_reads_its_own_export(files: Any) -> None:
    network, folder, _ = files
    if network.single is None:
        pytest.skip("exported once, from the other head")
    extra = {"whim.json": ""}
    program = torch.export.load(folder / "hands.pt2", extra_files=extra)
    images = torch.rand(3, 3, LEAST, SIZE)
    for got, true in zip(program.module()(images), wanted(network, images), strict=True):
        torch.testing.assert_close(got, true, atol=1e-3, rtol=0)
    assert '"classes": "left,right"' in extra["whim.json"]


def test_the_palm_network_is_exported_without_slopes_and_says_what_torch_says(tmp_path: Path) -> None:
    network = random_detector(DetectorSettings(backbone="palm", one_to_one=False))
    checkpoint = save(network, tmp_path / "palm.pt")
    export(tmp_path / "palm.onnx", checkpoint, size=LEAST, max_hands=HANDS, half=True)
    made = onnx.load(tmp_path / "palm.onnx")
    assert "PRelu" not in {node.op_type for node in made.graph.node}, "half of the network's time in onnxruntime"
    pixelwise = [one for one in made.graph.initializer if len(one.dims) == 4 and list(one.dims[1:]) == [1, 1, 1]]
    assert {one.data_type for one in pixelwise} == {onnx.TensorProto.FLOAT}, "slope and 1 - slope are rounded apart"
    images = torch.rand(2, 3, LEAST, LEAST)
    session = onnxruntime.InferenceSession(tmp_path / "palm.onnx", providers=["CPUExecutionProvider"])
    (score,) = session.run(["score"], {"images": images.numpy()})
    true_score = wanted(network, images)[1]
    np.testing.assert_allclose(score, true_score, atol=2e-2)  # weights in half precision
    assert np.corrcoef(score.ravel(), true_score.ravel())[0, 1] > 0.999


def test_senseless_exports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in .onnx or .pt2, got .*hands.pb"):
        export(tmp_path / "hands.pb", tmp_path / "best.pt")
    with pytest.raises(ValueError, match="multiple of 32, got 100"):
        export(tmp_path / "hands.onnx", tmp_path / "best.pt", size=100)
