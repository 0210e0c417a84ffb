"""Shared fixtures: real media, the pinned networks, a Ray that stays on this machine."""

import faulthandler
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: networks this small gain nothing by threads, and wait for each of a busy core
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

import tests.typecheck  # noqa: F401  the checker named in pyproject.toml must be loaded before what it checks

ROOT = Path(__file__).resolve().parents[1]


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
