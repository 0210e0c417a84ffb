"""Calibration finds the extents and the shares of hits that labelled frames were made with."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import whim
from fitting.files import sha256_of
from hands.metrics.labels import LabelledFrame
from pipeline.evaluate.calibrate import learn
from stages.fuse_hands import FuseHands
from stages.fusion.calibration import EMBEDDED, calibrated, load_calibrations
from stages.tables import LEFT, HandDetections
from tests.stages.fused_hands import detection


def frame(number: int, *boxes: tuple[float, float, float, float]) -> LabelledFrame:
    return LabelledFrame(
        name=f"F{number}", video=f"v{number % 8}", frame=number, image="", width=640, height=480,
        box=np.array(boxes, float).reshape(-1, 4), side=np.full(len(boxes), LEFT), ignore=np.zeros((0, 4)),
    )  # fmt: skip


@cache
def hits_and_misses(num_frames: int = 400) -> tuple[list[LabelledFrame], HandDetections]:
    """Hulls 1.25 times too narrow and 1.5 times too low; a detection of score s is a hand with probability s squared."""
    rng = np.random.default_rng(0)
    labels, found = [], []
    for number in range(num_frames):
        score = float(rng.uniform(0.05, 1))
        hull = np.array([200, 200, 280, 280])
        labels.append(frame(number, (190, 180, 290, 300)) if rng.random() < score**2 else frame(number))
        found.append(replace(detection(hull, score, frame=number), video=np.array([f"v{number % 8}"], object)))
    return labels, HandDetections.concat(found)


def label_file(labels: list[LabelledFrame]) -> str:
    images = [
        {"id": la.name, "video": la.video, "frame": la.frame, "width": la.width, "height": la.height,
         "hands": [{"box": box.tolist(), "side": "left"} for box in la.box]}
        for la in labels
    ]  # fmt: skip
    return json.dumps({"format": "handmedia-bench/1", "images": images})


def test_extents_and_shares_of_hits_are_found_again() -> None:
    learned = learn(*hits_and_misses())["a"]
    assert learned["extent"] == [1.25, 1.5]
    curve = np.array(learned["knots"])
    assert (np.diff(curve[:, 1]) >= 0).all()
    np.testing.assert_allclose(np.interp([0.3, 0.5, 0.7, 0.9], *curve.T), [0.09, 0.25, 0.49, 0.81], atol=0.2)
    assert learned["brier"]["held_out"] < learned["brier"]["raw"] < learned["brier"]["constant"]


def test_a_curve_of_shares_never_falls_however_the_hits_lie() -> None:
    """Detections of score .6 to .9 that are hands seldomer than those of .3 to .6: the surer one is never worth less."""
    rng = np.random.default_rng(3)
    labels, found = [], []
    for number in range(240):
        score = float(rng.uniform(0.05, 1))
        chance = 0.8 if 0.3 < score < 0.6 else 0.2
        labels.append(frame(number, (190, 180, 290, 300)) if rng.random() < chance else frame(number))
        found.append(replace(detection([200, 200, 280, 280], score, frame=number), video=np.array([f"v{number % 8}"], object)))
    curve = np.array(learn(labels, HandDetections.concat(found))["a"]["knots"])
    assert (np.diff(curve[:, 1]) >= 0).all()
    assert curve[-1, 1] > curve[0, 1], "and it does rise"


def test_nobody_is_less_of_a_hand_for_a_better_palm_or_presence() -> None:
    """Misses of more presence than the hands: the weight of presence is none, that of the palm is learned without it."""
    labels, found = hits_and_misses()
    is_hand = np.array([len(label.box) > 0 for label in labels])
    presence = np.where(is_hand, 0.8, 0.95).astype(np.float32)
    told = learn(labels, replace(found, palm_score=found.score, presence=presence))["a"]["log_odds"]
    alone = learn(labels, replace(found, palm_score=found.score, presence=np.full(len(presence), 0.5, np.float32)))["a"]["log_odds"]
    assert told["presence"] == 0
    assert told == pytest.approx(alone)
    assert told["palm"] > 0.3


def test_a_file_whose_curve_falls_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    for knots in ([[0, 0.1], [0.5, 0.6], [1, 0.4]], [[0, 0.1], [0.5, 0.6], [0.4, 0.7]], [[0, 0.1], [1, 1.2]]):
        path.write_text(json.dumps({"sources": {"a": {"extent": [1, 1], "knots": knots}}}))
        with pytest.raises(ValueError, match="knots must rise within"):
            load_calibrations(path)


def test_a_second_box_on_a_hand_is_no_hand_and_one_on_an_ignored_region_does_not_count() -> None:
    labels, found = hits_and_misses(200)
    twice = HandDetections.concat([found, replace(found, score=found.score / 2)])
    assert learn(labels, twice)["a"]["num_hands"] == learn(labels, found)["a"]["num_hands"]
    ignoring = [replace(label, ignore=np.array([[150.0, 150, 350, 350]])) if not len(label.box) else label for label in labels]
    kept = learn(ignoring, found)["a"]
    assert kept["num_hands"] == kept["num_detections"]


def test_mirrored_frames_count_beside_the_others(tmp_path: Path) -> None:
    labels, found = hits_and_misses(200)
    flipped = np.column_stack([640 - found.box[:, 2], found.box[:, 1], 640 - found.box[:, 0], found.box[:, 3]]).astype(np.float32)
    beside = replace(found, box=flipped, video=np.array([f"mirrored/{video}" for video in found.video], object))
    (tmp_path / "labels.json").write_text(label_file(labels))
    for name, table in (("plain", found), ("mirrored", beside)):
        pq.write_table(table.to_arrow(), tmp_path / f"{name}.parquet")
    tables = [str(tmp_path / f"{name}.parquet") for name in ("plain", "mirrored")]
    whim.main(
        ["learn", "calibration", "--labels", str(tmp_path / "labels.json"), "--detections", *tables, "--out", str(tmp_path / "c.json")]
    )
    learned = json.loads((tmp_path / "c.json").read_text())["sources"]["a"]
    alone = learn(labels, found)["a"]
    assert (learned["num_detections"], learned["num_hands"]) == (2 * alone["num_detections"], 2 * alone["num_hands"])
    assert learned["extent"] == alone["extent"]


def test_a_source_with_too_few_detections_is_left_as_it_is() -> None:
    labels, found = hits_and_misses(20)
    assert learn(labels, found) == {}


def test_the_command_writes_what_fusion_reads_with_the_hash_of_its_data(tmp_path: Path) -> None:
    labels, found = hits_and_misses()
    (tmp_path / "labels.json").write_text(label_file(labels))
    pq.write_table(found.to_arrow(), tmp_path / "found.parquet")
    out = tmp_path / "calibration.json"
    command = [
        "learn",
        "calibration",
        "--labels",
        str(tmp_path / "labels.json"),
        "--detections",
        str(tmp_path / "found.parquet"),
        "--out",
        str(out),
    ]
    assert whim.main(command) == 0
    first = out.read_bytes()
    assert whim.main(command) == 0
    assert out.read_bytes() == first
    assert load_calibrations(out)["a"].extent.tolist() == [1.25, 1.5]
    hashes = json.loads(first)["learned_on"]["sha256"]
    assert hashes == {name: sha256_of(tmp_path / name) for name in ("labels.json", "found.parquet")}
    (tmp_path / "labels.json").write_text(label_file(labels[:5]))
    assert whim.main(command) == 1
    assert out.read_bytes() == first


def test_a_folder_of_yolo_teaches_as_a_file_does(tmp_path: Path) -> None:
    """Its hash was taken as if it were a file: a folder, which the help names, was refused at the end."""
    folder, found, command = tmp_path / "yolo", [], ["learn", "calibration", "--labels", str(tmp_path / "yolo")]
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for k in range(60):
        cv2.imwrite(str(folder / "images" / f"{k}.png"), np.zeros((100, 100, 3), np.uint8))
        (folder / "labels" / f"{k}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
        hull = np.array([30, 30, 70, 70]) if k % 3 else np.array([1, 1, 9, 9])
        found.append(replace(detection(hull, 0.5), video=np.array([f"images/{k}.png"], object)))
    pq.write_table(HandDetections.concat(found).to_arrow(), tmp_path / "found.parquet")
    command += ["--detections", str(tmp_path / "found.parquet"), "--out", str(tmp_path / "c.json")]
    hashes = []
    for _ in range(2):
        assert whim.main(command) == 0
        hashes.append(json.loads((tmp_path / "c.json").read_text())["learned_on"]["sha256"]["yolo"])
        (folder / "labels" / "0.txt").write_text("0 0.5 0.5 0.4 0.3\n")
    assert len(set(hashes)) == 2


def test_sources_that_were_learned_before_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of `whim learn all`, or of other frames, were gone after a table of one detector."""
    labels, found = hits_and_misses()
    few = replace(found.take(slice(0, 20)), source=np.full(20, "b", object))
    (tmp_path / "labels.json").write_text(label_file(labels))
    pq.write_table(HandDetections.concat([found, few]).to_arrow(), tmp_path / "found.parquet")
    out, known = tmp_path / "c.json", {"extent": [1.0, 1.0], "knots": [[0.0, 0.0], [1.0, 0.5]]}
    out.write_text(json.dumps({"sources": {"a": known, "b": known}}))
    command = ["learn", "calibration", "--labels", str(tmp_path / "labels.json"), "--detections", str(tmp_path / "found.parquet")]
    assert whim.main([*command, "--out", str(out)]) == 0
    assert "b: fewer than 50 detections on the labelled frames, left as it is" in capsys.readouterr().out
    assert json.loads(out.read_text())["sources"]["b"] == known
    assert load_calibrations(out)["a"].extent.tolist() == [1.25, 1.5]
    out.write_text("{}")
    assert whim.main([*command, "--out", str(out)]) == 1
    assert f"{out} is no calibration" in capsys.readouterr().err


