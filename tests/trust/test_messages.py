"""What a person is told: one line of what, where and how to mend; nothing remembered of a command that was refused; a run's last words."""

import json
import os
import shutil
from pathlib import Path

import pytest

import whim


def told(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = whim.USER_ERROR) -> str:
    """Run a command in this process; what it said, on stderr where it was refused."""
    capsys.readouterr()
    assert whim.main([str(word) for word in words]) == status
    said = capsys.readouterr()
    if status == whim.USER_ERROR:
        assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err + said.out
    return said.err if status == whim.USER_ERROR else said.out


@pytest.fixture
def videos(clip: Path, tmp_path: Path) -> Path:
    """A folder with one video."""
    (tmp_path / "videos").mkdir()
    shutil.copy(clip, tmp_path / "videos/one.mp4")
    return tmp_path / "videos"


@pytest.fixture
def data(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A data folder in which its download has run."""
    told(capsys, "run", "--local", "--videos", videos, "--data", tmp_path / "data", "--until", "download", status=whim.DONE)
    return tmp_path / "data"


def test_what_cannot_be_is_told_in_one_line(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("5-TyAsFwo40\n")
    (tmp_path / "syntax.py").write_text("def recipe(:\n")
    (tmp_path / "raises.py").write_text("import math\n\n1 / 0\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    refused: list[tuple[list[str | Path], str]] = [
        (["status", "--data", file], "file"),
        (["plan", "--data", file / "sub"], "file"),
        (["plan", "--videos", tmp_path / "empty.txt", "--data", tmp_path / "d"], "names no video"),
        (["plan", "--videos", tmp_path / "none", "--data", tmp_path / "d"], "none: no such file or folder"),
        (["plan", "--videos", videos, "--data", tmp_path / "d", "--recipe", f"{tmp_path}/syntax.py:recipe"], "syntax.py, line 1"),
        (["plan", "--videos", videos, "--data", tmp_path / "d", "--recipe", f"{tmp_path}/raises.py:recipe"], "raises.py, line 3"),
        (["run", "--videos", videos, "--data", tmp_path / "d", "--workers", "-1"], "--workers: must be 1 or more, got -1"),
        *[([word, "--data", tmp_path / "d"], "not there") for word in ("status", "retry", "report")],
        (["status", "--data", videos], "has no run yet"),
        (["verify", tmp_path / "d"], "no such folder"),
        (["remove", "x", "--data", tmp_path / "d"], "no such folder"),
        (["run", "--videos", videos, "--data", tmp_path / "d", "--max-pixels", "0"], "--max-pixels: must be 1 or more"),
        (["train", "detector", "--data", tmp_path, "--epochs", "0"], "--epochs: must be 1 or more"),
        (["run", "--videos", videos, "--data", "ftp://bucket/x"], "not an address"),
        (["run", "--videos", videos, "--data", "s3://bucket"], "name one as s3://BUCKET/FOLDER"),
        (["run", "--videos", "s3://bucket/x.mp4", "--data", tmp_path / "d"], "no http or https address"),
    ]
    for words, said in refused:
        assert said in told(capsys, *words), words
    told(capsys, "run", "--local", "--gpus", "9", "--data", tmp_path / "d")
    assert "--gpus has no effect with --local" in caplog.text
    assert not (tmp_path / "d").exists(), "a refused command left something"
    assert not Path("s3:").exists()


def test_a_file_that_may_not_be_read_is_told(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    (tmp_path / "list.txt").write_text("5-TyAsFwo40\n")
    (tmp_path / "list.txt").chmod(0)
    assert "cannot be read" in told(capsys, "plan", "--videos", tmp_path / "list.txt", "--data", tmp_path / "d")


def test_nothing_is_remembered_of_a_refused_command(
    data: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (data / "run.json").read_bytes()
    (tmp_path / "other.txt").write_text("5-TyAsFwo40\n")
    for words in (["--recipe", "fastt"], ["--until", "fitt"], ["--videos", tmp_path / "other.txt", "--until", "fitt"],
                  ["--set", "split.nothing=1"]):  # fmt: skip
        told(capsys, "run", "--data", data, *words)
        assert (data / "run.json").read_bytes() == before
    told(capsys, "status", "--data", data, status=whim.DONE)
    (tmp_path / "mine.py").write_text("from pipeline.recipes import whim as recipe\n")
    monkeypatch.chdir(tmp_path)
    told(capsys, "run", "--local", "--data", data, "--recipe", "mine.py:recipe", "--until", "download", status=whim.DONE)
    assert json.loads((data / "run.json").read_text())["recipe"] == f"{tmp_path}/mine.py:recipe"


@pytest.mark.parametrize("command", ["plan", "status", "retry", "report", "run"])
def test_a_data_folder_runs_no_code(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    mark = tmp_path / "ran"
    (data / "recipe.py").write_text(f"open({str(mark)!r}, 'w').close()\nfrom pipeline.recipes import whim as recipe\n")
    run = json.loads((data / "run.json").read_text())
    run.pop("sha256")
    (data / "run.json").write_text(json.dumps(run | {"recipe": f"{data}/recipe.py:recipe"}))  # as an earlier version wrote it
    assert "runs no code: add --recipe" in told(capsys, command, "--data", data)
    assert not mark.exists()
    told(capsys, "plan", "--data", data, "--recipe", f"{data}/recipe.py:recipe", status=whim.DONE)
    assert mark.exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"videos": 5}', '{"videos": "/x", "settings": []}', "\0"])
def test_a_spoilt_note_of_the_last_run_is_named(data: Path, videos: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (data / "run.json").write_text(content)
    assert "say again what it is made from" in told(capsys, "status", "--data", data)
    told(capsys, "plan", "--data", data, "--videos", videos, "--recipe", "whim", status=whim.DONE)


def test_files_that_are_not_taken_are_named(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (videos / "._one.mkv").touch()
    (videos / "notes.txt").touch()
    said = told(capsys, "plan", "--videos", videos, "--data", tmp_path / "d", status=whim.DONE)
    assert "2 files or videos are not taken" in said
    assert "._one.mkv (hidden)" in said
    as_json = json.loads(told(capsys, "plan", "--json", "--videos", videos, "--data", tmp_path / "d", status=whim.DONE))
    assert {Path(one["name"]).name for one in as_json["left_out"]} == {"._one.mkv", "notes.txt"}


def test_videos_that_the_list_names_no_longer_are_counted_and_the_way_out_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos").mkdir()
    for name in "abcdefg":
        (tmp_path / "videos" / f"{name}.mp4").touch()
    (tmp_path / "list.txt").write_text(f"{tmp_path}/videos/g.mp4\n")
    data, run = tmp_path / "data", ("run", "--local", "--until", "download")
    told(capsys, *run, "--videos", tmp_path / "videos", "--data", data, status=whim.ITEMS_FAILED)
    where = "--videos", tmp_path / "list.txt", "--data", data
    six = "6 videos of the last run are not in this list"
    said = " ".join(told(capsys, "plan", *where, status=whim.DONE).split())
    assert f"{six} and stay; --leave lets them go: a, b, c, d, e, ..." in said
    for words, status in ((("plan",), whim.DONE), (run, whim.ITEMS_FAILED)):
        said = " ".join(told(capsys, *words, "--leave", *where, status=status).split())
        assert f"{six} and leave the dataset: a, b, c, d, e, ..." in said
    assert "not in this list" not in told(capsys, "plan", *where, status=whim.DONE), "they have left"


def test_a_run_in_which_every_video_failed_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos" / name).write_bytes(b"no video at all" * 10)
    data = tmp_path / "data"
    said = told(capsys, "run", "--local", "--videos", tmp_path / "videos", "--data", data, status=whim.ITEMS_FAILED)
    *_, hands, failed, blocked, after = said.strip().splitlines()
    assert hands == "hands: 0 found, 0 kept; no shard yet"
    assert failed == "failed for good: 2 (2 not_a_video)"
    assert blocked.startswith("not reached: ")
    assert f"whim status --data {data}" in after
    assert "whim retry" in after


def test_several_videos_and_a_bound_of_pixels_are_remembered(
    videos: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(clip, tmp_path / "two.mp4")
    words: list[str | Path] = [
        "run",
        "--local",
        "--videos",
        videos,
        tmp_path / "two.mp4",
        "--data",
        tmp_path / "data",
        "--until",
        "download",
    ]
    said = told(capsys, *words, "--max-pixels", "100", status=whim.ITEMS_FAILED)
    assert "2 too_large" in said
    as_json = json.loads(told(capsys, "plan", "--json", "--data", tmp_path / "data", status=whim.DONE))
    assert as_json["settings"] == {"download.max_pixels": "100"}
    assert len(json.loads((tmp_path / "data/run.json").read_text())["videos"]) == 2
