"""The model files that a stage loads are part of what a part is made from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fitting.files import sha256_of
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.plan.tasks import Why
from pipeline.engine.run import run
from pipeline.engine.store import Store
from stages.stage import setting
from tests.engine import toy


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed(toy.Count):
    """A stage with a model file."""

    file: str = setting("", identity=False)

    @property
    def weights(self) -> dict[str, str]:
        return {"model": sha256_of(Path(self.file))}


def test_a_replaced_model_file_makes_its_parts_anew(tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"one")
    data = tmp_path / "data"
    stages: list[Any] = [toy.Fetch(), toy.Cut(num_clips=1), Weighed(file=str(model)), toy.After()]

    def pending() -> set[tuple[str, Why | None]]:
        return {(stages[task.stage].name, task.why) for task in Graph(stages, toy.manifest("a"), Store(data)).load().pending}

    run(Graph(stages, toy.manifest("a"), Store(data)).load(), Local(data, stages))
    assert not pending()
    model.write_bytes(b"two")
    assert pending() == {("count", Why.WEIGHTS), ("after", Why.UPSTREAM)}
