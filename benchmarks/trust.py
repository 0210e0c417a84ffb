"""Kills, failing system calls and flipped bits against the real chain: rows lost, rows doubled, silent wrong values, tracebacks shown.

A process that has imported everything forks a child for each run of `whim`; the child is killed at a random moment, or one of its
calls that change the data folder fails with EIO, ENOSPC, EDQUOT or EROFS. Then runs follow until one ends well, and what it left is
compared with what an undisturbed run makes. A finished folder then has single bits flipped in every kind of file.
"""

import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.machine import describe

RESULT = Path(__file__).parent / "results" / "trust.json"
SOURCE = Path(__file__).parent / "failing_calls.c"
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--flips", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    _preload()
    _warm()
    with tempfile.TemporaryDirectory(prefix="trust-") as folder:
        work = Path(folder).resolve()
        videos, reference = _videos(work), work / "reference"
        assert run(videos, reference) == 0, (work / "log.txt").read_text()[-2000:]
        dice, figures = random.Random(given.seed), Counter[str]()
        disturb(work, videos, reference, dice, figures, kills=given.kills, calls=given.calls)
        flip(work, reference, dice, figures, given.flips)
    names = ("kills", "failed_calls", "flips", "flips_found", "flips_harmless", "rows_lost", "rows_doubled", "silent_wrong", "tracebacks")
    result = {"machine": describe(), "seed": given.seed, **{name: figures[name] for name in names}}
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _preload() -> None:
    """Start again with the library of failing calls in this process and its children."""
    if "failing_calls" in os.environ.get("LD_PRELOAD", ""):
        return
    library = Path(tempfile.mkdtemp(prefix="failing_calls-")) / "failing_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.trust", *sys.argv[1:]])


def _warm() -> None:
    """Import what a run imports, so that a child of this process begins at once. No thread is started."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    import ai_edge_litert.interpreter
    import av
    import cv2
    import numba
    import torch

    import fitting.compiled.solver
    import pipeline.cli
    import pipeline.dataset.index
    import pipeline.recipes
    import stages.fit
    import whim

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    del ai_edge_litert, av, numba, fitting, pipeline, stages, whim


def _videos(work: Path) -> Path:
    """Two tiny rendered videos of one hand each."""
    from studio.video import Film, make_videos

    def render() -> None:
        make_videos(work / "videos", 2, Film(seconds=0.8, width=320, height=240, shots=("close",)))

    if child(render).wait():
        raise RuntimeError("the videos could not be rendered")
    for beside in (work / "videos").iterdir():
        if beside.suffix != ".mp4":
            beside.unlink()
    return work / "videos"


class Child:
    """A forked process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self) -> int:
        """The exit status once it has ended."""
        while self.poll() is None:
            time.sleep(0.01)
        return int(self.status or 0)


def child(work: Callable[[], int | None]) -> Child:
    """Fork and work; what is returned is the exit status."""
    pid = os.fork()
    if pid:
        return Child(pid)
    status = 70
    try:
        status = work() or 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


def start(videos: Path, data: Path, call: tuple[int, int] | None = None) -> Child:
    """`whim run --local` in a child; `call`: which call that changes the folder fails, and with which error."""

    def work() -> int:
        log = os.open(data.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if call:
            ctypes.CDLL(None).fail_call(os.fsencode(data), ctypes.c_long(call[0]), call[1])
        sys.argv = ["whim", "run", "--local", "--videos", str(videos), "--data", str(data)]
        import whim

        whim.main()
        return 0

    return child(work)


def run(videos: Path, data: Path) -> int:
    """The exit status of an undisturbed run."""
    return start(videos, data).wait()


def disturb(work: Path, videos: Path, reference: Path, dice: random.Random, figures: Counter[str], *, kills: int, calls: int) -> None:
    """Kill runs and let their calls fail until so many have landed; after each few a run to the end is compared with the reference."""
    log = work / "log.txt"
    while figures["kills"] < kills or figures["failed_calls"] < calls:
        data = work / "data"
        shutil.rmtree(data, ignore_errors=True)
        log.write_text("")
        for _ in range(12):
            if figures["kills"] / max(kills, 1) <= figures["failed_calls"] / max(calls, 1):
                running = start(videos, data)
                time.sleep(dice.uniform(0, 4) ** 1.5 / 2)
                if running.poll() is None:
                    os.kill(running.pid, signal.SIGKILL)
                figures["kills"] += running.wait() == -signal.SIGKILL
            else:
                status = start(videos, data, (dice.randrange(120), dice.choice(ERRORS))).wait()
                figures["failed_calls"] += status != 0
            parts = sorted(data.glob("*/**/*.parquet"))
            for part in dice.sample(parts, min(len(parts), 2)):
                part.unlink()  # something to do for the next one
        for _ in range(3):  # what failed for the moment is tried again
            if run(videos, data) == 0:
                break
        figures["tracebacks"] += log.read_text().count("Traceback (most recent call last)")
        _compare(data, reference, figures)
        print(dict(figures), flush=True)


def _compare(data: Path, reference: Path, figures: Counter[str]) -> None:
    """Count rows that the reference has and the folder lacks, or that it has twice, and parts of other content."""
    for whole in sorted(reference.glob("*/**/*.parquet")):
        part = data / whole.relative_to(reference)
        wanted = pq.read_table(whole)
        if not part.exists():
            figures["rows_lost"] += len(wanted)
            continue
        found = pq.read_table(part)
        figures["rows_lost"] += max(0, len(wanted) - len(found))
        figures["rows_doubled"] += max(0, len(found) - len(wanted))
        figures["silent_wrong"] += len(found) == len(wanted) and not found.equals(wanted)
    extra = {p.relative_to(data) for p in data.glob("*/**/*.parquet")} - {
        p.relative_to(reference) for p in reference.glob("*/**/*.parquet")
    }
    figures["rows_doubled"] += sum(len(pq.read_table(data / name)) for name in extra)


def flip(work: Path, reference: Path, dice: random.Random, figures: Counter[str], flips: int) -> None:
    """Flip single bits in every kind of file of a finished folder: each is to be found by a check of the folder."""
    from pipeline.engine.verify import verify

    data = shutil.copytree(reference, work / "flipped")
    files = sorted(path for path in data.rglob("*") if path.is_file() and path.name != ".lock")
    for _ in range(flips // 3):
        hit = {}
        for path in dice.sample(files, min(3, len(files))):
            whole = path.read_bytes()
            if not whole:
                continue
            damaged, bit = bytearray(whole), dice.randrange(8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            hit[path] = whole
        named = {data / name for name in verify(data).corrupt}
        figures["flips"] += len(hit)
        figures["flips_found"] += len(hit.keys() & named)
        figures["silent_wrong"] += len(hit.keys() - named)
        figures["false_alarms"] += len(named - hit.keys())
        for path, whole in hit.items():
            path.write_bytes(whole)


if __name__ == "__main__":
    main()
