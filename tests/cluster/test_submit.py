"""`ray up` and `ray submit` run the chain over a loopback sshd (cluster/sshd.sh), on the file cluster/local.yaml."""

import getpass
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template

import psutil
import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
KEY = Path("/tmp/whim-sshd/key")


def ray(*arguments: str | Path) -> str:
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run([str(BIN / "ray"), *map(str, arguments)], env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Path]:
    """cluster/local.yaml with this machine's user, key and environment filled in, up and running; ended by its temporary folder."""
    if not KEY.exists():
        pytest.skip("no loopback sshd: run cluster/sshd.sh (make test-cluster does)")
    temporary = Path("/tmp") / f"whim-up-{os.getpid()}"
    text = Template((ROOT / "cluster/local.yaml").read_text()).substitute(
        WHIM_USER=getpass.getuser(), WHIM_SSH_KEY=KEY, WHIM_VENV=BIN.parent, WHIM_RAY_TMP=temporary, WHIM_ROOT=ROOT
    )
    file = tmp_path / "local.yaml"
    file.write_text(text)
    ray("up", "-y", "--no-config-cache", file)
    yield file
    for process in psutil.process_iter(["cmdline"]):
        if str(temporary) in " ".join(process.info["cmdline"] or []):
            process.kill()


def test_ray_submit_runs_the_chain(cluster: Path, media: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    video = media / "videos/intel/asl_yes.mkv"
    ray("submit", cluster, ROOT / "pipeline/annotate.py", "--", "run", "--videos", video, "--data", data)
    status = subprocess.run(
        [sys.executable, "-m", "pipeline", "status", "--json", "--data", str(data)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(status.stdout)["stages"]["pack"]["done"] == 1
