"""The most memory that this process has had."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(eq=False)
class PeakMemory:
    """Megabytes as of a second ago at most: some kernels take milliseconds to say it."""

    last_mb: float = 0.0
    asked_at: float = -math.inf

    def mb(self) -> float:
        """The most megabytes that this process has had."""
        if time.monotonic() > self.asked_at + 1.0:
            self.asked_at, self.last_mb = time.monotonic(), peak_mb()
        return self.last_mb


def peak_mb() -> float:
    """The most memory that this process has had. What a process is told of its resource usage begins with its parent's."""
    with suppress(OSError, StopIteration):  # systems without /proc
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
