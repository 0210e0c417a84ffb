"""Runs a graph: in this process, or on Ray actors. Ray carries names and receipts; tables travel through the store."""

import itertools
import logging
import math
import os
import re
import signal
import socket
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.engine.cluster import cause_of, is_joined, join
from pipeline.engine.environments import check_environments, runtime_env
from pipeline.engine.graph import Graph, Item, Seat, State, Task, table_of
from pipeline.engine.nodes.parcel import pack
from pipeline.engine.nodes.place import Place
from pipeline.engine.nodes.pools import on_gpus, pool_sizes
from pipeline.engine.stopping import Stopping
from pipeline.engine.store import Store, StoreError
from pipeline.engine.worker import Order, Outcome, Receipt, Worker, record_failure
from stages.digest import seal_line
from stages.errors import UserError
from stages.stage import Failure, Reason, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """An order came back without a receipt."""

    reason: Reason
    message: str
    counts: bool = True
    """Whether it counts as an attempt at the item: a node that is lost, or does not see the data folder, says nothing of the item."""
    blind: bool = False
    """Whether its node does not see the data folder: no other item is given to it."""
    where: str = ""
    """Node, process and log of the worker (`Place`)."""


class Executor(Protocol):
    """Where items run."""

    def free(self, seat: Seat) -> bool:
        """Whether a worker of that kind is idle."""
        ...

    def submit(self, seat: Seat, order: Order, limit_s: float) -> None: ...

    def expect(self, waiting: Mapping[Seat, int]) -> None:
        """Hear how many items wait for a worker of each kind."""
        ...

    def at_work(self) -> list[tuple[Order, float, str]]:
        """Orders that workers are at, for how many seconds, and where."""
        ...

    def wait(self) -> list[tuple[Order, Receipt | Lost]]:
        """At least one finished order, with its receipt or with why its worker is gone."""
        ...


@dataclass(eq=False)
class Local:
    """One worker in this process: for tests and debugging. A crash of native code ends the run."""

    root: Path
    stages: Sequence[Stage]
    finished: list[tuple[Order, Receipt | Lost]] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_environments(self.stages, on_ray=False)
        self.worker = Worker(self.root, self.stages)

    def free(self, seat: Seat) -> bool:
        return not self.finished

    def expect(self, waiting: Mapping[Seat, int]) -> None:
        """There is one worker, whatever waits."""

    def at_work(self) -> list[tuple[Order, float, str]]:
        """Nobody is while this process asks."""
        return []

    def submit(self, seat: Seat, order: Order, limit_s: float) -> None:
        with _alarm(limit_s):
            try:
                self.finished.append((order, self.worker.do(order)))
            except _Overtime:
                self.finished.append((order, Lost(Reason.TIMEOUT, f"ran over its limit of {limit_s:g} s")))

    def wait(self) -> list[tuple[Order, Receipt | Lost]]:
        finished, self.finished = self.finished, []
        return finished


