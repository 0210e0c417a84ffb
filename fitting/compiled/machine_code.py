"""Machine code on disk: what it is made from, whether it is there, and having it made once by a process of its own.

Imports neither numba nor torch: workers that fit nothing ask, too.
"""

import hashlib
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

COMPILING = "WHIM_COMPILING"
"""Set in the process that compiles for the others."""

LOCK_NAME = "compiling.lock"
"""In the folder of the machine code: one process compiles, the others wait."""

_HERE = Path(__file__).parent
_COMMAND = (sys.executable, "-P", "-m", "fitting.warm_up")
_started: list[subprocess.Popen[bytes]] = []
_log = logging.getLogger(__name__)


@cache
def sources_sha256() -> str:
    """The state of all modules whose code or constants are compiled."""
    files = [*_HERE.glob("*.py"), _HERE.parent / "objective.py", _HERE.parent / "solver.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def marker(folder: Path) -> Path:
    """The file that says: all of it was made here, for this processor, from these sources, by this numba."""
    times = [path.stat().st_mtime_ns for path in (_HERE / "loop.py", _HERE / "banded.py")]  # numba compares them
    processor = [*_processor(), *(os.environ.get(name, "") for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"))]
    made_of = (str(_HERE), sources_sha256(), times, sys.version, importlib.metadata.version("numba"), processor)
    return folder / f"settled-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}"


def _processor() -> list[str]:
    """Name and instruction sets of the processor: nodes of another kind may share the folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return [platform.machine(), platform.processor()]
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})


def start_making() -> bool:
    """Have it made beside what runs, if it is not there; do not wait. Whether a process was started."""
    if os.environ.get(COMPILING) or marker(Path(os.environ.get("NUMBA_CACHE_DIR", _HERE / "__pycache__"))).exists():
        return False
    _started.append(subprocess.Popen(_COMMAND, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return True


@cache
def wait_until_made(folder: Path) -> None:
    """Return when it is there: made by another process, which is waited for, or by one that is started here.

    A process that compiled a function itself runs code that rounds otherwise than the kept code does, by parts in a
    million (numba 0.68), and the same hands must give the same bytes in every process.
    """
    if os.environ.get(COMPILING) or marker(folder).exists():
        return
    _log.warning("waiting for the fit to be compiled, once on this machine: about a minute")
    ran = subprocess.run(_COMMAND, env=_environment(), capture_output=True, text=True, check=False)
    if ran.returncode:
        _log.warning("the fit compiles in this process, its last digits may differ: %s", ran.stderr[-500:])


def _environment() -> dict[str, str]:
    """Environment of this process, with our code to be found; not its whole path: a user's script may lie beside a `re.py`.

    An empty entry of PYTHONPATH is the current folder, whoever filled that.
    """
    told = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = os.pathsep.join(filter(None, (str(_HERE.parents[1]), *told)))
    return {**os.environ, "PYTHONPATH": ours}
