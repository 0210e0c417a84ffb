"""Refit a large data folder from its tables alone, by the one command a user types: hands/s, and memory against the number of hands.

The folder has everything that comes before the fit (videos, clips, hands in tracks of 20 s), made by nobody's camera: no video, no
detector.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.fit.problems import invent, invent_track
from fitting.fit import Fitter
from fitting.hand.mano import load_hand_model
from fitting.objective import Objective
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.finish import Where, finish
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.plan.tasks import State, Task, tables_of
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import whim
from stages.tables import LEFT, Clips, Hands, Table, Videos

ROOT = Path(__file__).resolve().parents[2]
HANDS_PER_CLIP, CLIPS_PER_VIDEO = 100, 20
WIDTH, HEIGHT = 1280, 960
T = TypeVar("T", bound=Table)


def measure(exact: Objective, sizes: tuple[int, ...] = (10_000, 100_000)) -> dict[str, Any]:
    """Cost of each number of hands: seconds of the whole command and of the processors, hands/s, peak memory of workers and driver.

    Beside them hands/s without what every command takes to start (from the smallest and the largest number), the microseconds of the
    processors that a hand takes then in all processes of the command, what one takes in one process, and what the solver alone takes of
    it, by single frames: these hang less on who else is at the machine.
    """
    found: dict[str, Any] = {str(size): _measure_one(exact, size) for size in sizes}
    few, many = found[str(min(sizes))], found[str(max(sizes))]
    if len(sizes) > 1:
        more = max(sizes) - min(sizes)
        found["hands_per_s_beyond_start"] = more / (many["wall_s"] - few["wall_s"])
        found["cpu_us_per_hand_beyond_start"] = 1e6 * (many["cpu_s"] - few["cpu_s"]) / more
    return found | {"cpu_us_per_hand": _cpu_us_per_hand(exact), "cpu_us_per_hand_solver": _cpu_us_per_hand_solver(exact)}


def _cpu_us_per_hand_solver(exact: Objective, num_hands: int = 8192) -> float:
    """Microseconds of the processor for a hand's fit alone, on one core, once it is warm."""
    fitter, keypoints, spent = Fitter(load_hand_model()), invent(exact, num_hands).keypoints, list[float]()
    torch.set_num_threads(1)
    for _ in range(4):
        start = time.process_time()
        fitter.fit(keypoints)
        spent.append(time.process_time() - start)
    return 1e6 * float(np.median(spent[1:])) / num_hands


