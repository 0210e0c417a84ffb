"""Pools of workers: shares of GPUs that fit their memory, no GPU without a share, workers where work waits."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

import pytest

from pipeline.engine.finish import Where, _executor, finish
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.nodes.metrics import waiting_by_stage
from pipeline.engine.nodes.on_ray import OnRay
from pipeline.engine.nodes.pools import CUDA_MB, GPU_MB, emptiest, gpu_mb_of, on_gpus, pool_sizes, share_of, with_shares
from pipeline.engine.plan.seats import Seat, seat_of
from pipeline.engine.plan.tasks import State
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.recipes import every_stage
from tests.engine import toy

CPU = Seat(1, 0, "", "")


def test_networks_of_one_worker_have_the_share_that_their_memory_is() -> None:
    stages: list[Any] = [toy.Fetch(), toy.Seeing(), toy.After()]
    seats = with_shares([CPU] * 3, [[one] for one in stages], num_gpus=1, gpu_mb=16_000)
    assert [seat.gpus for seat in seats] == [0, share_of(CUDA_MB + 3000, 16_000), 0]
    assert seats[1].gpus == 0.3333, "three of 3.7 GB fit 16 GB of which a tenth stays free, and Ray takes steps of 1/10,000"
    assert on_gpus([seats[1]], 1)[seats[1]] == 3
    assert share_of(30_000, 16_000) == 1.0


def test_what_finds_no_room_stays_on_the_cpu_and_what_was_asked_for_by_hand_stays(caplog: pytest.LogCaptureFixture) -> None:
    large, own = CPU._replace(environment="mmpose"), CPU._replace(gpus=0.5)
    groups: list[list[Any]] = [[toy.Seeing()], [toy.Huge()], [toy.Seeing()]]
    seats = with_shares([CPU, large, own], groups, num_gpus=1, gpu_mb=24_000)
    assert seats == [CPU, large, own]
    assert "no room for all networks" in caplog.text
    seats = with_shares([CPU, large, own], groups, num_gpus=2, gpu_mb=24_000)
    assert [seat.gpus for seat in seats] == [0.2, 1.0, 0.5], "the half and the fifth share a GPU, the large one has the other"
    assert all(on_gpus(seats, 2).values())


def test_the_smallest_gpu_of_a_cluster_decides() -> None:
    nodes = [{"Resources": {"CPU": 4.0, "GPU": 1.0, f"accelerator_type:{kind}": 1.0}} for kind in ("H100", "L4")]
    assert gpu_mb_of([*nodes, {"Resources": {"CPU": 64.0}}]) == GPU_MB["L4"]


def test_every_network_stage_says_what_it_takes_and_the_full_ensemble_fits_the_smallest_gpu() -> None:
    networks: list[Any] = [stage for stage in every_stage() if hasattr(stage, "device") and stage.name != "fit"]
    assert len(networks) == 10
    assert all(stage.resources.gpu_mb for stage in networks)
    assert not any(type(stage)(device="cpu").resources.gpu_mb for stage in networks if stage.detector != "openpose")
    assert CUDA_MB + sum(stage.resources.gpu_mb for stage in networks) < 0.9 * min(GPU_MB.values())


def test_a_worker_goes_where_there_is_room_and_leaves_gpus_to_those_that_need_them() -> None:
    card = {"NodeID": "card", "Resources": {"CPU": 3.0, "GPU": 1.0}}
    plain = [{"NodeID": name, "Resources": {"CPU": cpus}} for name, cpus in (("small", 1.0), ("large", 2.0))]
    half = CPU._replace(gpus=0.5)
    held: list[tuple[Seat, str]] = []
    for wanted, seat in (("large", CPU), ("small", CPU), ("large", CPU), ("card", CPU), ("card", half), ("card", half)):
        assert emptiest(seat, [card, *plain], held) == wanted
        held.append((seat, wanted))
    assert emptiest(CPU._replace(lane="egress"), [card, *plain], held) == "small", "a lane takes no CPU"
    other = {"NodeID": "other", "Resources": {"CPU": 1.0, "GPU": 1.0}}
    assert emptiest(half, [card, other], held) == "other", "no GPU is left on the one"


def test_workers_are_where_work_waits() -> None:
    two = CPU._replace(environment="mmpose")
    assert pool_sizes({CPU: 8, two: 8}, 8) == {CPU: 4, two: 4}, "nobody knows yet"
    assert pool_sizes({CPU: 8, two: 8}, 8, {CPU: 100}) == {CPU: 7, two: 1}
    assert pool_sizes({CPU: 8, two: 8}, 8, {CPU: 2, two: 3}) == {CPU: 2, two: 3}, "no more than have work"
    assert pool_sizes({CPU: 8, two: 2}, 8, {CPU: 100, two: 100}) == {CPU: 6, two: 2}


@pytest.fixture(scope="module")
def ray_with_a_gpu() -> Iterator[int]:
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    more = {"_metrics_export_port": port, "_system_config": {"metrics_report_interval_ms": 500}}
    ray.init(address="local", num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR", **more)
    yield port
    ray.shutdown()


def test_workers_with_a_share_see_the_gpu_and_those_without_see_none(
    ray_with_a_gpu: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for num_gpus, seen in ((None, "0"), (9, "0"), (0, "")):
        notes = tmp_path / f"{num_gpus}"
        notes.mkdir()
        stages: list[Any] = [toy.Fetch(), toy.Cut(num_clips=2), toy.Seeing(seen=str(notes)), toy.Blind(seen=str(notes))]
        graph = Graph(stages, toy.manifest("a"), Store(notes / "data")).load()
        finish(graph, Where(num_gpus=num_gpus, num_workers=1), on_outcome=lambda task, outcome: None)
        assert {str(task.state) for task in graph.tasks} == {"done"}
        told = {kind: {path.read_text() for path in notes.glob(f"{kind}-*")} for kind in ("seeing", "blind")}
        assert told == {"seeing": {seen}, "blind": {""}}
    assert [record.getMessage() for record in caplog.records if "--gpus" in record.msg] == [
        "--gpus 9: the cluster has 1 now; those that join it are used up to that"
    ]
    assert metric(ray_with_a_gpu, "ray_whim_parts_total{", 'Stage="blind"', 'State="done"', reaches=6.0) == 6.0, "three runs of two clips"


def test_parts_that_wait_are_counted_of_all_stages_of_a_name(tmp_path: Path) -> None:
    """Stages of several detectors have one name, and a gauge keeps the last thing that it is told."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class CountByAnother(toy.Count):
        detector: ClassVar[str] = "another"

    stages: list[Any] = [toy.Fetch(), toy.Cut(num_clips=2), toy.Count(), CountByAnother()]
    store, manifest = Store(tmp_path / "data"), toy.manifest("a")
    run(Graph(stages[:2], manifest, store).load(), Local(store.root, stages[:2]))
    graph = Graph(stages, manifest, store).load()
    assert waiting_by_stage(graph) == {"fetch": 0, "cut": 0, "count": 4}
    graph.settle(graph.tasks_of(3)[0], State.DONE)
    assert waiting_by_stage(graph)["count"] == 3


