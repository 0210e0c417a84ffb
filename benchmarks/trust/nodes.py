"""A Ray of several nodes on one machine, each at a loopback address of its own, with a token; nodes may be killed and joined by others."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HEAD = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(eq=False)
class Nodes:
    """A head that gives no CPU, and the nodes that do."""

    folder: Path
    """For sockets: of a short path."""
    environment: dict[str, str]
    address: str
    running: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    """Processes of the cluster by the address of their node."""
    joined: int = 0

    def start(self, *options: str, host: str, inside: Sequence[str] = ()) -> None:
        """Start a part of the cluster and wait until Ray says that it runs; `inside`: the command in which it is to be started."""
        ray = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            f"--node-ip-address={host}",
            "--block",
            "--disable-usage-stats",
            *options,
        ]
        log = self.folder / f"{host}.log"
        with log.open("wb") as file:
            self.running[host] = subprocess.Popen([*inside, *ray], env=self.environment, stdout=file, stderr=file, start_new_session=True)
        until = time.monotonic() + 90
        while b"Ray runtime started" not in log.read_bytes():
            if self.running[host].poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the node {host} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)

    def join(self, *options: str, inside: Sequence[str] = ()) -> str:
        """Have one more node with a CPU, and what else its `options` give; its address."""
        self.joined += 1
        host = f"127.0.0.{self.joined + 1}"
        self.start(f"--address={self.address}", "--num-cpus=1", *options, host=host, inside=inside)
        return host

    def family(self, host: str) -> list[psutil.Process]:
        """All processes of a node."""
        try:
            node = psutil.Process(self.running[host].pid)
            return [node, *node.children(recursive=True)]
        except psutil.Error:
            return []

    def kill(self, host: str) -> None:
        """Take a node away as a power cut does: all of its processes at once."""
        for one in self.family(host):
            try:
                one.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        self.running.pop(host).wait()


@contextmanager
def nodes(home: Path) -> Iterator[Nodes]:
    """The cluster's head on loopback; with the block all of it ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    token = home / "token"
    token.write_text(secrets.token_hex(32))
    kept = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD" and not name.startswith("RAY_")}
    more = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "PYTHONPATH": str(ROOT),
    }
    folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))
    cluster = Nodes(folder, kept | more, address)
    try:
        port = address.partition(":")[2]
        head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}")
        cluster.start(*head, host=HEAD)
        yield cluster
    finally:
        for host in list(cluster.running):
            cluster.kill(host)
        shutil.rmtree(folder, ignore_errors=True)
