"""What every command has in common: an error of its user is one line and 1; Ctrl-C, SIGTERM and a closed terminal are one line and 130."""

import signal
import sys
from pathlib import Path
from types import FrameType

import pytest

import whim

REFUSED = {
    "run": "--local --data HERE/d --videos HERE/none.txt",
    "plan": "--data HERE/none",
    "status": "--data HERE/none",
    "doctor": "more",
    "retry": "--data HERE/none",
    "demo": "--local --data HERE/file",
    "settings": "--recipe nosuch",
    "refresh": "--data HERE/none",
    "remove": "video --data HERE/none",
    "import whim": "--local --data HERE/d --annotations HERE/none",
    "import images": "HERE/none --out HERE/o",
    "render videos": "--out HERE/file",
    "render shards": "HERE/file --albums 1",
    "report": "--data HERE/none",
    "browse": "HERE/none",
    "verdicts export": "HERE/o.csv --data HERE/none",
    "verdicts import": "HERE/none.csv --data HERE/none",
    "verify": "HERE/none",
    "evaluate annotators": "--labels HERE/none.json",
    "evaluate studio": "--data HERE/none",
    "evaluate detector": "HERE/none.pt --data HERE/none",
    "evaluate regressor": "HERE/none.pt --data HERE/none",
    "learn prior": "--arctic HERE/none --model HERE/none.pkl --out HERE/o.npz",
    "learn offsets": "HERE/none.npz",
    "learn all": "--recipe nosuch",
    "learn calibration": "--labels HERE/none.json --detections HERE/none.parquet --out HERE/o.json",
    "train detector": "--data HERE/none --out HERE/o",
    "train regressor": "--data HERE/none --out HERE/o",
    "train landmarks": "--data HERE/none --out HERE/o",
    "export detector": "HERE/none.pt --out HERE/o.onnx",
    "export regressor": "HERE/none.pt --out HERE/o.onnx",
    "weights list": "more",
    "weights get": "nosuch",
    "weights check": "nosuch",
    "detect": "HERE/none.mp4 --out HERE/o",
    "reconstruct": "HERE/none.mp4 --out HERE/o",
    "completion": "nosuch",
    **{f"export {format}": "HERE/none --out HERE/o" for format in ("coco", "yolo", "webdataset", "lerobot", "huggingface", "hamer")},
    **{f"export {format}": "HERE/none --out HERE/o" for format in ("fiftyone", "rerun", "glb", "parquet", "csv")},
}
"""Every command, and words that it can do nothing with."""

STOPPED_LINE = "stopped: what was committed stays; run again to go on\n"


def test_every_command_is_in_the_table() -> None:
    assert set(REFUSED) == set(whim.build_commands().known)


def words_of(name: str, here: Path) -> list[str]:
    (here / "file").touch()
    return [*name.split(), *REFUSED[name].replace("HERE", str(here)).split()]


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_of_its_user_is_one_line_that_names_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_of(name, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert whim.main(words) == whim.USER_ERROR
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("whim: ")
    assert any(word.rpartition("/")[2] in said for word in words[len(name.split()) :] if not word.startswith("--")), said
    assert sorted(tmp_path.rglob("*")) == before, "a command that is refused leaves nothing"


def deliver(number: signal.Signals, frame: FrameType) -> None:
    """Do what Python does at a signal: call the handler that stands. The kernel is left out: others in this process took its stack."""
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, frame)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("place", range(len(REFUSED)), ids=list(REFUSED))
def test_every_command_is_stopped_alike(place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, number = list(REFUSED)[place], whim.STOPS[place % len(whim.STOPS)]
    words = {"doctor": ["doctor"], "weights list": ["weights", "list"], "completion": ["completion", "bash"]}.get(name) or words_of(
        name, tmp_path
    )
    code = whim.parse(words).command.__code__
    before = [signal.getsignal(number) for number in whim.STOPS]

    def strike(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is code:
            sys.setprofile(None)
            deliver(number, frame)

    sys.setprofile(strike)
    try:
        assert whim.main(words) == whim.STOPPED
    finally:
        sys.setprofile(None)
    assert capsys.readouterr() == ("", STOPPED_LINE)
    assert [signal.getsignal(number) for number in whim.STOPS] == before


def test_what_is_ignored_stays_ignored() -> None:
    """`nohup whim run ...` lives on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        heard = []

        def strike(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_name == "print_settings":
                sys.setprofile(None)
                deliver(signal.SIGHUP, frame)
                heard.append(signal.getsignal(signal.SIGHUP))

        sys.setprofile(strike)
        assert whim.main(["settings", "split"]) == whim.DONE
        assert heard == [signal.SIG_IGN]
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGHUP, before)
