"""`make bench-detector`: size, speed and training speed of our hand detector beside Ultralytics' networks of the same size, in one run.

Same classes and keypoints, random weights, 640 x 640 pixels, float32, two threads. Ours and the peer's process take turns, `--repeats`
times; a time is the least of all turns, so that what else the machine does falls on neither. Times hold all that comes after the
pictures: ours the choice of the best hands, theirs the suppression of duplicates. Training is a whole step from files to averaged weights.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loading.loader_pictures import HEIGHT, WIDTH, write_files, write_parquet
from benchmarks.machine import describe
from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.samples import Frames
from training.detector.export import export
from training.detector.fast_decode import best_hands
from training.detector.inference import detections, fused
from training.detector.network import Detector, DetectorSettings
from training.detector.task import DetectorTask
from training.run.checkpoint import Checkpoint, Progress
from training.run.loop import Run, TrainSettings

HERE = Path(__file__).parent.absolute()
SIZES, SIDE, HANDS = ("s", "m"), 640, 100
TRAIN_BATCH, TRAIN_STEPS = 8, 3
THREADS = min(2, os.cpu_count() or 1)
THRESHOLD = 0.01


class Peer:
    """The other process; a call is a question and waits for the answer."""

    def __init__(self, folder: Path) -> None:
        python = Path(".env-ultralytics/bin/python")
        if not python.exists():
            raise FileNotFoundError(f"the peer needs {python}: make env-ultralytics")
        environment = os.environ | {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(folder.absolute())}
        command = [str(python.absolute()), str(HERE / "detector_peer.py"), str(folder.absolute())]
        log = (folder / "peer.log").open("w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=folder
        )
        self.facts = self._answer()

    def __call__(self, measure: str, *arguments: Any) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([measure, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("= "):
                return json.loads(line[2:])
        raise RuntimeError("the peer ended: see peer.log in the benchmark's folder")

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    """Write benchmarks/results/detector.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--folder", type=Path, default=Path("data/bench-detector"))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "detector.json")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    machine = describe()
    frames = pictures(arguments.folder)
    peer = Peer(arguments.folder)
    figures: dict[str, Any] = {"machine": machine, "peer": peer.facts, "side": SIDE, "threads": THREADS, "repeats": arguments.repeats}
    for size in arguments.sizes:
        figures[size] = measured(size, frames, peer, arguments.folder, arguments.repeats)
        print(size, json.dumps(figures[size], indent=1), flush=True)
    if torch.cuda.is_available():
        figures["gpu"] = {size: on_gpu(size, peer if peer.facts["gpu"] else None) for size in arguments.sizes}
    peer.close()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


def pictures(folder: Path, count: int = 64) -> Frames:
    """One set of pictures as a shard of ours, and as files with labels of the peer's format."""
    images = folder / "images"
    files = write_files(images, count)
    shards = sorted((folder / "parquet").glob("*.parquet")) or write_parquet(files, folder / "parquet")
    dataset = Dataset.of(shards, folder / "cache")
    of, hands = dataset.hands(list(range(count)), ["box", "side", "keypoints"])
    (folder / "labels").mkdir(exist_ok=True)
    for row, path in enumerate(files):
        lines = []
        for box, side, points in zip(*(values[of == row] for values in hands.values()), strict=True):
            place = np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]]) / np.tile([WIDTH, HEIGHT], 2)
            marks = np.concatenate([points[:, :2] / [WIDTH, HEIGHT], np.full((21, 1), 2)], 1).clip(0, [1, 1, 2])
            lines.append(" ".join([str(side), *(f"{value:.5f}" for value in [*place.clip(0, 1), *marks.ravel()])]))
        (folder / "labels" / f"{path.stem}.txt").write_text("\n".join(lines))
    facts = {"path": str(folder.absolute()), "train": "images", "val": "images", "names": {0: "left", 1: "right"}}
    facts |= {"kpt_shape": [21, 3], "flip_idx": list(range(21))}
    (folder / "pictures.yaml").write_text(json.dumps(facts))
    return Frames(dataset=dataset, size=SIDE)


def measured(size: str, frames: Frames, peer: Peer, folder: Path, repeats: int) -> dict[str, Any]:
    """All figures of one size."""
    told: dict[str, Any] = {**cost(size), "ultralytics": peer("cost", size)}
    runs = {"torch": in_torch(size), "onnxruntime": in_onnxruntime(size, folder)}
    cases = [(runtime, batch) for runtime in runs for batch in (1, 8)]
    times: dict[str, list[tuple[float, float]]] = {f"{runtime}_{batch}": [] for runtime, batch in cases}
    rates = []
    for _ in range(repeats):
        for runtime, batch in cases:
            few = 6 if batch == 1 else 2
            mine = quickest(runs[runtime](batch), few) * 1e3 / batch
            times[f"{runtime}_{batch}"].append((mine, peer("infer", size, runtime, batch, few)))
        rates.append((train(size, frames), peer("train", size, TRAIN_BATCH, TRAIN_STEPS)))
    told["cpu"] = {}
    for name, pairs in times.items():
        mine, theirs = (min(values) for values in zip(*pairs, strict=True))
        told["cpu"][name] = {"ms": round(mine, 1), "ultralytics_ms": round(theirs, 1), "ratio": round(theirs / mine, 3)}
    told["cpu_vs_ultralytics"] = round(math.prod(case["ratio"] for case in told["cpu"].values()) ** (1 / len(cases)), 3)
    mine, theirs = (max(values) for values in zip(*rates, strict=True))
    told["train"] = {"pictures_per_s": round(mine, 2), "ultralytics_pictures_per_s": round(theirs, 2)}
    told["train_vs_ultralytics"] = round(mine / theirs, 3)
    return told


