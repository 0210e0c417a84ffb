"""The Ray of a run: nobody beyond the machine reaches it, nobody without the token joins, and a dead address is named at once."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline.engine.nodes.cluster import NoCluster, _ask, _temporary_folder, cause_of, join
from pipeline.engine.nodes.executor import Lost
from pipeline.engine.nodes.on_ray import NoWorkers, OnRay
from pipeline.engine.nodes.place import Place
from pipeline.engine.nodes.pools import on_gpus
from pipeline.engine.orders import Order
from pipeline.engine.plan.seats import Seat
from pipeline.engine.worker import Worker
from stages.stage import Reason

ROOT = Path(__file__).resolve().parents[2]

HOLD = """
import sys
from pipeline.engine.nodes.cluster import join
join()
import ray
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def clean_environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", **more}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[psutil.Process, str, dict[str, str]]]:
    """A driver with a Ray of its own, in a $TMPDIR that is too long for sockets, beside a note of a Ray that is dead."""
    long = tmp_path_factory.mktemp("tmp") / ("x" * 60)
    (long / "ray").mkdir(parents=True)
    (long / "ray/ray_current_cluster").write_text("127.0.0.1:6399")
    home = tmp_path_factory.mktemp("home")
    environment = clean_environment(TMPDIR=str(long), HOME=str(home))
    driver = subprocess.Popen([sys.executable, "-P", "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    assert driver.stdout is not None
    assert driver.stdin is not None
    address = driver.stdout.readline().strip()
    assert address
    yield psutil.Process(driver.pid), address, environment
    driver.stdin.close()
    driver.wait()
    driver.stdout.close()


def test_a_ray_of_our_own_listens_on_loopback_alone(own: tuple[psutil.Process, str, dict[str, str]]) -> None:
    driver, _, environment = own
    family = [driver, *driver.children(recursive=True)]
    listening = [(c.laddr.ip.removeprefix("::ffff:"), c.laddr.port) for p in family for c in p.net_connections() if c.status == "LISTEN"]
    assert len(listening) >= 5, "this is not all of Ray"
    assert {ip for ip, _ in listening} == {"127.0.0.1"}
    assert not (Path(environment["HOME"]) / ".ray").exists(), "the token of one run lies in nobody's home"


def test_who_has_no_token_does_not_join(own: tuple[psutil.Process, str, dict[str, str]], told: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, address, _ = own
    told.setenv("RAY_ADDRESS", address)
    told.setenv("HOME", str(tmp_path))
    for mode, token, said in (("disabled", "", "asks for a token"), ("token", "f" * 64, "another token than ours")):
        told.setenv("RAY_AUTH_MODE", mode)
        told.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(NoCluster, match=said):
            join()


def test_who_has_the_token_is_answered(own: tuple[psutil.Process, str, dict[str, str]], told: pytest.MonkeyPatch) -> None:
    driver, address, _ = own
    told.setenv("RAY_AUTH_MODE", "token")
    told.setenv("RAY_AUTH_TOKEN", next(token for one in driver.children() if (token := one.environ().get("RAY_AUTH_TOKEN"))))
    _ask(address, address)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    import ray

    ray.shutdown()  # what an earlier test has left
    return monkeypatch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_dead_address_is_named(told: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dead = f"127.0.0.1:{free_port()}"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(dead)
    told.setenv("RAY_TMPDIR", str(tmp_path))
    for address, said in ((dead, f"RAY_ADDRESS={dead}: nobody answers"), ("auto", f"{dead} (of {tmp_path}/ray/ray_current_cluster"),
                          (f"ray://{dead}", "nobody answers"), ("somewhere", "is no address")):  # fmt: skip
        told.setenv("RAY_ADDRESS", address)
        with pytest.raises(NoCluster) as refusal:
            join()
        assert said in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_who_answers_without_being_ray_is_named(told: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        told.setenv("RAY_ADDRESS", f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(NoCluster, match="is no Ray"):
            join()


def test_ray_lies_where_its_sockets_fit_and_this_user_may_write(told: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told.setenv("RAY_TMPDIR", "/tmp")
    assert _temporary_folder() == Path("/tmp/ray")
    for unusable in ("/" + "x" * 80, "/proc"):
        told.setenv("RAY_TMPDIR", unusable)
        assert _temporary_folder().name == f"ray-{os.getuid()}"


@pytest.mark.parametrize(
    ("shares", "num_gpus", "sizes"),
    [
        ([0.5, 0.25], 1, [1, 2]),  # 0.5 twice would leave the other pool nothing
        ([0.5], 1, [2]),
        ([0.5], 2, [4]),
        ([0.6, 0.6], 1, [1, 0]),
        ([1.0, 0.5], 2, [1, 2]),
        ([2.0, 0.5], 2, [1, 0]),
        ([0.25], 0, [0]),
    ],
)
def test_shares_of_a_gpu_are_packed(shares: list[float], num_gpus: int, sizes: list[int]) -> None:
    seats = [Seat(1.0, share, "", str(number)) for number, share in enumerate(shares)]
    assert list(on_gpus(seats, num_gpus).values()) == sizes


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Any]]]:
    """What Ray tells of a cluster that nobody started: `here` takes connections, `lost` takes none, though Ray holds both for alive."""
    import ray

    with socket.create_server(("127.0.0.1", 0)) as here, socket.socket() as lost:
        lost.bind(("127.0.0.1", 0))  # its port is taken, so that no other program listens there
        told: dict[str, dict[str, Any]] = {
            name: {"NodeID": name, "Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port, "Resources": {}}
            for name, port in (("here", here.getsockname()[1]), ("lost", lost.getsockname()[1]))
        }
        told["here"]["Resources"] = {"CPU": 4.0, "GPU": 1.0}
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
        monkeypatch.setattr(ray, "nodes", lambda: list(told.values()))
        monkeypatch.setattr(ray, "cluster_resources", lambda: told["here"]["Resources"])
        monkeypatch.setattr(ray, "wait", lambda watched, **_: ([], watched))
        monkeypatch.setattr(ray, "kill", lambda worker: None)
        yield told


@pytest.mark.usefixtures("nodes")
def test_shares_of_a_gpu_that_no_device_holds_together_are_refused(tmp_path: Path) -> None:
    seats = [Seat(1.0, 0.6, "", ""), Seat(1.0, 0.6, "", "mmpose")]
    with pytest.raises(ValueError, match=r"workers of 0\.6 and 0\.6 GPU, and the cluster's 1 does not hold one of each: .* smaller shares"):
        OnRay(tmp_path, [], seats)


@pytest.mark.usefixtures("nodes")
def test_a_full_cluster_is_told_though_a_lane_has_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download's worker, which takes no CPU, kept the run waiting for ever for the workers of all other stages."""
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 0.0})
    executor, lane, cpu = OnRay(tmp_path, [], [], start_limit_s=-1.0), Seat(0.1, 0, "egress", ""), Seat(1.0, 0, "", "")
    executor.idle[lane].append("a worker")
    executor.expect({lane: 2, cpu: 1})
    executor._check_start()
    executor.expect({lane: 0, cpu: 1})
    with pytest.raises(NoWorkers, match=r"no worker could start .* {'CPU': 0.0} left"):
        executor._check_start()


@pytest.mark.usefixtures("nodes")
def test_an_item_that_ran_over_its_limit_on_a_lost_node_is_not_held_against_it(tmp_path: Path) -> None:
    executor, order = OnRay(tmp_path, [], []), Order("a-0000", (0,), ({},), "a")
    ended: dict[str, Lost] = {}
    for node in ("here", "lost"):
        executor.places[node] = Place(node, f"host-{node}", 7)
        executor.busy[f"answer of {node}"] = (Seat(1.0, 0.0, "", ""), node, [order], time.monotonic() - 1.0, 60.0)
        ((_, told),) = executor.wait()
        assert isinstance(told, Lost)
        ended[node] = told
    assert ended["here"] == Lost(Reason.TIMEOUT, "ran over its limit of 60 s", counts=True, where="on host-here, pid 7")
    assert ended["lost"] == Lost(Reason.WORKER_DIED, "node host-lost was lost", counts=False, where="on host-lost, pid 7")
    assert not executor.busy


def test_a_worker_that_did_not_begin_can_be_named() -> None:
    assert "Worker" in repr(object.__new__(Worker))


def test_the_cause_of_a_death_is_told_in_one_line() -> None:
    said = (
        "The actor died because of an error raised in its creation task, ray::W (pid=1, ip=10.0.0.7)\n  File\nImportError: no libGL.so.1\n"
    )
    cause = cause_of(RuntimeError(said))
    assert cause.startswith("ImportError: no libGL.so.1 on 10.0.0.7; logs: ")
    assert "\n" not in cause


def test_the_token_is_nowhere_left_out() -> None:
    for file in [ROOT / "Makefile", ROOT / "tests/conftest.py", ROOT / "tests/chain/conftest.py", *(ROOT / "cluster").glob("*")]:
        assert "RAY_AUTH_MODE=disabled" not in file.read_text(), file
        assert '"disabled"' not in file.read_text(), file
        assert "?= disabled" not in file.read_text(), file
    assert "~/.ray/auth_token" in (ROOT / "cluster/aws.yaml").read_text()
