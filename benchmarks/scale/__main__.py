"""`make bench-scale`: what a clip costs the engine as a dataset grows, in time, files, bytes and memory; beside Ray Data.

Stages are trivial (`benchmarks.scale.clips`), so that what is measured is the engine: plan, commit, ledger, status, report. A run works
in its own process, each part flushed to the disk as ever; what a second command takes is measured in a fresh one. `seconds_per_clip` are
of the processor, `wall_seconds_per_clip` of the clock. `planned`: a folder too large to be run here, as a run would leave it, but that
the parts of its clips are empty files of which the ledger speaks (`benchmarks.scale.planned`): plan and status open none of them.
`vs_before`: the same clips by an earlier checkout, one after the other. `vs_ray_data` (`benchmarks.scale.peer`): the same clips and
functions through Ray Data. `object_store` (`benchmarks.scale.objects`): objects and requests of a folder on S3.

    python -m benchmarks.scale [--clips 100,1000,10000] [--planned 1000000] [--before CHECKOUT] [--peer 500] [--objects 1000]
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.machine import describe

_T = TypeVar("_T")

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "benchmarks" / "results" / "scale.json"
STEPS = ("run", "plan", "status", "report")
NUM_TABLES = 2
"""Tables of clips."""


def main() -> None:
    """Measure each size in processes of its own, then the peers."""
    parser = argparse.ArgumentParser(description="what a clip costs as a dataset grows")
    parser.add_argument("--clips", default="100,1000,10000", help="numbers of clips, parted by commas")
    parser.add_argument("--planned", type=int, default=0, help="clips of a folder that is planned alone; 0 = none")
    parser.add_argument("--before", type=Path, help="an earlier checkout with this benchmark, that does the largest of --clips as well")
    parser.add_argument("--peer", type=int, default=500, help="clips that Ray Data works on as well; 0 = none")
    parser.add_argument("--objects", type=int, default=1000, help="clips of a folder in an object store; 0 = none")
    parser.add_argument("--steps", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps:
        folder, num_clips = arguments.steps
        print(json.dumps(measure(Path(folder), int(num_clips))))
        return
    figures: dict[str, Any] = {"machine": describe()}
    sizes = {int(num_clips): _of(int(num_clips)) for num_clips in arguments.clips.split(",")}
    figures |= summary(sizes)
    if arguments.before:
        figures["vs_before"] = versus(arguments.before, max(sizes), sizes[max(sizes)])
    if arguments.planned:
        figures["planned"] = _planned(arguments.planned)
    if arguments.peer:
        from benchmarks.scale.peer import rates

        figures["vs_ray_data"] = rates(arguments.peer)
    if arguments.objects:
        from benchmarks.scale.objects import rates as of_objects

        figures["object_store"] = of_objects(arguments.objects)
    OUT.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def _steps(folder: str, num_clips: int, checkout: Path = ROOT) -> dict[str, Any]:
    """Seconds and memory of run, plan, status and report on so many clips, each measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--steps", folder, str(num_clips)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=checkout, env=environment).stdout
    return dict(json.loads(told.splitlines()[-1]))


def versus(checkout: Path, num_clips: int, ours: dict[str, Any]) -> dict[str, Any]:
    """How many times longer an earlier checkout takes for the same clips, by processor and by clock."""
    theirs = _of(num_clips, checkout)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, stdout=subprocess.PIPE, text=True, cwd=checkout).stdout
    seconds = {clock: {step: round(theirs[clock][step] / num_clips, 7) for step in STEPS} for clock in ("cpu_s", "wall_s")}
    times = {clock: {step: round(theirs[clock][step] / ours[clock][step], 2) for step in STEPS} for clock in ("cpu_s", "wall_s")}
    peaks = {"driver_peak_mb": theirs["peak_mb"]}
    return {"commit": commit.strip(), "num_clips": num_clips, "seconds_per_clip": seconds, "times_ours": times} | peaks


