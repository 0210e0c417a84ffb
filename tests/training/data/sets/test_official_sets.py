"""Every reader on files of its set's official layout: sides, orders, units and axes agree with each other, with MANO and with the image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fitting.hand.mano import LEFT, RIGHT, HandModel, load_hand_model, pose_either_hand
from tests.training.data.sets.hand_sets import exact_model, freihand_folder, mano_file, posed, spot
from tests.training.data.sets.official_sets import MAKERS, Hand, sided, write_tar
from training.data.loader import Loader, SampleSource
from training.data.samples import moved
from training.data.sets.hot3d import seen
from training.data.sets.table import NAMES, PAPER_SETS, Chosen, chosen_sets, read_set


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HandModel:
    return exact_model(mano_file(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def hands(model: HandModel) -> list[Hand]:
    """Two right hands and two left ones, whose poses a PCA of 15 components tells as they are."""
    four = posed(4, model, seed=5)
    components, mean = model.hands_components[:15].numpy(), model.hands_mean.numpy()
    pose = mean + (four.hand_pose - mean) @ np.linalg.pinv(components) @ components
    place = four.joints[:, :1]
    own = pose_either_hand(model, torch.ones(4, dtype=torch.int64), *map(torch.as_tensor, (four.betas, four.global_orient, pose)))
    return sided(four._replace(hand_pose=pose, joints=own.joints.numpy() + place), model)


@pytest.fixture(autouse=True)
def _their_model(model: HandModel, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_MANO", str(tmp_path_factory.getbasetemp() / "MANO_RIGHT.pkl"))


def test_all_fourteen_sets_of_the_paper_have_a_reader_and_hamers_archives_too() -> None:
    assert len(set(PAPER_SETS)) == 14
    assert set(NAMES) == {*MAKERS, "freihand", "ho3d"}


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_tells_the_hands_it_was_made_of(name: str, tmp_path: Path, hands: list[Hand], model: HandModel) -> None:
    made = MAKERS[name](tmp_path / "set", hands, model)
    crops = read_set(Chosen(name=name, folder=made.folder, weight=None))
    assert isinstance(crops, SampleSource)
    assert len(crops) == len(made.hands)
    labels = crops.labels(range(len(crops)))
    order = list(range(len(crops)))
    if name == "bedlam":  # in the order of scenes
        order = [int(np.argmin([np.abs(hand.pose - pose).max() for hand in made.hands])) for pose in labels["hand_pose"]]
        assert any("closeup" in str(image) for image in crops.images)
    assert sorted(order) == list(range(len(crops)))
    for row, hand in enumerate(made.hands[k] for k in order):
        assert labels["side"][row] == hand.side
        known = made.space
        assert np.isfinite(labels["joints_3d"][row]).all() == known
        if known:
            np.testing.assert_allclose(labels["joints_3d"][row], hand.joints - hand.joints[0], atol=2e-5)
        mano = made.mano and (hand.side == RIGHT or made.left_mano)
        shape = mano and made.shape and (hand.side == RIGHT or made.left_shape)
        assert (np.isfinite(labels["hand_pose"][row]).all(), np.isfinite(labels["betas"][row]).all()) == (mano, shape)
        if mano:
            betas = labels["betas"][row] if shape else hand.betas.astype(np.float32)
            told = (betas, labels["global_orient"][row], labels["hand_pose"][row])
            sides = torch.tensor([int(labels["side"][row])])
            joints = pose_either_hand(load_hand_model(), sides, *(torch.as_tensor(values)[None] for values in told)).joints[0].numpy()
            np.testing.assert_allclose(joints, hand.joints - hand.joints[0], atol=2e-5)
    check_images(crops)


def check_images(crops: SampleSource) -> None:
    """The spot on the wrist lies where the labels have the wrist, in the mirrored image of a left hand too."""
    labels = crops.labels(range(len(crops)))
    for sample, place in enumerate(moved(labels["keypoints"], labels["to_input"])[:, 0, :2]):
        image = np.empty(crops.shape, np.uint8)
        crops.decode(sample, image)
        wanted = [crops.shape[1] - place[0], place[1]] if labels["side"][sample] == LEFT else place
        np.testing.assert_allclose(spot(image), wanted, atol=0.8)


def test_five_sets_meet_in_a_batch_by_their_weights(tmp_path: Path, hands: list[Hand], model: HandModel) -> None:
    weights = {"rhd": 4, "halpe": 1, "dexycb": 1, "bedlam": 1, "hamer": 1}
    words = [f"{name}={MAKERS[name](tmp_path / name, hands, model).folder}:{weight}" for name, weight in weights.items()]
    chosen = chosen_sets([",".join(words[:3]), *words[3:]])
    assert [one.name for one in chosen] == list(weights)
    loader = Loader(
        sources=[read_set(one) for one in chosen], batch_size=16, weights=[one.weight or 0 for one in chosen], num_samples=16, num_threads=1
    )
    (batch,) = loader.epoch(0)
    assert np.bincount(batch.samples.dataset, minlength=5).tolist() == [8, 2, 2, 2, 2]
    assert np.isfinite(batch.labels["keypoints"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_files_says_where_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=r"get |take the labels"):
        read_set(Chosen(name=name, folder=tmp_path, weight=None))
    with pytest.raises(FileNotFoundError, match=rf"--sets {name}=.*/none: no such folder"):
        read_set(Chosen(name=name, folder=tmp_path / "none", weight=None))


@pytest.mark.parametrize("word", ["frihand=/data", "freihand", "freihand=", "freihand=/data:0", "freihand=/data:inf"])
def test_a_word_that_names_no_set_or_no_weight_is_said(word: str) -> None:
    with pytest.raises(ValueError, match=r"--sets .*(did you mean 'freihand'|say freihand=DIR)"):
        chosen_sets([word])


def test_a_colon_of_the_folders_name_is_no_weight() -> None:
    assert chosen_sets(["rhd=/a:b/c"]) == [Chosen(name="rhd", folder=Path("/a:b/c"), weight=None)]


def test_an_archive_that_is_cut_short_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "rhd-train" / "000000.tar", {"a.jpg": b"", "a.data.pyd": b"\x80\x02]q\x00"})
    with pytest.raises(ValueError, match=r"000000.tar is no archive of HaMeR's training data"):
        read_set(Chosen(name="hamer", folder=tmp_path, weight=None))


def test_the_fisheye_bends_as_its_numbers_say() -> None:
    """Computed by hand: at 45 degrees the angle is pi / 4; one number of each kind, the others 0."""
    lens = {"model_name": "CameraModelType.FISHEYE624", "image_width": 4000, "image_height": 4000}
    point, theta = np.array([[1.0, 0.0, 1.0]]), np.pi / 4

    def at(**change: float) -> np.ndarray:
        numbers = dict.fromkeys(["f", "cx", "cy", *(f"k{i}" for i in range(6)), "p0", "p1", "s0", "s1", "s2", "s3"], 0.0)
        numbers |= {"f": 1000.0, "cx": 2000.0, "cy": 2000.0} | change
        return (seen(point, lens | {"projection_params": list(numbers.values())})[0] - 0.5 - 2000) / 1000

    np.testing.assert_allclose(at(), [theta, 0])
    np.testing.assert_allclose(at(k1=0.1), [theta * (1 + 0.1 * theta**4), 0])
    np.testing.assert_allclose(at(p0=0.1), [theta + 3 * 0.1 * theta**2, 0])
    np.testing.assert_allclose(at(p1=0.1), [theta, 0.1 * theta**2])
    np.testing.assert_allclose(at(s1=0.1, s2=0.2), [theta + 0.1 * theta**4, 0.2 * theta**2])
    assert np.isnan(seen(np.array([[0.0, 0, -1], [9.0, 0, 1]]), lens | {"projection_params": [100.0, 0, 0, *[0.0] * 12]})).all()
    with pytest.raises(ValueError, match="'PINHOLE', which is not known"):
        seen(point, lens | {"model_name": "PINHOLE", "projection_params": [1.0] * 15})


def test_hands_of_shards_and_of_freihand_are_read_alike(tmp_path: Path, model: HandModel) -> None:
    both = posed(2, model), posed(1, model, seed=1)
    folder = freihand_folder(tmp_path / "freihand", *both, hands_mean=model.hands_mean.numpy())
    crops = read_set(Chosen(name="freihand", folder=folder, weight=None))
    assert set(crops.columns) == {"side", "keypoints", "joints_2d", "joints_3d", "betas", "global_orient", "hand_pose", "camera", "quality"}
