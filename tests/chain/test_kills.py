"""Killed with -9 at random moments, again and again: nothing is lost, nothing is doubled, the shards are the same bytes."""

import contextlib
import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.chain.conftest import ROOT, command, environment, shard_bytes


def start(videos: Path, data: Path, *flags: str) -> "subprocess.Popen[bytes]":
    arguments = command("run", "--videos", videos, "--data", data, *flags)
    return subprocess.Popen(arguments, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_after_parts(driver: "subprocess.Popen[bytes]", data: Path, dice: random.Random, *, worker: bool) -> None:
    """Wait until the run has written something more or a moment has passed, then kill the driver or one of its workers."""
    begin, count = time.monotonic(), len(list(data.rglob("*.parquet")))
    while driver.poll() is None and time.monotonic() - begin < 25 and len(list(data.rglob("*.parquet"))) == count:
        time.sleep(0.02)
    time.sleep(dice.uniform(0, 0.6))
    if driver.poll() is not None:
        return
    with contextlib.suppress(psutil.Error):  # the driver or the worker was quicker
        workers = [p for p in psutil.Process(driver.pid).children(recursive=True) if "Worker" in " ".join(p.cmdline())]
        if worker and workers:
            dice.choice(workers).kill()
            time.sleep(dice.uniform(0, 1.5))
    driver.kill()


@pytest.mark.parametrize(("in_process", "on_ray"), [(3, 1), pytest.param(14, 6, marks=pytest.mark.long)])
def test_random_kills_lose_and_double_nothing(in_process: int, on_ray: int, undisturbed: Path, few_videos: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    dice, data = random.Random(seed), tmp_path / "data"
    landed = {"--local": 0, "on Ray": 0}
    for _ in range(60):
        where = "--local" if landed["--local"] < in_process else "on Ray"
        if landed["on Ray"] == on_ray:
            break
        driver = start(few_videos, data, *(["--local"] if where == "--local" else []))
        kill_after_parts(driver, data, dice, worker=where == "on Ray" and dice.random() < 0.5)
        landed[where] += driver.wait() == -9
        parts = sorted(data.glob("*/**/*.parquet"))
        for part in dice.sample(parts, min(len(parts), 2)):  # something to do for the next one, at any depth
            part.unlink()
    assert landed == {"--local": in_process, "on Ray": on_ray}, f"too few kills landed (seed {seed})"
    assert start(few_videos, data, "--local").wait() == 2, "all done but the empty file"
    assert shard_bytes(data) == shard_bytes(undisturbed)
    made = {str(p.relative_to(undisturbed)) for p in undisturbed.rglob("*.parquet")}
    assert {str(p.relative_to(data)) for p in data.rglob("*.parquet")} == made
    assert not list(data.rglob("*.tmp"))