def _cpu_us_per_hand(exact: Objective, num_hands: int = 10_000) -> float:
    """Microseconds of the processor for reading, fitting, writing and reviewing a hand by one worker in this process, once it is warm.

    Parts come into bundles, as they do in a folder of more clips. The first clip, which goes alone, opens the hand model.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = write_folder(Path(folder), exact, num_hands)
        store, manifest = Store(data), read_manifest(Path(folder) / "videos.txt")
        stages = whim(manifest, store.root)
        graph = Graph(stages[: [stage.name for stage in stages].index("review") + 1], manifest, store).load()
        spent: list[float] = []
        with store.bundles.sole():
            compaction = Compaction(store, most_loose=0)
            run(graph, Local(store.root, graph.stages), on_receipt=lambda _: spent.append(time.process_time()), compaction=compaction)
    return 1e6 * (spent[-1] - spent[0]) / (HANDS_PER_CLIP * (len(spent) - 1))


def _measure_one(exact: Objective, num_hands: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        data = write_folder(Path(folder), exact, num_hands)
        command = [sys.executable, "-m", "pipeline", "run", "--data", str(data), "--until", "review"]
        shown = Path(folder) / "shown.txt"
        start = time.perf_counter()
        with shown.open("wb") as out:
            driver = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        driver_mb, spent = 0.0, dict[int, float]()
        while driver.poll() is None:
            driver_mb = max(driver_mb, _peak_mb(driver.pid))
            spent |= _cpu_s_below(driver.pid)
            time.sleep(0.5)
        wall_s = time.perf_counter() - start
        if driver.returncode:
            raise RuntimeError(f"{' '.join(command)}: {shown.read_text()[-2000:]}")
        receipts = [json.loads(line) for log in (data / "runs").iterdir() for line in log.read_text().splitlines()]
        num_clips = len(Store(data).keys("reviews"))
    return {
        "num_clips": num_clips,
        "wall_s": wall_s,
        "cpu_s": sum(spent.values()),
        "hands_per_s": num_hands / wall_s,
        "peak_mb_worker": max(receipt["peak_mb"] for receipt in receipts),
        "peak_mb_driver": driver_mb,
    }


def _peak_mb(pid: int) -> float:
    """Peak memory of a running process, by the kernel; 0 once it has ended. (`wait4` would count what it shared with us at birth.)"""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _cpu_s_below(root: int) -> dict[int, float]:
    """Seconds that a process and those that it started, or they did, have had of the processors, by process."""
    parent, spent = dict[int, int](), dict[int, float]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            told = (folder / "stat").read_text().rpartition(")")[2].split()
            parent[int(folder.name)] = int(told[1])
            spent[int(folder.name)] = (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
    below, before = {root}, 0
    while len(below) > before:
        before = len(below)
        below |= {pid for pid, parent_pid in parent.items() if parent_pid in below}
    return {pid: spent[pid] for pid in below if pid in spent}


def write_folder(folder: Path, exact: Objective, num_hands: int) -> Path:
    """A data folder as a run up to the hands leaves it, parts in bundles and a ledger; its manifest names videos that are nowhere."""
    num_videos = -(-num_hands // (HANDS_PER_CLIP * CLIPS_PER_VIDEO))
    listed = folder / "videos.txt"
    listed.write_text("".join(f"video_{number:05d} split=train\n" for number in range(num_videos)))
    store, manifest = Store(folder / "data"), read_manifest(listed)
    stages = whim(manifest, store.root)
    graph = Graph(stages[: [stage.name for stage in stages].index("fit")], manifest, store).load()
    while items := list(graph.ready()):
        for task in (task for item in items for task in item.tasks):
            stage = graph.stages[task.stage]
            contents = {folder: _content(kind, task, exact) for kind, folder in tables_of(stage).items()}
            store.commit_together(contents, task.key, task.recipe)
            graph.settle(task, State.DONE)
    store.write_json("run.json", {"recipe": "whim", "videos": str(listed)})
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: None, most_loose=0)
    graph.reload().remember()
    return store.root


def _content(kind: type[Table], task: Task, exact: Objective) -> Table:
    if kind is Videos:
        return filled(Videos, 1, video=task.key, path=f"media/{task.key}.mp4", width=WIDTH, height=HEIGHT, frames_per_second=25)
    if kind is Clips:
        n, number = CLIPS_PER_VIDEO, np.arange(CLIPS_PER_VIDEO)
        clip = np.array([f"{task.key}-{i:04d}" for i in number], object)
        times = {"start_s": 20.0 * number, "end_s": 20.0 * (number + 1), "first_frame": 500 * number, "num_frames": 500}
        return filled(Clips, n, clip=clip, video=task.key, **times, frames_per_second=5, ends_with="length")
    if kind is Hands:
        assert isinstance(task.row, Clips)
        return _hands(task.row, exact)
    return kind.empty()


def _hands(clip: Clips, exact: Objective) -> Hands:
    """One hand on every sampled frame, left or right by turns from clip to clip."""
    number = np.arange(HANDS_PER_CLIP)
    side = int(clip.clip[0][-1]) % 2
    keypoints = invent_track(exact, number / 5, seed=int(clip.first_frame[0])).keypoints
    if side == LEFT:
        keypoints[..., 0] = WIDTH - keypoints[..., 0]
    return filled(
        Hands,
        HANDS_PER_CLIP,
        video=clip.video[0],
        frame=clip.first_frame[0] + 5 * number,
        time_s=clip.start_s[0] + number / 5,
        width=WIDTH,
        height=HEIGHT,
        box=np.concatenate([keypoints[..., :2].min(1), keypoints[..., :2].max(1)], 1),
        score=0.9,
        side=side,
        keypoints=keypoints,
        world=np.nan,
        track_length=HANDS_PER_CLIP,
        num_agree=1,
        num_run=1,
    )


def filled(kind: type[T], n: int, **known: Any) -> T:
    """A table of n rows: known columns as given, the rest blank."""
    blank = vars(kind.empty())
    columns = {}
    for name, column in blank.items():
        nothing: Any = "" if column.dtype == object else 0
        values = np.asarray(known.pop(name, nothing), column.dtype)
        columns[name] = np.broadcast_to(values, (n, *column.shape[1:])).copy()
    assert not known, f"{kind.__name__} has no column {', '.join(known)}"
    return kind(**columns)
