"""`make gpu-check`: a machine with a GPU in under eight minutes: every network and the fit against the CPU, then their rates, as JSON.

Without a GPU the same code runs small on the CPU, and the parts that need one are named. Networks have random weights, but for
MediaPipe's; a part that raises is reported by its error, and the others go on. Ends with 1 where a part failed or numbers differ.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import describe

RESULTS = Path(__file__).parent / "results" / "gpu.json"
BUDGET_S = 460.0
"""A part that would begin later is left out and named."""
TOLERANCE = {"mediapipe": 1e-4, "torch": 1e-3, "fit": 2e-2}
"""Largest difference allowed, as a share of the largest number; of the fit, of its mean objective."""
MEDIAPIPE = {"palm_detection_full": 192, "hand_landmark_full": 224, "pose_detection": 224, "pose_landmark_full": 256}

Part = Callable[[str, bool], Any]
"""A device and whether to run small: figures."""


def mediapipe_networks(device: str, small: bool) -> dict[str, float]:
    """The largest difference of each network by torch on the device from LiteRT on the CPU, of the outputs that are read."""
    import cv2

    from benchmarks.fit.rendered_hands import render
    from stages.detectors.mediapipe.models import load

    scenes, apart = [scene.image for scene in islice(render("still", 7), 2)], {}
    for name, size in MEDIAPIPE.items():
        images = np.stack([cv2.resize(image, (size, size)) for image in scenes]).astype(np.float32) / 255
        pairs = list(zip(load(name, "torch", device=device)(images), load(name)(images), strict=True))[:2]
        apart[name] = max(float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1.0)) for ours, theirs in pairs)
    return apart


def torch_networks(device: str, small: bool) -> dict[str, float]:
    """The largest difference of the ensemble's networks, the detector and the regressor from the CPU, in full float32 on both."""
    from benchmarks.networks.detector import network_of
    from stages.detectors.alphapose.network import FastPose
    from stages.detectors.networks import ready
    from stages.detectors.openpose_hand import HandNetwork
    from training.regressor.network import Regressor, RegressorSettings

    torch.manual_seed(0)
    regressor = Regressor(RegressorSettings(size="xs" if small else "b", drop_path=0.0))
    networks: dict[str, tuple[torch.nn.Module, tuple[int, ...], Callable[[Any], Tensor]]] = {
        "alphapose": (FastPose(136), (2, 3, 256, 192), lambda said: said),
        "openpose_hand": (HandNetwork(), (2, 3, 96, 96), lambda said: said),
        "detector": (network_of("s"), (2, 3, 320, 320), lambda said: torch.cat([level.flatten(1) for level in _tensors(said)], 1)),
        "regressor": (regressor, (2, 3, 256, 256), lambda said: said[-1].vertices),
    }
    apart = {}
    with torch.backends.cudnn.flags(allow_tf32=False):
        for name, (network, shape, read) in networks.items():
            batch = torch.rand(shape, generator=torch.Generator().manual_seed(0))
            wanted, said = (read(ready(network, device=place, bf16=False)(batch)).float().cpu() for place in ("cpu", device))
            apart[name] = float((said - wanted).abs().max() / wanted.abs().max())
    return apart


def _tensors(said: Any) -> list[Tensor]:
    """Every tensor of a network's answer, in order."""
    if isinstance(said, Tensor):
        return [said]
    return [tensor for value in said or () for tensor in _tensors(value)]


def fit(device: str, small: bool) -> dict[str, float]:
    """Hands/s of the fit, and how far its mean reprojection loss is from the CPU's on the same hands."""
    from benchmarks.fit.problems import invent
    from benchmarks.fit.speed import ours
    from fitting.fit import Fitter
    from fitting.hand.mano import load_hand_model
    from fitting.objective import Objective
    from fitting.priors.prior import pose_prior
    from fitting.settings import FitSettings

    exact, settings = load_hand_model(dtype=torch.float64), FitSettings()
    objective = Objective.of(exact, pose_prior(exact, settings.num_components, settings.prior_noise), settings)
    problems = invent(objective, 256 if small else 8192)
    few = problems.take(256)
    losses = [
        float(Fitter(load_hand_model(device=place), settings).fit(few.keypoints).loss_reprojection.mean()) for place in ("cpu", device)
    ]
    rate, _ = ours(load_hand_model(device=device), problems, 1)
    return {"hands_per_s": rate, "apart": abs(losses[1] - losses[0]) / losses[0]}


