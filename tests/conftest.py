"""Shared fixtures: real media, the pinned networks, a Ray that stays on this machine."""

import atexit
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: networks this small gain nothing by threads, and wait for each of a busy core
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import HealthCheck, settings

import tests.typecheck  # noqa: F401  the checker named in pyproject.toml must be loaded before what it checks

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes is the machine's affair.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how the tests ended, for `_leave`."""
    _ended.append(int(exitstatus))


_ended: list[int] = []


def _leave() -> None:
    """End a process of `python -m pytest` as its tests ended, without taking the interpreter down: after a whole suite threads of a dozen
    native libraries still run, and one of them may reach for what is gone (seen once, after all tests had passed)."""
    told = getattr(sys.modules["__main__"], "__spec__", None)
    if _ended and told is not None and told.name == "pytest.__main__":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ended[-1])


atexit.register(_leave)  # before anything else is: it is called last


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell where native code crashes: Ray takes the handlers of such signals, and leaves none behind."""
    faulthandler.enable(file=item.config.stash[fault_handler_stderr_fd_key])


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real labelled videos; `WHIM_MEDIA` says where, tests that need it are skipped without it."""
    folder = Path(os.environ.get("WHIM_MEDIA", ROOT.parent / "shared" / "media"))
    if not (folder / "manifest.jsonl").exists():
        pytest.skip(f"no real media in {folder}: set WHIM_MEDIA")
    return folder


@pytest.fixture
def heeded() -> Iterator[None]:
    """Signals that nobody ignores: what a shell starts in the background ignores some, and so would these tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
