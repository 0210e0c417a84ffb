"""Runs a graph by an executor. Names and receipts travel, tables go through the store."""

import logging
import math
import os
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.engine.bundles.bundle import PARTS
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.bundles.places import Place
from pipeline.engine.durable import StoreError
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Executor, Lost
from pipeline.engine.orders import TOGETHER_S, Order, Outcome, Receipt, as_line
from pipeline.engine.plan.seats import Seat, works_on_tables
from pipeline.engine.plan.tasks import Item, State, Task, Why, table_of, tables_of
from pipeline.engine.stopping import Stopping
from pipeline.engine.store import Store
from pipeline.engine.work.failures import record_failure
from stages.digest import CorruptFileError, seal_line
from stages.stage import Failure, Reason, at_once_of

_log = logging.getLogger(__name__)


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
    compaction: Compaction | None = None,
) -> Summary:
    """Bring every task of the graph to an end, or those that are begun where it is `stopping`.

    Raises StoreError when the folder cannot be written.
    """
    summary, start = Summary(started_s=time.time()), time.perf_counter()
    queues: dict[int, deque[Item]] = {g: deque() for g in range(len(graph.groups))}
    deaths: Counter[tuple[int, str]] = Counter()
    strayed: Counter[tuple[int, str]] = Counter()
    flying: dict[tuple[int, str], tuple[Item, int]] = {}  # with how many go together
    alone: set[tuple[int, str]] = set()  # items that were lost among others: the next time nobody pays for them
    pace, downstream_first = Pace(graph), tuple(reversed(range(len(graph.groups))))  # finish videos before starting new ones
    log = graph.store.root / "runs" / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    with _logged(graph.store, log) as write:
        while True:
            graph.store.still_held()
            for item in graph.ready():
                queues[item.group].append(item)
            for group, may_wait in ((group, may_wait) for may_wait in (True, False) for group in downstream_first):
                stages, seat, queue = [graph.stages[p] for p in graph.groups[group]], graph.seats[group], queues[group]
                while queue and executor.free(seat) and not (stopping and stopping.asked):
                    if may_wait and pace.waits(group, len(queue), executor.size(seat)):
                        break
                    items = [queue.popleft()]
                    most = pace.most_at_once(group, _fair_share(len(queue), executor.size(seat)))
                    while len(items) < most and queue and not alone & {(group, items[0].key), (group, queue[0].key)}:
                        items.append(queue.popleft())
                    orders = {item.key: order for item in items if (order := _order(graph, item))}
                    summary.found_other |= len(orders) < len(items)
                    if orders:
                        flying |= {(group, item.key): (item, len(orders)) for item in items if item.key in orders}
                        given = _in_bundles(graph, group, list(orders.values()), compaction)
                        executor.submit(seat, given, sum(s.resources.limit_s for s in stages))
            waiting: Counter[Seat] = Counter()
            for group, queue in queues.items():
                waiting[graph.seats[group]] += len(queue)
            executor.expect(waiting)
            pace.tell(executor)
            if not flying and (not any(queues.values()) or (stopping and stopping.asked)):
                break
            for order, result in executor.wait():
                group = graph.group_of(order.stages[0])
                item, num_together = flying.pop((group, order.key))
                if result is None:
                    queues[group].append(item)
                    continue
                if isinstance(result, Lost) and result.counts and num_together > 1:
                    alone.add((group, item.key))
                    queues[group].append(item)
                    continue
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
                for table, name in result.bundles.items():
                    graph.store.bundles.take_in(table, name)
                write(seal_line(as_line(result)))
                on_receipt(result)
                pace.seconds[group].append(result.wall_s)
                for task, outcome in zip(item.tasks, result.outcomes, strict=True):
                    is_seen = _seen(graph, task, outcome, result.bundles)
                    summary.found_other |= outcome.reason in (Reason.CORRUPT, Reason.DECIDED) or not is_seen
                    summary.num_made += outcome.state is State.DONE
                    graph.settle(task, outcome.state, outcome.reason)
                    on_outcome(task, outcome)
                    if compaction and outcome.state is State.DONE and graph.stages[task.stage].key != "shard":
                        compaction.note(tables_of(graph.stages[task.stage]).values(), task.key)
            if compaction:
                compaction.step(partial(_busy, graph, flying))
    summary.found_other |= graph.found_other
    summary.counts, summary.wall_s = graph.counts(), time.perf_counter() - start
    return summary


