"""`ray up` and `ray submit` run the chain over a loopback sshd (cluster/sshd.sh), on the file cluster/local.yaml."""

import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from string import Template

import psutil
import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SSHD = Path("/tmp/whim-sshd")
TOKEN = SSHD / "token"
RAY_TMP = Path("/tmp") / f"whim-up-{os.getpid()}"  # a socket's path must stay short


def ray(*arguments: str | Path) -> str:
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(TOKEN),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TMPDIR": str(SSHD),
    }
    env = {**os.environ, **ours}
    done = subprocess.run([str(BIN / "ray"), *map(str, arguments)], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def end_ray(port: int) -> None:
    """End the cluster of this test by its temporary folder and port, and no other Ray of the machine."""
    lines = {p: " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]) if p.pid != os.getpid()}
    ours = [p for p, line in lines.items() if str(RAY_TMP) in line or ("ray.util.client.server" in line and f":{port} " in line)]
    family = set(ours)
    for process in ours:
        with suppress(psutil.NoSuchProcess):  # one ends with another
            family.update(process.children(recursive=True))
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=20)
    shutil.rmtree(RAY_TMP, ignore_errors=True)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Path]:
    """cluster/local.yaml with this machine's user, key and environment filled in, up and running."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = {"WHIM_SSH_KEY": SSHD / "key", "WHIM_VENV": BIN.parent, "WHIM_ROOT": ROOT, "WHIM_RAY_TMP": RAY_TMP, "WHIM_TOKEN": TOKEN}
    file = tmp_path / "local.yaml"
    file.write_text(Template((ROOT / "cluster/local.yaml").read_text()).substitute(paths, WHIM_USER=getpass.getuser(), WHIM_PORT=port))
    subprocess.run([ROOT / "cluster/sshd.sh", "start", SSHD], check=True)
    TOKEN.write_text(secrets.token_hex(32))
    try:
        ray("up", "-y", "--no-config-cache", file)
        yield file
    finally:
        subprocess.run([ROOT / "cluster/sshd.sh", "stop", SSHD], check=True)
        end_ray(port)


def test_ray_submit_runs_the_chain(cluster: Path, media: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    ray("submit", cluster, ROOT / "pipeline/annotate.py", "--", "run", "--videos", media / "videos/intel/asl_yes.mkv", "--data", data)
    status = subprocess.run(
        [sys.executable, "-m", "pipeline", "status", "--json", "--data", str(data)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(status.stdout)["stages"]["pack"]["done"] == 1
