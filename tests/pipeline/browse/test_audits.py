"""An audit states what was looked at with its interval, and the dataset's card says it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import whim
from pipeline.browse.decisions import Decision
from pipeline.browse.session import Session
from pipeline.dataset.audits import Share
from pipeline.engine.verify import verify
from pipeline.remove import remove
from stages.tables import Hands
from stages.verdicts import What
from tests.pipeline.browse.small_run import run_again


@pytest.mark.parametrize(
    ("num", "of", "low", "high"),
    [(197, 200, 0.9569, 0.9949), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (0, 0, 0.0, 1.0)],
)
def test_interval_is_wilsons(num: int, of: int, low: float, high: float) -> None:
    """Values of statsmodels' proportion_confint(method="wilson")."""
    assert Share(num=num, of=of).interval == pytest.approx((low, high), abs=1e-4)


def test_what_a_person_said_of_a_sample_stands_in_the_card(data: Path, tmp_path: Path) -> None:
    session = Session(data, "ann", file=tmp_path / "index.duckdb")
    drawn = session.draw("keep", 8, 7)
    kept = session.asking.hands(session.asking.where("keep"), limit=500)
    assert (drawn["population"], len(drawn["hands"])) == (kept["total"], 8)
    places = [(one["video"], one["frame"], one["hand"]) for one in drawn["hands"]]
    assert len(set(places)) == 8
    assert [(one["video"], one["frame"], one["hand"]) for one in session.draw("keep", 8, 7)["hands"]] == places  # the same by the same seed
    assert [(one["video"], one["frame"], one["hand"]) for one in session.draw("keep", 8, 8)["hands"]] != places
    said = [What.REJECT, What.SIDE, What.LANDMARKS, What.KEEP, What.KEEP, What.KEEP]
    for what, place in zip(said, places, strict=False):
        session.decide(Decision(what=what, who="ann", audit=drawn["name"]), [place])
    session.decide(Decision(what=What.REJECT, who="bob"), [places[5]])  # of no audit
    found = session.audit(drawn["name"])
    assert (found["precision"]["num"], found["precision"]["of"], found["side"]["num"], found["side"]["of"]) == (5, 6, 4, 5)
    session.undo()
    session.undo()  # the last answer of the audit
    found = session.audit(drawn["name"])
    assert (found["precision"]["num"], found["precision"]["of"], found["hands"][5]["answer"]) == (4, 5, "")
    assert found["precision"]["text"] == "0.800 (0.376 to 0.964; 4 of 5)"
    run_again(data)
    card = (data / "shards" / "README.md").read_text()
    assert f"a person looked at 5 of {kept['total']} hands (keep), drawn by chance: hands 0.800 (0.376 to 0.964; 4 of 5)" in card
    assert "People confirmed or corrected 3 hands" in card
    assert whim.main(["report", "-q", "--data", str(data)]) == 0
    assert "Audit: a person looked at 5 of" in (data / "report.html").read_text()
    assert not verify(data).corrupt
    remove(session.store, ["asl_bird"])
    assert all(one["video"] == "asl_milk" for one in session.audit(drawn["name"])["hands"])
    assert not (data / "verdicts" / "asl_bird.parquet").exists()


def test_a_hand_that_a_run_numbered_anew_is_still_the_one_that_was_drawn(data: Path, tmp_path: Path) -> None:
    session = Session(data, "ann", file=tmp_path / "index.duckdb")
    drawn = session.draw("video = 'asl_bird'", 500, 7)["hands"]
    (name,) = session.about()["audits"]
    frames = [one["frame"] for one in drawn]
    first, second = [one for one in drawn if one["frame"] == next(f for f in frames if frames.count(f) == 2)]
    places = [(one["video"], one["frame"], one["hand"]) for one in (first, second)]
    session.decide(Decision(what=What.KEEP, who="ann", audit=name), places[:1], [tuple(first["box"])])
    hands = session.store.read(Hands, "hands", "asl_bird-0000")
    here, order = np.flatnonzero(hands.frame == first["frame"]), np.arange(len(hands))
    order[here] = here[::-1]
    made_by = session.store.made_by("hands", "asl_bird-0000") or {}
    session.store.commit("hands", "asl_bird-0000", replace(hands.take(order), hand=hands.hand), made_by)
    session.refresh()
    found = {tuple(one["box"]): one for one in session.audit(name)["hands"] if one["frame"] == first["frame"]}
    now = [found[tuple(one["box"])] for one in (first, second)]
    assert [(one["hand"], one["answer"]) for one in now] == [(second["hand"], "keep"), (first["hand"], "")]
    place = (now[1]["video"], now[1]["frame"], now[1]["hand"])
    session.decide(Decision(what=What.REJECT, who="ann", audit=name), [place], [tuple(now[1]["box"])])
    answers = {tuple(one["box"]): one["answer"] for one in session.audit(name)["hands"] if one["frame"] == first["frame"]}
    assert [answers[tuple(one["box"])] for one in (first, second)] == ["keep", "reject"]


def test_a_damaged_file_of_the_folder_is_named_and_the_rest_is_shown(data: Path, tmp_path: Path) -> None:
    stats = data / "shards" / "stats.json"
    damaged = bytearray(stats.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    stats.write_bytes(damaged)
    session = Session(data, "ann", file=tmp_path / "index.duckdb")
    assert session.unreadable == ("shards/stats.json",)
    assert session.asking.hands(session.asking.where("split = 'train'"), limit=5)["total"] > 0, "as the list has it"
