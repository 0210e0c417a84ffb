"""`verify` names every file of a data folder that is not what was written, and nothing else."""

import random
from pathlib import Path
from typing import Any

import pytest

from fitting.files import sha256_of
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.run import run
from pipeline.engine.stated import SUMS
from pipeline.engine.store import ErrorRecord, Store
from pipeline.engine.verify import verify
from pipeline.manifest import withdrawn_in
from pipeline.remove import _withdraw
from stages.digest import HTML, seal, seal_text
from stages.tables import Hands, Reviews
from tests.engine import toy
from tests.trust.test_digests import RECIPE, flipped, some


@pytest.fixture
def data(tmp_path: Path) -> Path:
    store = Store(tmp_path / "data")
    store.write_json("run.json", {"recipe": "whim", "videos": "/videos"})
    store.commit("hands", "a", some(Hands, 12), RECIPE)
    store.commit("reviews", "a", some(Reviews, 12), RECIPE)
    store.fail("fits", "a", ErrorRecord("f", "exception", "an error of ours", False, 1))
    store.token()
    _withdraw(store, {"berta"})
    stages: list[Any] = [toy.Fetch(), toy.Cut(num_clips=1)]
    run(Graph(stages, toy.manifest("v"), store).load(), Local(store.root, stages))  # leaves a log of two lines
    (store.root / "media").mkdir()
    (store.root / "media/v.info.json").write_text(seal({"file": "v.mp4", "video_sha256": "0" * 64}))
    (store.root / "report.html").write_text(seal_text("<html><p>found</p></html>\n", *HTML))
    (store.root / "studio").mkdir()
    (store.root / "studio/labels.json").write_text("[]")
    Store(store.root / "studio").write_json(SUMS, {"files": {"labels.json": sha256_of(store.root / "studio/labels.json")}})
    return store.root


def test_a_whole_folder_is_sound(data: Path) -> None:
    (data / "notes.txt").write_text("mine")
    verdict = verify(data)
    assert (verdict.num_sound, verdict.num_unsealed, verdict.corrupt, verdict.foreign) == (13, 0, {}, ["notes.txt"])


def test_every_flipped_bit_is_named(data: Path) -> None:
    chance = random.Random(2)
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for bit in chance.sample(range(8 * len(whole)), min(12, 8 * len(whole))):
            flipped(path, whole, bit)
            assert list(verify(data).corrupt) == [str(path.relative_to(data))], bit
        path.write_bytes(whole)
    assert verify(data).corrupt == {}


def test_cut_and_emptied_files_are_named(data: Path) -> None:
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for part in (b"", whole[: len(whole) // 2], whole[:-1]):
            path.write_bytes(part)
            if path.suffix != ".jsonl" and not (path.suffix == ".txt" and len(part) < len(whole) - 1):
                assert list(verify(data).corrupt) == [str(path.relative_to(data))]
        path.write_bytes(whole)


def test_a_log_that_a_kill_cut_off_is_sound_and_one_without_its_end_is_not(data: Path) -> None:
    (log,) = (data / "runs").iterdir()
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:30])
    assert verify(data).corrupt == {}
    log.write_bytes(whole[:-1])
    assert list(verify(data).corrupt) == [str(log.relative_to(data))]


def test_who_is_withdrawn_does_not_come_back_by_a_damaged_list(data: Path) -> None:
    assert withdrawn_in(data / "removed.txt") == {"berta"}
    damaged = (data / "removed.txt").read_text().replace("berta", "bersa")
    (data / "removed.txt").write_text(damaged)
    with pytest.raises(ValueError, match="is not as whim remove left it"):
        withdrawn_in(data / "removed.txt")
    (data / "removed.txt").write_text("".join(line for line in damaged.splitlines(True) if "sha256" not in line) + "# mine\n")
    assert withdrawn_in(data / "removed.txt") == {"bersa"}


def test_what_is_no_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no data folder"):
        verify(tmp_path)
