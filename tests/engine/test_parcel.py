"""Model files reach every node by their sha256: from the node, from a path that it sees too, or carried by Ray; no others are read."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fitting.files import model_file, weights_folder
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.nodes.parcel import Parcel, adopt, pack, unpack
from pipeline.engine.run import run
from pipeline.engine.store import Store
from tests.engine import toy


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader(toy.Count):
    hashes: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, str]:
        return {f"file{k}": sha256 for k, sha256 in enumerate(self.hashes)}


Driver = Callable[..., Parcel]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """What a driver packs whose weights are a network and a hand model that WHIM_MANO names, and a file that no stage reads."""
    weights = tmp_path / "driver"
    (weights / "net").mkdir(parents=True)
    (weights / "net" / "a.bin").write_bytes(b"network")
    (weights / "unread.bin").write_bytes(b"unread")
    (tmp_path / "hand.pkl").write_bytes(b"hand")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def packed(put: Callable[[bytes], Any] | None = None) -> Parcel:
        monkeypatch.setenv("WHIM_WEIGHTS", str(weights))
        monkeypatch.setenv("WHIM_MANO", str(tmp_path / "hand.pkl"))
        return pack([Reader(hashes=(sha(b"network"), sha(b"hand"), sha(b"ships with the code")))], put)

    return packed


def test_a_parcel_lists_what_the_stages_read_and_nothing_else(driver: Driver) -> None:
    assert driver().files == {"net/a.bin": sha(b"network"), "WHIM_MANO": sha(b"hand")}


def on_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parcel: Parcel) -> None:
    """The environment of a node that has a damaged network of that name, a hand model of its own, and does not see the driver's."""
    (tmp_path / "node" / "net").mkdir(parents=True, exist_ok=True)
    (tmp_path / "node" / "net" / "a.bin").write_bytes(b"netwerk")
    (tmp_path / "other.pkl").write_bytes(b"other hand")
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path / "node"))
    monkeypatch.setenv("WHIM_MANO", str(tmp_path / "other.pkl"))


def test_a_node_that_holds_other_files_reads_the_driver_s(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parcel = driver()
    on_a_node(tmp_path, monkeypatch, parcel)
    unpack(parcel, tmp_path / "data", lambda ref: pytest.fail("it lies at a path that this node sees"))
    assert (weights_folder() / "net" / "a.bin").read_bytes() == b"network"
    assert model_file().read_bytes() == b"hand"
    assert not (weights_folder() / "unread.bin").exists()
    unpack(parcel, tmp_path / "data", lambda ref: pytest.fail("it is laid once"))


def test_what_no_path_leads_to_is_carried_and_what_is_nowhere_is_named(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = driver(lambda content: content[::-1])
    bare = Parcel(files=parcel.files, seen_at=dict.fromkeys(parcel.seen_at, "/nowhere"))
    on_a_node(tmp_path, monkeypatch, bare)
    with pytest.raises(FileNotFoundError, match=r"model file net/a.bin \(\w{12}\) is nowhere on this node: put it into \S+data/weights"):
        unpack(bare, tmp_path / "data", lambda ref: b"")
    assert os.environ["WHIM_WEIGHTS"] == str(tmp_path / "node"), "nothing half done"
    unpack(Parcel(files=parcel.files, seen_at=bare.seen_at, carried=parcel.carried), tmp_path / "data", lambda ref: ref[::-1])
    assert (weights_folder() / "net" / "a.bin").read_bytes() == b"network"
    assert model_file().read_bytes() == b"hand"


def test_a_node_whose_files_are_the_driver_s_reads_them_where_they_lie(driver: Driver, tmp_path: Path) -> None:
    unpack(driver(), tmp_path / "data", lambda ref: pytest.fail("all is here"))
    assert os.environ["WHIM_WEIGHTS"] == str(tmp_path / "driver")
    assert not (tmp_path / "cache").exists()


def test_a_driver_without_weights_takes_the_data_folder_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("WHIM_WEIGHTS", "")  # what adopt sets ends with the test
    monkeypatch.delenv("WHIM_WEIGHTS")
    monkeypatch.setattr("pipeline.engine.nodes.parcel.weights_folder", lambda: tmp_path / "nowhere")
    adopt(tmp_path)
    assert os.environ["WHIM_WEIGHTS"] == str(tmp_path / "weights")
    monkeypatch.setenv("WHIM_WEIGHTS", "/elsewhere")
    adopt(tmp_path)
    assert os.environ["WHIM_WEIGHTS"] == "/elsewhere"


def test_a_worker_with_other_model_files_than_the_driver_s_makes_nothing(tmp_path: Path) -> None:
    before: list[Any] = [toy.Fetch(), toy.Cut(num_clips=1)]
    ordered, held = ([*before, Reader(hashes=(sha(b"one"), sha(other)))] for other in (b"two", b"too"))
    outcomes = []
    graph = Graph(ordered, toy.manifest("a"), Store(tmp_path)).load()
    run(graph, Local(tmp_path, held), on_outcome=lambda task, outcome: outcomes.append(outcome))
    *made, refused = outcomes
    assert {outcome.state for outcome in made} == {"done"}
    assert refused.state == "retry"
    assert refused.message.startswith(f"model file file1 is {sha(b'too')[:12]} on ")
    assert f" and {sha(b'two')[:12]} where the run was started: copy the weights folder there" in refused.message
    error = Store(tmp_path).error("reviews", "a-0000")
    assert error is not None
    assert (error.message, error.permanent) == (refused.message, False)
    assert not list((tmp_path / "reviews").glob("*.parquet"))
    run(Graph(ordered, toy.manifest("a"), Store(tmp_path)).load(), Local(tmp_path, ordered))
    assert [path.name for path in (tmp_path / "reviews").iterdir()] == ["a-0000.parquet"]
