"""Odd things in place of files, and folders of strangers: each is named at once, none is waited for, none is believed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import whim
from fitting.compiled import machine_code
from pipeline.browse.index import index_file, renew
from pipeline.engine.files.data_folder import check_token
from pipeline.engine.files.part import read_sealed
from pipeline.engine.store import Store
from pipeline.engine.verify import verify
from pipeline.folder import GRANTED, Asked, load
from stages.digest import CorruptFileError, check_text, seal, unseal
from stages.download import Download
from stages.errors import UserError, one_line
from stages.media.probe import probe
from stages.stage import Failure, Reason
from tests.training.run.test_log import files_of_at_most
from tests.trust.test_messages import data, told, videos  # noqa: F401  fixtures


@pytest.mark.parametrize("read", [unseal, read_sealed, check_text, check_token])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)])
def test_what_is_no_file_of_the_disk_is_refused_at_once(
    tmp_path: Path, read: Callable[[Path], object], make: Callable[[Path], object]
) -> None:
    make(tmp_path / "odd")
    with pytest.raises(CorruptFileError, match=r"(it is no file of the disk|a folder lies in its place|it cannot be read)"):
        read(tmp_path / "odd")


def test_verify_names_folders_and_pipes_in_place_of_files(data: Path) -> None:  # noqa: F811
    (data / "run.json").unlink()
    (data / "run.json").mkdir()
    (data / "videos/one.parquet").unlink()
    os.mkfifo(data / "videos/one.parquet")
    assert verify(data).corrupt == {"run.json": "a folder lies in its place", "videos/one.parquet": "it is no file of the disk"}


def test_a_pipe_that_a_list_names_is_no_video(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    found = probe(tmp_path / "a.mp4")
    assert isinstance(found, Failure)
    assert found.reason is Reason.NOT_A_VIDEO


def test_a_data_folder_lets_nobody_in(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Whoever made it: `run.json` cannot load plugins, name a file of cookies (which is written back), or a folder elsewhere."""
    (tmp_path / "victim").write_text("mine")
    wishes = {
        "download.plugins": "true",
        "download.cookies_file": str(tmp_path / "victim"),
        "download.private_hosts": "10.0.0.1",
        "download.proxy": "http://10.0.0.1:1",
        "download.proxies": "http://10.0.0.1:2",
        "download.folder": str(tmp_path / "elsewhere"),
    }
    assert wishes.keys() == GRANTED
    run = json.loads((data / "run.json").read_text())
    (data / "run.json").write_text(seal({"recipe": run["recipe"], "videos": run["videos"], "settings": wishes}))
    stage = load(data, Asked()).graph.stages[0]
    assert isinstance(stage, Download)
    assert (stage.plugins, stage.cookies_file, stage.private_hosts, stage.folder) == (False, "", (), data / "media")
    assert (stage.proxy, stage.proxies) == ("", ())
    said = " ".join(told(capsys, "plan", "--data", data, status=whim.DONE).split())
    assert "not taken up from the folder's last run: download.cookies_file, download.folder, download.plugins" in said
    granted = load(data, Asked(settings={"download.plugins": "true"}))
    assert granted.graph.stages[0].plugins  # type: ignore[attr-defined]
    assert "download.plugins" not in granted.withheld


def test_a_password_of_a_proxy_is_not_stored(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    words = "run", "--local", "--videos", videos, "--data", tmp_path / "new", "--set"
    assert "HTTPS_PROXY" in told(capsys, *words, "download.proxy=http://me:s3cret@h:1")
    several = told(capsys, *words, "download.proxies=http://h:1,http://me:s3cret@h:2")
    assert "download.proxies has a user or password" in several
    assert "s3cret" not in several
    assert not (tmp_path / "new").exists()


def test_an_odd_path_is_told_in_one_line(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "file").touch()
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    refused: list[tuple[list[str | Path], str]] = [
        (["run", "--local", "--videos", videos, "--data", bad, "--until", "split"], "caf\\udce9"),
        (["plan", "--videos", tmp_path / "loop.mp4", "--data", tmp_path / "d"], "loop.mp4"),
        (["run", "--local", "--videos", videos, "--data", tmp_path / "file/x"], "file is not a folder"),
    ]
    for words, said in refused:
        assert said in told(capsys, *words), words


def test_a_page_is_not_written_over_a_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    (tmp_path / "out").mkdir()
    assert told(capsys, "report", "--data", data, "--out", tmp_path / "out") == f"whim: {tmp_path}/out is a folder, not a file\n"


@pytest.mark.parametrize("option", ["--seconds=nan", "--seconds=-1", "--seconds=inf", "--frames-per-second=0", "--frames-per-second=1e9"])
def test_numbers_that_are_none_are_refused_by_their_option(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert f"argument {option.partition('=')[0]}: must be more than 0" in told(capsys, "render", "videos", "--out", tmp_path / "r", option)


@pytest.mark.parametrize(
    "words",
    [
        ("detect", "x.mp4", "--threshold=nan"),
        ("reconstruct", "x.mp4", "--focal=0"),
        ("reconstruct", "x.mp4", "--smooth=-1"),
        ("train", "detector", "--minutes=nan"),
        ("train", "detector", "--weights=nan"),
        ("train", "regressor", "--workers=-1"),
        ("learn", "prior", "--worst=2"),
    ],
)
def test_numbers_of_trainings_too(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert f"argument {words[-1].partition('=')[0]}: must " in told(capsys, *words)


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    assert whim.main(["settings", "fit"]) == whim.DONE
    assert whim.main(["settings", "fitt"]) == whim.USER_ERROR
    sys.stdout.close()
    sys.stderr.close()


def test_what_cannot_be_said_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert whim.main(["settings", "pack", "--json"]) == whim.USER_ERROR
    assert capsys.readouterr().err == "whim: what it says cannot be written: No space left on device\n"


def test_a_lock_takes_away_our_own_unfinished_files_alone(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "hands/.a.parquet.0123abcd.tmp", tmp_path / "hands/.notes.tmp"
    ours.parent.mkdir()
    ours.touch()
    theirs.touch()
    with Store(tmp_path).lock():
        assert not ours.exists()
        assert theirs.exists()


def test_the_process_that_compiles_runs_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("numpy", "filelock", "fitting"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}::")
    command = [*machine_code._COMMAND[:-2], "-c", "import fitting.files"]
    subprocess.run(command, cwd=tmp_path, env=machine_code._environment(), check=True)
    assert not (tmp_path / "ran").exists()


def test_a_write_that_fails_says_where(data: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    with files_of_at_most(2000):
        said = told(capsys, "report", "--data", data)
    assert said.startswith(f"whim: {data}/report.html is larger than a file may be here (`ulimit -f`, or the file system): raise that")
    assert not (data / "report.html").exists()


def test_a_user_without_a_home_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may be a number that no list knows, and HOME a folder that is not theirs."""
    with pytest.raises(RuntimeError) as nobody:
        Path("~nobody-of-this-name/x").expanduser()
    assert "set HOME to a folder" in (one_line(nobody.value) or "")
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UserError, match="set XDG_CACHE_HOME to a folder that can"):
        renew(Store(tmp_path / "data"), index_file(tmp_path / "data"))
