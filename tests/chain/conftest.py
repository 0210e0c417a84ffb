"""A few short real videos, and the command line as a user runs it."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import imageio_ffmpeg
import pytest

from whim import main

ROOT = Path(__file__).resolve().parents[2]
Whim = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def few_videos(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of two signers each, one of black, an empty file."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("videos/intel/asl_yes.mkv", "videos/intel/asl_bird.mkv", "odd/black_3s.mp4"):
        ffmpeg(media / name, folder / Path(name).name, "-t", "0.5", "-c", "copy")
    shutil.copy2(media / "broken/zero_bytes.mp4", folder)
    return folder


def ffmpeg(source: Path, target: Path, *options: str) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", source, *options, target], check=True)


@contextmanager
def served_folder(folder: Path) -> Iterator[str]:
    """A folder at an http address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def served(media: Path) -> Iterator[str]:
    """The real videos at an http address."""
    with served_folder(media) as address:
        yield address


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pipeline", *map(str, arguments)]


@pytest.fixture(scope="session")
def whim() -> Whim:
    """Run `whim ...` in this process; fails the test with what it said when the exit status is not the one expected."""

    def call(*arguments: str | Path, status: int = 0) -> "subprocess.CompletedProcess[str]":
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            ended = main([*map(str, arguments)])
        assert ended == status, out.getvalue()[-3000:] + err.getvalue()[-3000:]
        return subprocess.CompletedProcess(arguments, ended, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def whim_apart() -> Whim:
    """Run `python -m pipeline ...`, as `whim` does it, in a process of its own: on Ray, and where its memory counts."""

    def call(*arguments: str | Path, status: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(command(*arguments), env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return call


@pytest.fixture(scope="session")
def undisturbed(few_videos: Path, whim_apart: Whim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of one whole run on Ray."""
    data = tmp_path_factory.mktemp("undisturbed") / "data"
    whim_apart("run", "--videos", few_videos, "--data", data, status=2)  # the empty file is no video
    return data


def plan(whim: Whim, *arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(whim("plan", "--json", *arguments).stdout)
    return found


def status(whim: Whim, data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(whim("status", "--json", "--data", data).stdout)
    return found


def shard_bytes(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted((data / "shards").rglob("*")) if path.is_file()}
