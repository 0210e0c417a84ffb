"""Does one item: reads its tables, calls its stages, commits or records the failure, and returns a receipt."""

import dataclasses
import logging
import math
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

import numpy as np
from threadpoolctl import ThreadpoolController

from fitting.files import sha256_of
from pipeline.engine.durable import MirrorOfStore, StoreError, room
from pipeline.engine.nodes.parcel import Parcel, unpack
from pipeline.engine.nodes.place import Place, this_place
from pipeline.engine.orders import TOGETHER_S, Order, Outcome, Receipt
from pipeline.engine.plan.tasks import State, table_of, tables_of
from pipeline.engine.roots.opening import opened
from pipeline.engine.shard_file import write_shard
from pipeline.engine.store import ErrorRecord, Store
from pipeline.engine.verdicts import DecidedMeanwhileError, as_ordered
from stages.cameras.path import poses_said
from stages.cameras.said import CameraError, cameras_of
from stages.cameras.views import through_views
from stages.digest import CorruptFileError, fingerprint_of
from stages.media.frames import Frames, read_frames
from stages.shards import whole_of
from stages.stage import AtOnce, Failure, Prepares, Reason, ShardStage, Stage, at_once_of, tables_written
from stages.tables import CameraPoses, Cameras, Clips, Table, Verdicts, Videos, Views
from stages.web.note import read_note

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
    sound: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Size and time of the videos whose content was seen to be what their rows say."""

    peak_mb: float = 0.0
    asked_at: float = -math.inf
    """When the kernel was asked for `peak_mb`."""

    def __post_init__(self) -> None:
        if not self.sees_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        if self.lane:
            os.environ["WHIM_LANE"] = str(self.lane)
        if self.mirror and self.mirror != self.store.root:
            self.stages = [_moved(stage, self.mirror, self.store.root) for stage in self.stages]
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

    def do_all(self, orders: Sequence[Order]) -> list[Receipt]:
        """Do small items one after another; their parts are flushed to the disk together. Receipts of the first ones, where they take
        longer than was thought.

        Where flushing fails they are done one by one, so that a failure is recorded against the item whose it is. Sums of products are
        taken by one thread, as on a worker of one core: a run in this process then gives the bytes of one on Ray.
        """
        with self.blas.limit(limits=1, user_api="blas"):
            return [self.do(orders[0])] if len(orders) == 1 else self._do_together(orders)

    def _do_together(self, orders: Sequence[Order]) -> list[Receipt]:
        receipts: list[Receipt] = []
        until, at_once = time.monotonic() + 2 * TOGETHER_S, at_once_of(self.stages[orders[0].stages[0]])
        try:
            with self.store.together():
                made: dict[str, _Made] = {}
                for place, order in enumerate(orders):
                    if receipts and not made and time.monotonic() > until:
                        break
                    if place % at_once == 0:
                        made = self._made_at_once(orders[place : place + at_once])
                    receipts.append(self.do(order, made.pop(order.key, None)))
                start = time.perf_counter()
        except StoreError as error:
            return [Receipt(order.key, [], time.time(), fatal=str(error)) for order in orders]
        except OSError:
            return [self.do(order) for order in orders[: len(receipts)]]
        for receipt in receipts:
            receipt.wall_s += (time.perf_counter() - start) / len(receipts)
        return receipts

    def _made_at_once(self, orders: Sequence[Order]) -> "dict[str, _Made]":
        """What a stage gives of several items in one call, by their keys; nothing where it does them one after another.

        Nothing either of an item whose inputs cannot be read, and of all of them where the call fails: each is then done alone, and a
        failure is recorded against the item whose it is.
        """
        position, recipe = orders[0].stages[0], orders[0].recipes[0]
        start, inputs = time.perf_counter(), dict[str, tuple[Any, ...]]()
        try:
            function = self._function(position, recipe)
            if not isinstance(function, AtOnce) or len(orders[0].stages) > 1 or len(orders) == 1:
                return {}
            for order in orders:
                with suppress(Exception):
                    inputs[order.key] = tuple(self._input(kind, order, position) for kind in self.stages[position].reads)
            results = function.many(list(inputs.values()))
            seconds = (time.perf_counter() - start) / max(len(inputs), 1)
            return {key: _Made(result, seconds) for key, result in zip(inputs, results, strict=True)}
        except Exception as error:
            _log.warning("%s: %d items in one call failed (%s), each is done alone", self.stages[position].name, len(inputs), error)
            return {}

    def do(self, order: Order, made: "_Made | None" = None) -> Receipt:
        """Run the stages of one order, or take what was `made` of it. Every failure is caught here, once, and recorded beside the part."""
        if self.token and (why := self._is_blind()):
            return Receipt(order.key, [], time.time(), blind=why)
        self._prepare(order.stages[-1] + 1)
        start = time.perf_counter()
        outcomes = [Outcome(position, State.PENDING) for position in order.stages]
        receipt = Receipt(order.key, outcomes, time.time(), host=self.place.host, pid=self.place.pid)
        try:
            if any(Frames in self.stages[position].reads for position in order.stages):
                self._on_frames(order, receipt)
            elif made is not None:
                self._commit_made(order, made, receipt.outcomes[0])
            else:
                self._on_tables(order, receipt)
        except StoreError as error:
            receipt.fatal = str(error)
        except Exception as error:  # before any stage: an input or the frames cannot be read
            self._note_failure(order.stages[0], order.key, order.recipes[0], receipt.outcomes[0], error)
            _block(receipt.outcomes[1:])
        for outcome in receipt.outcomes:
            outcome.where = str(self.place) if outcome.state in (State.FAILED, State.RETRY) else ""
        receipt.wall_s = time.perf_counter() - start + (made.seconds if made else 0.0)
        receipt.peak_mb = self._peak_mb()
        return receipt

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

    def _peak_mb(self) -> float:
        """The most memory that this process has had, as of a second ago at most: some kernels take milliseconds to say it."""
        if time.monotonic() > self.asked_at + 1.0:
            self.asked_at, self.peak_mb = time.monotonic(), _peak_mb()
        return self.peak_mb

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
                raise OtherWeights(_difference_of(here, ordered, socket.gethostname()))
            self.functions[position] = self.stages[position].build()
        return self.functions[position]

    def _on_tables(self, order: Order, receipt: Receipt) -> None:
        """Run one stage after another on whole tables; what follows one that failed cannot run."""
        for place, (position, recipe, outcome) in enumerate(zip(order.stages, order.recipes, receipt.outcomes, strict=True)):
            self._on_table(position, order, recipe, outcome)
            if outcome.state is not State.DONE:
                _block(receipt.outcomes[place + 1 :])
                return

    def _on_table(self, position: int, order: Order, recipe: Mapping[str, Any], outcome: Outcome) -> None:
        stage = self.stages[position]
        with self._recording(position, order.key, recipe, outcome):
            if stage.key == "shard":
                assert isinstance(stage, ShardStage)
                self._write_shard(stage, position, order, recipe, outcome)
            else:
                if self.store.mirror and stage.writes is Videos:
                    self._have_kept(self.store.mirror, order.video)
                inputs = [self._input(kind, order, position) for kind in stage.reads]
                apart = getattr(stage, "by_frame", False) and isinstance(order.row, Clips) and len(self._cameras(order, order.row)) > 1
                result = (_by_view if apart else _whole)(self._function(position, recipe), inputs)
                self._finish(position, order.key, recipe, result, outcome)

    def _commit_made(self, order: Order, made: "_Made", outcome: Outcome) -> None:
        """Commit what a stage gave of an item among others."""
        (position,), (recipe,) = order.stages, order.recipes
        with self._recording(position, order.key, recipe, outcome):
            self._finish(position, order.key, recipe, made.result, outcome)
        outcome.wall_s += made.seconds

    def _on_frames(self, order: Order, receipt: Receipt) -> None:
        """Decode the clip once, stretch by stretch, and hand each stretch to every stage of the group in turn."""
        videos, clip = self._videos(order.video), order.row
        assert isinstance(clip, Clips)
        run = list(zip(order.stages, order.recipes, receipt.outcomes, strict=True))
        made: dict[int, list[tuple[Table, ...]]] = {position: [] for position in order.stages}
        inputs = {p: [self._input(k, order, p, skip=made) for k in self.stages[p].reads] for p in order.stages}
        self._check_content(videos)
        cameras = self._cameras(order, clip)
        several = len(cameras) > 1
        stretches = through_views(read_frames(Path(videos.path[0]), clip), cameras)
        while run:
            start = time.perf_counter()
            frames = next(stretches, None)
            receipt.decode_s += time.perf_counter() - start
            if frames is None:
                break
            for position, recipe, outcome in tuple(run):
                with self._recording(position, order.key, recipe, outcome):
                    arguments = [
                        frames if kind is Frames else self._of_stretch(kind, position, given, made, frames)
                        for kind, given in zip(self.stages[position].reads, inputs[position], strict=True)
                    ]
                    result = self._function(position, recipe)(*arguments)
                    outcome.num_frames += len(frames.frame) * (frames.view == 0)
                    if isinstance(result, Failure):
                        self._finish(position, order.key, recipe, result, outcome)
                    else:
                        made[position].append(tuple(_of_view(table, frames.view) if several else table for table in _tables(result)))
                if outcome.state is not State.PENDING:  # it failed: what follows in the group cannot run
                    failed = run.index((position, recipe, outcome))
                    _block([later for _, _, later in run[failed + 1 :]])
                    del run[failed:]
                    break
        for position, recipe, outcome in run:
            with self._recording(position, order.key, recipe, outcome):
                kinds = tables_written(self.stages[position])
                result = tuple(kind.concat([tables[place] for tables in made[position]]) for place, kind in enumerate(kinds))
                self._finish(position, order.key, recipe, result, outcome)

    def _of_stretch(
        self, kind: type[Table], position: int, given: Table | None, made: Mapping[int, list[tuple[Table, ...]]], frames: Frames
    ) -> Table:
        """The rows of an input on the frames of one stretch: from the store, or just made by the stages before it in the group."""
        fresh = [
            stretches[-1][tables_written(self.stages[p]).index(kind)]
            for p, stretches in made.items()
            if p < position and kind in tables_written(self.stages[p])
        ]
        if given is not None and hasattr(given, "frame"):
            fresh.append(given.take(np.isin(given.frame, frames.frame)))
        elif given is not None:
            return given
        rows = kind.concat(fresh)
        return rows.take(rows.view == frames.view) if hasattr(rows, "view") and (rows.view != frames.view).any() else rows

    def _input(self, kind: Any, order: Order, position: int, skip: Mapping[int, Any] | None = None) -> Table | None:
        """One argument of a stage, from the order or the store; all rows of the several detectors before it in the recipe."""
        if kind is Frames:
            return None
        if order.row is not None and isinstance(order.row, kind):
            return order.row
        if kind is Videos:
            videos = self._videos(order.video)
            self._video_file(videos)
            return videos
        if kind is Verdicts:
            assert isinstance(order.row, Clips)
            return as_ordered(self.store, order.row, *self._honouring(order, position))
        if kind in (Cameras, Views):
            assert isinstance(order.row, Clips)
            return self._cameras(order, order.row)
        if kind is CameraPoses:
            return poses_said(order.cameras.get(order.video, ""))
        makers = [s for p, s in enumerate(self.stages[:position]) if kind in tables_written(s) and p not in (skip or ())]
        key = order.video if makers and makers[0].key == "video" else order.key
        tables: list[Any] = [self.store.read(kind, tables_of(maker)[kind], key) for maker in makers]
        return kind.concat(tables) if tables else None

    def _honouring(self, order: Order, position: int) -> tuple[tuple[str, ...], Mapping[str, Any]]:
        """Which verdicts a stage honours, and the recipe that says what they were; of a shard those of the tables that it is made from."""
        stage = self.stages[position]
        if stage.key == "clip":
            return getattr(stage, "honours", ()), order.recipes[order.stages.index(position)]
        last = next((one for one in reversed(self.stages[:position]) if Verdicts in one.reads), None)
        return ((), {}) if last is None else (getattr(last, "honours", ()), self.store.made_by(table_of(last), order.key) or {})

    def _cameras(self, order: Order, clip: Clips) -> Cameras:
        """The camera of a clip and its views. Raises CameraError."""
        video = str(clip.video[0])
        width, height = int(clip.width[0]), int(clip.height[0])
        if not width and order.cameras.get(video):
            videos = self._videos(video)
            width, height = int(videos.width[0]), int(videos.height[0])
        return cameras_of(order.cameras.get(video, ""), width, height)

    def _videos(self, video: str) -> Videos:
        """The video's row with its path made absolute."""
        videos = self.store.read(Videos, "videos", video)
        return dataclasses.replace(videos, path=np.array([str(self.store.root / p) for p in videos.path], object))

    def _video_file(self, videos: Videos) -> Path:
        """A video's file; of a data folder in an object store it is fetched when it is wanted."""
        path = Path(videos.path[0])
        if (mirror := self.store.mirror) and path.is_relative_to(self.store.root):
            mirror.have_video(path)
        return path

    def _have_kept(self, mirror: MirrorOfStore, video: str) -> None:
        """Have what a machine fetched of a video before, the note on it and the file that it names: nothing is fetched twice."""
        note = self.store.root / "media" / f"{video}.info.json"
        mirror.have_kept(note)
        with suppress(FileNotFoundError, CorruptFileError, LookupError, TypeError):
            mirror.have_kept(file := note.with_name(Path(read_note(note)["file"]).name))
            mirror.make_room(keep=file)

    def _is_gone(self, video: str) -> bool:
        """Whether a video's file is nowhere."""
        return self.store.size_of(Path(self._videos(video).path[0])) is None

    def _check_content(self, videos: Videos) -> None:
        """Hold a video's file against the sha256 of its row, once while it stays as it is; one that is gone passes.

        Raises CorruptFileError.
        """
        path = self._video_file(videos)
        if not path.is_file():
            return
        stat = path.stat()
        facts = stat.st_size, stat.st_mtime_ns
        if self.sound.get(path) != facts and videos.sha256[0]:
            if sha256_of(path) != videos.sha256[0]:
                raise CorruptFileError(path, "its content is not that of the video that was read before")
            self.sound[path] = facts

    def _write_shard(self, stage: ShardStage, position: int, order: Order, recipe: Mapping[str, Any], outcome: Outcome) -> None:
        """Make a shard of the tables of its clips, and say what of them it lacks."""
        table, notes = table_of(stage), list[str]()
        path = self.store.part(table, order.key)
        if self.store.mirror and self.store.mirror.asks and any(self._is_gone(video) for video, _ in order.clips):
            self.store.mirror.have_all(path.parent)
        before = [path, *(one for one in self.store.pieces_of(table, whole_of(order.key)) if one != path)]
        batches = self._function(position, recipe)(stage.gather(self._tables_of_clips(order, position), before), notes)
        with self.store.aside(path) as temporary:
            outcome.num_rows = write_shard(stage, batches, temporary, {k: v for k, v in recipe.items() if k != "upstream"})
        self.store.succeeded(table, order.key)
        outcome.state, outcome.message = State.DONE, "; ".join(notes)

    def _tables_of_clips(self, order: Order, position: int) -> Iterator[list[Table | None]]:
        """The tables that a stage of key `shard` reads, of one clip after another."""
        for video, clip in order.clips:
            clips = self.store.read(Clips, "clips", video)
            self._check_content(self._videos(video))
            of_clip = dataclasses.replace(order, key=clip, video=video, row=clips.take(clips.clip == clip))
            yield [self._input(kind, of_clip, position) for kind in self.stages[position].reads]

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
        reason, message, trace = Reason.EXCEPTION, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))[-4000:]
        if isinstance(error, CorruptFileError):
            reason, message = Reason.CORRUPT, str(error)
            if error.path.is_relative_to(self.store.root):
                self.store.set_corrupt_aside(error.path)
        elif isinstance(error, CameraError):
            reason, message = Reason.CAMERA, str(error)
        elif isinstance(error, DecidedMeanwhileError):
            reason, message = Reason.DECIDED, str(error)
        elif isinstance(error, OtherWeights):
            message = str(error)
        permanent = reason is Reason.CAMERA
        outcome.state, outcome.reason, outcome.message = State.FAILED if permanent else State.RETRY, reason, message
        try:
            record_failure(
                self.store, table_of(self.stages[position]), key, recipe, Failure(reason, message, permanent), trace, str(self.place)
            )
        except OSError as second:
            outcome.message = f"{message} (and this could not be written down: {second})"

    def _with_content(self, key: str, recipe: Mapping[str, Any], fetched: Videos) -> Mapping[str, Any]:
        """The recipe of a video's part; of one that was fetched again and is another now, with its content: what follows is made anew."""
        before = self.store.made_by("videos", key)
        if not before or before.get("fingerprint") != recipe["fingerprint"]:
            return recipe
        try:
            if self.store.read(Videos, "videos", key).sha256[0] == fetched.sha256[0]:
                return recipe
        except ValueError:
            return recipe
        other = {**recipe, "item": {**recipe["item"], "content": str(fetched.sha256[0])}}
        del other["fingerprint"]
        return {**other, "fingerprint": fingerprint_of(other)}

    def _finish(self, position: int, key: str, recipe: Mapping[str, Any], result: Any, outcome: Outcome) -> None:
        """Record a failure, or commit the table or tables that a stage gave."""
        if isinstance(result, Failure):
            record_failure(self.store, table_of(self.stages[position]), key, recipe, result, where=str(self.place))
            outcome.state = State.FAILED if result.permanent else State.RETRY
            outcome.reason, outcome.message = result.reason, result.message
            return
        if isinstance(result, Videos):
            result = dataclasses.replace(result, path=np.array([_relative(p, self.store.root) for p in result.path], object))
            if self.store.mirror:  # before the part that names them
                inside = [self.store.root / p for p in result.path if not Path(p).is_absolute()]
                self.store.mirror.put_as_it_is([file for p in inside for file in (p, p.with_name(f"{key}.info.json"))])
            recipe = self._with_content(key, recipe, result)
        tables = dict(zip(tables_of(self.stages[position]).values(), _tables(result), strict=True))
        self.store.commit_together(tables, key, recipe)
        outcome.state, outcome.num_rows = State.DONE, len(_tables(result)[0])