@contextmanager
def _logged(store: Store, log: Path) -> Iterator[Callable[[str], None]]:
    """A log that is written line by line; in an object store, which appends nothing, whole every so often, and at the end."""
    next_s, mirror = time.monotonic() + _LOG_S, store.mirror
    with log.open("a") as journal:

        def write(line: str) -> None:
            nonlocal next_s
            journal.write(line)
            journal.flush()
            if mirror and (start := time.monotonic()) > next_s:
                mirror.put_as_it_is([log])
                next_s = time.monotonic() + max(_LOG_S, 20 * (time.monotonic() - start))

        try:
            yield write
        finally:
            with suppress(StoreError):  # what ended the run tells it
                if mirror:
                    mirror.put_as_it_is([log])


_LOG_S = 10.0
"""How often a log is written to an object store."""


def _fair_share(waiting: int, num_workers: int) -> int:
    """How many of the items that wait one worker may be given beside another: fewer and fewer, so that all end at about one time."""
    return waiting // (2 * num_workers) if num_workers > 1 else waiting + 1


def _in_bundles(graph: Graph, group: int, orders: list[Order], compaction: Compaction | None) -> list[Order]:
    """Orders of one call, with numbers of the bundles that their parts come into where they are many, of tables that are large enough."""
    positions = graph.groups[group]
    most = max(graph.num_tasks[position] for position in positions)
    if compaction is None or len(orders) < _FEWEST_BUNDLED or most <= compaction.most_loose:
        return orders
    tables = [table for position in positions for table in tables_of(graph.stages[position]).values()]
    numbers = {table: graph.store.bundles.of(table).reserve() for table in tables}
    return [replace(order, bundles=numbers) for order in orders]


_FEWEST_BUNDLED = 8
"""Parts that a worker puts into a bundle; fewer get files of their own, until compaction comes."""


def _busy(graph: Graph, flying: Mapping[tuple[int, str], tuple[Item, int]]) -> set[str]:
    """Keys of the parts that running items read or write."""
    tasks = {task for item, _ in flying.values() for one in item.tasks for task in (one, *one.needs)}
    return {task.key for task in tasks} | {graph.video_of(task) for task in tasks}


@dataclass(eq=False)
class Pace:
    """How long items take: how many of them a worker is given at once, and which it is at for much longer than the others took."""

    graph: Graph
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """What items took, by group."""
    told: set[tuple[int, str]] = field(default_factory=set)
    at: float = 0.0
    since: dict[int, float] = field(default_factory=dict)
    """Since when a group waits for more items."""

    def most_at_once(self, group: int, fair: int) -> int:
        """Items of a group for one worker: what it does in about a second, and no more than its `fair` part of those that wait.

        One, where clips are decoded or an item takes long: a worker that is lost then takes nobody with it. As many as a stage does at
        once, where one of them does not take as long: alone each of them costs more.
        """
        return max(1, min(fair, self._full(group)))

    def waits(self, group: int, waiting: int, num_workers: int) -> bool:
        """Whether a group had better wait a moment for more items, so that calls are full, while its workers have others to do."""
        enough = self._full(group) * (2 * num_workers if num_workers > 1 else 1)
        if waiting >= enough or enough == 1:
            self.since.pop(group, None)
            return False
        return time.monotonic() < self.since.setdefault(group, time.monotonic()) + _WAITS_S

    def _full(self, group: int) -> int:
        """Items of a group that fill a call: whole bundles, where they are a quarter of one at least, as small ones are written anew.

        A worker stops at twice `TOGETHER_S`, and then has filled half of a bundle.
        """
        stages = [self.graph.stages[p] for p in self.graph.groups[group]]
        if not works_on_tables(stages[0]) or stages[0].resources.lane or not self.seconds[group]:
            return 1
        usual = max(statistics.median(self.seconds[group][-_LATELY:]), 1e-3)
        least = max(map(at_once_of, stages)) if usual < TOGETHER_S else 1
        most = min(max(least, int(TOGETHER_S / usual)), _MOST_AT_ONCE)
        return max(1, round(most / PARTS)) * PARTS if 4 * most >= PARTS else most

    def tell(self, executor: Executor) -> None:
        """Log the ones that straggle, each once; looks every ten seconds."""
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


