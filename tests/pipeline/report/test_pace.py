"""Rate, time left, seconds and memory by stage and node, of receipts; a run seen from beside it."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.report import progress
from pipeline.report.pace import in_words, pace_of, read_receipts
from pipeline.report.progress import Bars
from pipeline.report.watch import is_driven, watch
from tests.engine import toy


def receipt(key: str, started_s: float, wall_s: float, host: str, *, peak_mb: float = 100.0, state: str = "done") -> dict[str, Any]:
    outcome = {"stage": 2, "state": state, "wall_s": wall_s}
    return {"key": key, "outcomes": [outcome], "started_s": started_s, "wall_s": wall_s, "peak_mb": peak_mb, "host": host}


def test_rates_are_of_the_last_minutes_and_the_time_left_of_the_workers_at_work() -> None:
    early = [receipt(f"e{k}", 10.0 * k, 10.0, "a") for k in range(10)]  # one after the other
    late = [receipt(f"l{k}", 1000.0 + 10 * (k // 2), 10.0, "ab"[k % 2], peak_mb=50.0 * k) for k in range(60)]  # two at once, to 1300
    pace = pace_of([*early, *late, receipt("bad", 1290, 1.0, "a", state="failed")])
    stage = pace.stages[2]
    assert (stage.num_parts, stage.median_s) == (70, 10.0)
    assert stage.per_s == pytest.approx(0.2)
    assert pace.at_once == pytest.approx(2.0, abs=0.01)
    assert pace.left_s({2: 100, 3: 5}) == pytest.approx(500, abs=3), "of stage 3 nothing is known yet"
    assert pace.left_s({3: 5}) is None
    assert {host: node.num_items for host, node in pace.nodes.items()} == {"a": 41, "b": 30}
    assert pace.nodes["b"].peak_mb == 50.0 * 59


def test_what_took_many_times_as_long_is_named() -> None:
    pace = pace_of([*(receipt(f"k{k}", 0, 10.0, "a") for k in range(9)), receipt("slow", 0, 99.0, "a")])
    assert pace.slowest == [(99.0, "slow", 2)]
    assert not pace_of([*(receipt(f"k{k}", 0, 1.0, "a") for k in range(9)), receipt("quick", 0, 9.0, "a")]).slowest


def test_damaged_lines_of_the_log_count_for_nothing(tmp_path: Path) -> None:
    """A flipped bit in the name of a number ended the run that read the log, and bytes that are no text `whim status --watch`."""
    sound = json.dumps(receipt("a", 0, 1.0, "a"))
    broken = [sound.replace("wall_s", "well_s"), sound.replace("1.0", "NaN"), '{"outcomes": [1], "key": ""}', "[" * 9999, "12", sound[:20]]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1.jsonl").write_bytes("\n".join([*broken, sound]).encode() + b"\n\xff\xfe\n")
    (one,) = read_receipts(tmp_path)
    assert one == json.loads(sound)
    assert pace_of([one]).stages[2].num_parts == 1


def test_times_are_told_as_people_say_them() -> None:
    assert [in_words(s) for s in (None, 59, 700, 9000, 400_000)] == ["unknown", "59 s", "12 min", "2.5 h", "4.6 days"]


def test_a_run_is_watched_from_beside_it_until_nobody_drives_it(tmp_path: Path) -> None:
    stages = toy.recipe()
    run(Graph(stages, toy.manifest("a"), Store(tmp_path)).load(), Local(tmp_path, stages))
    said = io.StringIO()
    looks: list[Graph] = []

    def load() -> Graph:
        looks.append(Graph(stages, toy.manifest("a", "b"), Store(tmp_path)).load())
        return looks[-1]

    with Store(tmp_path).lock():
        assert is_driven(tmp_path)
    watch(load, Console(file=said, width=160), every_s=60)
    assert len(looks) == 1
    lines = [line for line in said.getvalue().splitlines() if "count" in line]
    assert "4" in lines[0].split()
    assert "largest worker" in said.getvalue()
    assert "no run is at work on" in said.getvalue()
    assert "that are not split yet" in said.getvalue()


def test_without_a_terminal_lines_tell_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    stages, said = toy.recipe(), io.StringIO()
    graph = Graph(stages, toy.manifest("a"), Store(tmp_path)).load()
    with Bars(graph, Console(file=said, width=200)) as bars:
        run(graph, Local(tmp_path, stages), on_outcome=bars)
    lines = [line for line in said.getvalue().splitlines() if "left: " in line]
    assert any("count 2/4" in line and "/s" in line and re.search(r"left: \d+ s", line) for line in lines)
