"""What the tests of data folders in an object store do: run as a driver, and be another machine."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.durable import MIRRORS
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.roots.opening import opened
from pipeline.engine.run import Summary, run
from pipeline.engine.store import Store
from tests.engine import toy


def on_another_machine(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """From here on this process is as one of a machine that has another cache."""
    MIRRORS.clear()
    monkeypatch.setenv("WHIM_CACHE", str(cache))


def run_at(root: str | Path, *videos: str, stages: list[Any] | None = None) -> Summary:
    """What a driver does, in process."""
    stages = stages or toy.recipe()
    store = Store(opened(root))
    with store.lock():
        graph = Graph(stages, toy.manifest(*videos), store).load()
        summary = run(graph, Local(store.root, stages))
        graph.remember()
    return summary


def parts(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.parquet") if p.name != "ledger.parquet"}