def network_of(size: str) -> Detector:
    """Random, as it is shipped: one head, norms folded."""
    torch.manual_seed(0)
    network = fused(Detector(DetectorSettings(size=size)))  # type: ignore[arg-type]
    assert network.single is not None
    network.heads, network.single = network.single, None
    return network.requires_grad_(False)


def cost(size: str) -> dict[str, float]:
    """Parameters as trained with one head, megabytes in half precision, and arithmetic of a picture in units of 10^9."""
    network = Detector(DetectorSettings(size=size, one_to_one=False)).eval()  # type: ignore[arg-type]
    parameters = sum(p.numel() for p in network.parameters())
    counts = {}
    for name, run in (("gflops", lambda x: detections(network, x)), ("gflops_best_hands", lambda x: best_hands(network, x, HANDS))):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            run(torch.zeros(1, 3, SIDE, SIDE))  # type: ignore[no-untyped-call]
        counts[name] = round(counter.get_total_flops() / 1e9, 2)
    return {"parameters": parameters, "megabytes": round(2 * parameters / 1e6, 2), **counts}


def in_torch(size: str) -> Callable[[int], Callable[[], object]]:
    network = network_of(size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def with_batch(batch: int) -> Callable[[], object]:
        images = torch.rand(batch, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

        @torch.inference_mode()
        def run() -> object:
            said = best_hands(network, images, HANDS)
            good = said.score.amax(2) >= THRESHOLD
            return [[values[k][good[k]] for values in said] for k in range(batch)]

        return run

    return with_batch


def in_onnxruntime(size: str, folder: Path) -> Callable[[int], Callable[[], object]]:
    """The shipped file: a checkpoint, exported."""
    torch.manual_seed(0)
    settings = DetectorSettings(size=size)  # type: ignore[arg-type]
    weights = Detector(settings).state_dict()
    plain = {"size": settings.size}
    saved = Checkpoint(kind="detector", settings=plain, network=weights, ema=weights, optimizer={}, progress=Progress(), data="")
    saved.save(folder / f"{size}.pt")
    export(folder / f"{size}.onnx", folder / f"{size}.pt", size=SIDE, max_hands=HANDS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(folder / f"{size}.onnx"), options, providers=["CPUExecutionProvider"])

    def with_batch(batch: int) -> Callable[[], object]:
        images = np.random.default_rng(0).random((batch, 3, SIDE, SIDE), np.float32)

        def run() -> object:
            box, score, side, keypoints = session.run(["box", "score", "side", "keypoints"], {"images": images})
            good = score >= THRESHOLD
            return [[values[k][good[k]] for values in (box, score, side, keypoints)] for k in range(batch)]

        return run

    return with_batch


def train(size: str, frames: Frames) -> float:
    """Pictures a second of our training loop, from the end of the first step on."""
    num_samples = (1 + TRAIN_STEPS) * TRAIN_BATCH
    loader = Loader(sources=[frames], batch_size=TRAIN_BATCH, weights=[1.0], num_samples=num_samples, num_threads=THREADS)
    task = DetectorTask(held_out=None, network_settings=DetectorSettings(size=size))  # type: ignore[arg-type]
    folder = Path(tempfile.mkdtemp())
    run = Run(task, loader, TrainSettings(), folder)
    run.network.train()
    ends = []
    for batch in loader.epoch(0):
        run._step(batch, 0.0)
        ends.append(time.perf_counter())
    shutil.rmtree(folder)
    return TRAIN_STEPS * TRAIN_BATCH / (ends[-1] - ends[0])


def on_gpu(size: str, peer: Peer | None, repeats: int = 200) -> dict[str, Any]:
    """Milliseconds a picture in half precision: eager, compiled, and as a CUDA graph."""
    network = network_of(size).cuda().half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    told: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    for batch in (1, 8):
        images = torch.rand(batch, 3, SIDE, SIDE, device="cuda", dtype=torch.float16).contiguous(memory_format=torch.channels_last)

        @torch.inference_mode()
        def eager(images: torch.Tensor = images) -> object:
            return best_hands(network, images, HANDS)

        compiled = torch.compile(eager, mode="max-autotune-no-cudagraphs")
        for name, run in (("eager", eager), ("compiled", compiled), ("graph", graphed(compiled))):

            def waited(run: Callable[[], object] = run) -> None:
                run()
                torch.cuda.synchronize()

            ms = quickest(waited, repeats) * 1e3 / batch
            told[f"{name}_{batch}"] = {"ms": round(ms, 3), "pictures_per_s": round(1e3 / ms)}
        if peer:
            told[f"ultralytics_{batch}_ms"] = round(peer("gpu", size, batch, repeats), 3)
    return told


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """A run whose kernels are recorded once and launched together (CUDA graph)."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def quickest(run: Callable[[], object], repeats: int) -> float:
    """Seconds, after one run that does not count."""
    run()
    times = []
    for _ in range(repeats):
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return min(times)


if __name__ == "__main__":
    main()