class _Overtime(BaseException):
    """Raised by the alarm; a BaseException so that no stage takes it for an error of its own."""


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise _Overtime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
    items_per_worker: int = 200
    """A worker is replaced after so many items, so that no leak of a library grows without end."""
    start_limit_s: float = 180.0
    """A cluster that starts no worker for so long is an error."""
    refill_s: float = 10.0
    """How often the cluster is asked whether it has grown."""
    num_gpus: int | None = None
    """At most so many GPUs; None = all that the cluster has."""
    rebalance_s: float = 30.0
    """How often a pool gives workers to another one, where work waits: a new worker first opens its networks."""

    def __post_init__(self) -> None:
        import ray

        check_environments(self.stages, on_ray=True)
        if not ray.is_initialized():
            join()
        self.ray = ray
        self.actor = ray.remote(Worker)
        self.starting: dict[Any, tuple[Seat, Any]] = {}
        self.idle: dict[Seat, list[Any]] = defaultdict(list)
        self.busy: dict[Any, tuple[Seat, Any, Order, float, float]] = {}
        self.places: dict[Any, Place] = {}
        """Of each worker that has started."""
        self.lane_of: dict[Any, int] = {}
        """Number of each worker in its pool: which address a lane is."""
        self.blind: dict[str, str] = {}
        """Nodes that do not see the data folder, with what they said."""
        self.waiting: Mapping[Seat, int] | None = None
        """Items that wait for a worker, by pool; None before anybody has told."""
        self.surplus: Counter[Seat] = Counter()
        """Workers that another pool is to have, as soon as they have done what they are at."""
        self.rebalance_at = time.monotonic() + self.rebalance_s
        self.turn = 0
        self.token = Store(self.root).token()
        self.parcel = pack(self.stages, ray.put) if is_joined() else None  # workers of a Ray of our own inherit what we see
        self.own = str(ray.get_runtime_context().get_node_id())
        self.served: Counter[Any] = Counter()
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
        held, wanted = self._held(), None
        if self.waiting is not None:
            at_work = Counter(seat for seat, *_ in self.busy.values())
            wanted = {seat: at_work[seat] + self.waiting.get(seat, 0) for seat in fit}
        sizes = pool_sizes({seat: int(size) for seat, size in fit.items()}, cpus, wanted)
        short = [seat for seat in sizes if sizes[seat] > held[seat]]
        if wanted is not None and not short:  # nobody waits for their place: who is there stays
            sizes = {seat: max(size, min(held[seat], int(fit[seat]))) for seat, size in sizes.items()}
        lanes = {stage.resources.lane: stage.resources.lanes for stage in self.stages if stage.resources.lane}
        return sizes | {seat: int(min(lanes.get(seat.lane, 1) if nodes else 0, most)) for seat in seats if seat.lane}

    def _held(self) -> Counter[Seat]:
        """Workers that are there or start, by pool."""
        held: Counter[Seat] = Counter(seat for seat, *_ in self.starting.values())
        held.update(seat for seat, *_ in self.busy.values())
        held.update({seat: len(idle) for seat, idle in self.idle.items()})
        return held

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
        """Dismiss workers that another pool has more work for: idle ones at once, the others after their item."""
        self.rebalance_at = time.monotonic() + self.rebalance_s
        self.surplus.clear()
        if all(held[seat] >= size for seat, size in sizes.items()):
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
        options = {"num_cpus": 0 if seat.lane else seat.cpus, "num_gpus": seat.gpus, "runtime_env": runtime_env(seat.environment)}
        options |= {"max_restarts": 0, "scheduling_strategy": self._strategy(seat)}
        lane = next(k for k in itertools.count() if k not in self._lanes_of(seat))
        given = {"sees_gpus": seat.gpus > 0, "parcel": self.parcel, "lane": lane}
        worker = self.actor.options(**options).remote(self.root, self.stages, self.token, **given)
        self.lane_of[worker] = lane
        self.starting[worker.where.remote()] = (seat, worker)

    def expect(self, waiting: Mapping[Seat, int]) -> None:
        self.waiting = waiting

    def at_work(self) -> list[tuple[Order, float, str]]:
        now = time.monotonic()
        return [(order, now - deadline + limit_s, str(self.places[worker])) for _, worker, order, deadline, limit_s in self.busy.values()]

    def _strategy(self, seat: Seat) -> Any:
        """Spread over all nodes; where some are blind, by turns to the others that are large enough. Raises NoWorkers without any."""
        if not self.blind:
            return "SPREAD"
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        seeing = [node for node in self._nodes() if _holds(node, seat)]
        if not seeing:
            raise NoWorkers(f"no node sees the data folder: {'; '.join(sorted(self.blind.values()))}")
        self.turn += 1
        return NodeAffinitySchedulingStrategy(seeing[self.turn % len(seeing)]["NodeID"], soft=True)

    def free(self, seat: Seat) -> bool:
        return bool(self.idle[seat])

    def submit(self, seat: Seat, order: Order, limit_s: float) -> None:
        worker = self.idle[seat].pop()
        self.busy[worker.do.remote(order)] = (seat, worker, order, time.monotonic() + limit_s, limit_s)

    def wait(self) -> list[tuple[Order, Receipt | Lost]]:
        finished: list[tuple[Order, Receipt | Lost]] = []
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
            seat, worker, order, _, _ = self.busy.pop(ref)
            receipt = self._answer(seat, worker, ref)
            finished.append((order, receipt))
        for ref, (_, worker, late, deadline, limit_s) in list(self.busy.items()):
            if time.monotonic() > deadline:
                del self.busy[ref]
                self._dismiss(worker)
                place = self.places[worker]
                lost = Lost(Reason.WORKER_DIED, f"node {place.host} was lost", counts=False, where=str(place))
                late_one = Lost(Reason.TIMEOUT, f"ran over its limit of {limit_s:g} s", where=str(place))
                finished.append((late, lost if self._is_gone(place.node) else late_one))
        return finished

    def _welcome(self, seat: Seat, worker: Any, ref: Any) -> None:
        """Take a worker that has started into its pool."""
        try:
            self.places[worker] = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self.fill_at = 0.0
            self._mourn(seat, error)
        else:
            self._keep(seat, worker)

    def _answer(self, seat: Seat, worker: Any, ref: Any) -> Receipt | Lost:
        """The receipt of a worker, or why there is none."""
        try:
            receipt: Receipt = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self._dismiss(worker)
            return self._lost(worker, error)
        if receipt.blind:
            self.blind[self.places[worker].node] = receipt.blind
            self._dismiss(worker)
            return Lost(Reason.WORKER_DIED, receipt.blind, counts=False, blind=True)
        self._keep(seat, worker)
        return receipt

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
        """A cluster that gives no worker at all is an error, not a silent wait."""
        if self.busy or any(self.idle.values()):
            self.quiet_since = time.monotonic()
        elif time.monotonic() - self.quiet_since > self.start_limit_s:
            raise NoWorkers(f"no worker could start within {self.start_limit_s:g} s: the cluster has {self.ray.available_resources()} left")

    def _mourn(self, seat: Seat, error: Exception) -> None:
        """A worker that dies as it starts is replaced; of a pool where none lives, the third is an error, not an endless try."""
        self.stillborn[seat] += 1
        if self.stillborn[seat] == 3:
            where = f" in .env-{seat.environment}" if seat.environment else ""
            raise NoWorkers(f"three workers{where} died as they started, the last so: {cause_of(error)}")

    def _keep(self, seat: Seat, worker: Any) -> None:
        del self.stillborn[seat]
        self.served[worker] += 1
        if self.surplus[seat] or self.served[worker] > self.items_per_worker:
            self.surplus[seat] -= bool(self.surplus[seat])
            self._dismiss(worker)
        else:
            self.idle[seat].append(worker)

    def _dismiss(self, worker: Any) -> None:
        self.ray.kill(worker)
        self.fill_at = 0.0


