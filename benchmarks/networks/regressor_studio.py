"""`make bench-regressor-studio`: what a regressor learns from rendered hands in so many minutes here, with and without refinement.

A network is judged by its coarse hands and by its refined ones, and beside it, unless `--alone`, one of the same size without refinement
that saw the same crops for the same time; both from scratch, on albums of the test split, which nobody trained on. Beside them stands the
mean hand, which knows nothing of the picture. A run that was stopped is gone on with.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.machine import describe
from pipeline.dataset.studio_shards import StudioShards, write_studio_shards
from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.samples import Crops
from training.regressor.augment import CropAugmentation
from training.regressor.evaluate import Benchmark, evaluate, shards_benchmark
from training.regressor.inference import read
from training.regressor.network import Regressor, RegressorSettings
from training.regressor.task import RegressorTask
from training.run.checkpoint import Checkpoint
from training.run.loop import Run, TrainSettings

RESULTS = Path(__file__).parents[1] / "results"
METRICS = ("pa_mpjpe_mm", "proper_pa_mpjpe_mm", "pa_mpvpe_mm", "root_mpjpe_mm", "pa_f5", "pa_f15")
AUGMENTATION = CropAugmentation(turn_deg=15.0, scale=0.15, masking=0.0)
"""Milder than for long runs: in an epoch or few nothing is learnt by heart."""


def train(folder: Path, out: Path, settings: RegressorSettings, minutes: float, batch: int, rate: float) -> dict[str, Any]:
    """One run to its end; what it took."""
    crops = Crops.of(Dataset.open(folder, "train"), size=384)
    loader = Loader(sources=[crops], batch_size=batch, num_threads=1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = TrainSettings(
        epochs=1000,
        patience=1000,
        learning_rate=rate,
        optimizer="muon",
        weight_decay=1e-2,
        clip_norm=1.0,
        max_minutes=minutes,
        precision="bfloat16",
        warmup_steps=50,
    )
    task = RegressorTask(held_out=None, network_settings=settings, augmentation=AUGMENTATION)
    run = Run(task, loader, chosen, out, device)
    run.train()
    done = Checkpoint.load(out / "last.pt", "regressor").progress
    return {"train_seconds": round(60 * done.minutes, 1), "steps": done.num_steps, "hands_seen": done.num_steps * batch}


def measure(network: Regressor, benchmark: Benchmark) -> dict[str, dict[str, float]]:
    """Figures by estimate."""
    found = evaluate(network, benchmark).evaluations
    return {name: {key: round(one.metrics[key], 3) for key in METRICS} for name, one in found.items()}


def main() -> None:
    """Train both, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/studio_shards"), help="rendered shards; made where there are none")
    parser.add_argument("--out", type=Path, default=Path("runs/regressor_studio"), help="folder of the runs")
    parser.add_argument("--size", choices=("xs", "s", "b"), default="s")
    parser.add_argument("--minutes", type=float, default=40.0, help="of each training")
    parser.add_argument("--alone", action="store_true", help="train no second network without refinement")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--test-hands", type=int, help="the most to measure on (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS / "regressor_studio.json")
    given = parser.parse_args()
    console = Console(width=120)
    machine = describe()
    if not (given.data / "index.json").exists():
        write_studio_shards(given.data, StudioShards(), console)
    plain = RegressorSettings(size=given.size, drop_path=0.0, refine_steps=0)
    networks = {"refined": RegressorSettings(size=given.size, drop_path=0.0)} | ({} if given.alone else {"without_refinement": plain})
    runs = {name: train(given.data, given.out / name, one, given.minutes, given.batch, given.rate) for name, one in networks.items()}
    benchmark = shards_benchmark(given.data, "test", max_hands=given.test_hands)
    torch.manual_seed(0)
    found = measure(read(given.out / "refined" / "last.pt"), benchmark)
    if not given.alone:
        found["without_refinement"] = measure(read(given.out / "without_refinement" / "last.pt"), benchmark)["coarse"]
    found["mean_hand"] = measure(Regressor(plain), benchmark)["coarse"]
    index = json.loads((given.data / "index.json").read_text())["shards"]
    report = {
        "machine": machine,
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "size": given.size,
        "batch": given.batch,
        "rendered_hands": sum(shard["hands"] for shard in index),
        "test_hands": len(benchmark.crops),
        "pa_mpjpe_mm": {name: figures["pa_mpjpe_mm"] for name, figures in found.items()},
        "train_seconds": runs["refined"]["train_seconds"],
        "runs": runs,
        "figures": found,
    }
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text(json.dumps(report, indent=1) + "\n")
    grid = Grid(title=f"ViT-{given.size}, {given.minutes:g} minutes each, {len(benchmark.crops)} rendered hands nobody trained on")
    for column in ("estimate", *METRICS):
        grid.add_column(column, justify="left" if column == "estimate" else "right")
    for name, figures in found.items():
        grid.add_row(name, *(f"{figures[key]:.2f}" for key in METRICS))
    console.print(grid)


if __name__ == "__main__":
    main()
