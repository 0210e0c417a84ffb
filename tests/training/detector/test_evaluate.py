"""One function judges a detector on every test set, and the report says what it found."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import whim
from hands.drawing.sheets import Worst
from tests.training.data.readers import official
from tests.training.detector.small import random_detector, save
from tests.training.detector.test_detect import labels
from training.data.readers.labelled_frames import labelled_frames
from training.data.readers.labelled_image import LabelledImage
from training.detector.evaluate import evaluate, metrics, metrics_by_size
from training.detector.inference import HandDetector
from training.detector.report import ABLATIONS, PAPER, WorstImages, network_facts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_detector(), tmp_path_factory.mktemp("net") / "best.pt")


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> HandDetector:
    return HandDetector.load(checkpoint, size=64, threshold=0.01)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return official.photo(tmp_path / "photo.jpg")


def read(path: Path) -> np.ndarray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))


def test_labelled_frames_are_counted(detector: HandDetector, photo: Path) -> None:
    (found,) = detector([read(photo)])
    best = found.box[0].tolist()
    name = ("left", "right")[int(found.side[0])]
    threshold = float(found.score[0]) - 1e-6

    def measured(**entry: Any) -> Any:
        said = metrics(evaluate(detector, labelled_frames(labels(photo.parent, **entry))), threshold=threshold, min_iou=0.3)
        return [said.get(key) for key in ("precision", "recall", "side")]

    assert measured(hands=[{"box": best, "side": name}]) == [1, 1, 1]
    assert measured(hands=[{"box": best, "side": None}, {"box": [0, 0, 1, 1], "side": "left"}]) == [1, 0.5, 0]
    assert measured(hands=[{"box": best, "side": None}]) == [1, 1, None]
    assert measured(ignore=[best]) == [0, 0, None]


def test_labels_that_do_not_fit_are_named(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(ValueError, match=r"label A0 is of a 80x120 image, .*photo.jpg is 120x80 as it is stored"):
        list(labelled_frames(labels(tmp_path, width=80, height=120)))
    (tmp_path / "cut.json").write_text('{"format": ')
    with pytest.raises(ValueError, match=r"cut.json is not JSON: "):
        list(labelled_frames(tmp_path / "cut.json"))
    with pytest.raises(FileNotFoundError, match=r"label A0: no image .*gone.jpg: name the folder of the images with --media"):
        list(labelled_frames(labels(tmp_path, jpeg="gone.jpg")))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="has format None, wanted 'handmedia-bench/1'"):
        list(labelled_frames(tmp_path / "other.json"))
    with pytest.raises(ValueError, match=r"some.json: label A0 names no image \(jpeg\), and frames of videos"):
        list(labelled_frames(labels(tmp_path, jpeg=None, video="a.mp4")))
    with pytest.raises(ValueError, match=r"some.json: image 0 \(A0\): .*side"):
        list(labelled_frames(labels(tmp_path, hands=[{"box": [0, 0, 1, 1]}])))


def test_a_label_may_leave_out_what_may_be_left_out(photo: Path) -> None:
    """`image` in place of `jpeg`, and no regions to ignore: the annotators read such a file, the detector's reader ended in a traceback."""
    entry = {"id": "A0", "image": photo.name, "width": 120, "height": 80, "hands": []}
    file = photo.parent / "sub" / "labels.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"format": "handmedia-bench/1", "images": [entry]}))
    (found,) = labelled_frames(file)
    assert (found.name, found.source, len(found.box), len(found.ignore)) == ("A0", photo, 0, 0)


def targets_of(detector: HandDetector, path: Path, rows: Any, name: str = "a") -> LabelledImage:
    """An image labelled with what the detector says."""
    (found,) = detector([read(path)])
    return LabelledImage(name=name, source=path, box=found.box[rows].astype(np.float64), side=found.side[rows])