_MOST_AT_ONCE = 4 * PARTS
"""Items of one call at most: four bundles."""

_WAITS_S = 2.0
"""How long items wait for others to go with."""

_STRAGGLES_S, _STRAGGLES = 30.0, 5.0
"""An item straggles that has taken so many seconds, and so many times the median of its kind."""

_LATELY = 20
"""Items by whose median it is known how long the next ones take."""

_MOST_STRAYS = 20
"""An item that has been on so many lost nodes counts as one that kills them."""


def _seen(graph: Graph, task: Task, outcome: Outcome, bundled: Collection[str]) -> bool:
    """Whether a part that a worker reports lies in the folder as this process sees it; if not, the outcome says so.

    A video that was fetched again and has changed is there, by another fingerprint than planned.
    """
    if outcome.state is not State.DONE:
        return True
    graph.refresh(task, bundled)
    if graph.is_made(task):
        return True
    if not (task.again and graph.is_there(task)):
        outcome.state, outcome.reason = State.RETRY, Reason.EXCEPTION
        outcome.message = f"reported done, but its part is not in {graph.store.root}: does that node see the same folder?"
    return False


def _order(graph: Graph, item: Item) -> Order | None:
    """What a worker is told of an item; None where the clip list that it is about was damaged since the plan read it: it is made anew."""
    first = item.tasks[0]
    try:
        row = first.row
    except (CorruptFileError, FileNotFoundError):
        for task in item.tasks:
            graph.settle(task, State.RETRY, Reason.CORRUPT)
        return None
    clips = tuple((graph.video_of(need), need.key) for need in first.needs) if graph.stages[first.stage].key == "shard" else ()
    recipes: tuple[Mapping[str, Any], ...] = tuple(t.recipe for t in item.tasks)
    videos = {video for video, _ in clips} or {graph.video_of(first)}
    cameras = {video: said for video in videos if video and (said := graph.camera_of(video))}
    return Order(item.key, tuple(t.stage for t in item.tasks), recipes, graph.video_of(first), row, clips, cameras, _places(graph, item))


def _places(graph: Graph, item: Item) -> dict[tuple[str, str], Place]:
    """Where the parts lie in bundles that an item is made from, and those that these were made from: a worker looks nowhere else."""
    upstream, beyond, found = set[Task](), set(item.tasks), {}
    while beyond:
        beyond = {need for task in beyond for need in task.needs} - upstream
        upstream |= beyond
    for need in upstream.difference(item.tasks):
        for table in tables_of(graph.stages[need.stage]).values():
            if place := graph.store.bundles.known_place(table, need.key):
                found[table, need.key] = place
    return found


def _bury(graph: Graph, item: Item, lost: Lost, deaths: Counter[tuple[int, str]]) -> Item | None:
    """Count the death of a worker on an item, or its end at the limit; gives what of the item is still to do, if anything.

    That is all of it, until it was tried often enough. Then the first part still missing is quarantined, with what needs it.
    """
    place = item.group, item.key
    deaths[place] += 1
    allowed = min(graph.stages[t.stage].resources.attempts for t in item.tasks)
    if deaths[place] < allowed:
        return item
    for one in item.tasks:
        graph.refresh(one)
    task = next((one for one in item.tasks if not graph.is_made(one)), None)
    if task is None and all(one.why in _MADE_NOW for one in item.tasks):  # it died once all was committed
        for one in item.tasks:
            graph.settle(one, State.DONE)
        return None
    task = task or item.tasks[-1]
    for before in item.tasks[: item.tasks.index(task)]:
        graph.settle(before, State.DONE)
    message = f"{lost.message} ({deaths.pop(place)} times)"
    record_failure(graph.store, table_of(graph.stages[task.stage]), task.key, task.recipe, Failure(lost.reason, message), where=lost.where)
    graph.settle(task, State.FAILED, lost.reason)
    rest = tuple(one for one in item.tasks if one.state is State.PENDING)
    return replace(item, tasks=rest) if rest else None


_MADE_NOW = (Why.NEW, Why.SETTINGS, Why.WEIGHTS, Why.INPUT, Why.RETRY)
"""Why tasks are pending whose parts were not there when the run began: if they are, this run has made them."""
