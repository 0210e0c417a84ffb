"""Runs on Ray whose workers, whose raylet or one of whose nodes are killed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.trust.bench import Bench
from benchmarks.trust.nodes import HEAD, Nodes, nodes
from benchmarks.trust.runs import bring_to_end, unfitted

KILLS = {"worker": 45, "raylet": 14, "node": 14}
DRIVER_ENDS_S = 240.0
"""Patience with a run whose raylet is gone, on a machine that others load too."""


def disturb(bench: Bench) -> None:
    """Kill as often as is wanted; a run whose worker or node is gone goes on, one whose raylet is gone ends in one line."""
    for name in KILLS:
        while bench.figures[f"kills.{name}"] < bench.wanted(KILLS[name]):
            data = bench.work / "on-ray/data"
            shutil.rmtree(data, ignore_errors=True)
            if bench.dice.random() < 0.5:
                unfitted(bench, data)
            {"worker": _workers, "raylet": _raylet, "node": _nodes}[name](bench, data)
            bring_to_end(bench, data)
            bench.keep()


def _start(bench: Bench, data: Path, **more: str) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "pipeline", *map(str, bench.asked(data))]
    kept = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD" and not name.startswith("RAY_")}
    environment = kept | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"} | more  # on a machine that others load too
    with bench.log.open("ab") as log:
        return subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)


def _family(pid: int, name: str) -> list[psutil.Process]:
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [one for one in children if name in " ".join(one.cmdline()[:1])]
    except psutil.Error:
        return []


def _kill(processes: list[psutil.Process], bench: Bench) -> bool:
    if not processes:
        return False
    try:
        bench.dice.choice(processes).kill()
    except psutil.Error:
        return False
    return True


def _workers(bench: Bench, data: Path) -> None:
    """Kill workers of one run every few moments."""
    driver, until = _start(bench, data), time.monotonic() + 120
    for _ in range(8):
        while driver.poll() is None and not _family(driver.pid, "ray::Worker") and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(bench.dice.uniform(0, 1.5))
        bench.count(kills__worker=driver.poll() is None and _kill(_family(driver.pid, "ray::Worker"), bench))
    _ends(bench, driver, 300)


def _raylet(bench: Bench, data: Path) -> None:
    """Kill the raylet of a run's own Ray: nothing can go on, and the run says so."""
    driver, until = _start(bench, data), time.monotonic() + 120
    while driver.poll() is None and not _family(driver.pid, "ray::Worker") and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(bench.dice.uniform(0, 4))
    killed = driver.poll() is None and _kill([p for p in _family(driver.pid, "raylet") if "raylet" in p.name()], bench)
    bench.count(kills__raylet=killed)
    _ends(bench, driver, DRIVER_ENDS_S)


def _ends(bench: Bench, driver: "subprocess.Popen[bytes]", limit_s: float) -> None:
    begin = time.monotonic()
    try:
        status = driver.wait(limit_s)
    except subprocess.TimeoutExpired:
        bench.count(hangs=1)
        bench.note(f"a run hangs {limit_s:g} s after a kill: {bench.log.read_text()[-800:]}")
        status = -9
    for one in _family(driver.pid, ""):
        one.kill()
    if driver.poll() is None:
        driver.kill()
        driver.wait()
    if status not in (0, 1, 2):
        bench.count(odd_statuses=1)
        bench.note(f"status {status} after {time.monotonic() - begin:.0f} s: {bench.log.read_text()[-800:]}")


def _nodes(bench: Bench, data: Path) -> None:
    """Kill nodes with a worker on them under one run, each with another that joins."""
    with nodes(bench.work / "home/.cache") as cluster:
        cluster.join()
        cluster.join()
        kept = {name: value for name, value in cluster.environment.items() if name.startswith("RAY_")}
        driver = _start(bench, data, RAY_ADDRESS=cluster.address, **kept)
        for _ in range(4):
            busy = _wait_for_worker(cluster, driver)
            time.sleep(bench.dice.uniform(0, 1.5))
            if driver.poll() is not None or not busy:
                break
            cluster.kill(busy)
            bench.count(kills__node=1)
            cluster.join()
        _ends(bench, driver, 300)


def _wait_for_worker(cluster: Nodes, driver: "subprocess.Popen[bytes]") -> str:
    until = time.monotonic() + 60
    while driver.poll() is None and time.monotonic() < until:
        for host in set(cluster.running) - {HEAD}:  # without it nobody can go on
            try:
                if any(one.name().startswith("ray::Worker") for one in cluster.family(host)):
                    return host
            except psutil.Error:
                continue
        time.sleep(0.05)
    return ""