def _holds(node: Mapping[str, Any], seat: Seat) -> bool:
    """Whether a node is large enough for a worker of a pool."""
    return bool(seat.lane) or all(
        float(node["Resources"].get(kind, 0)) >= wanted for kind, wanted in (("CPU", seat.cpus), ("GPU", seat.gpus))
    )


@dataclass(slots=True)
class Summary:
    """What one run did."""

    num_made: int = 0
    """Parts committed."""
    counts: Counter[tuple[str, State, str]] = field(default_factory=Counter)
    started_s: float = 0.0
    """Unix time."""
    wall_s: float = 0.0
    found_other: bool = False
    """Whether something was other than planned: a damaged file, a video that has changed. A graph loaded anew plans on what there is."""


def run(
    graph: Graph,
    executor: Executor,
    *,
    on_outcome: Callable[[Task, Outcome], None] = lambda task, outcome: None,
    on_receipt: Callable[[Receipt], None] = lambda receipt: None,
    stopping: Stopping | None = None,
) -> Summary:
    """Bring every task of the graph to an end, or those that are begun where it is `stopping`.

    Raises StoreError when the folder cannot be written.
    """
    summary, start = Summary(started_s=time.time()), time.perf_counter()
    queues: dict[int, deque[Item]] = {g: deque() for g in range(len(graph.groups))}
    deaths: Counter[tuple[int, str]] = Counter()
    strayed: Counter[tuple[int, str]] = Counter()
    flying: dict[tuple[int, str], Item] = {}
    stragglers = Stragglers(graph)
    log = graph.store.root / "runs" / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as journal:
        while True:
            for item in graph.ready():
                queues[item.group].append(item)
            for group in reversed(range(len(graph.groups))):  # downstream first: finish videos before starting new ones
                stages, seat = [graph.stages[p] for p in graph.groups[group]], graph.seats[group]
                while queues[group] and executor.free(seat) and not (stopping and stopping.asked):
                    item = queues[group].popleft()
                    flying[item.group, item.key] = item
                    executor.submit(seat, _order(graph, item), sum(s.resources.limit_s for s in stages))
            waiting: Counter[Seat] = Counter()
            for group, queue in queues.items():
                waiting[graph.seats[group]] += len(queue)
            executor.expect(waiting)
            stragglers.tell(executor)
            if not flying and (not any(queues.values()) or (stopping and stopping.asked)):
                break
            for order, result in executor.wait():
                group = graph.group_of(order.stages[0])
                item = flying.pop((group, order.key))
                if isinstance(result, Lost):
                    strayed[item.group, item.key] += not (result.counts or result.blind)
                    again = (
                        item if not result.counts and strayed[item.group, item.key] < _MOST_STRAYS else _bury(graph, item, result, deaths)
                    )
                    if again:
                        queues[group].append(again)
                    continue
                if result.fatal:
                    raise StoreError(result.fatal)
                journal.write(seal_line(asdict(result)))
                journal.flush()
                on_receipt(result)
                stragglers.seconds[group].append(result.wall_s)
                for task, outcome in zip(item.tasks, result.outcomes, strict=True):
                    summary.found_other |= outcome.reason == Reason.CORRUPT or not _seen(graph, task, outcome)
                    summary.num_made += outcome.state is State.DONE
                    graph.settle(task, outcome.state, outcome.reason)
                    on_outcome(task, outcome)
    summary.counts, summary.wall_s = graph.counts(), time.perf_counter() - start
    return summary


