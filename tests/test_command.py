"""The command `whim`: every command in its help, the nearest name for a typing error, exit codes, and settings by name."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import whim
from pipeline.commands.options import data_folder
from pipeline.recipes import every_stage
from pipeline.stage_settings import listed
from studio.video import Film, make_videos

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of rendered hands, and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder, 1, Film(seconds=0.5, frames_per_second=10))
    (folder / "empty.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def data(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `whim run --until split` with a setting leaves: one video done, one failed for good."""
    folder = tmp_path_factory.mktemp("data")
    words = ["run", "--local", "--videos", str(videos), "--data", str(folder), "--until", "split"]
    assert whim.main([*words, "--set", "split.frames_per_second=10"]) == whim.ITEMS_FAILED
    return folder


def test_help_names_every_command() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=True, env=environment)
    known = whim.build_commands().known
    assert len(known) >= 25
    assert [name for name in known if f"\n  {name} " not in done.stdout] == []


def test_no_command_loads_a_network_to_show_its_help() -> None:
    code = "import whim, sys; whim.build_commands(); print(sorted({'torch', 'numpy', 'ray', 'rich', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"


def test_no_pandas_is_loaded_where_nobody_asks_for_a_data_frame(data: Path) -> None:
    looks = "print('pandas' in sys.modules, len(pyarrow.table({'a': [1]}).to_pandas()))"
    code = f"import pyarrow, sys, whim; whim.main(['plan', '--data', {str(data)!r}]); {looks}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False 1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rnu"], "no command 'rnu': did you mean 'run'?"),
        (["train", "detectr"], "no command 'train detectr': did you mean 'train detector'?"),
        (["plan", "--vidoes", "x"], "no option '--vidoes': did you mean '--videos'?; see whim plan --help"),
        (["plan", "more"], "one word too many: 'more'"),
        (["run", "--workers", "many"], "argument --workers: invalid int value: 'many'; see whim run --help"),
        (["weights"], "the following arguments are required"),
    ],
)
def test_a_typing_error_is_one_line_with_the_nearest_name(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(words) == whim.USER_ERROR
    said = capsys.readouterr()
    assert told in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("older", "name"),
    [
        ("evaluate hands --labels x", "evaluate annotators"),
        ("evaluate truth", "evaluate studio"),
        ("train-detector --data x", "train detector"),
        ("export-regressor best.pt --out x.onnx", "export regressor"),
        ("evaluate-regressor best.pt", "evaluate regressor"),
    ],
)
def test_older_names_are_understood(older: str, name: str) -> None:
    assert whim.parse(older.split()).name == name


@pytest.mark.parametrize(
    ("videos", "name"),
    [("lists/asl.txt", "asl"), ("films", "films"), ("films/*.mp4", "films"), ("films/**/take?/*.mp4", "films"), ("*.mp4", "demo")],
)
def test_a_data_folder_is_called_as_its_list_and_never_as_a_glob(videos: str, name: str) -> None:
    """A folder `data/*` was made, which no shell can be told of without danger."""
    assert data_folder(whim.parse(["plan", "--videos", videos])) == Path("data") / name


