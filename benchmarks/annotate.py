"""`make bench-annotate`: frames/s of the chain by stage, of decoding, the engine's overhead, memory, one worker against two, and the peer.

Decoding is that of the one reader (`images_of`, every frame, upright, with its time) beside plain PyAV, which is what its documentation
shows: open, decode, `to_ndarray(format="rgb24")`. Both use one thread, as workers do, in turn, and the fastest pass of each clip counts,
in seconds of the processor. `python -m benchmarks.annotate --decode` measures this alone.

The peer is what a user would wire together: a plain loop of the mediapipe package (Tasks API, whole frame, image mode, four hands)
over the same frames of the same clips. It finds hands on the whole frame only; the chain looks for people and at five routes, fuses,
fits, reviews and packs. The ratio of hands counts what each reports, true or not: `whim evaluate annotators` says which are.

`vs_before` is the chain that looks everywhere (`everywhere`) over today's in the same run, in seconds of this process's processor for the
same frames.
"""

import json
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av

from benchmarks.machine import describe
from benchmarks.peer import landmarker
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Executor, Local
from pipeline.engine.nodes.on_ray import OnRay
from pipeline.engine.plan.seats import seat_of
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import Recipe, whim
from stages.detect_hands_mediapipe import DetectHands
from stages.detect_hands_whim import DetectHandsWhim
from stages.detect_people_blazepose import DetectPeople
from stages.detect_people_movenet import DetectPeopleMoveNet
from stages.media.frames import images_of, read_frames
from stages.media.probe import is_video
from stages.stage import Stage
from stages.tables import Clips, Hands, Manifest, Videos

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "annotate.json"
CLIPS = ("asl_yes", "asl_bird", "asl_thanks", "asl_book", "asl_student", "asl_milk", "asl_walk", "asl_help")


def clips(folder: Path) -> Path:
    """Links to eight short real clips, or two rendered ones where there are no real ones."""
    media = Path(os.environ.get("WHIM_MEDIA", ROOT.parent / "shared" / "media")) / "videos" / "intel"
    folder.mkdir()
    for name in CLIPS:
        if (media / f"{name}.mkv").exists():
            (folder / f"{name}.mkv").symlink_to(media / f"{name}.mkv")
    if not list(folder.iterdir()):
        from studio.video import make_videos

        make_videos(folder)
    return folder


def everywhere(manifest: Manifest, root: Path) -> list[Stage]:
    """The recipe `whim` without what spares it looks: people by BlazePose, all tiles, faint wrists, and second looks at every hand of
    both detectors."""

    def then(stage: Stage) -> Stage:
        if isinstance(stage, DetectPeopleMoveNet):
            return DetectPeople()
        if isinstance(stage, DetectHands):
            return replace(stage, guided=False, min_wrist_score=0.05)
        return replace(stage, known_iou=1.0) if isinstance(stage, DetectHandsWhim) else stage

    return [then(stage) for stage in whim(manifest, root)]


def measure(videos: Path, data: Path, num_workers: int, recipe: Recipe = whim) -> dict[str, Any]:
    """One whole run; `num_workers` 0 is the plain loop in this process. Times exclude Ray's own start and the networks' loading."""
    manifest = read_manifest(videos)
    store = Store(data)
    stages = recipe(manifest, store.root)
    executor: Executor = OnRay(store.root, stages, [seat_of(s) for s in stages], num_workers) if num_workers else Local(store.root, stages)
    warm = Graph(stages, manifest.take(slice(0, 1)), store).load()
    run(warm, executor)  # every worker has loaded every network it will need
    if num_workers > 1:
        run(Graph(stages, manifest.take(slice(1, 3)), store).load(), executor)
    graph = Graph(stages, manifest, store).load()
    start, used = time.perf_counter(), time.process_time()
    summary = run(graph, executor)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - used
    journals = [json.loads(line) for file in sorted((data / "runs").iterdir()) for line in file.read_text().splitlines()]
    last = [r for r in journals if r["started_s"] >= summary.started_s]
    by_stage: dict[str, float] = defaultdict(float)
    for receipt in last:
        for outcome in receipt["outcomes"]:
            by_stage[stages[outcome["stage"]].name] += outcome["wall_s"]
        by_stage["decode"] += receipt["decode_s"]
    frames = sum(o["num_frames"] for r in last for o in r["outcomes"] if stages[o["stage"]].detector == DetectHands.detector)
    return {
        "wall_s": wall_s,
        "cpu_s_in_this_process": cpu_s,
        "frames": frames,
        "frames_per_s": frames / wall_s,
        "stage_s": dict(by_stage),
        "frames_per_s_by_stage": {name: round(frames / s, 2) for name, s in by_stage.items() if s > 0},
        "engine_overhead": 1 - sum(by_stage.values()) / (wall_s * max(1, num_workers)),
        "peak_mb": max(r["peak_mb"] for r in last),
    }


