"""A folder whose parts lie in bundles is browsed, reported and packed as one of loose parts is."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.browse.decisions import Decision
from pipeline.browse.session import Session
from pipeline.engine.finish import Where, finish
from pipeline.folder import Asked, load
from pipeline.report.ending import hands_of
from pipeline.report.page import write_report
from stages.verdicts import What
from tests.pipeline.browse.small_run import run_again, with_refused


@pytest.fixture
def bundled(data: Path, tmp_path: Path) -> Path:
    """The run once more, all of its parts in bundles."""
    with_refused(data)
    shutil.rmtree(data / "shards")  # they were packed before
    run_again(data)
    root = Path(shutil.copytree(data, tmp_path / "bundled" / "data"))
    finish(load(root, Asked()).graph, Where(local=True), on_outcome=lambda task, outcome: None, most_loose=0)
    tables = {path.parent.parent for path in root.rglob("bundles/*.parquet")}
    assert {"videos", "clips", "hands", "fits", "reviews", "refused_hands"} <= {path.name for path in tables}
    assert [path for table in tables for path in table.glob("*.parquet")] == []
    return root


def test_browse_and_report_say_the_same(data: Path, bundled: Path, tmp_path: Path) -> None:
    told: list[Any] = []
    for name, root in (("loose", data), ("bundled", bundled)):
        session = Session(root, "ann", file=tmp_path / f"{name}.duckdb")
        page = session.hands("", "quality", descending=True, offset=0, limit=50)
        first = next(hand for hand in page["rows"] if hand["video"] == "asl_bird")
        graph = load(root, Asked()).graph
        assert graph.pending == []
        write_report(root, root / "report.html", num_pictures=2)
        told.append(
            {
                "hands": page,
                "frame": session.frame("asl_bird", first["frame"], 0),
                "clip": session.clip("asl_bird", first["frame"]),
                "unreadable": session.unreadable,
                "ending": hands_of(graph),
                "report": (root / "report.html").read_text(),
            }
        )
    for what, loose in told[0].items():
        assert repr(told[1][what]) == repr(loose), what
    assert told[0]["hands"]["total"] > 0
    assert told[0]["frame"]["hands"]


def test_shards_are_byte_identical(data: Path, bundled: Path) -> None:
    shards = [path.relative_to(data) for path in sorted((data / "shards").rglob("*.*"))]
    before = {path: (data / path).read_bytes() for path in shards if (data / path).is_file()}
    shutil.rmtree(bundled / "shards")
    assert {name for name, _ in run_again(bundled)} == {"pack"}
    assert {path: (bundled / path).read_bytes() for path in before} == before
    assert any(path.suffix == ".parquet" for path in before)


def test_what_is_decided_is_taken_up(bundled: Path, tmp_path: Path) -> None:
    session = Session(bundled, "ann", file=tmp_path / "index.duckdb")
    hand = next(h for h in session.hands("keep", "quality", descending=True, offset=0, limit=50)["rows"] if h["video"] == "asl_bird")
    session.decide(Decision(what=What.REJECT, who="ann"), [("asl_bird", hand["frame"], hand["hand"])])
    made = run_again(bundled)
    assert ("review", "asl_bird-0000") in made
    session.refresh()
    where = f"video = 'asl_bird' and frame = {hand['frame']} and hand = {hand['hand']}"
    now = session.hands(where, "quality", descending=True, offset=0, limit=1)["rows"][0]
    assert (hand["keep"], now["keep"]) == (True, False)
