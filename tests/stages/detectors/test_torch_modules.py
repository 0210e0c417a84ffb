"""MediaPipe's networks as torch modules say what LiteRT says, and learn."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stages.detectors.mediapipe.models import find, load
from stages.detectors.mediapipe.torch_modules import TfliteNetwork

PALM_SCORES, PALM_BOXES = (233, 264), (237, 269)
"""Of the coarse cells and of the fine ones, which are first in the file's outputs."""


@pytest.fixture(scope="module")
def images(media: Path) -> list[np.ndarray]:
    paths = sorted((media / "frames").glob("*.jpg"))[:24:8]
    return [np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)) for path in paths]


def batch(images: list[np.ndarray], size: int) -> np.ndarray:
    return np.stack([cv2.resize(image, (size, size)) for image in images]).astype(np.float32) / 255


def by_torch(network: TfliteNetwork, images: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        return [values.numpy() for values in network(torch.from_numpy(images).permute(0, 3, 1, 2))]


def rows(values: np.ndarray) -> np.ndarray:
    """Channels last, flat, as the file's outputs are."""
    return values.transpose(0, 2, 3, 1).reshape(len(values), -1)


def test_the_palm_network_says_what_litert_says(images: list[np.ndarray]) -> None:
    pixels = batch(images, 192)
    found = dict(
        zip(
            (*PALM_SCORES, *PALM_BOXES),
            by_torch(TfliteNetwork(find("palm_detection_full"), (*PALM_SCORES, *PALM_BOXES)), pixels),
            strict=True,
        )
    )
    boxes, scores = load("palm_detection_full")(pixels)
    for wanted, (coarse, fine) in ((scores, PALM_SCORES), (boxes, PALM_BOXES)):
        said = np.concatenate([rows(found[fine]), rows(found[coarse])], 1)
        np.testing.assert_allclose(said, wanted.reshape(len(said), -1), atol=1e-4 * np.abs(wanted).max())


def test_the_landmark_network_says_what_litert_says(images: list[np.ndarray]) -> None:
    pixels = batch(images, 224)
    found = by_torch(TfliteNetwork(find("hand_landmark_full"), (164, 161, 158, 154)), pixels)
    for said in found:
        wanted = min(load("hand_landmark_full")(pixels), key=lambda other: _apart(said, other))
        np.testing.assert_allclose(said.reshape(len(said), -1), wanted.reshape(len(said), -1), atol=1e-4 * np.abs(wanted).max())


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.ravel() - other.ravel()).max()) if one.size == other.size else np.inf


def test_it_runs_at_any_size_that_32_divides_and_learns_from_the_first_operator(images: list[np.ndarray]) -> None:
    network = TfliteNetwork(find("palm_detection_full"), (261, 230, 207))
    levels = network(torch.from_numpy(batch(images[:1], 320)).permute(0, 3, 1, 2)[:, :, :256])
    assert [tuple(level.shape) for level in levels] == [(1, 128, 32, 40), (1, 256, 16, 20), (1, 256, 8, 10)]
    sum(level.square().mean() for level in levels).backward()
    assert all(values.grad is not None and values.grad.abs().max() > 0 for values in network.parameters())


@pytest.mark.parametrize(
    ("name", "size"), [("palm_detection_full", 192), ("hand_landmark_full", 224), ("pose_detection", 224), ("pose_landmark_full", 256)]
)
def test_every_network_by_torch_says_what_litert_says(images: list[np.ndarray], name: str, size: int) -> None:
    pixels = batch(images, size) * (2 if name == "pose_detection" else 1) - (name == "pose_detection")
    torch_s, litert_s = load(name, device="cpu", engine="torch")(pixels), load(name)(pixels)
    assert len(torch_s) == len(litert_s)
    for place, (said, wanted) in enumerate(zip(torch_s, litert_s, strict=True)):
        assert said.shape == wanted.shape
        unread = name == "pose_landmark_full" and place >= 2  # a mask and a heat map whose values reach thousands
        np.testing.assert_allclose(said, wanted, atol=(3e-4 if unread else 1e-4) * np.abs(wanted).max())


def test_an_operator_that_nobody_knows_is_named(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(find("hand_landmark_full").read_bytes())
    model = schema.Model.GetRootAsModel(content, 0)
    mean = next(code for k in range(model.OperatorCodesLength()) if (code := model.OperatorCodes(k)).BuiltinCode() == 40)
    place = mean._tab.Pos + mean._tab.Offset(4)
    content[place] = schema.BuiltinOperator.ARG_MAX  # of the operator's code as it was before there were more than 127
    (tmp_path / "odd.tflite").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd.tflite: operator \d+ is [A-Z_0-9]+, which no network of MediaPipe here has"):
        TfliteNetwork(tmp_path / "odd.tflite")
