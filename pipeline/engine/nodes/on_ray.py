"""Items on Ray: pools of actors that follow the queues, and what becomes of those whose worker or node is lost."""

import itertools
import math
import re
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.nodes.cluster import cause_of, is_joined, join
from pipeline.engine.nodes.environments import check_environments, runtime_env
from pipeline.engine.nodes.executor import Lost
from pipeline.engine.nodes.parcel import pack
from pipeline.engine.nodes.place import Place
from pipeline.engine.nodes.pools import emptiest, on_gpus, pool_sizes
from pipeline.engine.orders import Order, Receipt
from pipeline.engine.plan.seats import Seat
from pipeline.engine.store import Store
from pipeline.engine.worker import Worker
from stages.errors import UserError
from stages.stage import Reason, Stage

_NODE_DIED = re.compile(
    r"node (has|was|is) (died|dead|terminated|preempted|removed)|its node|node .{0,80} (died|has been marked dead)", re.IGNORECASE
)


_NODE_ANSWERS_S = 5.0
"""A node that is there takes a connection within this."""


class NoWorkers(UserError):
    """The cluster starts no worker: it is full, or smaller than a stage asks."""


@dataclass(eq=False)
class OnRay:
    """Plain Ray actors, one pool a seat, one item in flight per worker; dead workers are replaced."""

    root: Path
    stages: Sequence[Stage]
    seats: Sequence[Seat]
    num_workers: int | None = None
    """At most so many workers of each pool; None = what the cluster holds."""
    seconds_per_worker: float = 1800.0
    """A worker is replaced after so many seconds of work, so that no leak of a library grows without end: a new one opens its networks.
    A lane's worker stays: it knows the pace of its address, and that it is refused."""
    start_limit_s: float = 600.0
    """A cluster that starts no worker for so long is an error."""
    refill_s: float = 10.0
    """How often the cluster is asked whether it has grown."""
    num_gpus: int | None = None
    """At most so many GPUs; None = all that the cluster has."""
    rebalance_s: float = 30.0
    """How often a pool gives workers to another one, where work waits: a new worker first opens its networks."""
    idle_lanes: Collection[Seat] = ()
    """Lanes to which nothing comes, as far as is known: they have no worker until something waits for one."""

    def __post_init__(self) -> None:
        import ray

        check_environments(self.stages, on_ray=True)
        if not ray.is_initialized():
            join()
        self.ray = ray
        self.actor = ray.remote(Worker)
        self.starting: dict[Any, tuple[Seat, Any]] = {}
        self.idle: dict[Seat, list[Any]] = defaultdict(list)
        self.busy: dict[Any, tuple[Seat, Any, Sequence[Order], float, float]] = {}
        self.places: dict[Any, Place] = {}
        """Node, process and log of each worker that has started."""
        self.lane_of: dict[Any, int] = {}
        """Number of each worker in its pool: which address a lane is."""
        self.node_of: dict[Any, str] = {}
        """Node of each worker, '' until it has started where Ray chose."""
        self.blind: dict[str, str] = {}
        """Nodes that do not see the data folder, with what they said."""
        self.waiting: Mapping[Seat, int] | None = None
        """Items that wait for a worker, by pool; None before anybody has told."""
        self.surplus: Counter[Seat] = Counter()
        """Workers that another pool is to have, as soon as they have done what they are at."""
        self.rebalance_at = time.monotonic() + self.rebalance_s
        store = Store(self.root)
        self.token = store.token()
        self.named: Path | str = store.mirror.whole if store.mirror else self.root
        self.mirror = store.root if store.mirror else None
        self.driver = store.mirror.token if store.mirror else ""
        self.parcel = pack(self.stages, ray.put) if is_joined() else None  # workers of a Ray of our own inherit what we see
        self.own = str(ray.get_runtime_context().get_node_id())
        self.served_s: dict[Any, float] = defaultdict(float)
        self.stillborn: Counter[Seat] = Counter()
        self.quiet_since = self.fill_at = time.monotonic()
        for seat, size in self._sizes().items():
            if size == 0:
                raise ValueError(self._no_gpu(seat))
        asked, there = sum(s.cpus for s in set(self.seats) if not s.lane), float(ray.cluster_resources().get("CPU", 1))
        if asked > there:
            raise ValueError(f"a worker of each kind that the stages ask for takes {asked:g} CPUs, and the cluster has {there:g}")
        self._fill()

    def _sizes(self) -> dict[Seat, int]:
        """Workers per pool as the cluster and the queues are now: a worker a lane, GPUs as they are shared, CPUs where work waits."""
        nodes = self._nodes()
        cpus, gpus = (sum(float(node["Resources"].get(kind, 0)) for node in nodes) for kind in ("CPU", "GPU"))
        seats, most = set(self.seats), self.num_workers or math.inf
        num_gpus = math.floor(gpus if self.num_gpus is None else min(gpus, self.num_gpus))
        by_gpu = on_gpus(sorted((s for s in seats if s.gpus and not s.lane), key=lambda s: (-s.gpus, -s.cpus, s.environment)), num_gpus)
        fit = {s: min(by_gpu[s] if s.gpus else max(1, math.floor(cpus / max(s.cpus, 0.01))), most) for s in seats if not s.lane}
        held, there, wanted = self._held(), self._there(), None
        if self.waiting is not None:
            at_work = Counter(seat for seat, *_ in self.busy.values())
            wanted = {seat: at_work[seat] + self.waiting.get(seat, 0) for seat in fit}
        beside_gpus = sum(float(node["Resources"].get("CPU", 0)) for node in nodes if node["Resources"].get("GPU"))
        most_of = {seat: int(size) for seat, size in fit.items()}
        most_of |= pool_sizes({seat: size for seat, size in most_of.items() if seat.gpus}, beside_gpus, wanted)
        sizes = pool_sizes(most_of, cpus, wanted)
        short = [seat for seat in sizes if sizes[seat] > there[seat]]
        if wanted is not None and not short:  # nobody waits for their place: who is there stays
            sizes = {seat: max(size, min(held[seat], int(fit[seat]))) for seat, size in sizes.items()}
        lanes = {stage.resources.lane: stage.resources.lanes for stage in self.stages if stage.resources.lane}
        idle = {seat for seat in self.idle_lanes if not (held[seat] or (self.waiting and self.waiting.get(seat)))}
        return sizes | {seat: int(min(lanes.get(seat.lane, 1) if nodes else 0, most)) for seat in seats - idle if seat.lane}

    def _there(self) -> Counter[Seat]:
        """Workers that have started, by pool."""
        there: Counter[Seat] = Counter(seat for seat, *_ in self.busy.values())
        there.update({seat: len(idle) for seat, idle in self.idle.items()})
        return there

    def _held(self) -> Counter[Seat]:
        """Workers that are there or start, by pool."""
        return self._there() + Counter(seat for seat, _ in self.starting.values())

    def _no_gpu(self, seat: Seat) -> str:
        there = float(self.ray.cluster_resources().get("GPU", 0))
        if seat.gpus > there:
            return f"a stage asks for {seat.gpus} GPU a worker and the cluster has fewer: set its gpus to 0"
        shares = " and ".join(f"{s.gpus:g}" for s in sorted(set(self.seats), key=lambda s: -s.gpus) if s.gpus)
        return (
            f"the stages ask for workers of {shares} GPU, and the cluster's {there:g} does not hold one of each: give them smaller shares"
        )

    def _nodes(self) -> list[dict[str, Any]]:
        """The nodes that live and see the data folder."""
        return [node for node in self.ray.nodes() if node["Alive"] and node["NodeID"] not in self.blind]

    def _fill(self) -> None:
        """Bring every pool to its size: lost workers are replaced at once, nodes that joined are used within `refill_s`."""
        if time.monotonic() < self.fill_at:
            return
        self.fill_at = time.monotonic() + self.refill_s
        if self._is_gone(self.own):
            raise NoWorkers("the Ray that this run works on has died; nothing that was committed is lost: run again to go on")
        sizes, held = self._sizes(), self._held()
        if time.monotonic() >= self.rebalance_at:
            self._give_way(sizes, held)
            held = self._held()
        left = sum(float(node["Resources"].get("CPU", 0)) for node in self._nodes()) - sum(
            n * s.cpus for s, n in held.items() if not s.lane
        )
        for seat, size in sizes.items():
            for _ in range(size - held[seat]):
                if not seat.lane and held[seat] and seat.cpus > left + 1e-9:
                    break  # a pool that has a worker waits until another one gives way
                left -= 0 if seat.lane else seat.cpus
                self._start(seat)

    def _give_way(self, sizes: Mapping[Seat, int], held: Mapping[Seat, int]) -> None:
        """Dismiss workers that another pool has more work for: idle ones at once, the others after their item. One that starts may be
        waiting for their room."""
        self.rebalance_at = time.monotonic() + self.rebalance_s
        self.surplus.clear()
        there = self._there()
        if all(there[seat] >= size for seat, size in sizes.items()):
            return
        for seat, size in sizes.items():
            for _ in range(held[seat] - size):
                if self.idle[seat]:
                    self.ray.kill(self.idle[seat].pop())
                else:
                    self.surplus[seat] += 1

    def _lanes_of(self, seat: Seat) -> set[int]:
        """Numbers of the lanes that have a worker."""
        there = [worker for one, worker, *_ in (*self.starting.values(), *self.busy.values()) if one == seat]
        return {self.lane_of[worker] for worker in (*there, *self.idle[seat])}

    def _start(self, seat: Seat) -> None:
        options: dict[str, Any] = {
            "num_cpus": 0 if seat.lane else seat.cpus,
            "num_gpus": seat.gpus,
            "runtime_env": runtime_env(seat.environment),
        }
        node = self._node_for(seat)
        options |= {"max_restarts": 0, "scheduling_strategy": _on_node(node) if node else "SPREAD"}
        lane = next(k for k in itertools.count() if k not in self._lanes_of(seat))
        given = {"sees_gpus": seat.gpus > 0, "parcel": self.parcel, "lane": lane, "mirror": self.mirror, "driver": self.driver}
        worker = self.actor.options(**options).remote(self.named, self.stages, self.token, **given)
        self.lane_of[worker], self.node_of[worker] = lane, node
        self.starting[worker.where.remote()] = (seat, worker)

    def expect(self, waiting: Mapping[Seat, int]) -> None:
        self.waiting = waiting

    def at_work(self) -> list[tuple[Order, float, str]]:
        now = time.monotonic()
        return [
            (orders[0], now - deadline + limit_s, str(self.places[worker])) for _, worker, orders, deadline, limit_s in self.busy.values()
        ]

    def _node_for(self, seat: Seat) -> str:
        """Where a new worker is to be: a node that sees the folder and has room for it beside our others, without GPUs if it needs none; ''
        leaves it to Ray, where neither matters. Raises NoWorkers without any."""
        if not self.blind and not any(one.gpus for one in self.seats):
            return ""
        seeing = [node for node in self._nodes() if _holds(node, seat)]
        if not seeing:
            raise NoWorkers(f"no node sees the data folder: {'; '.join(sorted(self.blind.values()))}" if self.blind else self._no_gpu(seat))
        workers = [(one, worker) for one, worker in self.starting.values()]
        workers += [(one, worker) for one, worker, _, _, _ in self.busy.values()]
        workers += [(one, worker) for one, idle in self.idle.items() for worker in idle]
        return emptiest(seat, seeing, [(one, self.node_of[worker]) for one, worker in workers])

    def free(self, seat: Seat) -> bool:
        return bool(self.idle[seat])

    def size(self, seat: Seat) -> int:
        return self._held()[seat]

    def submit(self, seat: Seat, orders: Sequence[Order], limit_s: float) -> None:
        worker = self.idle[seat].pop()
        self.busy[worker.do_all.remote(orders)] = (seat, worker, orders, time.monotonic() + limit_s, limit_s)

    def wait(self) -> list[tuple[Order, Receipt | Lost | None]]:
        finished: list[tuple[Order, Receipt | Lost | None]] = []
        self._fill()
        self._check_start()
        watched = [*self.busy, *self.starting]
        if not watched:
            time.sleep(1.0)  # the pool that is asked for has lost its nodes: wait for others
            return []
        done, _ = self.ray.wait(watched, num_returns=1, timeout=1.0)
        for ref in done:
            if ref in self.starting:
                self._welcome(*self.starting.pop(ref), ref)
                continue
            seat, worker, orders, _, _ = self.busy.pop(ref)
            finished += self._answers(seat, worker, orders, ref)
        for ref, (_, worker, late, deadline, limit_s) in list(self.busy.items()):
            if time.monotonic() > deadline:
                del self.busy[ref]
                self._dismiss(worker)
                place = self.places[worker]
                lost = Lost(Reason.WORKER_DIED, f"node {place.host} was lost", counts=False, where=str(place))
                late_one = Lost(Reason.TIMEOUT, f"ran over its limit of {limit_s:g} s", where=str(place))
                result = lost if self._is_gone(place.node) else late_one
                finished += [(order, result) for order in late]
        return finished

    def _welcome(self, seat: Seat, worker: Any, ref: Any) -> None:
        """Take a worker that has started into its pool."""
        try:
            self.places[worker] = self.ray.get(ref)
            self.node_of[worker] = self.places[worker].node
        except self.ray.exceptions.RayError as error:
            self.fill_at = 0.0
            self._mourn(seat, error)
        else:
            self._keep(seat, worker, 0.0)

    def _answers(self, seat: Seat, worker: Any, orders: Sequence[Order], ref: Any) -> list[tuple[Order, Receipt | Lost | None]]:
        """Orders with the receipts of a worker, or with why there are none."""
        try:
            receipts: list[Receipt] = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self._dismiss(worker)
            lost = self._lost(worker, error)
            return [(order, lost) for order in orders]
        blind = next((receipt.blind for receipt in receipts if receipt.blind), "")
        if blind:
            self.blind[self.places[worker].node] = blind
            self._dismiss(worker)
            return [(order, Lost(Reason.WORKER_DIED, blind, counts=False, blind=True)) for order in orders]
        self._keep(seat, worker, sum(receipt.wall_s for receipt in receipts))
        return list(itertools.zip_longest(orders, receipts))

    def _lost(self, worker: Any, error: Exception) -> Lost:
        """Whether a worker died by itself, by its item, or with its node."""
        place = self.places[worker]
        told = " ".join(str(error).split())
        if getattr(error, "preempted", False) or _NODE_DIED.search(told) or self._is_gone(place.node, or_going=True):
            return Lost(Reason.WORKER_DIED, f"node {place.host} was lost", counts=False, where=str(place))
        return Lost(Reason.WORKER_DIED, f"its worker on {place.host} died: {cause_of(error)}", where=str(place))

    def _is_gone(self, node: str, *, or_going: bool = False) -> bool:
        """Whether a node is lost: Ray says so half a minute later. `or_going`: its workers die a moment before it."""
        for pause_s in (0.0, 0.5) if or_going else (0.0,):
            time.sleep(pause_s)
            known = next((one for one in self.ray.nodes() if one["NodeID"] == node), None)
            if known is None or not known["Alive"]:
                return True
            try:
                socket.create_connection((known["NodeManagerAddress"], known["NodeManagerPort"]), _NODE_ANSWERS_S).close()
            except OSError:
                return True
        return False

    def _check_start(self) -> None:
        """A cluster that gives no worker to any work that waits is an error, not a silent wait; one that has nothing to do is no help."""
        waiting = self.waiting
        if self.busy or any(idle and (waiting is None or waiting.get(seat)) for seat, idle in self.idle.items()):
            self.quiet_since = time.monotonic()
        elif time.monotonic() - self.quiet_since > self.start_limit_s:
            raise NoWorkers(f"no worker could start within {self.start_limit_s:g} s: the cluster has {self.ray.available_resources()} left")

    def _mourn(self, seat: Seat, error: Exception) -> None:
        """A worker that dies as it starts is replaced; of a pool where none lives, the third is an error, not an endless try."""
        self.stillborn[seat] += 1
        if self.stillborn[seat] == 3:
            where = f" in .env-{seat.environment}" if seat.environment else ""
            raise NoWorkers(f"three workers{where} died as they started, the last so: {cause_of(error)}")

    def _keep(self, seat: Seat, worker: Any, worked_s: float) -> None:
        """Take a worker back that has started, or has worked for so many seconds."""
        del self.stillborn[seat]
        self.served_s[worker] += worked_s
        if self.surplus[seat] or (self.served_s[worker] > self.seconds_per_worker and not seat.lane):
            self.surplus[seat] -= bool(self.surplus[seat])
            self._dismiss(worker)
        else:
            self.idle[seat].append(worker)

    def _dismiss(self, worker: Any) -> None:
        self.ray.kill(worker)
        self.fill_at = 0.0


def _on_node(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=True)


def _holds(node: Mapping[str, Any], seat: Seat) -> bool:
    """Whether a node is large enough for a worker of a pool."""
    return bool(seat.lane) or all(
        float(node["Resources"].get(kind, 0)) >= wanted for kind, wanted in (("CPU", seat.cpus), ("GPU", seat.gpus))
    )
