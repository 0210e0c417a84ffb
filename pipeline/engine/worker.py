"""Does items: has their tables read, calls their stages, commits or records the failures, and returns receipts."""

import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from threadpoolctl import ThreadpoolController

from pipeline.engine.durable import StoreError, room
from pipeline.engine.files.corrupt import set_corrupt_aside
from pipeline.engine.files.shard import clips_in, pieces_of, write_shard
from pipeline.engine.nodes.memory import PeakMemory
from pipeline.engine.nodes.parcel import Parcel, unpack
from pipeline.engine.nodes.place import Place, this_place
from pipeline.engine.orders import TOGETHER_S, Order, Outcome, Receipt
from pipeline.engine.plan.tasks import State, table_of, tables_of
from pipeline.engine.roots.opening import moved, opened
from pipeline.engine.store import Store
from pipeline.engine.work.failures import OtherWeights, failure_of, record_failure
from pipeline.engine.work.fetched import kept, with_content
from pipeline.engine.work.reader import Made, Reader
from stages.cameras.views import by_view, of_view, through_views
from stages.digest import CorruptFileError
from stages.media.frames import Frames, read_frames
from stages.shards import whole_of
from stages.stage import AtOnce, Failure, Prepares, ShardStage, Stage, at_once_of, tables_given, tables_written
from stages.tables import Cameras, Clips, Table, Videos