def _moved(stage: Stage, before: Path, now: Path) -> Stage:
    """A stage whose folders below one place lie below another."""
    settings: Any = stage
    inside = {
        one.name: now / value.relative_to(before)
        for one in dataclasses.fields(settings)
        if isinstance(value := getattr(stage, one.name), Path) and value.is_relative_to(before)
    }
    return dataclasses.replace(settings, **inside) if inside else stage


@dataclass(frozen=True, slots=True)
class _Made:
    """What a stage gave of an item among others, and the item's share of the time."""

    result: Any
    seconds: float


class OtherWeights(Exception):
    """A machine holds other model files than the ones that a part is ordered to be made by."""


def _difference_of(here: Mapping[str, str], ordered: Mapping[str, str], host: str) -> str:
    name = next(name for name in sorted(here.keys() | ordered.keys()) if here.get(name) != ordered.get(name))
    shas = [(sha or "no such file")[:12] for sha in (here.get(name), ordered.get(name))]
    return f"model file {name} is {shas[0]} on {host} and {shas[1]} where the run was started: copy the weights folder there (WHIM_WEIGHTS)"


def _tables(result: Any) -> tuple[Table, ...]:
    """What a stage gave, as a tuple of tables."""
    return result if isinstance(result, tuple) else (result,)


