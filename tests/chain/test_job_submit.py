"""`ray job submit` against a head on loopback runs the chain, with the weights that lie in the data folder."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests.chain.conftest import ROOT, environment, shard_bytes

BIN = Path(sys.executable).parent
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """A Ray head of its own, bound to loopback, ended by its temporary folder (never `ray stop`)."""
    folder = Path("/tmp") / f"whim-ray-{os.getpid()}"  # a socket's path must stay short
    dashboard = free_port()
    env = {**environment(), **TOKEN, "PATH": f"{BIN}:{os.environ['PATH']}"}
    env.pop("PYTHONPATH")
    env.pop("WHIM_WEIGHTS", None)  # a job ships none: they are to come from the data folder
    env["XDG_CACHE_HOME"] = str(tmp_path / "cache")  # where networks would be fetched to
    start: list[str | Path] = [
        BIN / "ray", "start", "--head", f"--port={free_port()}", "--num-cpus=2", "--dashboard-host=127.0.0.1",
        "--node-ip-address=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    subprocess.run(start, env=env, check=True, capture_output=True)
    yield f"http://127.0.0.1:{dashboard}"
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in " ".join(process.info["cmdline"] or []) and process.pid != os.getpid():
            process.kill()
    time.sleep(0.5)


def test_a_submitted_job_runs_the_chain(head: str, few_videos: Path, tmp_path: Path, whim: Callable[..., Any]) -> None:
    """Both runs fit by torch: the job's code lies in a folder of its own, where the fit would be compiled anew."""
    words = ["run", "--videos", few_videos / "asl_yes.mkv", "--set", "fit.backend=torch", "--set", "split.frames_per_second=6"]
    whim(*words, "--local", "--data", tmp_path / "here")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights").symlink_to(Path(os.environ.get("WHIM_WEIGHTS", ROOT / "weights")).resolve())
    job = ["python", "-m", "pipeline", *words, "--data", tmp_path / "data"]
    submit = [BIN / "ray", "job", "submit", "--address", head, "--working-dir", ".", "--", *job]
    for _ in range(100):
        done = subprocess.run(
            [str(a) for a in submit], env={**environment(), **TOKEN}, cwd=ROOT, capture_output=True, text=True, check=False
        )
        if "No available agent" not in done.stderr:
            break
        time.sleep(3)  # the head answers before its agent does
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout
    assert not (tmp_path / "cache" / "whim" / "mediapipe").exists(), "networks were fetched beside those of the data folder"
    assert json.loads(whim("status", "--json", "--data", tmp_path / "data").stdout)["stages"]["review"]["done"] == 1
    assert hands(tmp_path / "data") == hands(tmp_path / "here")
    theirs, ours = (shard_bytes(tmp_path / name) for name in ("data", "here"))
    assert theirs == ours
    assert [name for name in ours if name.endswith(".parquet")]


def hands(data: Path) -> dict[str, str]:
    """Rows of every table of fused hands, as text: NaN is NaN."""
    return {part.name: repr(pq.read_table(part).to_pylist()) for part in (data / "hands").glob("*.parquet")}