_log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)  # Ray asks an actor that did not begin for its name
class Worker:
    """Builds a stage when its first item comes and keeps it."""

    root: Path | str
    """The data folder; of one in an object store its address."""
    stages: Sequence[Stage]
    token: str = ""
    """What stands in the data folder that is meant; '' asks for nothing."""
    sees_gpus: bool = True
    """Whether it may use a GPU: one that has no share of any is not to find those of others, which Ray leaves in its sight."""
    parcel: Parcel | None = None
    """The model files that it is to read; None = those that it finds."""
    lane: int = 0
    """Its number in its pool: which address of several a download lane is."""
    driver: str = ""
    """Token of the lease by which its driver holds a folder in an object store."""
    mirror: Path | None = None
    """The driver's mirror of a folder in an object store: what stages write there they write into the one of this machine."""
    functions: dict[int, Callable[..., Any]] = field(default_factory=dict)
    prepared: bool = False
    peak: PeakMemory = field(default_factory=PeakMemory)

    def __post_init__(self) -> None:
        if not self.sees_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if self.lane:
            os.environ["WHIM_LANE"] = str(self.lane)
        if self.mirror and self.mirror != self.store.root:
            self.stages = [moved(stage, self.mirror, self.store.root) for stage in self.stages]
        if self.parcel:
            import ray

            unpack(self.parcel, self.store.root, ray.get)

    @cached_property
    def blas(self) -> ThreadpoolController:
        """The libraries by which numpy multiplies matrices, in this process."""
        return ThreadpoolController()

    @cached_property
    def store(self) -> Store:
        return Store(opened(self.root, asks=True, driver=self.driver))

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.store, self.stages)

    def do_all(self, orders: Sequence[Order]) -> list[Receipt]:
        """Do small items one after another; their parts are flushed to the disk together. Receipts of the first ones, where they take
        longer than was thought.

        Where flushing or bundling fails they are done one by one, so that a failure is recorded against the item whose it is. Sums of
        products are taken by one thread, as on a worker of one core: a run in this process then gives the bytes of one on Ray.
        """
        if self.token and (why := self._is_blind()):
            return [Receipt(order.key, [], time.time(), blind=why) for order in orders]
        self._prepare(orders[0].stages[-1] + 1)
        self.store.bundles.told = {part: place for order in orders for part, place in order.places.items()}
        with self.blas.limit(limits=1, user_api="blas"):
            return self._do(orders) if len(orders) == 1 else self._do_together(orders)

    def _do_together(self, orders: Sequence[Order]) -> list[Receipt]:
        receipts: list[Receipt] = []
        until, at_once = time.monotonic() + 2 * TOGETHER_S, max(at_once_of(self.stages[position]) for position in orders[0].stages)
        try:
            with self.store.in_bundles(orders[0].bundles) as bundled:
                for first in range(0, len(orders), at_once):
                    if receipts and time.monotonic() > until:
                        break
                    receipts += self._do(orders[first : first + at_once])
                start = time.perf_counter()
        except StoreError as error:
            return [Receipt(order.key, [], time.time(), fatal=str(error)) for order in orders]
        except (OSError, MemoryError, pa.ArrowException):
            return [receipt for order in orders[: max(1, len(receipts))] for receipt in self._do([order])]
        for receipt in receipts:
            receipt.wall_s += (time.perf_counter() - start) / len(receipts)
            receipt.bundles = bundled.get(receipt.key, {})
        return receipts

    def _do(self, orders: Sequence[Order]) -> list[Receipt]:
        """Run the stages of some orders of one group. Every failure is caught here, once, and recorded beside the part."""
        start, works = time.perf_counter(), [_Work(order, self._receipt(order)) for order in orders]
        try:
            if any(Frames in self.stages[position].reads for position in orders[0].stages):
                for work in works:
                    self._on_frames(work)
            else:
                self._on_tables(works)
        except StoreError as error:
            for work in works:
                work.receipt.fatal = str(error)
        seconds = (time.perf_counter() - start) / len(works)
        for work in works:
            for outcome in work.receipt.outcomes:
                outcome.where = str(self.place) if outcome.state in (State.FAILED, State.RETRY) else ""
            work.receipt.wall_s, work.receipt.peak_mb = seconds, self.peak.mb()
        return [work.receipt for work in works]

    def _receipt(self, order: Order) -> Receipt:
        outcomes = [Outcome(position, State.PENDING) for position in order.stages]
        return Receipt(order.key, outcomes, time.time(), host=self.place.host, pid=self.place.pid)

    def _is_blind(self) -> str:
        """Why this machine does not see the data folder that is meant; '' where it does."""
        try:
            seen = self.store.is_the_one(self.token)
        except StoreError as error:
            return f"{socket.gethostname()}: {error}"
        return "" if seen else f"{socket.gethostname()} does not see {self.root}: mount it there"

    def _prepare(self, first: int) -> None:
        """Have what later stages need made ready on this machine, once a worker. Failing that they make it themselves."""
        if not self.prepared:
            self.prepared = True
            for stage in self.stages[first:]:
                if isinstance(stage, Prepares):
                    stage.prepare()

    @cached_property
    def place(self) -> Place:
        return this_place()

    def where(self) -> Place:
        """This worker's node, process and log."""
        return self.place

    def _function(self, position: int, recipe: Mapping[str, Any]) -> Callable[..., Any]:
        """The function of a stage, built once. Raises OtherWeights where this machine's model files are not the ones of the order."""
        if position not in self.functions:
            here, ordered = dict(self.stages[position].weights), dict(recipe.get("weights", {}))
            if here != ordered:
                raise OtherWeights(here, ordered, socket.gethostname())
            self.functions[position] = self.stages[position].build()
        return self.functions[position]

    def _on_tables(self, works: "Sequence[_Work]") -> None:
        """Run one stage after another on whole tables, each for all items; what reads of one that failed cannot run.

        A stage is given what those before it gave in this very call as it was committed: nothing is read that was just written.
        """
        for position in sorted({position for work in works for position in work.order.stages}):
            those = [work for work in works if position in work.order.stages and work.outcome(position).state is State.PENDING]
            results = self._at_once(position, those)
            for work in those:
                self._on_table(position, work, results.get(work.order.key))
                if work.outcome(position).state is not State.DONE:
                    self._block_readers(position, work)

    def _block_readers(self, position: int, work: "_Work") -> None:
        """Block the later stages of an item that read what a stage of it has not made, and those that read theirs."""
        lacking = set(tables_written(self.stages[position]))
        for later, outcome in zip(work.order.stages, work.receipt.outcomes, strict=True):
            if later > position and not lacking.isdisjoint(self.stages[later].reads):
                _block([outcome])
                lacking.update(tables_written(self.stages[later]))

    def _at_once(self, position: int, works: "Sequence[_Work]") -> "dict[str, _Result]":
        """Results of a stage for several items in one call, by their keys; none where it does them one after another.

        Nothing either of an item whose inputs cannot be read, and of all of them where the call fails: each is then done alone, and a
        failure is recorded against the item whose it is.
        """
        start, inputs = time.perf_counter(), dict[str, tuple[Any, ...]]()
        try:
            function = self._function(position, works[0].recipe(position)) if len(works) > 1 else None
            if not isinstance(function, AtOnce):
                return {}
            for work in works:
                with suppress(Exception):
                    inputs[work.order.key] = tuple(self.reader.inputs(work.order, position, work.made))
            results = function.many(list(inputs.values()))
            seconds = (time.perf_counter() - start) / max(len(inputs), 1)
            return {key: _Result(result, seconds) for key, result in zip(inputs, results, strict=True)}
        except Exception as error:
            _log.warning("%s: %d items in one call failed (%s), each is done alone", self.stages[position].name, len(inputs), error)
            return {}

    def _on_table(self, position: int, work: "_Work", known: "_Result | None") -> None:
        """Run one stage for one item, or take what is `known` of it, and commit."""
        stage, order, recipe, outcome = self.stages[position], work.order, work.recipe(position), work.outcome(position)
        with self._recording(position, order.key, recipe, outcome):
            if stage.key == "shard":
                assert isinstance(stage, ShardStage)
                self._write_shard(stage, position, order, recipe, outcome)
                return
            if known is not None:
                outcome.wall_s += known.seconds
                self._finish(position, work, known.result)
                return
            if self.store.mirror and stage.writes is Videos:
                self.reader.have_kept(self.store.mirror, order.video)
            inputs = self.reader.inputs(order, position, work.made)
            apart = getattr(stage, "by_frame", False) and isinstance(order.row, Clips) and len(self.reader.cameras(order, order.row)) > 1
            function = self._function(position, recipe)
            self._finish(position, work, by_view(function, inputs) if apart else function(*inputs))

    def _on_frames(self, work: "_Work") -> None:
        """Decode the clip once, stretch by stretch, and hand each stretch to every stage of the group in turn."""
        order, receipt = work.order, work.receipt
        try:
            videos, clip = self.reader.videos(order.video), order.row
            assert isinstance(clip, Clips)
            inputs = {position: self.reader.inputs(order, position, skip=order.stages) for position in order.stages}
            self.reader.check_content(videos)
            cameras = self.reader.cameras(order, clip)
            self._on_stretches(work, inputs, read_frames(Path(videos.path[0]), clip), cameras)
        except StoreError:
            raise
        except Exception as error:  # before any stage: an input or the frames cannot be read
            self._note_failure(order.stages[0], order.key, order.recipes[0], receipt.outcomes[0], error)
            _block(receipt.outcomes[1:])

    def _on_stretches(
        self, work: "_Work", inputs: Mapping[int, Sequence[Table | None]], decoded: Iterator[Frames], cameras: Cameras
    ) -> None:
        order, receipt, several = work.order, work.receipt, len(cameras) > 1
        run = list(zip(order.stages, order.recipes, receipt.outcomes, strict=True))
        made: dict[int, list[tuple[Table, ...]]] = {position: [] for position in order.stages}
        stretches = through_views(decoded, cameras)
        while run:
            start = time.perf_counter()
            frames = next(stretches, None)
            receipt.decode_s += time.perf_counter() - start
            if frames is None:
                break
            for position, recipe, outcome in tuple(run):
                with self._recording(position, order.key, recipe, outcome):
                    arguments = [
                        frames if kind is Frames else self.reader.of_stretch(kind, position, given, made, frames)
                        for kind, given in zip(self.stages[position].reads, inputs[position], strict=True)
                    ]
                    result = self._function(position, recipe)(*arguments)
                    outcome.num_frames += len(frames.frame) * (frames.view == 0)
                    if isinstance(result, Failure):
                        self._finish(position, work, result)
                    else:
                        made[position].append(tuple(of_view(table, frames.view) if several else table for table in tables_given(result)))
                if outcome.state is not State.PENDING:  # it failed: what follows in the group cannot run
                    failed = run.index((position, recipe, outcome))
                    _block([later for _, _, later in run[failed + 1 :]])
                    del run[failed:]
                    break
        for position, recipe, outcome in run:
            with self._recording(position, order.key, recipe, outcome):
                kinds = tables_written(self.stages[position])
                result = tuple(kind.concat([tables[place] for tables in made[position]]) for place, kind in enumerate(kinds))
                self._finish(position, work, result)

    def _write_shard(self, stage: ShardStage, position: int, order: Order, recipe: Mapping[str, Any], outcome: Outcome) -> None:
        """Make a shard of the tables of its clips, and say what of them it lacks."""
        table, notes = table_of(stage), list[str]()
        path = self.store.part(table, order.key)
        mirror = self.store.mirror
        if mirror and not any(map(self.reader.is_gone, sorted({video for video, _ in order.clips}))):
            mirror = None  # all frames are in the videos
        if mirror and mirror.asks:
            mirror.have_all(path.parent)
        before = [path, *(one for one in pieces_of(self.store.part(table, whole_of(order.key))) if one != path)]
        for one in before if mirror else ():
            held = clips_in(one)
            if mirror and not (held and held.isdisjoint(order.clips)):
                mirror.have_rows(one)
        batches = self._function(position, recipe)(stage.gather(self.reader.tables_of_clips(order, position), before), notes)
        with self.store.aside(path) as temporary:
            outcome.num_rows = write_shard(stage, batches, temporary, {k: v for k, v in recipe.items() if k != "upstream"})
        self.store.succeeded(table, order.key)
        outcome.state, outcome.message = State.DONE, "; ".join(notes)

    @contextmanager
    def _recording(self, position: int, key: str, recipe: Mapping[str, Any], outcome: Outcome) -> Iterator[None]:
        """Time a stage; an unexpected exception becomes a recorded failure that the next run tries again."""
        start = time.perf_counter()
        try:
            with room(self.store.root):
                yield
        except StoreError:
            raise
        except Exception as error:
            self._note_failure(position, key, recipe, outcome, error)
        finally:
            outcome.wall_s += time.perf_counter() - start

    def _note_failure(self, position: int, key: str, recipe: Mapping[str, Any], outcome: Outcome, error: Exception) -> None:
        """Record an exception beside the part: the next run tries again. A damaged file of the folder is set aside to be made again."""
        failure, trace = failure_of(error), "".join(traceback.format_exception(error))[-4000:]
        _settle(outcome, failure)
        try:
            if isinstance(error, CorruptFileError) and error.path.is_relative_to(self.store.root):
                set_corrupt_aside(self.store, error.path)
            record_failure(self.store, table_of(self.stages[position]), key, recipe, failure, trace, str(self.place))
        except OSError as second:
            outcome.message = f"{failure.message} (and this could not be written down: {second})"

    def _finish(self, position: int, work: "_Work", result: Any) -> None:
        """Record a failure, or commit the table or tables that a stage gave."""
        key, recipe, outcome = work.order.key, work.recipe(position), work.outcome(position)
        if isinstance(result, Failure):
            record_failure(self.store, table_of(self.stages[position]), key, recipe, result, where=str(self.place))
            _settle(outcome, result)
            return
        if isinstance(result, Videos):
            result = kept(self.store, key, result)
            recipe = with_content(self.store, key, recipe, result)
        tables = dict(zip(tables_of(self.stages[position]).values(), tables_given(result), strict=True))
        written = self.store.commit_together(tables, key, recipe)
        outcome.state, outcome.num_rows = State.DONE, len(tables_given(result)[0])
        if position != work.order.stages[-1]:
            kinds = zip(tables_of(self.stages[position]), written, strict=True)
            work.made[position] = {kind: kind.from_arrow(arrow) for kind, arrow in kinds}


@dataclass(frozen=True, slots=True)
class _Work:
    """An order on its way through the stages of its group."""

    order: Order
    receipt: Receipt
    made: dict[int, Made] = field(default_factory=dict)
    """What stages have given of it, and what was read of those before, by their positions."""

    def outcome(self, position: int) -> Outcome:
        return self.receipt.outcomes[self.order.stages.index(position)]

    def recipe(self, position: int) -> Mapping[str, Any]:
        return self.order.recipes[self.order.stages.index(position)]


@dataclass(frozen=True, slots=True)
class _Result:
    """Result of a stage for one of several items, and the item's share of the time."""

    result: Any
    seconds: float


def _settle(outcome: Outcome, failure: Failure) -> None:
    outcome.state = State.FAILED if failure.permanent else State.RETRY
    outcome.reason, outcome.message = failure.reason, failure.message


def _block(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        outcome.state, outcome.reason = State.BLOCKED, "upstream failed"
