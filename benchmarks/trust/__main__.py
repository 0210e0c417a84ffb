"""Kills, failing system calls, flipped bits and hostile inputs against the real chain, counted: `python -m benchmarks.trust`.

Counted are rows lost, rows doubled, silent wrong values, code of others run, files outside touched, and tracebacks shown; all are to be
zero. Each phase goes on from where it stood when the same `--work` folder is given again.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.trust import commands, flips, hostile, ray_kills, runs, training
from benchmarks.trust.bench import Bench

RESULT = Path(__file__).parents[1] / "results" / "trust.json"
SOURCE = Path(__file__).parent / "failing_calls.c"
PHASES = {
    "runs": runs.disturb,
    "commands": commands.disturb,
    "training": training.disturb,
    "ray": ray_kills.disturb,
    "flips": flips.flip,
    "hostile": hostile.feed,
}
TOTALS = ("kills", "flips", "hostile_inputs", "failed_calls")
FAULTS = ("rows_lost", "rows_doubled", "silent_wrong", "code_run", "files_outside_touched", "tracebacks")


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the disturbances of a whole run")
    parser.add_argument("--only", nargs="+", choices=tuple(PHASES), default=tuple(PHASES))
    parser.add_argument("--again", nargs="+", choices=tuple(PHASES), default=(), help="phases to begin anew, what they counted forgotten")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder to work in, and to go on in (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    _preload()
    with tempfile.TemporaryDirectory(prefix="trust-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        bench = Bench.at(work, given.share)
        try:
            for name in given.only:
                bench.dice = random.Random(f"{name} {given.seed}")
                bench.begin(name, again=name in given.again)
                PHASES[name](bench)
                bench.look_around()
                bench.keep()
        finally:
            bench.close()
    figures = sum(bench.by_phase.values(), Counter[str]())
    by_kind = {
        total: {name.partition(".")[2]: n for name, n in sorted(figures.items()) if name.startswith(f"{total}.")} for total in TOTALS
    }
    result = {
        **{total: sum(by_kind[total].values()) for total in TOTALS},
        **{fault: figures[fault] for fault in FAULTS},
        "by_kind": by_kind,
        "more": {name: n for name, n in sorted(figures.items()) if "." not in name and name not in FAULTS},
        "commits": bench.commits,
        "seed": given.seed,
        "machine": describe(),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(2 if any(result[fault] for fault in FAULTS) else 0)


def _preload() -> None:
    """Start again with the library of failing calls in this process and its children."""
    if "failing_calls" in os.environ.get("LD_PRELOAD", ""):
        return
    library = Path(tempfile.mkdtemp(prefix="failing_calls-")) / "failing_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.trust", *sys.argv[1:]])


if __name__ == "__main__":
    main()
