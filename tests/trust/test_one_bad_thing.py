"""One damaged or strange thing in a data folder fails by itself and is named; the rest goes on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.plan.tasks import State
from pipeline.engine.run import run
from pipeline.engine.store import Store
from tests.engine import toy


def load(root: Path, stages: list[Any]) -> Graph:
    return Graph(stages, toy.manifest("a", "b"), Store(root)).load()


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "precious").touch()


def spoilt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, 2 * len(data) // 3):
        data[at] ^= 0x10
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


BAD: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a folder in place of a part": ("reviews/a-0001.parquet", as_folder),
    "a folder in place of a failure": ("reviews/a-0001.error.json", as_folder),
    "a folder in place of a video's part": ("videos/a.parquet", as_folder),
    "a spoilt list of clips": ("clips/a.parquet", spoilt),
    "an empty list of clips": ("clips/a.parquet", emptied),
    "a spoilt video": ("videos/a.parquet", spoilt),
    "a spoilt part": ("reviews/a-0001.parquet", spoilt),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_thing_fails_by_itself_and_is_named(tmp_path: Path, name: str) -> None:
    stages: list[Any] = [toy.Fetch(), toy.Cut(), toy.Count(), toy.After()]
    run(load(tmp_path, stages), Local(tmp_path, stages))
    path, harm = BAD[name]
    harm(tmp_path / path)
    changed = [*stages[:3], dataclasses.replace(stages[3], factor=2)]  # there is something to do for every clip
    graph = load(tmp_path, changed)
    run(graph, Local(tmp_path, changed))
    of_b = [task for task in graph.tasks if task.key.startswith("b")]
    assert len(of_b) == 10
    assert all(task.state is State.DONE for task in of_b), "another video suffered"
    failed = [task for task in graph.tasks if task.state in (State.FAILED, State.RETRY)]
    bad = tmp_path / path
    if bad.is_dir():
        assert (bad / "precious").exists(), "what is not ours was removed"
        for task in failed:
            error = graph.store.error(f"{stages[task.stage].writes.__name__.lower()}", task.key)
            assert error is None or bad.name in error.message or str(bad.parent) in error.message
    else:
        assert not failed
        assert all(task.state is State.DONE for task in graph.tasks)
