"""The chain on `s3://`, by the command line, with faults on the way: the same shards as on a disk; killed drivers have successors."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.chain.conftest import ROOT, command, environment
from tests.object_store import ObjectStore, object_store

FEW = ("--set", "split.frames_per_second=2", "--set", "pack.num_shards=1", "--set", "split.max_clip_s=2")


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


def whim(cache: Path, *words: str | Path, status: int = 0, also: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """A command on a machine of that cache."""
    done = subprocess.run(command(*words), env=machine(cache, also), cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def machine(cache: Path, also: Mapping[str, str] | None = None) -> dict[str, str]:
    key = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "SECRETKEY", "WHIM_CACHE": str(cache), "AWS_EC2_METADATA_DISABLED": "true"}
    return environment() | key | dict(also or {})


def shards_near(data: Path) -> dict[str, bytes]:
    files = [*(data / "shards").rglob("*.parquet"), data / "shards/stats.json", data / "shards/index.json", data / "shards/README.md"]
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in files}


def shards_far(store: ObjectStore, folder: str) -> dict[str, bytes]:
    return {name: store.content(folder, name) for name in store.names(folder) if name.startswith("shards/")}


@pytest.fixture(scope="module")
def near(served: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A list of one fetched video, and the data folder that is made of it on a disk."""
    here = tmp_path_factory.mktemp("near")
    (here / "list.txt").write_text(f"{served}/videos/intel/asl_yes.mkv id=yes\n")
    whim(here / "cache", "run", "--local", "--videos", here / "list.txt", "--data", here / "data", *FEW)
    return here / "list.txt", here / "data"


def test_the_chain_with_faults_on_the_way_gives_the_shards_of_a_disk(store: ObjectStore, near: tuple[Path, Path], tmp_path: Path) -> None:
    videos, data = near
    address = store.address("chain")
    store.fails_with(drop=19, cut=23, lost=29, slow=31, **{"500": 13, "503": 17})
    said = whim(tmp_path / "one", "run", "--local", "--videos", videos, "--data", address, *FEW)
    assert shards_far(store, "chain") == shards_near(data)
    assert "parts in s3://hands/chain" in said.stdout
    names = store.names("chain")
    assert {name for name in names if name.endswith(".parquet")} == {p.relative_to(data).as_posix() for p in data.rglob("*.parquet")}
    assert {"run.json", "media/yes.mkv", "media/yes.info.json"} <= names
    assert "SECRETKEY" not in said.stdout + said.stderr
    assert not any(b"SECRETKEY" in store.content("chain", name) for name in names)

    store.fault = lambda number, method, name: ""
    store.requests.clear()
    other = tmp_path / "two"
    found = json.loads(whim(other, "status", "--json", "--data", address).stdout)
    assert found["stages"]["review"]["done"] > 0
    assert not any(stage["pending"] for stage in found["stages"].values())
    assert ("GET", "chain/media/yes.mkv") not in store.requests, "nobody looks at the video"
    whim(other, "report", "--data", address)
    assert ("GET", "chain/media/yes.mkv") in store.requests, "its frames are shown"
    assert "report.html" in store.names("chain")
