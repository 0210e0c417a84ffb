"""One try to fetch a video: yt-dlp in a process of its own, ended at a limit of time, bytes or memory, or when it is slow."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import stages
from stages.reasons import Failure, Reason
from stages.web.fetch import Answer, Request


@dataclass(slots=True)
class Pace:
    """Whether a try still brings something: less than a rate for too long is as good as nothing."""

    slowest_bytes_per_s: float = 0.0
    over_s: float = 120.0
    since: float = field(default_factory=time.monotonic)
    bytes_then: int = 0

    def is_slow(self, num_bytes: int) -> bool:
        """Tell it how many bytes are there, now and then; true when too few have come."""
        passed_s = time.monotonic() - self.since
        if passed_s < self.over_s:
            return False
        slow = num_bytes - self.bytes_then < self.slowest_bytes_per_s * passed_s
        self.since, self.bytes_then = time.monotonic(), num_bytes
        return slow


_LARGEST_MEMORY_BYTES = 2 << 30
"""Memory of yt-dlp's process: what a page unfolds to beyond that is no description of a video."""


def attempt(request: Request, limit_s: float, pace: Pace | None = None) -> Answer | Failure:
    """One run of yt-dlp in a process of its own, killed with all it started at a limit of time, bytes or memory, or when it is slow."""
    pace, deadline = pace or Pace(), time.monotonic() + limit_s
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stages.web.fetch"],
            stdin=subprocess.PIPE, stdout=out, stderr=errors, env=_environment(request), start_new_session=True, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asdict(request)) + "\n")
                process.stdin.flush()
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, min(0.25, deadline - time.monotonic())))
                    break
                if time.monotonic() >= deadline:
                    return Failure(
                        Reason.TIMEOUT, f"not here within {limit_s:g} s; the next try goes on from what has arrived", permanent=False
                    )
                if fault := _passed_bound(process.pid, request, pace):
                    return fault
        finally:
            _end(process)
        out.seek(0)
        errors.seek(0)
        lines = out.read().splitlines()
        if process.returncode or not lines:
            return Failure(Reason.TRANSIENT, f"yt-dlp's process ended with {process.returncode}: {errors.read()[-1500:]}", permanent=False)
    return Answer(**json.loads(lines[-1]))


def _passed_bound(pid: int, request: Request, pace: Pace) -> Failure | None:
    """Which bound a running try has passed, if any."""
    num_bytes = sum(_size_bytes(path) for path in Path(request.folder).glob("*"))
    if request.largest_bytes and num_bytes > request.largest_bytes + (1 << 20):  # beside the file lie small notes
        return Failure(Reason.TOO_LARGE, f"{num_bytes:,} bytes and more, where {request.largest_bytes:,} are allowed")
    with suppress(OSError):
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > _LARGEST_MEMORY_BYTES:
            return Failure(Reason.TOO_LARGE, f"its description unfolds to more than {_LARGEST_MEMORY_BYTES >> 30} GiB of memory")
    if pace.is_slow(num_bytes):
        few = f"brought less than {pace.slowest_bytes_per_s:g} bytes a second for {pace.over_s:g} s"
        return Failure(Reason.TIMEOUT, f"{few}; the next try goes on from what has arrived", permanent=False)
    return None


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # renamed meanwhile
        return 0


def _environment(request: Request) -> dict[str, str]:
    """What yt-dlp's process sees: this checkout first, no current folder among the modules, no plugins unless they are asked for."""
    root = str(Path(stages.__file__).resolve().parents[1])
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(path).is_absolute()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *others])}
    return environment if request.plugins else environment | {"YTDLP_NO_PLUGINS": "1"}


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill a process with its children (yt-dlp starts a JavaScript runtime); nothing happens when it is over."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    process.wait()
