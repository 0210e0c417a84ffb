"""Official test sets become labelled images: their boxes, sides and what is to be ignored; damaged ones are named."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.tables import LEFT, RIGHT
from tests.training.data.readers import official
from training.data.loader import Loader, SampleSource
from training.data.readers import official_whim as whim_module
from training.data.readers.coco_wholebody import coco_wholebody
from training.data.readers.image_frames import ImageFrames
from training.data.readers.labelled_image import UNKNOWN
from training.data.readers.official_whim import Facts, official_whim
from training.data.readers.oxford_hands import oxford_hands
from training.detector.augment import of_training
from training.detector.network import Raw
from training.detector.objective import DetectorLossWeights, detector_loss, targets_of, tensors

NONE = [0.0, 0.0, 0.0, 0.0]


def test_coco_wholebody_hands_are_left_and_right_and_invalid_ones_are_ignored(tmp_path: Path) -> None:
    people = [
        official.person(0, [10.0, 20, 30, 15], [60.0, 20, 10, 12], right_valid=False),
        official.person(0, NONE, [5.0, 5, 8, 9], left_valid=False),
        official.person(2, NONE, NONE, left_valid=False, right_valid=False, iscrowd=1, bbox=[1.0, 2, 30, 40]),
    ]
    images = list(coco_wholebody(official.coco(tmp_path, people, 3)))
    assert [labelled.name for labelled in images] == ["0", "1", "2"]
    np.testing.assert_allclose(images[0].box, [[10, 20, 40, 35], [5, 5, 13, 14]])
    assert images[0].side.tolist() == [0, 1]
    np.testing.assert_allclose(images[0].ignore, [[60, 20, 70, 32]])
    assert len(images[1].box) == len(images[1].ignore) == 0
    np.testing.assert_allclose(images[2].ignore, [[1, 2, 31, 42]])
    assert images[2].image().shape == (80, 120, 3)


def test_what_is_not_coco_wholebody_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no annotations/coco_wholebody_val_v1.0.json: take the labels"):
        next(coco_wholebody(tmp_path))
    folder = official.coco(tmp_path, [{"id": 7, "image_id": 0, "bbox": NONE}], 1)
    with pytest.raises(ValueError, match="is not COCO-WholeBody's: annotation 7 has no lefthand_box"):
        list(coco_wholebody(folder))


def test_oxford_rectangles_become_upright_boxes_without_sides(tmp_path: Path) -> None:
    turned = [(30.0, 10.0), (50.0, 30.0), (30.0, 50.0), (10.0, 30.0)]
    folder = official.oxford(tmp_path, {"b": [turned, [(1.0, 1.0), (11.0, 1.0), (11.0, 6.0), (1.0, 6.0)]], "a": []})
    empty, two = oxford_hands(folder)
    assert (empty.name, empty.box.shape) == ("a", (0, 4))
    np.testing.assert_allclose(two.box, [[9.5, 9.5, 49.5, 49.5], [0.5, 0.5, 10.5, 5.5]])
    assert two.side.tolist() == [-1, -1]
    assert two.image().shape == (80, 120, 3)


def test_damaged_oxford_labels_are_named(tmp_path: Path) -> None:
    folder = official.oxford(tmp_path, {"a": [[(1.0, 1), (2, 1), (2, 2), (1, 2)]]})
    file = folder / "test_dataset" / "test_data" / "annotations" / "a.mat"
    for content in (file.read_bytes()[:150], b"no matlab", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"a.mat cannot be read as Oxford-Hands' boxes"):
            list(oxford_hands(folder))
    with pytest.raises(FileNotFoundError, match=r"has no test_dataset/test_data/annotations: unpack hand_dataset.tar.gz"):
        next(oxford_hands(tmp_path / "elsewhere"))


@pytest.fixture
def two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video of 40 frames at 20 a second, 200 x 100, is known as V."""
    facts = {"V": Facts(frames_per_second=20.0, num_frames=40, width=200, height=100)}
    monkeypatch.setattr(whim_module, "known_videos", lambda: facts)
    hands = [official.whim_hand([20, 10, 60, 50], 0.0), official.whim_hand([-10, 60, 30, 130], 1.0)]
    official.whim_labels(tmp_path, "V", {0: hands, 7: [hands[0]], 30: [hands[1], official.whim_hand([300, 0, 400, 10], 1.0)]})
    return tmp_path


