"""The fit is compiled once on a machine, by one process, for all others, ahead of need."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from fitting import warm_up
from fitting.backend import code_folder
from fitting.compiled import machine_code
from fitting.files import STANDIN

CODE = STANDIN.parents[2]

FIT = """
import hashlib, numpy as np
from fitting.fit import Fitter
from fitting.hand.mano import load_hand_model
seen = np.random.default_rng(3).normal(0, 60, (8, 21, 3)) + 300
seen[..., 2] = 1
fits = Fitter(load_hand_model()).fit(seen, track=np.arange(8) // 4, time_s=np.arange(8) / 30)
print(hashlib.sha256(fits.hand_pose.numpy().tobytes() + fits.camera.numpy().tobytes()).hexdigest())
"""


def begun(command: list[str], cache: Path, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(CODE), "NUMBA_CACHE_DIR": str(cache), **more}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_compiled_is_not_compiled_again() -> None:
    folder = code_folder()
    assert folder is not None
    machine_code.wait_until_made(folder)
    assert machine_code.marker(folder).exists()
    assert warm_up.warm_up() == f"the fit is compiled: {folder}"


def test_another_processor_is_not_served_by_what_this_one_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of several kinds may share the folder."""
    ours = machine_code.marker(tmp_path)
    assert machine_code.marker(tmp_path) == ours
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert machine_code.marker(tmp_path) != ours
    monkeypatch.delenv("NUMBA_CPU_NAME")
    monkeypatch.setattr(machine_code, "_processor", lambda: ["model name: another"])
    assert machine_code.marker(tmp_path) != ours


def test_compiling_begins_beside_what_runs_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert machine_code.start_making()
    (process,) = machine_code._started[-1:]
    try:
        lock = _lock_of(tmp_path, process)
        with pytest.raises(Timeout):  # another would wait for it
            FileLock(lock).acquire(timeout=0)
    finally:
        process.kill()
        process.wait()
    machine_code.marker(tmp_path).touch()
    assert not machine_code.start_making()


def _lock_of(folder: Path, process: "subprocess.Popen[bytes]") -> Path:
    """The lock that the process holds, once it does."""
    while process.poll() is None:
        for lock in folder.rglob(machine_code.LOCK_NAME):
            try:
                with FileLock(lock, timeout=0):
                    pass
            except Timeout:
                return lock
        time.sleep(0.1)
    raise AssertionError("the process ended without compiling, or had been waited for")


def test_where_no_folder_can_be_written_it_says_which_variable_to_set(tmp_path: Path) -> None:
    """Not /dev/null alone: numba would go on to the user's cache."""
    code = "import numba.core.caching as caching; caching.CacheImpl._locator_classes = []\nfrom fitting.warm_up import main; main()"
    out, _ = begun([sys.executable, "-c", code], tmp_path).communicate()
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in out


@pytest.mark.long
def test_two_processes_at_once_compile_once_and_fit_the_same_bytes(tmp_path: Path) -> None:
    both = [begun([sys.executable, "-c", FIT], tmp_path) for _ in range(2)]
    answers = [process.communicate()[0] for process in both]
    assert answers[0] == answers[1] != ""
    later = begun([sys.executable, "-c", FIT], tmp_path)
    assert later.communicate()[0] == answers[0]
    told = "".join(path.read_text() for path in tmp_path.rglob("settled-*"))
    assert told.count("compiled by process") == 1
