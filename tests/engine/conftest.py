"""An object store, and a data folder in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine.durable import MIRRORS
from tests.object_store import ObjectStore, object_store


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture
def store(server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The object store, with a key, and a cache of this test's own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("WHIM_CACHE", str(tmp_path / "cache"))
    server.fault, server.number = (lambda number, method, name: ""), 0
    server.requests.clear()
    server.reads.clear()
    yield server
    server.fault = lambda number, method, name: ""
    MIRRORS.clear()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Name of a data folder in the store that is this test's own."""
    return tmp_path.name
