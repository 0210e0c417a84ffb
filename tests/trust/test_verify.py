"""`verify` names every file of a data folder that is not what was written, and nothing else."""

import random
from pathlib import Path

import pytest

from pipeline.engine.store import ErrorRecord, Store
from pipeline.engine.verify import verify
from stages.tables import Hands, Reviews
from tests.trust.test_digests import RECIPE, flipped, some


@pytest.fixture
def data(tmp_path: Path) -> Path:
    store = Store(tmp_path / "data")
    store.write_json("run.json", {"recipe": "whim", "videos": "/videos"})
    store.commit("hands", "a", some(Hands, 12), RECIPE)
    store.commit("reviews", "a", some(Reviews, 12), RECIPE)
    store.fail("fits", "a", ErrorRecord("f", "exception", "an error of ours", False, 1))
    return store.root


def test_a_whole_folder_is_sound(data: Path) -> None:
    (data / "notes.txt").write_text("mine")
    verdict = verify(data)
    assert (verdict.num_sound, verdict.corrupt, verdict.foreign) == (4, {}, ["notes.txt"])


def test_every_flipped_bit_is_named(data: Path) -> None:
    chance = random.Random(2)
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for bit in chance.sample(range(8 * len(whole)), 40):
            flipped(path, whole, bit)
            assert list(verify(data).corrupt) == [str(path.relative_to(data))], bit
        path.write_bytes(whole)
    assert verify(data).corrupt == {}


def test_cut_and_emptied_files_are_named(data: Path) -> None:
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for part in (b"", whole[: len(whole) // 2], whole[:-1]):
            path.write_bytes(part)
            assert list(verify(data).corrupt) == [str(path.relative_to(data))]
        path.write_bytes(whole)


def test_what_is_no_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no data folder"):
        verify(tmp_path)