def chain(device: str, small: bool) -> dict[str, Any]:
    """Frames/s of the recipe `whim` in one process, from decoding to shards, on rendered video; seconds by stage."""
    from pipeline.engine.graph import Graph
    from pipeline.engine.nodes.executor import Local
    from pipeline.engine.run import run
    from pipeline.engine.store import Store
    from pipeline.manifest import read_manifest
    from pipeline.recipes import whim
    from studio.video import Film, make_videos

    with tempfile.TemporaryDirectory() as folder:
        make_videos(Path(folder) / "videos", 2, Film(seconds=1.0 if small else 8.0, frames_per_second=10))
        store, manifest = Store(Path(folder) / "data"), read_manifest(Path(folder) / "videos")
        stages = whim(manifest, store.root)
        executor = Local(store.root, stages)
        run(Graph(stages, manifest.take(slice(0, 1)), store).load(), executor)  # networks are opened, the fit is compiled
        before = {path.name for path in (store.root / "runs").iterdir()}
        summary = run(Graph(stages, manifest, store).load(), executor)
        logs = [path for path in (store.root / "runs").iterdir() if path.name not in before] or [*(store.root / "runs").iterdir()]
        outcomes = [one for log in logs for line in log.read_text().splitlines() for one in json.loads(line)["outcomes"]]
    last = outcomes[-len(stages) * 2 :]
    seconds = {stage.name: round(sum(one["wall_s"] for one in last if one["stage"] == k), 3) for k, stage in enumerate(stages)}
    frames = max((one["num_frames"] for one in last), default=0)
    return {"frames_per_s": frames / summary.wall_s, "seconds_by_stage": seconds}


def detector_rates(device: str, small: bool) -> dict[str, Any]:
    """Pictures/s of the detector in half precision: eager, compiled, as a CUDA graph; on a CPU eager alone, in float32."""
    from benchmarks.networks.detector import in_torch, on_gpu, quickest

    if device == "cuda":
        return on_gpu("s", None, repeats=100)
    seconds = quickest(in_torch("s")(1), 2)
    return {"eager_1": {"ms": round(seconds * 1e3, 1), "pictures_per_s": round(1 / seconds, 2)}}


def detector_training(device: str, small: bool) -> float:
    """Images/s of whole steps of the detector's training, from files to averaged weights."""
    from benchmarks.loading.loader_pictures import write_files, write_parquet
    from benchmarks.networks.detector import train
    from training.data.dataset import Dataset
    from training.data.samples import Frames

    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder) / "images", 8 if small else 256)
        dataset = Dataset.of(write_parquet(files, Path(folder) / "parquet"), Path(folder) / "cache")
        return train("s", Frames(dataset=dataset, size=128 if small else 640))


def regressor_training(device: str, small: bool) -> dict[str, Any]:
    """Hands/s of the regressor forward and in training, and the share of the device's peak that training reaches."""
    from benchmarks.networks.regressor import measure

    return measure("xs" if small else "b", device, 2 if small else 128)


PARTS: Mapping[str, Part] = {
    "mediapipe_networks": mediapipe_networks,
    "torch_networks": torch_networks,
    "fit": fit,
    "chain": chain,
    "detector": detector_rates,
    "detector_training_images_per_s": detector_training,
    "regressor": regressor_training,
}
NEEDS_GPU = {"detector": "compiled and as a CUDA graph", "regressor": "MFU"}
"""What of a part is not measured without a GPU."""


def faults(figures: Mapping[str, Any]) -> list[str]:
    """Numbers that differ from the CPU's by more than they may, and parts that raised."""
    found = [f"{name}: {value['error']}" for name, value in figures.items() if isinstance(value, dict) and "error" in value]
    for name, kind in (("mediapipe_networks", "mediapipe"), ("torch_networks", "torch")):
        apart = figures.get(name, {})
        found += [f"{one} is {value:.2g} apart" for one, value in apart.items() if one != "error" and not value <= TOLERANCE[kind]]
    apart = figures.get("fit", {}).get("apart", 0.0)
    return found + ([f"the fit is {apart:.2g} apart"] if not apart <= TOLERANCE["fit"] else [])


def check(parts: Mapping[str, Part], device: str, budget_s: float = BUDGET_S) -> dict[str, Any]:
    """Figures of every part, with its seconds; what was left out is named."""
    start, small = time.monotonic(), device == "cpu"
    figures: dict[str, Any] = {}
    skipped = {name: f"needs a GPU: {what}" for name, what in NEEDS_GPU.items() if small and name in parts}
    seconds: dict[str, float] = {}
    for name, part in parts.items():
        begun = time.monotonic()
        if begun - start > budget_s:
            skipped[name] = f"no time left after {begun - start:.0f} s"
            continue
        try:
            figures[name] = part(device, small)
        except Exception as error:  # the others still say what they have to say
            figures[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        seconds[name] = round(time.monotonic() - begun, 1)
        print(f"{name}: {json.dumps(figures[name], default=float)} ({seconds[name]} s)", file=sys.stderr, flush=True)
    peak = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None
    return figures | {"seconds": seconds, "skipped": skipped, "peak_gpu_mb": peak, "faults": faults(figures)}


def main() -> int:
    """Print the figures, and write them where a GPU was checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--out", type=Path, help=f"where to write them (default: {RESULTS.name} among the results, where there is a GPU)")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU: the CPU's part, small"
    result = {"device": name, "machine": describe(), **check({part: PARTS[part] for part in arguments.parts}, device)}
    print(json.dumps(result, indent=1, default=float))
    out = arguments.out or (RESULTS if device == "cuda" else None)
    if out:
        out.write_text(json.dumps(result, indent=1, default=float) + "\n")
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
