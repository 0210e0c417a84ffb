"""A data folder of real video that was really run, small enough to be copied for each test."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from pipeline.browse.server import Served, listen
from pipeline.browse.session import Session
from pipeline.folder import Asked
from tests.pipeline.browse.small_run import SETTINGS, run_again


@pytest.fixture(scope="session")
def real_run(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signers, a dozen frames, two hands each."""
    folder = tmp_path_factory.mktemp("browse")
    lines = [f"{media}/videos/intel/asl_{name}.mkv split=train signer={name[0]}" for name in ("bird", "milk")]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    run_again(folder / "data", Asked(recipe="fast", videos=folder / "list.txt", settings=SETTINGS))
    return folder / "data"


@pytest.fixture
def data(real_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to decide in."""
    return Path(shutil.copytree(real_run, tmp_path / "data"))


@contextmanager
def serving(data: Path, index: Path) -> Iterator[Served]:
    server = listen(Session(data, "ann", file=index), 0)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    yield server
    server.server.should_exit = True
    thread.join(20)
    server.listening.close()


@pytest.fixture
def served(data: Path, tmp_path: Path) -> Iterator[Served]:
    """The local server of a copy of the run, to decide in."""
    with serving(data, tmp_path / "index.duckdb") as server:
        yield server


@pytest.fixture(scope="module")
def untouched(real_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Served]]:
    """A copy of the run that no test may change, and its server."""
    folder = tmp_path_factory.mktemp("untouched")
    data = Path(shutil.copytree(real_run, folder / "data"))
    with serving(data, folder / "index.duckdb") as server:
        yield data, server
