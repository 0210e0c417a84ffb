"""A data folder of real video that was really run, small enough to be copied for each test."""

import shutil
from pathlib import Path

import pytest

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
