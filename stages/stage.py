"""The protocol of a stage: settings now, models later; tables in, tables or a reason out."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args, get_origin, runtime_checkable

from stages.reasons import ADVICE as ADVICE
from stages.reasons import Failure as Failure
from stages.reasons import Reason as Reason
from stages.tables import Table


class MissingVideoError(FileNotFoundError):
    """A video's file that is not there, and nothing that stands for it; the message says how to mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one worker of the stage holds while it works."""

    cpus: float = 1.0
    gpus: float = 0.0
    """Share of a GPU; 0 leaves it to the run, which gives stages with `gpu_mb` what the cluster has."""
    gpu_mb: int = 0
    """Memory of a GPU that the stage's network takes with its batch, beside what CUDA itself takes; 0 = it works on the CPU alone."""
    limit_s: float = 600.0
    """Wall-clock limit of one item; the worker is killed at it."""
    attempts: int = 2
    """How often a dying worker or an unexpected exception is tried within one run."""
    lane: str = ""
    """Stages with a lane run one item at a time in each of its `lanes`: a download lane is one address, however many nodes share it."""
    lanes: int = 1
    environment: str = ""
    """The worker runs by the Python of `.env-<environment>`, whose packages ours cannot live with; '' is our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The values that a setting may have: a range of numbers, or a few names. Of a tuple, each item's; a number is always finite."""

    least: float | None = None
    """Smallest value allowed."""
    above: float | None = None
    """Every value allowed is larger than this."""
    most: float | None = None
    """Largest value allowed."""
    below: float | None = None
    """Every value allowed is smaller than this."""
    choices: tuple[Any, ...] = ()
    """The values allowed, where they are listed."""

    def __contains__(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number = float(value)
        low = (self.least is None or number >= self.least) and (self.above is None or number > self.above)
        high = (self.most is None or number <= self.most) and (self.below is None or number < self.below)
        return low and high and math.isfinite(number)

    def __str__(self) -> str:
        """Bounds as they stand after "must": be one of a, b; lie in (0, 1]; be 0 or more; be more than 0."""
        if self.choices:
            return f"be one of {', '.join(map(str, self.choices))}"
        low, high = (self.least if self.above is None else self.above), (self.most if self.below is None else self.below)
        if low is not None and high is not None:
            return f"lie in {'[' if self.above is None else '('}{low:g}, {high:g}{']' if self.below is None else ')'}"
        if low is not None:
            return f"be {low:g} or more" if self.above is None else f"be more than {low:g}"
        if high is not None:
            return f"be {high:g} or less" if self.below is None else f"be less than {high:g}"
        return "be a number"


def setting(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Iterable[Any] = (),
    identity: bool = True,
    group: bool = False,
    later: bool = False,
) -> Any:
    """A field of a stage, with the values that it may have (`Bounds`): `min_score: float = setting(0.1, above=0, most=1)`.

    `check_settings` in the stage's `__post_init__` refuses every other value, and a fraction where the type is int; `bounds_of` gives
    the bounds to who lists settings, `str(bounds)` says them after "must". With `identity=False` a change of the setting does not
    change the result (a limit, a folder), and no part is made again for it. A `group` is a dataclass of settings of a layer below:
    its fields count as the stage's own (`settings_of`). One that came `later` than data folders counts where it is not its default.
    """
    bounds = Bounds(least=least, above=above, most=most, below=below, choices=tuple(choices))
    about = {"identity": identity, "bounds": None if bounds == Bounds() else bounds, "group": group, "later": later}
    return field(default=default, metadata=about)


def bounds_of(setting: Field[Any]) -> Bounds | None:
    """The values that a field of a stage may have, a `Literal` those of its type; None where any of its type will do."""
    if get_origin(setting.type) is Literal:
        return Bounds(choices=get_args(setting.type))
    plain = {name: setting.metadata[name] for name in ("least", "above", "most", "below") if name in setting.metadata}
    bounds: Bounds | None = Bounds(**plain) if plain else setting.metadata.get("bounds")
    return bounds


def settings_of(stage: Any) -> Iterator[tuple[Field[Any], Any]]:
    """Every setting of a stage and its value, those of a group among the stage's own."""
    for one in fields(stage):
        value = getattr(stage, one.name)
        if one.metadata.get("group"):
            yield from settings_of(value)
        else:
            yield one, value


def settings_name(stage: Any) -> str:
    """The name before the dot of a stage's settings, `fuse_hands` of `fuse_hands.match_iou`: that of its module."""
    return type(stage).__module__.rpartition(".")[2]


def check_settings(stage: Any) -> None:
    """Refuse a setting outside its bounds: ValueError that names the field, the range and the value, on one line."""
    for one, value in settings_of(stage):
        bounds = bounds_of(one)
        name = f"{settings_name(stage)}.{one.name}"
        if one.type is int and not isinstance(value, Integral):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if bounds and not all(item in bounds for item in (value if isinstance(value, tuple) else (value,))):
            endless = any(isinstance(item, float) and math.isinf(item) for item in (value if isinstance(value, tuple) else (value,)))
            raise ValueError(f"{name} must {bounds}{' and be finite' if endless else ''}, got {value!r}")


DEVICES = ("auto", "cpu", "cuda")
"""Where a network may run: auto is a GPU if the worker has one."""


def on_device(device: str, gpus: float, gpu_mb: int, *, limit_s: float, cpus: float = 1, environment: str = "") -> Resources:
    """What a worker of a network stage holds; a stage that is told to stay on the CPU takes nothing of a GPU."""
    memory = 0 if device == "cpu" else gpu_mb
    return Resources(cpus=cpus, gpus=gpus, gpu_mb=memory, limit_s=limit_s, environment=environment)


@runtime_checkable
class Prepares(Protocol):
    """A stage that has something made ready on every machine beside the stages before it."""

    def prepare(self) -> str:
        """Start it, without waiting; one line for the user on what was started, or ''."""
        ...


@runtime_checkable
class AtOnce(Protocol):
    """A function of a stage (what `build` gives) that does several items in one call for less than one after another."""

    def __call__(self, *inputs: Any) -> Any:
        """Result of one item."""
        ...

    def many(self, items: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Results of the items in their order, each what the item would get alone. Where any item fails the call raises, and the caller
        does all of them one by one, which tells whose fault it is."""
        ...


Key = Literal["video", "clip", "shard"]
"""What one part of a stage is about."""


class Stage(Protocol):
    """One step of the graph: a frozen dataclass whose fields are its settings.

    `build()` runs once on each worker: it imports and loads what is heavy and returns a plain function
    over the tables named in `reads`, in that order; it gives the table of `writes`, or a tuple of them in that order, or a `Failure`.
    Where several items cost less together the function is an `AtOnce`, and the stage says `at_once = 16`, or how many are enough.
    A stage that reads `Frames` is called once per stretch of frames, with the rows of its other tables on those frames, and must not
    remember. One that reads tables alone may say `by_frame = True` if it makes each frame's rows of that frame's rows: it is then
    called so too, between stages that read `Frames`, and does not part them into two decodes.
    One that works without some of its tables names those in `may_lack`: where no stage before it makes one, it is given None, or
    with frames an empty table.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised by hand when the code's result changes: every part it wrote is then recomputed."""
    key: ClassVar[Key]

    @property
    def reads(self) -> tuple[type, ...]:
        """The tables that its function is given, each of all stages before it that make it: a constant of the class, or decided by a
        setting."""
        ...

    @property
    def writes(self) -> type[Table] | tuple[type[Table], ...]:
        """The table it makes, or several: they are one task, and are there together or count as not there."""
        ...

    @property
    def detector(self) -> str:
        """Which of several stages of one name this is: parts lie in <table>/<detector>. '' when there is one only."""
        ...

    @property
    def resources(self) -> Resources:
        """What one of its workers holds: a constant of the class, or decided by a setting."""
        ...

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 by name of every model file that decides the result."""
        ...

    def build(self) -> Callable[..., Any]: ...


@runtime_checkable
class ShardStage(Stage, Protocol):
    """A stage of key `shard`: the rows of one file, of the tables that it reads of many clips.

    Its function is given what `gather` yields, and a list that takes sentences for the user on what was left out. It gives record batches
    of `writes`, in order: the row groups of the file.
    """

    @property
    def num_shards(self) -> int:
        """Files of each split, at least."""
        ...

    @property
    def shard_mb(self) -> int:
        """Megabytes above which a shard becomes several files, by `expected_bytes`."""
        ...

    @property
    def row_group_size(self) -> int:
        """Most rows of a row group."""
        ...

    def expected_bytes(self, clip: Any, width: int, height: int) -> int:
        """What the rows of a clip, a single row, will take; `width` and `height` are its video's."""
        ...

    def gather(self, clips: Iterable[Sequence[Any]], before: Sequence[Path]) -> Iterator[Any]:
        """The clips of a shard as the function takes them: of each its tables of `reads`, in that order; and the files before."""
        ...


def tables_written(stage: Any) -> tuple[type[Table], ...]:
    """The tables that a stage makes, in the order in which its function gives them."""
    written: type[Table] | tuple[type[Table], ...] = stage.writes
    return written if isinstance(written, tuple) else (written,)


def tables_given(result: Any) -> tuple[Table, ...]:
    """The tables that a stage's function gave, one or several."""
    return result if isinstance(result, tuple) else (result,)


def at_once_of(stage: Any) -> int:
    """Items that a stage is given in one call where so many wait; 1 of most stages."""
    return int(getattr(stage, "at_once", 1))
