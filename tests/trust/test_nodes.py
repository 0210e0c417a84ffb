"""Several nodes: what listens asks for the token, a node that does not see the data folder makes nothing, a lost node costs no attempt."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from benchmarks.trust.nodes import Nodes, nodes

pytestmark = pytest.mark.long

DRIVER = """
import json, sys
from pathlib import Path
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.on_ray import OnRay
from pipeline.engine.run import run
from pipeline.engine.plan.seats import seat_of
from pipeline.engine.store import Store
from tests.engine import toy

root, num_clips, nap_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
stages = [toy.Fetch(), toy.Cut(num_clips=num_clips), toy.Count(nap_s=nap_s), toy.After()]
object.__setattr__(type(stages[2]).resources, "limit_s", 60.0)
graph = Graph(stages, toy.manifest("a"), Store(root)).load()
run(graph, OnRay(root, stages, [seat_of(stage) for stage in stages]))
errors = [graph.store.error("reviews", task.key) for task in graph.tasks]
states = sorted({str(task.state) for task in graph.tasks})
print(json.dumps({"states": states, "num": len(graph.tasks), "errors": [error.message for error in errors if error]}))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with nodes(tmp_path_factory.mktemp("home")) as running:
        yield running


def start(cluster: Nodes, data: Path, num_clips: int, nap_s: float) -> "subprocess.Popen[str]":
    """A run of the toy recipe on the cluster."""
    data.mkdir(parents=True, exist_ok=True)
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    words = [sys.executable, "-P", "-c", DRIVER, str(data), str(num_clips), str(nap_s)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(driver: "subprocess.Popen[str]", limit_s: float = 180) -> dict[str, Any]:
    out, errors = driver.communicate(timeout=limit_s)
    assert driver.returncode == 0, errors[-3000:]
    found: dict[str, Any] = json.loads(next(line for line in reversed(out.splitlines()) if line.startswith("{")))  # Ray may say more
    return found


def at_work(cluster: Nodes, driver: "subprocess.Popen[str]") -> str:
    """The node whose worker has an item; waits for one."""
    until = time.monotonic() + 90
    while time.monotonic() < until and driver.poll() is None:
        for host in cluster.running:
            for one in cluster.family(host):
                try:
                    if "ray::Worker.do" in " ".join(one.cmdline()):
                        return host
                except psutil.Error:
                    continue
        time.sleep(0.1)
    raise AssertionError(f"no worker has begun: {driver.communicate() if driver.poll() is not None else driver}")


def asked(port: int, method: str, token: str = "") -> grpc.StatusCode:
    """What a server of Ray's answers to a call without content."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=5, metadata=[("authorization", f"Bearer {token}")] if token else [])
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


SERVERS = {
    "raylet": "/ray.rpc.NodeManagerService/GetNodeStats",
    "gcs_server": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "ray::Worker": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
}


def test_every_server_of_every_node_asks_for_the_token(cluster: Nodes, tmp_path: Path) -> None:
    for _ in range(2):
        cluster.join()
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    driver = start(cluster, tmp_path / "data", 6, 3.0)
    at_work(cluster, driver)
    seen: dict[str, int] = {}
    for host in cluster.running:
        for one in cluster.family(host):
            kind = next((name for name in SERVERS if one.name().startswith(name[:15])), "")
            for port in {c.laddr.port for c in one.net_connections() if c.status == "LISTEN"} if kind else ():
                without = asked(port, SERVERS[kind])
                if without is grpc.StatusCode.UNIMPLEMENTED:
                    continue
                assert without is grpc.StatusCode.UNAUTHENTICATED, (host, one.cmdline(), port, without)
                assert asked(port, SERVERS[kind], "f" * 64) is grpc.StatusCode.UNAUTHENTICATED
                seen[kind] = seen.get(kind, 0) + (asked(port, SERVERS[kind], token) is not grpc.StatusCode.UNAUTHENTICATED)
    assert seen["raylet"] >= 3
    assert seen["gcs_server"] >= 1
    assert seen["ray::Worker"] >= 1
    assert end_of(driver)["states"] == ["done"]


def test_nodes_that_are_lost_with_an_item_cost_it_no_attempt(cluster: Nodes, tmp_path: Path) -> None:
    while len(cluster.running) < 5:
        cluster.join()
    driver = start(cluster, tmp_path / "data", 1, 10.0)
    for _ in range(3):  # a worker may die by its item twice
        cluster.kill(at_work(cluster, driver))
    assert end_of(driver) == {"states": ["done"], "num": 4, "errors": []}


def test_a_node_that_does_not_see_the_data_folder_makes_nothing(cluster: Nodes, tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a private mount")
    data = tmp_path / "shared/data"
    data.mkdir(parents=True)
    for host in [host for host in cluster.running if host != "127.0.0.1"]:
        cluster.kill(host)
    cluster.join(inside=["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {data.parent} && exec "$@"', "sh"])
    alone = start(cluster, data, 2, 0.1)
    out, errors = alone.communicate(timeout=180)
    assert alone.returncode != 0, out + errors[-3000:]
    assert "no node sees the data folder" in errors, out + errors[-2000:]
    assert not list(data.rglob("*.parquet"))
    cluster.join()
    found = end_of(start(cluster, data, 6, 0.2))
    assert found == {"states": ["done"], "num": 14, "errors": []}
    assert len(list((data / "reviews").glob("*.parquet"))) == 6, "what is reported done lies here"
