"""The chain on `s3://`, by the command line, with faults on the way: the same shards as on a disk; killed drivers have successors."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import whim
from pipeline.engine.durable import MIRRORS
from tests.object_store import ObjectStore, object_store

FEW = ("--local", "--set", "split.frames_per_second=2", "--set", "pack.num_shards=1")
Command = Callable[..., str]


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture
def whim_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a command as on the machine of that name; what it said."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETKEY")

    def call(machine: str, *words: str | Path, status: int = whim.DONE) -> str:
        monkeypatch.setenv("WHIM_CACHE", str(tmp_path / machine))
        MIRRORS.clear()
        ended = whim.main([*map(str, words)])
        said = capsys.readouterr()
        assert ended == status, said
        assert "SECRETKEY" not in said.out + said.err
        return said.out + said.err

    yield call
    MIRRORS.clear()


def shards_near(data: Path) -> dict[str, bytes]:
    files = [path for path in (data / "shards").rglob("*") if path.is_file()]
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in files}


def shards_far(store: ObjectStore, folder: str) -> dict[str, bytes]:
    return {name: store.content(folder, name) for name in store.names(folder) if name.startswith("shards/")}


def test_the_chain_with_faults_gives_the_shards_of_a_disk_and_every_command_reads_them(
    store: ObjectStore, served: str, tmp_path: Path, whim_at: Command
) -> None:
    address, data, videos = store.address("chain"), tmp_path / "data", tmp_path / "list.txt"
    videos.write_text(f"{served}/videos/intel/asl_yes.mkv id=yes\n")
    whim_at("disk", "run", "--videos", videos, "--data", data, *FEW)

    store.fails_with(drop=19, cut=23, lost=29, slow=31, **{"500": 13, "503": 17})
    said = whim_at("one", "run", "--videos", videos, "--data", address, *FEW)
    assert shards_far(store, "chain") == shards_near(data)
    assert "parts in s3://hands/chain" in said
    names = store.names("chain")
    assert {name for name in names if name.endswith(".parquet")} == {p.relative_to(data).as_posix() for p in data.rglob("*.parquet")}
    assert {"run.json", "media/yes.mkv", "media/yes.info.json"} <= names
    assert not any(b"SECRETKEY" in store.content("chain", name) for name in names)

    store.fault = lambda number, method, name: ""
    store.requests.clear()
    assert json.loads(whim_at("two", "plan", "--json", "--data", address))["num_pending"] == 0
    assert json.loads(whim_at("two", "status", "--json", "--data", address))["stages"]["review"]["done"] > 0
    whim_at("two", "export", "csv", address, "--out", tmp_path / "csv")
    with (tmp_path / "csv/hands.csv").open() as file:
        assert len(list(csv.DictReader(file))) > 5
    assert ("GET", "chain/media/yes.mkv") not in store.requests, "nobody looked at the video"
    whim_at("two", "report", "--data", address)
    assert ("GET", "chain/media/yes.mkv") in store.requests, "its frames are shown"
    assert "report.html" in store.names("chain")
    found = json.loads(whim_at("three", "verify", address, "--json"))
    assert (found["corrupt"], found["foreign"]) == ({}, [])
    assert found["num_sound"] == len(store.names("chain") - {".lock"})

    whim_at("three", "remove", "yes", "--data", address)
    left = store.names("chain")
    assert not [name for name in left if "yes" in Path(name).name or name.startswith("shards/")]
    assert b"yes" in store.content("chain", "removed.txt")
    for machine in ("one", "two", "three"):
        assert "nothing to do in s3://hands/chain" in whim_at(machine, "plan", "--data", address)
        mirror = next((tmp_path / machine / "roots").glob("*/"))
        here = {path.relative_to(mirror).as_posix() for path in mirror.rglob("*") if path.is_file() and path.name != ".lock"}
        assert here == left - {".lock"}, f"the mirror of {machine} forgets what was removed"