def peer(videos: Path, data: Path) -> dict[str, Any]:
    """The mediapipe package over the same sampled frames, decoding included."""
    store = Store(data)
    hands, frames = 0, 0
    with landmarker("hand", 4) as detect:
        start = time.perf_counter()
        for part in sorted((data / "videos").glob("*.parquet")):
            video = store.read(Videos, "videos", part.stem)
            for clip in store.read(Clips, "clips", part.stem).rows():
                for stretch in read_frames(store.root / video.path[0], clip):
                    frames += len(stretch.images)
                    hands += sum(len(detect(image).hand_landmarks) for image in stretch.images)
    return {"frames": frames, "frames_per_s": frames / (time.perf_counter() - start), "hands": hands}


def plain_images(path: Path) -> Iterator[Any]:
    """Every frame of a file as RGB, by PyAV alone."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24")


def decoding(videos: Path, passes: int = 5) -> dict[str, float]:
    """Frames a second of both readers, and their ratio."""
    readers: dict[str, Callable[[Path], Iterator[Any]]] = {"ours": images_of, "pyav": plain_images}
    seconds, frames = dict.fromkeys(readers, 0.0), 0
    for path in filter(is_video, sorted(videos.iterdir())):
        fastest = dict.fromkeys(readers, math.inf)
        for _ in range(passes):
            counts = {}
            for name, read in readers.items():
                start = time.process_time()
                counts[name] = sum(1 for _ in read(path))
                fastest[name] = min(fastest[name], time.process_time() - start)
        assert counts["ours"] == counts["pyav"]
        frames += counts["ours"]
        seconds = {name: seconds[name] + fastest[name] for name in readers}
    rates = {name: round(frames / seconds[name], 1) for name in readers}
    ratio = round(seconds["pyav"] / seconds["ours"], 3)
    return {"decode_frames_per_s": rates["ours"], "decode_frames_per_s_pyav": rates["pyav"], "decode_vs_pyav": ratio}


def main() -> None:
    """Measure, print, and write benchmarks/results/annotate.json."""
    machine = describe()
    if "--decode" in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            write(json.loads(OUT.read_text()) | decoding(clips(Path(folder) / "videos")) | {"decode_machine": machine})
        return
    with tempfile.TemporaryDirectory() as folder:
        videos = clips(Path(folder) / "videos")
        before = measure(videos, Path(folder) / "before", 0, everywhere)
        plain = measure(videos, Path(folder) / "plain", 0)
        one = measure(videos, Path(folder) / "one", 1)
        two = measure(videos, Path(folder) / "two", 2)
        loop = peer(videos, Path(folder) / "plain")
        decoded = decoding(videos)
        num_hands, num_before = (num_hands_in(Path(folder) / name) for name in ("plain", "before"))
    result = {
        "machine": machine,
        "frames_per_s": round(two["frames_per_s"], 2),
        "frames_per_s_by_stage": plain["frames_per_s_by_stage"],
        **decoded,
        "engine_overhead": round(one["engine_overhead"], 4),
        "engine_overhead_in_process": round(plain["engine_overhead"], 4),
        "speedup_two_workers": round(two["frames_per_s"] / one["frames_per_s"], 2),
        "vs_before": round(before["cpu_s_in_this_process"] / plain["cpu_s_in_this_process"], 3),
        "vs_before_hands_found": round(num_hands / max(1, num_before), 3),
        "vs_mediapipe_loop": round(plain["frames_per_s"] / loop["frames_per_s"], 3),
        "vs_mediapipe_loop_hands_found": round(num_hands / max(1, loop["hands"]), 2),
        "peak_mb": round(max(r["peak_mb"] for r in (plain, one, two))),
        "limit": "two workers on two cores can at most double one; the networks alone are the stage figures",
        "runs": {"before": before, "plain": plain, "one_worker": one, "two_workers": two, "mediapipe_loop": loop},
    }
    write(result)


def num_hands_in(data: Path) -> int:
    """Hands in a data folder's tables."""
    store = Store(data)
    return sum(len(store.read(Hands, "hands", part.stem)) for part in (data / "hands").glob("*.parquet"))


def write(result: dict[str, Any]) -> None:
    """Print the figures, and keep them."""
    OUT.write_text(json.dumps(result, indent=1, default=float) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}, indent=1, default=float))
    print(OUT)


if __name__ == "__main__":
    main()
