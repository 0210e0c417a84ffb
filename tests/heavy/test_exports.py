"""Exports read by the libraries they are for, each in its own environment (make env-exports): boxes, keypoints and sides are equal."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.exports.rates import ROOT, environment_of, found_by, write
from tests.pipeline.exports.shards import SIGNERS, as_held, same, truth, write_small_shards

pytestmark = pytest.mark.heavy
FORMATS = ("coco", "yolo", "webdataset", "hamer", "huggingface", "fiftyone", "lerobot", "rerun", "glb", "parquet", "csv")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_shards(tmp_path_factory.mktemp("exports"))


@pytest.mark.parametrize("format", FORMATS)
def test_its_own_library_reads_what_the_shards_say(format: str, data: Path, tmp_path: Path) -> None:
    python = environment_of(format)
    if not python.exists():
        pytest.skip(f"no {python}: make env-exports")
    write(format, data, tmp_path / "out")
    found: dict[str, Any] = found_by(format, tmp_path / "out")
    same(found["hands"], as_held(format, truth(data)))
    if found.get("extra"):
        assert {name.split("/")[1]: of["signer"] for name, of in found["extra"].items()} == SIGNERS


def test_a_recording_that_has_no_room_is_told_in_a_line_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    python = environment_of("rerun")
    if not python.exists():
        pytest.skip(f"no {python}: make env-exports")
    command = f"ulimit -f 30; '{python}' -m pipeline export rerun '{data}' --out '{tmp_path / 'out'}'"
    done = subprocess.run(["bash", "-c", command], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is there room on its disk?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_images_of_lerobot_are_read_too(data: Path, tmp_path: Path) -> None:
    if not environment_of("lerobot").exists():
        pytest.skip("no .env-exports: make env-exports")
    write("lerobot", data, tmp_path / "out", "--images")
    same(found_by("lerobot", tmp_path / "out")["hands"], as_held("lerobot", truth(data)))
