"""The ground that all phases stand on: tiny videos, an undisturbed data folder to compare with, children to be killed, and what is counted.

A process that has imported everything forks a child for each command of `whim`, so that a child begins at once.
"""

import ctypes
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
TRACEBACK = "Traceback (most recent call last)"


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

    def wait(self, limit_s: float = 3600.0) -> int:
        """The exit status once it has ended; it is killed after `limit_s`."""
        until = time.monotonic() + limit_s
        while self.poll() is None:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        return int(self.status or 0)

    def kill(self) -> bool:
        """Kill it; whether it was still running."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL


def child(work: Callable[[], int | None], log: Path | None = None) -> Child:
    """Fork and work; what is returned is the exit status. `log` takes what it says."""
    pid = os.fork()
    if pid:
        return Child(pid)
    status = 70
    try:
        if log:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
        status = work() or 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@dataclass(eq=False)
class Bench:
    """One run of the benchmark."""

    work: Path
    share: float
    phase: str = ""
    """Whose figures are counted."""
    by_phase: dict[str, Counter[str]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    """Commit of the checkout, by phase, when it was last worked on."""
    dice: random.Random = field(default_factory=random.Random)
    server: "subprocess.Popen[bytes] | None" = None
    around: dict[str, str] = field(default_factory=dict)

    @property
    def figures(self) -> Counter[str]:
        """What was counted in this phase."""
        return self.by_phase.setdefault(self.phase, Counter())

    def begin(self, phase: str, *, again: bool) -> None:
        """Count for a phase, on from where it stood or from nothing."""
        if again:
            self.by_phase.pop(phase, None)
        self.phase = phase
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, check=True).stdout
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()
        self.commits[phase] = f"{head}{' and changes' if changed else ''}"

    @property
    def log(self) -> Path:
        return self.work / "log.txt"

    @property
    def reference(self) -> Path:
        """The data folder that nobody disturbed."""
        return self.work / "reference/data"

    @property
    def list(self) -> Path:
        """One video that is downloaded, one that lies on this disk."""
        return self.work / "list.txt"

    @classmethod
    def at(cls, work: Path, share: float) -> "Bench":
        """The ground in a folder: made, or gone on with."""
        for name in ("home", "here", "tmp"):
            (work / name).mkdir(parents=True, exist_ok=True)
        os.environ.update(HOME=str(work / "home"), TMPDIR=str(work / "tmp"), PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
        os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / "fitting/compiled/__pycache__"))
        os.environ.pop("XDG_CACHE_HOME", None)
        os.chdir(work / "here")
        _warm()
        bench = cls(work, share)
        if (work / "figures.json").exists():
            kept = json.loads((work / "figures.json").read_text())
            bench.by_phase = {phase: Counter(figures) for phase, figures in kept["figures"].items()}
            bench.commits = kept["commits"]
        bench._serve()
        if not bench.reference.exists():
            whole = work / "making/data"
            assert bench.run(whole) == 0, bench.log.read_text()[-3000:]
            assert bench.whim("evaluate", "studio", "--data", whole, "--truth", work / "truth").wait() == 0, bench.log.read_text()[-3000:]
            assert bench.whim("report", "--data", whole).wait() == 0, bench.log.read_text()[-3000:]
            whole.parent.rename(bench.reference.parent)
        bench.around = bench._surroundings()
        return bench

    def _serve(self) -> None:
        """Render the videos once, and serve the first of them, always at the same port."""
        from studio.video import Film, make_videos

        port = self.work / "port"
        if not self.list.exists():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port.write_text(str(probe.getsockname()[1]))
            made = self.work / "truth"
            film = Film(seconds=0.8, width=320, height=240, shots=("close",))
            assert child(lambda: 0 * len(make_videos(made, 2, film))).wait() == 0
            (self.work / "videos").mkdir()
            for name in ("studio-0.mp4", "studio-1.mp4"):
                (made / name).rename(self.work / "videos" / name)
            served = f"http://127.0.0.1:{port.read_text()}/studio-0.mp4 split=train"  # dealt by its address, a port would decide
            self.list.write_text(f"{served}\n{self.work}/videos/studio-1.mp4 split=val\n")
        server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(self.work / "videos"), port.read_text()]
        self.server = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port.read_text()))) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError("the server of the videos does not start")

    def close(self) -> None:
        """End the server."""
        if self.server:
            self.server.kill()
            self.server.wait()

    def whim(self, *words: str | Path, before: Callable[[], object] = lambda: None) -> Child:
        """A command in a child, what it says in the log; `before` is called in the child.

        Where a call was made to fail the file `failed` is left, whatever became of the command.
        """

        def work() -> int:
            before()
            import whim

            try:
                return whim.main([str(word) for word in words])
            finally:
                if "failing_calls" in os.environ.get("LD_PRELOAD", "") and ctypes.CDLL(None).calls_failed():
                    (self.work / "failed").touch()

        (self.work / "failed").unlink(missing_ok=True)
        return child(work, self.log)

    def has_failed(self) -> bool:
        """Whether a call of the command before this was made to fail."""
        return (self.work / "failed").exists()

    def asked(self, data: Path) -> tuple[str | Path, ...]:
        """The words of a run; clips are so short that a folder has many, which go to a worker together where only tables are read."""
        return ("run", "--videos", self.list, "--data", data, "--set", "split.max_clip_s=.1", "--set", "split.min_clip_s=0")

    def run(self, data: Path) -> int:
        """The exit status of an undisturbed run."""
        return self.whim(*self.asked(data), "--local").wait()

    def wanted(self, total: int) -> int:
        """How many disturbances of a kind are asked for."""
        return max(1, round(total * self.share))

    def count(self, **more: int) -> None:
        """Add to the figures; a dot in a name is written as __."""
        for name, n in more.items():
            self.figures[name.replace("__", ".")] += n

    def keep(self) -> None:
        """Write the figures down, so that a later start goes on from them, and show them."""
        aside = self.work / "figures.json.partial"
        aside.write_text(json.dumps({"figures": self.by_phase, "commits": self.commits}))
        aside.replace(self.work / "figures.json")
        print(time.strftime("%H:%M:%S"), {name: n for name, n in sorted(self.figures.items()) if n}, flush=True)

    def read_log(self) -> str:
        """Lines of the log since the last call; tracebacks among them are counted, and kept for whoever mends them."""
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        if TRACEBACK in said:
            self.figures["tracebacks"] += said.count(TRACEBACK)
            with (self.work / "tracebacks.txt").open("a") as file:
                file.write(said + "\n=====\n")
        self.log.write_text("")
        return said

    def note(self, what: str) -> None:
        """Keep a line on something that went wrong."""
        print(what, flush=True)
        with (self.work / "faults.txt").open("a") as file:
            file.write(what + "\n")

    def compare(self, data: Path, *, of: str = "*/**/*.parquet") -> None:
        """Count rows that the reference has and the folder lacks, or that it has twice, and parts of other content."""
        names = [path.relative_to(self.reference) for path in sorted(self.reference.glob(of))]
        for name in names:
            part, wanted = data / name, pq.read_table(self.reference / name)
            found = pq.read_table(part) if part.exists() else wanted.slice(0, 0)
            lost, doubled = max(0, len(wanted) - len(found)), max(0, len(found) - len(wanted))
            wrong = len(found) == len(wanted) and not _same(found, wanted)
            self.count(rows_lost=lost, rows_doubled=doubled, silent_wrong=int(wrong))
            if lost or doubled or wrong:
                self.note(f"{name}: {lost} rows lost, {doubled} doubled, other values: {wrong}")
        for path in sorted(data.glob(of)):
            if path.relative_to(data) not in names:
                self.count(rows_doubled=pq.read_metadata(path).num_rows)
                self.note(f"{path}: nobody asked for it")

    def check(self, data: Path) -> None:
        """Count what `whim verify` names in a folder that is to be whole."""
        from pipeline.engine.verify import verify

        verdict = verify(data)
        for name, why in (verdict.corrupt | verdict.unknown).items():
            self.count(silent_wrong=1)
            self.note(f"{data / name}: {why}")

    def look_around(self) -> None:
        """Count files beside the data folders that came, went or changed: the home, the current folder, the videos, the checkout."""
        now = self._surroundings()
        for path in sorted(
            now.keys() ^ self.around.keys() | {path for path in now.keys() & self.around.keys() if now[path] != self.around[path]}
        ):
            self.count(files_outside_touched=1)
            self.note(f"touched: {path}")
        self.around = now

    def _surroundings(self) -> dict[str, str]:
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        own = [ROOT / name for name in tracked if name and not name.startswith("benchmarks/")]
        folders = [self.work / name for name in ("home", "here", "videos", "truth")]
        found = [*own, *(path for folder in folders for path in folder.rglob("*")), self.list]
        cache = self.work / "home/.cache"
        return {str(path): _digest(path) for path in found if path.is_file() and not path.is_relative_to(cache)}


def _same(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables hold the same values, NaN the same as NaN: it stands where only the box of a hand counts."""
    return one.equals(other) or (one.schema.equals(other.schema) and repr(one.to_pylist()) == repr(other.to_pylist()))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _warm() -> None:
    """Import what commands import, so that a child of this process begins at once. No thread is started."""
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
    import pipeline.report.page
    import stages.fit
    import training.commands.evaluate
    import training.commands.train
    import training.commands.use
    import training.detector.task
    import whim

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    del ai_edge_litert, av, numba, fitting, pipeline, stages, training, whim
