"""The chain on three nodes, one of which sees another folder, with shares of a card, while workers, nodes and the driver are killed."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from benchmarks.trust.nodes import HEAD, Nodes, nodes

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
KILLS = 40
NUM_VIDEOS, SECONDS, CLIP_S = 8, 5.0, 0.2
"""200 clips, one frame each."""
SHARES = ("--set", "detect_hands_mediapipe.gpus=.5", "--set", "fit.gpus=.25")
"""Of the one GPU that a node says it has: 0.75 of it are held at once."""
CARD = ("--num-gpus=1", "--num-cpus=3")


def whim(*words: str | Path, environment: Mapping[str, str] = os.environ, log: Path | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    with (log or Path(os.devnull)).open("ab") as out:
        return subprocess.Popen(command, cwd=ROOT, env=dict(environment), stdout=out, stderr=out, start_new_session=True)


def rows(data: Path) -> Counter[tuple[Any, ...]]:
    """Hands of the shards by video, frame and place, each as often as it is there."""
    found: Counter[tuple[Any, ...]] = Counter()
    for path in sorted((data / "shards").rglob("*.parquet")):
        table = pq.read_table(path, columns=["video", "frame"])
        found.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return found


def shards(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted((data / "shards").rglob("*.parquet"))}


def busy(cluster: Nodes, driver: "subprocess.Popen[bytes]") -> tuple[str, psutil.Process] | None:
    """A node and its worker that has an item; waits for one while the driver runs."""
    until = time.monotonic() + 120
    while driver.poll() is None and time.monotonic() < until:
        for host in random.sample(sorted(cluster.running), len(cluster.running)):
            for one in cluster.family(host):
                try:
                    if "ray::Worker.do" in " ".join(one.cmdline()):
                        return host, one
                except psutil.Error:
                    continue
        time.sleep(0.05)
    return None


def test_forty_kills_lose_nothing_and_change_no_byte(tmp_path: Path) -> None:
    videos, log, seeing = tmp_path / "videos", tmp_path / "log.txt", tmp_path / "seen"
    rendered = whim("render", "videos", "--out", videos, "--num-videos", str(NUM_VIDEOS), "--seconds", str(SECONDS), "--quiet")
    assert rendered.wait() == 0
    wanted = ("--videos", videos, "--set", f"split.max_clip_s={CLIP_S}", "--set", "split.min_clip_s=0", *SHARES)
    assert whim("run", "--local", "--data", tmp_path / "undisturbed", *wanted, log=log).wait() == 0, log.read_text()[-2000:]
    truth, dice, kills = tmp_path / "undisturbed", random.Random(0), Counter[str]()
    random.seed(0)
    assert len(list((truth / "hands").glob("*.parquet"))) >= 200
    seeing.mkdir()
    lost = doubled = 0
    with nodes(tmp_path) as cluster:
        card = cluster.join(*CARD)
        cluster.join()
        if not os.geteuid() and not subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
            cluster.join(inside=["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {seeing} && exec "$@"', "sh"])
        environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
        while kills.total() < KILLS:
            data = seeing / "data"
            shutil.rmtree(data, ignore_errors=True)
            driver = whim("run", "--data", data, *wanted, environment=environment, log=log)
            while kills.total() < KILLS and (found := busy(cluster, driver)):
                host, worker = found
                time.sleep(dice.uniform(0, 2))
                kind = dice.choices(("worker", "node", "driver"), (0.6, 0.2, 0.2))[0]
                if driver.poll() is not None or (kind == "worker" and not worker.is_running()):
                    continue
                kills[kind] += 1
                if kind == "worker":
                    worker.kill()
                elif kind == "driver":
                    driver.kill()
                    driver.wait()
                    driver = whim("run", "--data", data, *wanted, environment=environment, log=log)
                elif host != HEAD:
                    cluster.kill(host)
                    joined = cluster.join(*(CARD if host == card else ()))
                    card = joined if host == card else card
            for _ in range(4):
                if driver.wait(1800) == 0:
                    break
                assert whim("retry", "--data", data, log=log).wait() == 0  # an item whose workers were killed twice waits for this word
                driver = whim("run", "--data", data, *wanted, environment=environment, log=log)
            assert driver.wait(1800) == 0, log.read_text()[-3000:]
            before, after = rows(truth), rows(data)
            lost += (before - after).total()
            doubled += (after - before).total()
            assert shards(data) == shards(truth)
    print(json.dumps({"kills": kills.total(), **kills, "rows_lost": lost, "rows_doubled": doubled}))
    assert (lost, doubled) == (0, 0)
