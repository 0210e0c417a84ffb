"""Exports read by the libraries they are for, each in its own environment (make env-exports): boxes, keypoints and sides are equal."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.exports.rates import environment_of, found_by, write
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


def test_images_of_lerobot_are_read_too(data: Path, tmp_path: Path) -> None:
    if not environment_of("lerobot").exists():
        pytest.skip("no .env-exports: make env-exports")
    write("lerobot", data, tmp_path / "out", "--images")
    same(found_by("lerobot", tmp_path / "out")["hands"], as_held("lerobot", truth(data)))
