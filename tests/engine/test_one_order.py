"""Stages that work on a clip in one order: what fails, or is lost, takes nothing with it that does not need it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local, Lost
from pipeline.engine.orders import Order
from pipeline.engine.plan.seats import Seat
from pipeline.engine.roots.opening import opened
from pipeline.engine.run import run
from pipeline.engine.store import Store
from stages.stage import Reason, Resources
from stages.tables import Clips, Fits, Hands, People, Reviews, Table
from tests.engine import toy
from tests.object_store import ObjectStore

LOST = "a-0001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside(toy.ToyStage):
    """Reads nothing of the stages beside it."""

    name: ClassVar[str] = "beside"
    reads: ClassVar[tuple[type, ...]] = (Clips,)
    writes: ClassVar[type[Table]] = Hands

    def build(self) -> Callable[..., Any]:
        return lambda clips: Hands.empty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Both(toy.ToyStage):
    """Reads what `count` wrote, not what `beside` did."""

    name: ClassVar[str] = "both"
    reads: ClassVar[tuple[type, ...]] = (Clips, Reviews)
    writes: ClassVar[type[Table]] = Fits

    def build(self) -> Callable[..., Any]:
        return lambda clips, reviews: Fits.empty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Last(toy.ToyStage):
    """Reads what `both` wrote."""

    name: ClassVar[str] = "last"
    reads: ClassVar[tuple[type, ...]] = (Fits,)
    writes: ClassVar[type[Table]] = People

    def build(self) -> Callable[..., Any]:
        return lambda fits: People.empty()


class Apart(toy.Count):
    """Works in an order of its own."""

    resources = Resources(cpus=0.5, limit_s=20.0)


@dataclass(eq=False)
class Losing(Local):
    """Loses the orders of one clip that hold a stage, as where their worker dies at it."""

    at: int = 2
    """Position of the stage."""
    works: bool = False
    """Whether it dies once it has done the order."""
    dies: Callable[[], None] = lambda: None

    def submit(self, seat: Seat, orders: Sequence[Order], limit_s: float) -> None:
        lost = [order for order in orders if order.key == LOST and self.at in order.stages]
        done = list(orders) if self.works else [order for order in orders if order not in lost]
        if done:
            super().submit(seat, done, limit_s)
        if lost:
            self.dies()
        self.finished = [one for one in self.finished if one[0] not in lost]
        self.finished += [(order, Lost(Reason.WORKER_DIED, "its worker died")) for order in lost]


def stages(**count: Any) -> list[Any]:
    fetch, cut, counts, _ = toy.recipe(**count)
    return [fetch, cut, counts, Beside(), Both()]


def load(root: Path, recipe: list[Any]) -> Graph:
    return Graph(recipe, toy.manifest("a"), Store(root)).load()


def states(graph: Graph) -> dict[str, dict[str, int]]:
    """How many clips of each stage of clips are in which state."""
    found: dict[str, dict[str, int]] = {}
    for (position, state), num in graph.states().items():
        if graph.stages[position].key == "clip":
            found.setdefault(graph.stages[position].name, {})[str(state)] = num
    return found


def errors(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.error.json"))


def test_a_stage_whose_fellow_is_blocked_from_outside_is_done(tmp_path: Path) -> None:
    fetch, cut, *_ = toy.recipe()
    graph = load(tmp_path, [fetch, cut, Apart(raises=LOST), Beside(), Both()])
    assert graph.groups[2:] == [(2,), (3, 4)]
    run(graph, Local(tmp_path, graph.stages))
    assert states(graph) == {"count": {"done": 3, "retry": 1}, "beside": {"done": 4}, "both": {"done": 3, "blocked": 1}}


def test_a_clip_that_kills_its_worker_at_one_stage_goes_on_with_those_that_do_not_need_it(tmp_path: Path) -> None:
    graph = load(tmp_path, stages())
    run(graph, Losing(tmp_path, graph.stages))
    assert states(graph) == {"count": {"done": 3, "failed": 1}, "beside": {"done": 4}, "both": {"done": 3, "blocked": 1}}
    assert errors(tmp_path) == [f"reviews/{LOST}.error.json"]


def test_a_worker_that_dies_once_all_is_committed_has_failed_at_nothing(tmp_path: Path) -> None:
    graph = load(tmp_path, stages())
    run(graph, Losing(tmp_path, graph.stages, works=True))
    assert states(graph) == {"count": {"done": 4}, "beside": {"done": 4}, "both": {"done": 4}}
    assert errors(tmp_path) == []


def test_a_part_that_was_there_before_is_not_taken_for_one_that_was_made(tmp_path: Path) -> None:
    """A part that is made again because of what it is made from has the fingerprint that it had."""
    fetch, cut, *_ = toy.recipe()
    recipe = [fetch, cut, Apart(), Both()]
    run(load(tmp_path, recipe), Local(tmp_path, recipe))
    (tmp_path / f"reviews/{LOST}.parquet").unlink()
    graph = load(tmp_path, recipe)
    run(graph, Losing(tmp_path, recipe, at=3))
    assert states(graph) == {"count": {"done": 4}, "both": {"done": 3, "failed": 1}}


def test_a_part_that_another_machine_wrote_before_it_died_is_seen(store: ObjectStore, folder: str, tmp_path: Path) -> None:
    run(load(tmp_path / "disk", stages()), Local(tmp_path / "disk", stages()))
    written = (tmp_path / f"disk/reviews/{LOST}.parquet").read_bytes()

    def write() -> None:
        store.client().put_object(Bucket="hands", Key=f"{folder}/reviews/{LOST}.parquet", Body=written)

    root = opened(store.address(folder))
    with Store(root).lock():
        graph = load(root, stages())
        run(graph, Losing(root, graph.stages, dies=write))
    assert states(graph) == {"count": {"done": 4}, "beside": {"done": 3, "failed": 1}, "both": {"done": 4}}


def test_a_stage_that_fails_blocks_those_alone_that_read_it(tmp_path: Path) -> None:
    graph = load(tmp_path, [*stages(raises=LOST), Last()])
    assert graph.groups[2:] == [(2, 3, 4, 5)]
    run(graph, Local(tmp_path, graph.stages))
    blocked = {"done": 3, "blocked": 1}
    assert states(graph) == {"count": {"done": 3, "retry": 1}, "beside": {"done": 4}, "both": blocked, "last": blocked}
    assert errors(tmp_path) == [f"reviews/{LOST}.error.json"]