def _planned(num_clips: int) -> dict[str, Any]:
    """The figures of plan and status of a folder that nobody ran."""
    from benchmarks.scale.planned import pretend

    with tempfile.TemporaryDirectory(prefix="whim-scale-") as folder:
        maker = multiprocessing.get_context("spawn").Process(target=pretend, args=(Path(folder), num_clips))
        maker.start()
        maker.join()
        again = _steps(folder, num_clips)
    seconds = {clock: {step: round(again[clock][step] / num_clips, 7) for step in ("plan", "status")} for clock in ("cpu_s", "wall_s")}
    made = "as a run leaves it, but that parts of clips are empty files; the ledger and the parts of videos are real"
    return {"num_clips": num_clips, "folder": made, "seconds_per_clip": seconds, "driver_peak_mb": again["peak_mb"]}


def _of(num_clips: int, checkout: Path = ROOT) -> dict[str, Any]:
    """The figures of a dataset of so many clips: the first process runs all of it, the second finds all of it done."""
    with tempfile.TemporaryDirectory(prefix="whim-scale-") as folder:
        run, again = (_steps(folder, num_clips, checkout) for _ in range(2))
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        in_parts = [path for path in files if {"hands", "reviews"} & set(path.relative_to(folder).parts)]
        told = {"files": len(in_parts), "bytes": sum(path.stat().st_size for path in files), "peak_mb": again["peak_mb"]}
    figures = {clock: {**again[clock], "run": run[clock]["run"]} for clock in ("cpu_s", "wall_s")} | told
    print(num_clips, figures, flush=True)
    return figures


def measure(folder: Path, num_clips: int) -> dict[str, Any]:
    """Seconds of each step by processor and by clock, and the most memory up to the status."""
    from benchmarks.scale.clips import manifest, recipe
    from benchmarks.scale.planned import PLANNED_ONLY
    from pipeline.engine.finish import Where, finish
    from pipeline.engine.graph import Graph
    from pipeline.engine.store import Store
    from pipeline.report.status import as_json

    store, stages, listed = Store(folder), recipe(num_clips), manifest(num_clips)
    timed = Timed()
    graph = timed("plan", lambda: Graph(stages, listed, store).load())
    if is_planned_only := (folder / PLANNED_ONLY).exists():
        assert not graph.pending
    timed("run", lambda: finish(graph, Where(local=True), on_outcome=lambda task, outcome: None))
    timed("status", lambda: as_json(graph))
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if not is_planned_only:
        from pipeline.report.page import write_report  # after the peak: it loads much, whatever the size

        timed("report", lambda: write_report(folder, folder / "report.html", num_pictures=0))
    return {"cpu_s": timed.cpu_s, "wall_s": timed.wall_s, "peak_mb": peak_mb}


class Timed:
    """Seconds of steps, by name."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.wall_s: dict[str, float] = {}

    def __call__(self, step: str, work: Callable[[], _T]) -> _T:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        result = work()
        self.cpu_s[step], self.wall_s[step] = time.process_time() - cpu_s, time.perf_counter() - wall_s
        return result


def summary(sizes: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Figures by their names; `cost_growth`: what a clip costs at the largest size over what it costs at 1,000, or the next above."""
    first, last = min((n for n in sizes if n >= 1000), default=min(sizes)), max(sizes)

    def per_clip(clock: str) -> dict[str, dict[int, float]]:
        return {step: {n: round(size[clock][step] / n, 7) for n, size in sizes.items()} for step in STEPS}

    seconds = per_clip("cpu_s")
    return {
        "seconds_per_clip": seconds,
        "wall_seconds_per_clip": per_clip("wall_s"),
        "cost_growth": {step: round(of[last] / max(of[first], 1e-9), 3) for step, of in seconds.items()},
        "driver_peak_mb": {n: size["peak_mb"] for n, size in sizes.items()},
        "files_per_clip": {n: round(size["files"] / n / NUM_TABLES, 3) for n, size in sizes.items()},
        "bytes_per_clip": {n: round(size["bytes"] / n) for n, size in sizes.items()},
    }


if __name__ == "__main__":
    main()