@pytest.mark.parametrize("rate", [10, 20, 30, 50])
def test_whim_labels_meet_the_frames_of_their_times_whatever_rate_the_video_has(two_seconds: Path, rate: int) -> None:
    official.film(two_seconds / "videos" / "V.mkv", 2 * rate, rate, 400, 200)
    images = list(official_whim(two_seconds, two_seconds / "videos"))
    assert [labelled.name for labelled in images] == ["V/000000", "V/000007", "V/000030"]
    grey = [float(labelled.image().mean()) for labelled in images]
    np.testing.assert_allclose(grey, 20 + 50 * np.array([0, 7, 30]) / 20, atol=50 / rate / 2 + 1.5)


def test_whim_labels_are_read_in_order_of_time_however_their_numbers_are_written(two_seconds: Path) -> None:
    official.film(two_seconds / "videos" / "V.mkv", 40, 20, 400, 200)
    for path in (two_seconds / "test/anno/V").glob("*.npy"):
        path.rename(path.with_name(f"{int(path.stem)}.npy"))
    assert [labelled.name for labelled in official_whim(two_seconds, two_seconds / "videos")] == ["V/0", "V/7", "V/30"]


def test_whim_boxes_are_scaled_to_the_video_and_cut_at_its_border(two_seconds: Path) -> None:
    official.film(two_seconds / "videos" / "V.mkv", 40, 20, 400, 200)
    first, _, last = official_whim(two_seconds, two_seconds / "videos")
    np.testing.assert_allclose(first.box, [[40, 20, 120, 100], [0, 120, 60, 200]])
    assert first.side.tolist() == [0, 1]
    np.testing.assert_allclose(last.box, [[0, 120, 60, 200]])  # a hand outside of the image is none


@pytest.mark.parametrize(("frames", "width", "words"), [(80, 400, "lasts 4.0 s, the labelled one 2.0 s"), (40, 300, "shows 300x200")])
def test_a_video_of_another_length_or_shape_is_left_out_by_name(
    two_seconds: Path, caplog: pytest.LogCaptureFixture, frames: int, width: int, words: str
) -> None:
    official.film(two_seconds / "videos" / "V.mkv", frames, 20, width, 200)
    with pytest.raises(FileNotFoundError, match=r"no image for any label in .*: name the folder of the videos with --media"):
        list(official_whim(two_seconds, two_seconds / "videos"))
    assert "video V left out" in caplog.text
    assert words in caplog.text


def test_whim_images_beside_the_labels_are_taken_as_they_are(two_seconds: Path) -> None:
    place = two_seconds / "test" / "anno" / "V"
    official.photo(place / "000007.npy.jpg", 200, 100)
    official.photo(place / "000030.jpg", 100, 50)
    seven, thirty = official_whim(two_seconds)
    np.testing.assert_allclose(seven.box, [[20, 10, 60, 50]])
    np.testing.assert_allclose(thirty.box, [[0, 30, 15, 50]])


class Hostile:
    def __reduce__(self) -> Any:
        return (eval, ("1",))


def test_whim_labels_run_no_code_and_say_what_is_wrong(two_seconds: Path) -> None:
    place = two_seconds / "test" / "anno" / "V"
    official.photo(place / "000000.jpg", 200, 100)
    file = place / "000000.npy"
    hand = official.whim_hand([0, 0, 9, 9], 0.0)
    faults: tuple[tuple[list[Any], str], ...] = (
        ([Hostile()], "refused: builtins.eval"),
        ([{"side": 0.0}], "bbox"),
        ([hand | {"side": 2.0}], "neither 0 nor 1"),
    )
    for hands, words in faults:
        official.whim_labels(two_seconds, "V", {0: hands})
        with pytest.raises(ValueError, match=words):
            list(official_whim(two_seconds))
    file.write_bytes(pickle.dumps(3))
    with pytest.raises(ValueError, match=r"000000.npy is no label of WHIM"):
        list(official_whim(two_seconds))