def metric(port: int, *words: str, reaches: float) -> float:
    """A number of Ray's endpoint, of the line that has all of these words; the latest, should it not reach what is waited for."""
    until, latest = time.monotonic() + 240, float("nan")
    while time.monotonic() < until and latest != reaches:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            lines = [line for line in answer.read().decode().splitlines() if all(word.lower() in line.lower() for word in words)]
            latest = float(lines[0].rsplit(" ", 1)[1]) if lines else latest
        time.sleep(0.5)
    return latest


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_a_lane_has_no_worker_while_nothing_comes_to_it(tmp_path: Path) -> None:
    stages: list[Any] = [toy.Laned(), toy.Cut()]
    store, manifest = Store(tmp_path / "data"), toy.manifest("a")
    lane = seat_of(stages[0])
    first = _executor(Graph(stages, manifest, store).load(), Where())
    assert isinstance(first, OnRay)
    assert first.size(lane) == 2
    run(Graph(stages[:1], manifest, store).load(), Local(store.root, stages[:1]))
    executor = _executor(Graph(stages, manifest, store).load(), Where())
    assert isinstance(executor, OnRay)
    assert executor.size(lane) == 0
    assert executor.size(seat_of(stages[1])) > 0
    executor.expect({lane: 1})  # a video is to be fetched again
    executor.fill_at = 0.0
    executor.wait()
    assert executor.size(lane) == 2
    for one in (first, executor):
        for _, worker in one.starting.values():
            one.ray.kill(worker)


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_a_pool_gives_its_workers_to_another_whose_work_waits(tmp_path: Path) -> None:
    stages: list[Any] = [toy.Laned(), toy.Cut(), toy.Count()]
    lane = Seat(0.1, 0, "egress", "")
    other = CPU._replace(cpus=1.0, gpus=0.25)
    executor = OnRay(tmp_path, stages, [CPU, other, lane], refill_s=0.0, rebalance_s=0.0)
    assert executor._held() == {CPU: 1, other: 2, lane: 2}, "in turn, as nobody knows yet where work will wait"
    assert executor._lanes_of(lane) == {0, 1}, "each lane is an address of its own"
    executor.expect({CPU: 50})
    until = time.monotonic() + 240  # a worker starts slowly on a busy machine
    while [len(executor.idle[seat]) for seat in (CPU, other)] != [2, 1] and time.monotonic() < until:
        executor.wait()
    assert [len(executor.idle[seat]) for seat in (CPU, other)] == [2, 1]
    executor._start(CPU)  # has the room of the other pool's worker as soon as that one is lost
    executor.ray.kill(executor.idle[other].pop())
    assert executor.ray.wait([*executor.starting], timeout=240)[0]
    executor._start(other)
    while not (executor.idle[other] and executor.idle[lane]) and time.monotonic() < until:
        executor.wait()
    assert executor.idle[other], "a worker that waits for room is none that is there: who has too many gives way"
    executor.seconds_per_worker = 1.0
    kept = {seat: executor.idle[seat].pop() for seat in (other, lane)}
    for seat, worker in kept.items():
        executor._keep(seat, worker, 2.0)
    assert kept[other] not in executor.idle[other], "who has worked for so long is replaced"
    assert kept[lane] in executor.idle[lane], "but for a lane's, which knows the pace of its address"
