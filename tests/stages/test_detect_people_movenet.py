"""MoveNet: the network that its authors published, everybody in a crowd, the person's own left and right."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.detect_people_blazepose import DetectPeople
from stages.detect_people_movenet import DetectPeopleMoveNet
from stages.detectors.movenet.convert import MODEL, read_model
from stages.detectors.movenet.network import HEADS, decode, load_people_detector
from stages.fuse_people import fuse_people
from stages.tables import BODY_KEYPOINTS
from tests.labelled_pictures import frames_of, labelled

REFERENCE = Path(__file__).resolve().parents[1] / "data" / "movenet_three_people.json"


def picture(path: Path) -> np.ndarray:
    import cv2

    found = cv2.imread(str(path))
    assert found is not None
    return np.ascontiguousarray(found[..., ::-1])


def test_people_are_where_tensorflow_js_finds_them(media: Path) -> None:
    import cv2

    image = picture(media / "images" / "tfjs" / "three_people.jpg")
    small = cv2.resize(image, (256, round(256 * image.shape[0] / image.shape[1])), interpolation=cv2.INTER_AREA)
    shown = np.zeros((256, 256, 3), np.uint8)
    shown[: len(small)] = small
    found, expected = load_people_detector(256)(shown, 0.3), json.loads(REFERENCE.read_text())["people"]
    assert len(found.score) == len(expected) == 3
    assert np.abs(found.keypoints[..., :2] - [person["keypoints"] for person in expected]).max() < 0.05
    assert np.abs(found.box - [person["box"] for person in expected]).max() < 0.05


def test_a_crowd_that_blazepose_sees_a_few_of(media: Path) -> None:
    frames = frames_of(picture(media / "images" / "unsplash-cansik" / "sherise-Atohf63B8Dg-unsplash.jpg"))
    many, few = (fuse_people(stage.build()(frames)) for stage in (DetectPeopleMoveNet(), DetectPeople()))
    assert len(many) >= 8
    assert len(few) < 0.7 * len(many)


def test_a_person_whom_both_see_is_one(media: Path) -> None:
    frames = frames_of(labelled(media, "A047")[0])
    both = [stage.build()(frames) for stage in (DetectPeople(), DetectPeopleMoveNet())]
    people = fuse_people(type(both[0]).concat(both))
    assert [sorted(sources) for sources in people.sources] == [["blazepose", "movenet"]]


def test_left_is_the_persons_own_left_and_places_are_the_frames(media: Path) -> None:
    image, row = labelled(media, "A000")
    detect = DetectPeopleMoveNet().build()
    left, right = (BODY_KEYPOINTS.index(f"{side}_shoulder") for side in ("left", "right"))
    for turned in (image, np.ascontiguousarray(image[:, ::-1])):
        keypoints = detect(frames_of(turned)).keypoints[0]
        assert keypoints[left, 0] > keypoints[right, 0]  # they face the camera
    keypoints = detect(frames_of(image)).keypoints[0]
    for hand in row["hands"]:
        wrist = keypoints[BODY_KEYPOINTS.index(f"{hand['side']}_wrist")]
        box = np.array(hand["box"])
        assert np.linalg.norm(wrist[:2] - (box[:2] + box[2:]) / 2) < max(box[2:] - box[:2])
        assert wrist[2] > 0.3


def test_cars_black_tiny_and_very_long_pictures_hold_nobody(media: Path) -> None:
    detect = DetectPeopleMoveNet().build()
    for image in (labelled(media, "A022")[0], *(np.zeros((*size, 3), np.uint8) for size in ((90, 160), (2, 2), (3, 5000)))):
        assert len(detect(frames_of(image))) == 0


def test_a_keypoint_is_near_its_place_and_within_the_persons_box() -> None:
    heads = [np.zeros((channels, 16, 16)) for channels in (1, 2, 2, 34, 17, 34)]
    centre, size, _, _, heat, _ = heads
    centre[0, 4, 4], size[:, 4, 4] = 0.9, 2
    heat[:, 4, 4], heat[:, 3, 3], heat[:, 4, 6] = 0.3, 0.31, 0.9  # its own, one further off, another person's
    (keypoints,) = decode(heads, 0.3, np.ones(2)).keypoints
    assert len(heads) == len(HEADS)
    assert keypoints.tolist() == [[16, 16, 0.3]] * 17


def test_a_setting_that_cannot_be_is_refused_by_name() -> None:
    wrong: dict[str, Any] = {"min_score": 1.5, "image_px": 8, "sure_keypoint": 0.0, "least_keypoints": 18, "device": "tpu"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=rf"detect_people_movenet\.{name}"):
            DetectPeopleMoveNet(**{name: value})


def test_weights_that_were_cut_short_are_not_converted(tmp_path: Path) -> None:
    weights = [{"name": "w", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}}]
    model = tmp_path / f"{MODEL}.json"
    model.write_text(json.dumps({"modelTopology": {"node": []}, "weightsManifest": [{"weights": weights}]}))
    model.with_suffix(".bin").write_bytes(np.ones(2, np.float16).tobytes())
    assert read_model(model)[1]["w"].tolist() == [1, 1]
    model.with_suffix(".bin").write_bytes(b"\0\0")
    with pytest.raises(ValueError, match=r"has 2 bytes, its model says 4"):
        read_model(model)