@dataclass(eq=False)
class Stragglers:
    """Items that workers are at for much longer than others of their kind took; each is logged once."""

    graph: Graph
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """What items took, by group."""
    told: set[tuple[int, str]] = field(default_factory=set)
    at: float = 0.0

    def tell(self, executor: Executor) -> None:
        """Log those that are new; looks every ten seconds."""
        if time.monotonic() < self.at:
            return
        self.at = time.monotonic() + 10.0
        for order, seconds, where in executor.at_work():
            place = self.graph.group_of(order.stages[0]), order.key
            usual = statistics.median(self.seconds[place[0]] or [math.inf])
            if place not in self.told and seconds > max(_STRAGGLES_S, _STRAGGLES * usual):
                self.told.add(place)
                name = self.graph.stages[order.stages[0]].name
                _log.warning("%s %s has taken %.0f s where %.1f s is usual, %s", name, order.key, seconds, usual, where)


_STRAGGLES_S, _STRAGGLES = 30.0, 5.0
"""An item straggles that has taken so many seconds, and so many times the median of its kind."""

_MOST_STRAYS = 20
"""An item that has been on so many lost nodes counts as one that kills them."""


def _seen(graph: Graph, task: Task, outcome: Outcome) -> bool:
    """Whether a part that a worker reports lies in the folder as this process sees it; if not, the outcome says so.

    A video that was fetched again and has changed is there, by another fingerprint than planned.
    """
    if outcome.state is not State.DONE or graph.is_made(task):
        return True
    if not (task.again and graph.is_there(task)):
        outcome.state, outcome.reason = State.RETRY, Reason.EXCEPTION
        outcome.message = f"reported done, but its part is not in {graph.store.root}: does that node see the same folder?"
    return False


def _order(graph: Graph, item: Item) -> Order:
    first = item.tasks[0]
    clips = tuple((graph.video_of(need), need.key) for need in first.needs) if graph.stages[first.stage].key == "shard" else ()
    recipes: tuple[Mapping[str, Any], ...] = tuple(t.recipe for t in item.tasks)
    videos = {video for video, _ in clips} or {graph.video_of(first)}
    cameras = {video: said for video in videos if video and (said := graph.camera_of(video))}
    return Order(item.key, tuple(t.stage for t in item.tasks), recipes, graph.video_of(first), first.row, clips, cameras)


def _bury(graph: Graph, item: Item, lost: Lost, deaths: Counter[tuple[int, str]]) -> Item | None:
    """A worker died on an item, or was killed at its limit: try again, then quarantine the first part still missing."""
    place = item.group, item.key
    deaths[place] += 1
    allowed = min(graph.stages[t.stage].resources.attempts for t in item.tasks)
    if deaths[place] < allowed:
        return item
    task = item.tasks[0]
    message = f"{lost.message} ({deaths[place]} times)"
    record_failure(graph.store, table_of(graph.stages[task.stage]), task.key, task.recipe, Failure(lost.reason, message), where=lost.where)
    graph.settle(task, State.FAILED, lost.reason)
    return None
