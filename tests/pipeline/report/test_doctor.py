"""`whim doctor`: every need of a run in one line, how to mend it, and an exit code."""

import json
import time
from pathlib import Path

import pytest

import whim
from pipeline.report import doctor
from pipeline.report.doctor import Health, examine
from stages.detectors.mediapipe.models import folders


def test_this_machine_can_run_and_every_need_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["doctor", "--json", "--data", str(tmp_path / "new")]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == ["ffmpeg", "JavaScript", "disk", "Ray", "GPU", "weights", "MANO", "clock", "limits"]
    assert "GB free" in found["disk"]["told"]
    assert all(bool(one["mend"]) == (one["health"] != "good") for one in found.values())
    assert not (tmp_path / "new").exists(), "to look is not to make"


def test_what_is_bad_is_told_with_its_cure_and_the_exit_code_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 60)
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("WHIM_MANO", str(tmp_path / "nowhere.pkl"))
    assert whim.main(["doctor", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "bad  disk" in said
    assert "make room" in said
    assert "palm_detection_full.tflite is not there: python -m stages.detectors.mediapipe.models" in said
    assert "bad  MANO" in said
    assert "set it to your MANO_RIGHT.pkl" in said


def test_a_damaged_network_and_a_clock_that_is_off_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mediapipe").mkdir()
    (tmp_path / "mediapipe" / "palm_detection_full.tflite").write_bytes(b"half")
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    now = time.time
    monkeypatch.setattr("pipeline.report.doctor.time.time", lambda: now() - 3600)
    found = {one.name: one for one in examine(tmp_path)}
    assert found["weights"].health is Health.BAD
    assert "is damaged" in found["weights"].told
    assert found["clock"].health is Health.BAD
    assert "+3600 s off that of the disk" in found["clock"].told


@pytest.mark.parametrize(("name", "content"), [("hint.npz", b"of another version"), ("calibration.json", b"{}")])
def test_a_file_learned_for_another_version_is_bad(name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mediapipe").symlink_to(folders()[0])
    (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    found = {one.name: one for one in examine(tmp_path)}["weights"]
    assert found.health is Health.BAD
    assert name in found.told
    assert "learn it anew" in found.mend


def test_a_store_that_does_not_answer_is_one_thing_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHIM_CACHE", str(tmp_path / "no folder"))
    (tmp_path / "no folder").touch()
    assert whim.main(["doctor", "--json", "--data", "s3://bucket/folder"]) == 1
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found)[:2] == ["store", "ffmpeg"]
    assert len(found) == 10
    assert (found["store"]["health"], found["ffmpeg"]["health"]) == ("bad", "good")
    assert "no mirror of s3://bucket/folder can be made" in found["store"]["told"]
