"""FreiHAND and HO3D from files of their official layouts: parameters, places and images agree with each other, and bad files say so."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fitting.hand.mano import RIGHT, load_hand_model, pose_hand
from tests.training.data.sets.hand_sets import (
    FREIHAND_MATRIX,
    HO3D_MATRIX,
    TO_OPENGL,
    Posed,
    exact_model,
    freihand_folder,
    ho3d_folder,
    mano_file,
    posed,
    published,
    seen,
    spot,
    write_meta,
)
from training.data.loader import Loader, SampleSource
from training.data.samples import moved
from training.data.sets.freihand import TIPS as FREIHAND_TIPS
from training.data.sets.freihand import freihand
from training.data.sets.hand_crops import HandCrops
from training.data.sets.ho3d import TIPS as HO3D_TIPS
from training.data.sets.ho3d import TO_HO3D, ho3d
from training.data.shard import CorruptSampleError


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Posed, Posed]:
    """Hands to train on and to be judged by."""
    model = exact_model(mano_file(tmp_path_factory.getbasetemp()))
    return posed(5, model, seed=1), posed(4, model, seed=2)


@pytest.fixture(autouse=True)
def _their_model(hands: tuple[Posed, Posed], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_MANO", str(tmp_path_factory.getbasetemp() / "MANO_RIGHT.pkl"))


@pytest.fixture
def freihand_set(tmp_path: Path, hands: tuple[Posed, Posed]) -> Path:
    return freihand_folder(tmp_path / "freihand", *hands, hands_mean=load_hand_model().hands_mean.numpy())


@pytest.fixture(params=[".png", ".jpg"], ids=["v2", "v3"])
def ho3d_set(tmp_path: Path, hands: tuple[Posed, Posed], request: pytest.FixtureRequest) -> Path:
    return ho3d_folder(tmp_path / "ho3d", *hands, suffix=request.param)


def check_training(crops: HandCrops, truth: Posed, matrix: np.ndarray) -> None:
    """MANO's parameters give the joints, our fingertips too; they lie where the image and, nearly, the fit's camera have them."""
    assert isinstance(crops, SampleSource)
    labels = crops.labels(range(len(crops)))
    assert (labels["side"] == RIGHT).all()
    parameters = [torch.as_tensor(labels[name]) for name in ("betas", "global_orient", "hand_pose")]
    joints = pose_hand(load_hand_model(), *parameters).joints.numpy()
    np.testing.assert_allclose(joints - joints[:, :1], labels["joints_3d"], atol=2e-6)
    np.testing.assert_allclose(labels["joints_3d"], truth.joints - truth.joints[:, :1], atol=1e-6)
    np.testing.assert_allclose(labels["joints_2d"], seen(truth.joints, matrix) + 0.5, atol=1e-3)
    weak = labels["camera"][:, None, :1] * labels["joints_3d"][..., :2] + labels["camera"][:, None, 1:]
    assert np.abs(weak - labels["joints_2d"]).max() < 0.2 * np.ptp(labels["joints_2d"], 1).max(), "weak perspective is near"
    check_images(crops)


def check_images(crops: HandCrops) -> None:
    """The spot on the wrist lies where the labels have the wrist."""
    labels = crops.labels(range(len(crops)))
    for sample, place in enumerate(moved(labels["joints_2d"], labels["to_input"])[:, 0]):
        image = np.empty(crops.shape, np.uint8)
        crops.decode(sample, image)
        np.testing.assert_allclose(spot(image), place, atol=0.5)


def test_freihand_to_train_on(freihand_set: Path, hands: tuple[Posed, Posed]) -> None:
    crops = freihand(freihand_set, "training")
    assert len(crops) == 4 * 5
    assert crops.truth is None
    truth = Posed(*(np.tile(values, (4, *[1] * (values.ndim - 1))) for values in hands[0]))
    check_training(crops, truth, FREIHAND_MATRIX)
    assert len(freihand(freihand_set, "training", versions=1)) == 5
    (batch,) = Loader(sources=[crops], batch_size=16, seed=3).epoch(0)
    assert batch.images.shape == (16, 256, 256, 3)


def test_freihand_to_be_judged_by(freihand_set: Path, hands: tuple[Posed, Posed]) -> None:
    crops = freihand(freihand_set, "evaluation")
    assert crops.truth
    np.testing.assert_allclose(crops.truth.joints, published(hands[1], FREIHAND_TIPS), atol=1e-9)
    np.testing.assert_allclose(crops.truth.vertices, hands[1].vertices, atol=1e-9)
    check_images(crops)
    labels = crops.labels([0, 1])
    assert np.isnan(labels["hand_pose"]).all(), "an evaluation split tells no parameters"
    scale, *shift = labels["to_input"][0]
    np.testing.assert_allclose(112 * scale + shift, 128, atol=1e-4, err_msg="the crop is around the image's middle")
    np.testing.assert_allclose(2 / 3 * 256 / scale, 224, atol=1e-3, err_msg="twice the box is the whole image")


def test_ho3d_to_train_on(ho3d_set: Path, hands: tuple[Posed, Posed]) -> None:
    crops = ho3d(ho3d_set, "train")
    assert len(crops) == 4, "the image without annotation is left out"
    assert crops.sequence == ("Bt10", "At10", "Bt10", "At10")
    assert crops.frame.tolist() == [1, 2, 3, 4]
    check_training(crops, Posed(*(values[1:] for values in hands[0])), HO3D_MATRIX)


def test_ho3d_to_be_judged_by(ho3d_set: Path, hands: tuple[Posed, Posed]) -> None:
    crops = ho3d(ho3d_set, "evaluation")
    second = ho3d(ho3d_set, "evaluation", every=2).truth
    assert crops.truth
    assert second
    np.testing.assert_allclose(crops.truth.joints, published(hands[1], HO3D_TIPS), atol=1e-9)
    np.testing.assert_allclose(crops.truth.vertices, hands[1].vertices, atol=1e-9)
    check_images(crops)
    told = np.array(json.loads((ho3d_set / "evaluation_xyz.json").read_text()))
    np.testing.assert_allclose((crops.truth.joints * TO_OPENGL)[:, list(TO_HO3D)], told, atol=1e-9)
    box = crops.box[2]
    np.testing.assert_allclose(box, [*seen(hands[1].joints[2], HO3D_MATRIX).min(0), *seen(hands[1].joints[2], HO3D_MATRIX).max(0)])
    np.testing.assert_allclose(second.joints, published(hands[1], HO3D_TIPS)[::2], atol=1e-9)


def test_without_manos_file_its_parameters_are_unknown(freihand_set: Path, ho3d_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHIM_MANO")
    if load_hand_model().source == "mano":
        pytest.skip("MANO's own file is in weights/mano")
    for crops in (freihand(freihand_set, "training"), ho3d(ho3d_set, "train")):
        labels = crops.labels([0])
        assert np.isnan(labels["betas"]).all()
        assert np.isnan(labels["hand_pose"]).all()
        assert np.isfinite(labels["joints_3d"]).all()


def test_what_is_missing_or_damaged_is_named(freihand_set: Path, ho3d_set: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"evaluation_xyz\.json is missing: get FreiHAND"):
        freihand(tmp_path, "evaluation")
    (freihand_set / "training_K.json").write_text("[[1, 2], [3]]")
    with pytest.raises(ValueError, match=r"training_K\.json is no FreiHAND K file"):
        freihand(freihand_set, "training")
    (freihand_set / "evaluation/rgb/00000003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"00000003\.jpg is missing"):
        freihand(freihand_set, "evaluation")
    with pytest.raises(ValueError, match=r"freihand\.versions"):
        freihand(freihand_set, "training", versions=5)
    image = next((ho3d_set / "train/Bt10/rgb").glob("0001.*"))
    image.unlink()
    with pytest.raises(CorruptSampleError, match="0001"):
        ho3d(ho3d_set, "train").decode(0, np.empty((256, 256, 3), np.uint8))
    (ho3d_set / "evaluation_verts.json").write_text("[[[0, 0, 0]]]")
    with pytest.raises(ValueError, match=r"one for each line of evaluation\.txt"):
        ho3d(ho3d_set, "evaluation")
    (ho3d_set / "evaluation_verts.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"evaluation_verts\.json"):
        ho3d(ho3d_set, "evaluation")
    with pytest.raises(FileNotFoundError, match=r"train\.txt is missing: get HO3D"):
        ho3d(tmp_path, "train")


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/ho3d-ran-code"),))


def test_no_annotation_runs_code(ho3d_set: Path) -> None:
    path = ho3d_set / "train/Bt10/meta/0001.pkl"
    path.write_bytes(pickle.dumps({"camMat": Hostile()}))
    with pytest.raises(ValueError, match="it holds more than data"):
        ho3d(ho3d_set, "train")
    assert not Path("/tmp/ho3d-ran-code").exists()
    write_meta(path, {"camMat": np.eye(2), "handPose": np.zeros(48)})
    with pytest.raises(ValueError, match="no camMat of shape"):
        ho3d(ho3d_set, "train")