def test_every_member_can_be_learned_and_fusion_finds_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path / "weights"))
    members = ("alphapose", "contacthands", "openpose", "vitpose")
    assert FuseHands(detectors=("mediapipe", *members)).uncalibrated == members
    labels, found = hits_and_misses()
    everybodys = [replace(found, source=np.full(len(found), name, object)) for name in members]
    few = replace(found.take(slice(0, 20)), source=np.full(20, "seldom", object))
    pq.write_table(HandDetections.concat([*everybodys, few]).to_arrow(), tmp_path / "found.parquet")
    (tmp_path / "labels.json").write_text(label_file(labels))
    whim.main(["learn", "calibration", "--labels", str(tmp_path / "labels.json"), "--detections", str(tmp_path / "found.parquet")])
    assert "seldom: fewer than 50 detections" in capsys.readouterr().out
    fuse = FuseHands(detectors=("mediapipe", *members, "seldom"))
    assert fuse.uncalibrated == ("seldom",)
    assert set(fuse.weights) == {"calibration", "calibration1", "landmark_score"}
    seen = HandDetections.concat([detection([100, 100, 200, 200], 0.5, source=name) for name in ("mediapipe", "vitpose", "seldom")])
    weighed = calibrated(seen, fuse.calibrations())
    assert weighed.box[1].tolist() == pytest.approx([87.5, 75, 212.5, 225])
    assert weighed.score[0] == pytest.approx(load_calibrations(EMBEDDED)["mediapipe"].score(seen.take(slice(0, 1)))[0])
    assert weighed.score[1] == pytest.approx(0.25, abs=0.2)
    assert (weighed.score[2], weighed.box[2].tolist()) == (0.5, [100, 100, 200, 200])


def test_the_embedded_calibration_says_what_it_was_learned_on() -> None:
    content = json.loads(EMBEDDED.read_text())
    assert set(content["sources"]) == {"mediapipe", "whim"}
    for source in content["sources"].values():
        assert source["brier"]["held_out"] < source["brier"]["constant"]
    assert any(name == "bench_A.json" for name in content["learned_on"]["sha256"])