def _whole(function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    return function(*inputs)


def _by_view(function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """What a stage that makes each frame's rows of that frame's rows gives of each view's, together."""
    views = sorted({int(view) for table in inputs if hasattr(table, "view") for view in table.view}) or [0]
    made = []
    for view in views:
        given = [table.take(table.view == view) if hasattr(table, "view") else table for table in inputs]
        made.append([_of_view(table, view) for table in _tables(function(*given))])
    return tuple(type(tables[0]).concat(list(tables)) for tables in zip(*made, strict=True))


def _of_view(table: Table, view: int) -> Table:
    """Rows of a table, said to be of a view."""
    return dataclasses.replace(table, **{"view": np.full(len(table), view, np.int16)}) if hasattr(table, "view") else table


def _block(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        outcome.state, outcome.reason = State.BLOCKED, "upstream failed"


def record_failure(
    store: Store, table: str, key: str, recipe: Mapping[str, Any], failure: Failure, trace: str = "", where: str = ""
) -> None:
    """Write the error file of a part, counting the attempts made under the same fingerprint; `where`: the `Place` in words."""
    fingerprint = str(recipe["fingerprint"])
    before = store.error(table, key)
    attempts = before.attempts + 1 if before and before.fingerprint == fingerprint else 1
    store.fail(table, key, ErrorRecord(fingerprint, str(failure.reason), failure.message, failure.permanent, attempts, trace, where))


def _relative(path: str, root: Path) -> str:
    """A path inside the data folder is kept relative to it, so that the folder can move."""
    inside = Path(path).is_relative_to(root)
    return str(Path(path).relative_to(root)) if inside else path


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
