"""Commands that read a finished folder and write one file, and `pack` alone, killed at a random moment or stopped by a failing call."""

import shutil
import time
from pathlib import Path

from benchmarks.trust.bench import Bench
from benchmarks.trust.runs import ERRORS, bring_to_end, failing

KILLS, CALLS = {"pack": 30, "report": 25, "evaluate": 20}, {"pack": 10, "report": 10, "evaluate": 10}


def disturb(bench: Bench) -> None:
    """Kill each command and fail its calls as often as is wanted; what it writes is whole or not there, and nothing else changes."""
    for name in KILLS:
        data = bench.work / "finished/data"
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(bench.reference, data)
        length_s = _length(bench, name, data)
        while bench.figures[f"kills.{name}"] < bench.wanted(KILLS[name]) or bench.figures[f"failed_calls.{name}"] < bench.wanted(
            CALLS[name]
        ):
            _away(name, data)
            if bench.figures[f"kills.{name}"] < bench.wanted(KILLS[name]):
                running = bench.whim(*_words(bench, name, data))
                time.sleep(bench.dice.uniform(0.02, 1.1 * length_s))
                bench.figures[f"kills.{name}"] += running.kill()
            else:
                before = failing(data, bench.dice.randrange(12), bench.dice.choice(ERRORS))
                bench.figures[f"failed_calls.{name}"] += bench.whim(*_words(bench, name, data), before=before).wait() != 0
            bench.check(data)
            bench.compare(data, of="[!s]*/**/*.parquet")
        _away(name, data)
        bench.whim(*_words(bench, name, data)).wait()
        if name != "pack" and (data / _WRITES[name]).read_bytes() != (bench.reference / _WRITES[name]).read_bytes():
            bench.count(silent_wrong=1)
            bench.note(f"{_WRITES[name]} is another one after kills")
        bring_to_end(bench, data)
        bench.keep()


_WRITES = {"report": "report.html", "evaluate": "truth_score.json"}


def _words(bench: Bench, name: str, data: Path) -> tuple[str | Path, ...]:
    if name == "pack":
        return *bench.asked(data), "--local"
    return ("report", "--data", data) if name == "report" else ("evaluate", "studio", "--data", data, "--truth", bench.work / "truth")


def _away(name: str, data: Path) -> None:
    """Have the command something to do."""
    if name == "pack":
        shutil.rmtree(data / "shards", ignore_errors=True)
    else:
        (data / _WRITES[name]).unlink(missing_ok=True)


def _length(bench: Bench, name: str, data: Path) -> float:
    _away(name, data)
    begin = time.monotonic()
    assert bench.whim(*_words(bench, name, data)).wait() == 0, bench.log.read_text()[-2000:]
    return time.monotonic() - begin