def test_version_and_completion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        whim.main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"whim {whim.__version__}\n")
    assert whim.main(["completion", "bash"]) == whim.DONE
    script = capsys.readouterr().out
    assert "--frames-per-second" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_exit_codes(videos: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["run", "--local", "--data", str(data), "--until", "split"]) == whim.ITEMS_FAILED, "it is still no video"
    (video,) = [path for path in videos.glob("*.mp4") if path.name != "empty.mp4"]
    alone = ["run", "--local", "--videos", str(video), "--data", str(tmp_path), "--until", "split"]
    assert whim.main(alone) == whim.DONE
    assert whim.main(["plan", "--data", str(tmp_path / "none")]) == whim.USER_ERROR
    assert "is not there" in capsys.readouterr().err

    def stop(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.commands.build.load_run", stop)
    assert whim.main(["status", "--data", str(tmp_path)]) == whim.STOPPED


def test_status_tells_how_many_failures_it_does_not_name_and_json_names_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(53):
        (tmp_path / "videos" / f"v{number:02d}.mp4").parent.mkdir(exist_ok=True)
        (tmp_path / "videos" / f"v{number:02d}.mp4").touch()
    data = tmp_path / "data"
    words = ["--videos", str(tmp_path / "videos"), "--data", str(data)]
    assert whim.main(["run", "--local", *words, "--until", "download"]) == whim.ITEMS_FAILED
    capsys.readouterr()
    assert whim.main(["status", "--data", str(data)]) == whim.DONE
    shown = capsys.readouterr().out
    assert (shown.count("download v"), "and 3 more: whim status --json" in " ".join(shown.split())) == (50, True)
    assert whim.main(["status", "--json", "--data", str(data)]) == whim.DONE
    failed = json.loads(capsys.readouterr().out)["failures"]
    assert {one["key"] for one in failed} == {f"v{number:02d}" for number in range(53)}
    assert {(one["stage"], one["reason"]) for one in failed} == {("download", "empty_file")}
    assert all(one["message"] for one in failed)


def test_a_run_that_ends_before_says_nothing_of_what_it_did_not_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run --until fit` told "0 kept; no shard yet" of a folder with hands that were kept, and with shards."""
    (tmp_path / "v.mp4").touch()
    words = ["run", "--local", "--videos", str(tmp_path / "v.mp4"), "--data", str(tmp_path / "data")]
    for until, told in ((["--until", "download"], ""), (["--until", "fit"], "hands: 0 found\n"), ([], "0 found, 0 kept; no shard yet\n")):
        assert whim.main([*words, *until]) == whim.ITEMS_FAILED
        shown = capsys.readouterr().out
        assert (told in shown, "hands: " in shown, "kept" in shown, "shard" in shown) == (True, bool(told), not until, not until)


@pytest.mark.parametrize("command", ["status", "plan"])
def test_a_narrow_terminal_shows_every_word_to_its_end(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 columns showed the beginning of `detect-people-movenet` and of a failure's reason."""
    monkeypatch.setenv("COLUMNS", "40")
    (tmp_path / "v.mp4").touch()
    words = ["--videos", str(tmp_path / "v.mp4"), "--data", str(tmp_path / "data")]
    if command == "status":
        whim.main(["run", "--local", *words])
        capsys.readouterr()
        words = words[2:]
    assert whim.main([command, *words]) == whim.DONE
    shown = capsys.readouterr().out
    assert "…" not in shown


def test_a_name_that_this_locale_cannot_write_is_told(tmp_path: Path) -> None:
    (tmp_path / "\u624b.mp4").touch()
    (tmp_path / "list.txt").write_text("\u624b.mp4\n", "utf-8")
    command = [sys.executable, "-m", "pipeline", "plan", "--videos", str(tmp_path / "list.txt"), "--data", str(tmp_path / "data")]
    ascii_alone = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=ascii_alone, capture_output=True, text=True, check=False)
    assert done.returncode == whim.USER_ERROR
    assert "cannot be written in this locale's ascii: set LC_ALL=C.UTF-8" in done.stderr


def test_labels_of_none_of_the_videos_are_refused_before_anything_is_done(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, data = tmp_path / "labels", tmp_path / "data"
    (labels / "train" / "anno" / "another").mkdir(parents=True)
    words = ["import", "whim", "--local", "--annotations", str(labels), "--videos", str(videos), "--data", str(data)]
    assert whim.main(words) == whim.USER_ERROR
    assert "has labels of none of the 2 videos: a folder a video, in train/anno" in " ".join(capsys.readouterr().err.split())
    assert not data.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["detect", "--threshold", "0.3"], "--threshold has no effect with --detector chain"),
        (["detect", "--gpu"], "--gpu has no effect with --detector chain"),
        (["detect", "--image", "64"], "--image has no effect with --detector chain"),
        (["reconstruct", "--detector-image", "64"], "--detector-image has no effect with --regressor ours"),
        (["reconstruct", "--regressor", "fit", "--smooth", "0.05"], "--smooth has no effect with --regressor fit"),
    ],
)
def test_an_option_of_a_network_alone_is_not_taken_for_one_of_the_chain(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jpg").touch()
    assert whim.main([words[0], str(tmp_path / "x.jpg"), *words[1:], "--out", str(tmp_path / "out")]) == whim.USER_ERROR
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_run_that_nobody_reads_any_more_comes_to_its_end(videos: Path, tmp_path: Path) -> None:
    """`whim run ... | head` ended in the middle, with 1 and without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    (video,) = [path for path in videos.glob("*.mp4") if path.name != "empty.mp4"]
    words = ["run", "--local", "--videos", str(video), "--data", str(tmp_path / "data"), "--until", "split"]
    ended = subprocess.run([sys.executable, "-m", "pipeline", *words], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writer)
    assert ended.returncode == whim.DONE, ended.stderr.decode()
    assert len(list((tmp_path / "data/clips").glob("*.parquet"))) == 1


@pytest.mark.parametrize(
    ("words", "status"), [(["settings", "--json"], whim.NOT_READ), (["completion", "bash"], whim.NOT_READ), (["settings"], whim.DONE)]
)
def test_an_answer_to_a_program_that_is_cut_off_does_not_end_well(words: list[str], status: int) -> None:
    """`whim settings --json | head` ended with 0: a script took half of an answer for all of it. What a person reads may be cut."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-m", "whim", *words], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (status, b"")


def test_a_command_stopped_while_source_text_is_run_ends_with_130(tmp_path: Path) -> None:
    """Dataclasses run some: Python then takes the interrupt for uncaught, and a program that `-m` started would die of it."""
    program = ["import sys, whim", "from pipeline.commands import build", "def stop(arguments): exec('raise KeyboardInterrupt')"]
    program += ["stop.__doc__ = 'Stop.'", "build.settings = stop", "sys.exit(whim.main(['settings']))"]
    (tmp_path / "stopped_program.py").write_text("\n".join(program))
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, "-m", "stopped_program"], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert "stopped: what was committed stays" in ended.stderr
    assert ended.returncode == whim.STOPPED


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pipeline.commands.build.load_run", fail)
    with pytest.raises(ZeroDivisionError):
        whim.main(["status", "--data", str(data)])


def test_quiet_prints_errors_only(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["plan", "--data", str(data), "--quiet"]) == whim.DONE
    assert capsys.readouterr() == ("", "")
    assert whim.main(["plan", "--data", str(data / "none"), "--quiet"]) == whim.USER_ERROR
    assert "is not there" in capsys.readouterr().err


def planned(data: Path, *words: str) -> dict[str, Any]:
    captured = subprocess.run(
        [sys.executable, "-m", "pipeline", "plan", "--json", "--data", str(data), *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found: dict[str, Any] = json.loads(captured.stdout)
    return found


def test_a_setting_is_remembered_stands_in_plan_and_report_and_is_taken_back(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(data)
    assert plan["settings"] == {"split.frames_per_second": "10"}
    assert "split" not in plan["by_stage"], "what was made with the setting is not made again"
    back = planned(data, "--set", "split.frames_per_second=")
    assert back["settings"] == {}
    assert back["by_stage"]["split"] == {"settings changed": 1}
    assert whim.main(["plan", "--data", str(data)]) == whim.DONE
    assert "set by hand: split.frames_per_second=10" in capsys.readouterr().out
    assert whim.main(["report", "--data", str(data)]) == whim.DONE
    assert "set by hand: <code>split.frames_per_second=10</code>" in (data / "report.html").read_text()


def test_a_file_of_settings_and_words_on_top_of_it(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[split]\nmax_clip_s = 5\nframes_per_second = 2.5\n[fuse-hands]\nmatch_iou = 0.5\n")
    plan = planned(data, "--config", str(config), "--set", "split.max_clip_s=6")
    assert plan["settings"] == {"split.max_clip_s": "6", "split.frames_per_second": 2.5, "fuse_hands.match_iou": 0.5}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("split.frames_per_secnd=10", "no setting 'split.frames_per_secnd': did you mean 'split.frames_per_second'?"),
        ("splt.frames_per_second=10", "no stage 'splt': did you mean 'split'?"),
        ("split=10", "no setting 'split': there are split.max_clip_s, "),
        ("split.frames_per_second=ten", "split.frames_per_second must be a number and be 0 or more, got 'ten'"),
        ("split.frames_per_second=-1", "split.frames_per_second must be 0 or more, got -1.0"),
        ("split.frames_per_second=inf", "split.frames_per_second must be 0 or more and be finite, got inf"),
        ("frames_per_second=5", "a setting is named with its stage, such as split.frames_per_second, got 'frames_per_second'"),
        (
            "fuse_hands.detectors=mediapipe,foo",
            "fuse_hands.detectors must be those that the recipe runs (mediapipe, whim), got mediapipe, foo",
        ),
        ("split.scene_threshold=2", "split.scene_threshold must lie in (0, 1], got 2.0"),
        ("split.min_clip_s=30", "split.min_clip_s must be less than max_clip_s (20), got 30.0"),
        ("propose_hands_whim.batch_size=0", "propose_hands_whim.batch_size must be 1 or more, got 0"),
        ("fuse_hands.match_iou=1.5", "fuse_hands.match_iou must lie in [0, 1], got 1.5"),
        ("detect_hands.engine=fast", "detect_hands_mediapipe.engine must be litert | openvino | torch, got 'fast'"),
        ("split.frames_per_second", "--set takes NAME=VALUE, such as split.frames_per_second=10, got 'split.frames_per_second'"),
    ],
)
def test_a_wrong_setting_is_one_line(data: Path, asked: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["plan", "--data", str(data), "--set", asked]) == whim.USER_ERROR
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_settings_lists_every_field_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert whim.main(["settings", "--json"]) == whim.DONE
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(listed(every_stage()))
    assert len(found) > 80
    assert [name for name, setting in found.items() if not setting["text"]] == []
    assert found["split.frames_per_second"]["default"] == "5"
    assert whim.main(["settings", "split"]) == whim.DONE
    assert "Rate at which the clips are annotated, in Hz" in " ".join(capsys.readouterr().out.split())
