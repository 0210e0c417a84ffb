"""Runs of the whole chain that are killed at a random moment, or one of whose calls that change the data folder fails."""

import ctypes
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.trust.bench import Bench

KILLS, CALLS = 120, 110
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def disturb(bench: Bench) -> None:
    """Kill runs and let their calls fail; after each few, runs to the end are compared with the reference."""
    kills, calls = bench.wanted(KILLS), bench.wanted(CALLS)
    while bench.figures["kills.driver"] < kills or bench.figures["failed_calls.run"] < calls:
        data = bench.work / "killed/data"
        shutil.rmtree(data, ignore_errors=True)
        if bench.dice.random() < 0.5:
            unfitted(bench, data)
        for _ in range(12):
            if bench.figures["kills.driver"] / kills <= bench.figures["failed_calls.run"] / calls:
                running = bench.whim(*bench.asked(data), "--local")
                time.sleep(bench.dice.uniform(0, 4) ** 1.5 / 2)
                bench.count(kills__driver=running.kill())
            else:
                nth, error = bench.dice.randrange(160), bench.dice.choice(ERRORS)
                before = failing(data, nth, error)
                running = bench.whim(*bench.asked(data), "--local", before=before)
                bench.count(failed_calls__run=running.wait() != 0)
            parts = sorted(data.glob("*/**/*.parquet"))
            for part in bench.dice.sample(parts, min(len(parts), 2)):
                part.unlink()  # something to do for the next one
        bring_to_end(bench, data)
        bench.keep()


def unfitted(bench: Bench, data: Path) -> None:
    """Make a folder that lacks all tables from the hands on."""
    shutil.copytree(bench.reference, data)
    for table in ("hands", "fits", "reviews", "refused_hands"):
        shutil.rmtree(data / table, ignore_errors=True)


def failing(below: Path, nth: int, error: int) -> Callable[[], object]:
    """Environment in which a process's n-th call that changes something below a folder fails."""
    return lambda: ctypes.CDLL(None).fail_call(os.fsencode(below), ctypes.c_long(nth), error)


def bring_to_end(bench: Bench, data: Path) -> None:
    """Run until all is done, as a user would, and compare what is there with the reference."""
    for _ in range(3):  # what failed for the moment is tried again
        if bench.run(data) == 0:
            break
        bench.whim("retry", "--data", data).wait()
    else:
        bench.count(unfinished=1)
        bench.note(f"{data} does not come to its end: {bench.log.read_text()[-1500:]}")
    bench.read_log()
    bench.compare(data)
    bench.check(data)
