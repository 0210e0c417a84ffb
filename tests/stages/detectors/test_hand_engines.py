"""The engines of the hand networks: one result, alone or in a batch, on one thread or two, frames alone or together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages import detect_hands_mediapipe
from stages.detect_hands_mediapipe import DetectHands
from stages.detectors.mediapipe import models
from stages.detectors.mediapipe.hand_landmarks import load_hand_landmarks
from stages.tables import HandDetections, People
from tests.labelled_pictures import frames_of, labelled

NETWORKS = {"palm_detection_full": 192, "hand_landmark_full": 224}
ENGINES = ["litert", "openvino"]


def needs(engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed: pip install -c constraints.txt -e '.[openvino]'")


def noise(size: int, count: int) -> np.ndarray:
    """Coarse enough for the networks to see something in."""
    coarse = np.random.default_rng(0).random((count, size // 32, size // 32, 3), np.float32)
    return np.kron(coarse, np.ones((1, 32, 32, 1), np.float32))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_on_two_threads_gives_each_image_what_it_gives_alone(name: str, engine: models.Engine) -> None:
    needs(engine)
    images = noise(NETWORKS[name], 3)
    one, two = models.load(name, engine), models.load(name, engine, 2)
    alone = [np.concatenate(output) for output in zip(*(one(image[None]) for image in images), strict=True)]
    for together, apart in zip(two(images), alone, strict=True):
        assert together.shape[0] == 3
        np.testing.assert_array_equal(together, apart)
        assert np.ptp(together, axis=0).max() > 0, "images differ, and so must what is seen in them"


@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_gives_litert_s_numbers(name: str) -> None:
    needs("openvino")
    images = noise(NETWORKS[name], 2)
    for ours, theirs in zip(models.load(name, "openvino")(images), models.load(name)(images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)  # pixels and logits; bfloat16 is 1 off


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_another_engine_finds_litert_s_hands(media: Path, engine: models.Engine) -> None:
    needs(engine)
    image, _ = labelled(media, "A012")

    def found(settings: DetectHands) -> HandDetections:
        hands = settings.build()(frames_of(image), People.empty())
        return hands.take(hands.score > 0.4)

    ours, theirs = found(DetectHands(engine=engine)), found(DetectHands())
    assert len(ours) == len(theirs) == 2
    np.testing.assert_allclose(ours.keypoints, theirs.keypoints, atol=0.1)
    np.testing.assert_allclose(ours.score, theirs.score, atol=1e-3)


def test_frames_that_are_looked_at_together_have_the_hands_they_have_alone(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, settings = frames_of(*(labelled(media, name)[0] for name in ("A012", "A000"))), DetectHands(tile_zooms=(1.0,))
    alone = settings.build()(frames, People.empty())
    monkeypatch.setattr(detect_hands_mediapipe, "is_gpu", lambda device: True)  # frames in batches; the networks stay on the CPU
    sizes: list[int] = []
    find_landmarks = load_hand_landmarks()

    def counted(looks: list) -> list:
        sizes.append(len({id(image) for image, _ in looks}))
        return find_landmarks(looks)

    monkeypatch.setattr(detect_hands_mediapipe, "load_hand_landmarks", lambda *_, **__: counted)
    together = settings.build()(frames, People.empty())
    assert len(alone) > 2
    assert together.to_arrow().equals(alone.to_arrow())
    assert max(sizes) > 1, "looks at both frames are one batch"


def test_an_engine_that_is_unknown_or_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"engine must be one of litert, openvino, torch, got 'tensorrt'"):
        models.check_engine("tensorrt")
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"'openvino' is not installed: pip install"):
        DetectHands(engine="openvino")


def test_a_worker_holds_the_cores_that_its_networks_use() -> None:
    assert replace(DetectHands(), cpus=3).resources.cpus == 3
    with pytest.raises(ValueError, match=r"detect_hands_mediapipe\.cpus"):
        DetectHands(cpus=0)