def test_the_manifest_knows_every_video_of_whim() -> None:
    facts = whim_module.known_videos()
    assert len(facts) == 1457
    assert json.dumps(sorted(facts)).count('"-') == 100
    assert facts["--6bmFM9wT4"] == Facts(frames_per_second=29.97003, num_frames=18887, width=1920, height=1080)


def test_sets_without_sides_and_with_keypoints_teach_the_detector_in_one_batch(tmp_path: Path) -> None:
    """Oxford-Hands knows boxes alone, COCO-WholeBody keypoints and sides; both meet as whole images in the network's square."""
    quad = [(21.0, 11.0), (41.0, 11.0), (41.0, 31.0), (21.0, 31.0)]
    official.oxford(tmp_path, {"VOC1": [quad], "VOC2": []}, split="train")
    points = [[20.0 + k, 30.0 + k, 2.0 if k < 20 else 0.0] for k in range(21)]
    drawn: dict[str, Any] = {"lefthand_kpts": np.ravel(points).tolist(), "righthand_kpts": [0] * 63}
    people = [official.person(0, [20.0, 30.0, 20.0, 20.0], [0.0] * 4, right_valid=False, **drawn)]
    people += [official.person(1, [5.0, 5.0, 10.0, 10.0], [60.0, 5.0, 10.0, 10.0], left_valid=False)]
    official.coco(tmp_path, people, 2, split="train")
    sets = [
        ImageFrames(name="oxford-hands", images=list(oxford_hands(tmp_path, "train")), size=64),
        ImageFrames(name="coco-wholebody", images=list(coco_wholebody(tmp_path, "train")), size=64),
    ]
    assert all(isinstance(one, SampleSource) for one in sets)
    assert sets[0].fingerprint != sets[1].fingerprint
    (batch,) = Loader(sources=sets, batch_size=4, shuffle=False, num_threads=1).epoch(0)
    of_image = [int(k) for k in batch.samples.dataset * 2 + batch.samples.sample]
    labels, scale = batch.labels, 64 / 120
    told = {of_image[k]: labels["side"][labels["image"] == k].tolist() for k in range(4)}
    assert told == {0: [UNKNOWN], 1: [], 2: [LEFT], 3: [RIGHT]}
    first = np.flatnonzero(labels["image"] == of_image.index(0))
    shift = [0.0, (64 - round(80 * scale)) // 2] * 2
    np.testing.assert_allclose(labels["box"][first[0]], np.array([20.5, 10.5, 40.5, 30.5]) * scale + shift, atol=1e-3)
    assert np.isnan(labels["keypoints"][first]).all(), "Oxford-Hands has none"
    hand = labels["keypoints"][labels["image"] == of_image.index(2)][0]
    np.testing.assert_allclose(hand[5], [25 * scale, 35 * scale + shift[1], 1], atol=1e-3)
    assert hand[20, 2] == 0
    assert labels["ignore_image"].tolist() == [of_image.index(3)]
    assert batch.images.shape == (4, 64, 64, 3)
    for k in range(4):
        assert (batch.images[k, 0] == 114).all(), "a wide image has grey above"
        assert batch.images[k, 32].float().std() > 10
    columns = of_training(tensors(labels, "cpu"), torch.arange(4), 64)
    terms = detector_loss(raw(), targets_of(columns, 4), (64, 64), DetectorLossWeights())
    assert all(torch.isfinite(term) for term in terms)


def raw() -> Raw:
    torch.manual_seed(0)
    return Raw(torch.randn(4, 84, 64), torch.randn(4, 84, 2), torch.randn(4, 84, 63))