def test_batches_do_not_change_what_is_found(detector: HandDetector, tmp_path: Path) -> None:
    images = [targets_of(detector, official.photo(tmp_path / f"{k}.jpg", seed=k), [0, 3], str(k)) for k in range(5)]
    one, three = (evaluate(detector, images, batch_size=size) for size in (1, 3))
    assert one.num_images == three.num_images == 5
    assert one.targets.image.tolist() == three.targets.image.tolist() == np.repeat(range(5), 2).tolist()
    np.testing.assert_allclose(one.predictions.box, three.predictions.box, atol=1e-3)
    assert metrics(one)["ap"] == pytest.approx(metrics(three)["ap"], abs=1e-6)
    assert set(metrics_by_size(one)) == {"<4%", "4-10%", "10-25%", ">25%"}


def test_the_worst_images_are_kept_worst_first(detector: HandDetector, tmp_path: Path) -> None:
    worst = WorstImages(threshold=2.0, min_iou=0.5, worst=Worst(count=2))  # nothing is said: every label is a miss
    for number, count in enumerate((1, 3, 0, 2)):
        labelled = targets_of(detector, official.photo(tmp_path / f"{number}.jpg", seed=number), list(range(count)), str(number))
        evaluate(detector, [labelled], onlooker=worst)
    assert sorted(faults for faults, *_ in worst.worst.kept) == [2, 3]
    worst.write(tmp_path / "worst.jpg")
    assert read(tmp_path / "worst.jpg").shape == (400, 1600, 3)
    nothing = WorstImages(threshold=2.0, min_iou=0.5)
    nothing.write(tmp_path / "none.jpg")
    assert not (tmp_path / "none.jpg").exists()


def test_size_counts_one_head_in_half_precision(detector: HandDetector) -> None:
    facts = network_facts(detector, repeats=1)
    assert facts["size_mb"] == pytest.approx(6.77, abs=0.02)
    assert facts["milliseconds"] > 0


def test_each_set_adds_to_one_page(checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report"
    options = [str(checkpoint), "--image", "64", "--report", str(report), "--threshold", "0.5"]
    hands = [{"box": [10, 10, 60, 60], "side": "left"}]
    whim.main(["evaluate", "detector", *options, "--labels", str(labels(tmp_path, hands=hands))])
    people = [official.person(0, [10.0, 20, 30, 15], [60.0, 20, 10, 12])]
    whim.main(["evaluate", "detector", *options, "--coco-wholebody", str(official.coco(tmp_path / "coco", people, 2)), "--json"])
    square = [(10.0, 10.0), (50.0, 10.0), (50.0, 50.0), (10.0, 50.0)]
    whim.main(["evaluate", "detector", *options, "--oxford-hands", str(official.oxford(tmp_path / "oxford", {"a": [square]})), "--json"])
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert "side_ap" in said[0]
    assert "side_ap" not in said[1]  # nobody says which hand it is
    page = (report / "report.md").read_text()
    assert all(f"| {method} (paper) |" in page for method in PAPER)
    assert all(f"| {row} (paper) |" in page for row, _ in ABLATIONS.values())
    ours, parts = (line.split(" | ") for line in page.splitlines() if line.startswith("| ours, S, darknet"))
    assert ours[4] == f"{100 * said[0]['ap50']:.4g}"
    assert ours[6] == f"{100 * said[1]['ap50']:.4g}"
    assert parts[1] == ours[6]
    assert ours[8].strip() == parts[3].strip() == ""  # WHIM was not measured
    assert re.search(r"\| some \| 1 \| 1 \|", page)
    for name in ("precision.png", "sizes.png", "worst-some.jpg", "worst-coco-wholebody.jpg"):
        assert cv2.imread(str(report / name)) is not None
        assert name in page
    other = save(random_detector(seed=1), tmp_path / "other.pt")
    assert whim.main(["evaluate", "detector", str(other), *options[1:], "--oxford-hands", str(tmp_path / "not looked at")]) == 1
    assert "holds figures of another checkpoint (coco-wholebody, oxford-hands, some)" in capsys.readouterr().err.replace("\n", " ")
