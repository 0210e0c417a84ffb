"""Orders that a run sends to its workers, and the receipts that come back. Tables go through the store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.bundles.places import Place
from pipeline.engine.plan.tasks import State
from stages.tables import Table

TOGETHER_S = 1.0
"""Items go together that take about so many seconds together. Ours: what a kill loses, and what a flush to the disk is shared by."""


@dataclass(frozen=True, slots=True)
class Order:
    """An item as it travels to a worker: names and fingerprints, never payload."""

    key: str
    stages: tuple[int, ...]
    recipes: tuple[Mapping[str, Any], ...]
    video: str
    row: Table | None = None
    """The manifest line or the clip."""
    clips: tuple[tuple[str, str], ...] = ()
    """(video, clip) of every clip that a shard is made from; none of other items."""
    cameras: Mapping[str, str] = field(default_factory=dict)
    """What is said of cameras, by video: see `stages.cameras.said`."""
    places: Mapping[tuple[str, str], Place] = field(default_factory=dict)
    """Where parts lie in bundles that it reads, by table and key: who does it need not look for them."""
    bundles: Mapping[str, int] = field(default_factory=dict)
    """Number of the bundle that its parts may come into with those beside it, by table; none: they have files of their own."""


@dataclass(slots=True)
class Outcome:
    """What became of one part."""

    stage: int
    state: State
    reason: str = ""
    message: str = ""
    where: str = ""
    """Of a failure: node, process and log (`Place`)."""
    num_rows: int = 0
    num_frames: int = 0
    wall_s: float = 0.0


@dataclass(slots=True)
class Receipt:
    """What a worker sends back."""

    key: str
    outcomes: list[Outcome]
    started_s: float = 0.0
    """Unix time."""
    wall_s: float = 0.0
    decode_s: float = 0.0
    peak_mb: float = 0.0
    host: str = ""
    """The machine that did it."""
    pid: int = 0
    fatal: str = ""
    """The folder cannot be written: the run stops, nothing is recorded against the item."""
    bundles: dict[str, str] = field(default_factory=dict)
    """File name of the bundle that its part lies in, by table; none of parts with files of their own."""
    blind: str = ""
    """This machine does not see the data folder: nothing was done, another one is to have the item."""


def as_line(receipt: Receipt) -> dict[str, Any]:
    """A receipt as plain values, for the log: `dataclasses.asdict` copies each of them, and takes ten times as long."""
    outcomes = [{name: getattr(outcome, name) for name in Outcome.__slots__} for outcome in receipt.outcomes]
    return {name: getattr(receipt, name) for name in Receipt.__slots__} | {"outcomes": outcomes}
