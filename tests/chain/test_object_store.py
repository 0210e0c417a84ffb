"""The chain on `s3://`, by the command line, with faults on the way: the same shards as on a disk; killed drivers have successors."""

import csv
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import whim
from pipeline.demo import SPLITS
from pipeline.engine.durable import MIRRORS
from tests.chain.conftest import ROOT, command, environment, served_folder
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
    store.reads.clear()
    assert json.loads(whim_at("two", "plan", "--json", "--data", address))["num_pending"] == 0
    assert json.loads(whim_at("two", "status", "--json", "--data", address))["stages"]["review"]["done"] > 0
    assert "nothing to do" in whim_at("four", "plan", "--data", address)
    assert "hands: " in whim_at("four", "run", "--local", "--data", address)
    assert [name for name, *_ in store.reads if "/shards/" in name and name.endswith(".parquet")] == [], "they are known by their ETags"
    whim_at("four", "report", "--data", address, "--out", tmp_path / "report.html")
    assert all(ranged for name, ranged, _ in store.reads if "/shards/" in name and name.endswith(".parquet")), "images of the report"
    store.requests.clear()
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

    said = whim_at("one", "run", "--data", address, "--drop-media", "--local")
    assert said.index("to find hands anew") < said.index("1 videos dropped")
    assert "media/yes.mkv" not in store.names("chain")
    assert not list((tmp_path / "one/roots").glob("*/media/yes.mkv"))
    assert "nothing to do in s3://hands/chain" in whim_at("one", "plan", "--data", address)

    whim_at("three", "remove", "yes", "--data", address)
    left = store.names("chain")
    assert not [name for name in left if "yes" in Path(name).name or name.startswith("shards/")]
    assert b"yes" in store.content("chain", "removed.txt")
    for machine in ("one", "two", "three"):
        assert "nothing to do in s3://hands/chain" in whim_at(machine, "plan", "--data", address)
        mirror = next((tmp_path / machine / "roots").glob("*/"))
        here = {path.relative_to(mirror).as_posix() for path in mirror.rglob("*") if path.is_file() and path.name != ".lock"}
        assert here == left - {".lock"}, f"the mirror of {machine} forgets what was removed"


def killed_after_parts(store: ObjectStore, words: list[str], machine: dict[str, str], dice: random.Random) -> bool:
    """Start a driver and kill it a moment after it has written something more; whether it died of that."""
    driver = subprocess.Popen(words, env=machine, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begin, wanted = time.monotonic(), sum(method == "PUT" for method, _ in store.requests) + dice.randrange(6, 30)
    while driver.poll() is None and time.monotonic() - begin < 300 and sum(method == "PUT" for method, _ in store.requests) < wanted:
        time.sleep(0.1)
    driver.kill()
    return driver.wait() == -9


@pytest.mark.long  # the test above, with the demo's recipe and films, on Ray, and kills
def test_the_demos_chain_on_ray_with_faults_and_kills(store: ObjectStore, tmp_path: Path, whim_at: Command) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    dice, films, data, address = random.Random(seed), tmp_path / "films", tmp_path / "data", store.address("demo")
    whim_at("disk", "render", "videos", "--out", films, "--num-videos", "2", "--seconds", "2")
    with served_folder(films) as here:
        (tmp_path / "list.txt").write_text(
            "".join(f"{here}/studio-{k}.mp4 id=studio-{k} split={split}\n" for k, split in enumerate(SPLITS))
        )
        wanted = ["--recipe", "demo", "--videos", str(tmp_path / "list.txt")]
        whim_at("disk", "run", "--local", "--data", data, *wanted)
        store.fails_with(drop=19, cut=23, lost=29, slow=31, **{"500": 13, "503": 17})
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "SECRETKEY", "WHIM_LEASE_S": "10"}
        kills = 0
        for number in range(12):
            machine = environment() | keys | {"WHIM_CACHE": str(tmp_path / f"machine-{number % 2}")}
            words = command("run", "--data", address, *wanted, *(["--local"] if number % 3 else []))
            kills += killed_after_parts(store, words, machine, dice)
            if kills == 4:
                break
        assert kills == 4, f"too few kills landed (seed {seed})"
        ended = subprocess.run(
            command("run", "--data", address, *wanted), env=machine, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert shards_far(store, "demo") == shards_near(data)
    names = {name for name in store.names("demo") if name.endswith(".parquet")}
    assert names == {path.relative_to(data).as_posix() for path in data.rglob("*.parquet")}
