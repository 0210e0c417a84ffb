"""Commands of training: what is trained is a dataclass, the command line says on what, where and how long."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.detector.augment import Augmentation
from training.detector.network import DetectorSettings
from training.detector.objective import DetectorLossWeights
from training.loader import Loader
from training.loop import NotFiniteError, TrainSettings
from training.products import Frames
from training.shards import Dataset, listed

console = Console(soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 when done, 1 on a user's error."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except (ValueError, OSError, NotFiniteError) as error:
        console.print(f"whim: {error}", style="red", markup=False)
        sys.exit(1)


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train-detector", help="train the hand detector on shards")
    train.add_argument("--data", type=Path, nargs="+", required=True, help="folders of shards (with index.json)")
    train.add_argument("--weights", type=float, nargs="+", help="share of each folder in an epoch")
    train.add_argument("--held-out", type=Path, nargs="+", help="folders to measure on; default: the same")
    train.add_argument("--out", type=Path, default=Path("runs/detector"), help="folder of the run; one that exists is gone on with")
    train.add_argument("--size", choices=("s", "m"), default="s", help="of the network")
    train.add_argument("--image", type=int, default=640, help="side of the pictures, pixels, a multiple of 32")
    train.add_argument("--batch", type=int, default=16, help="pictures of a step, of all workers together")
    train.add_argument("--epochs", type=int, default=100)
    train.add_argument("--minutes", type=float, default=math.inf, help="end after this time at the latest")
    train.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    train.add_argument("--samples", type=float, default=1.0, help="share of the data (ablation)")
    train.add_argument("--no-augmentation", action="store_true", help="ablation")
    train.add_argument("--no-landmarks", action="store_true", help="ablation")
    train.add_argument("--keypoint-loss", choices=("similarity", "distance"), default="similarity")
    train.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    train.add_argument("--workers", type=int, default=0, help="of Ray Train; 0 trains in this process")
    train.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(command=train_detector)
    measure = commands.add_parser("evaluate-detector", help="COCO figures of a checkpoint on shards")
    measure.add_argument("checkpoint", type=Path)
    measure.add_argument("--data", type=Path, required=True)
    measure.add_argument("--split", default="test")
    measure.add_argument("--image", type=int, default=640)
    measure.add_argument("--json", action="store_true")
    measure.set_defaults(command=evaluate_detector)
    return parser


def train_detector(arguments: argparse.Namespace) -> None:
    """Train, and say how good the best epoch was."""
    from training.detector.task import DetectorTask
    from training.launch import launch

    if arguments.image % 32:
        raise ValueError(f"--image must be a multiple of 32, got {arguments.image}")
    folders = [Frames(dataset=Dataset.open(folder, "train"), size=arguments.image, share=arguments.samples) for folder in arguments.data]
    loader = Loader(products=folders, batch_size=arguments.batch, weights=arguments.weights, seed=arguments.seed)
    held_out = _held_out(arguments.held_out or arguments.data, arguments.image)
    if held_out is None:
        console.print("no shard of a val or test split: nothing is measured, best.pt is the last epoch's", style="yellow")
    weights = DetectorLossWeights(keypoint_loss=arguments.keypoint_loss)
    task = DetectorTask(
        held_out=held_out,
        network_settings=DetectorSettings(size=arguments.size, landmarks=not arguments.no_landmarks),
        augmentation=Augmentation.none() if arguments.no_augmentation else Augmentation(),
        weights=replace(weights, keypoints=0.0, visibility=0.0) if arguments.no_landmarks else weights,
    )
    settings = TrainSettings(
        epochs=arguments.epochs,
        learning_rate=arguments.rate,
        max_minutes=arguments.minutes,
        precision=arguments.precision,
        warmup_steps=min(500, max(1, len(loader) * arguments.epochs // 20)),
        average_warmup=min(2000.0, max(1.0, len(loader) * arguments.epochs / 10)),
    )
    metrics = launch(task, loader, settings, arguments.out, num_workers=arguments.workers, use_gpu=arguments.gpu)
    _print(metrics, f"{arguments.out / 'best.pt'}")


def evaluate_detector(arguments: argparse.Namespace) -> None:
    """COCO figures of the averaged weights."""
    from training.detector.inference import HandDetector
    from training.detector.task import judged
    from training.metrics import at_threshold, average_precision

    frames = Frames(dataset=Dataset.open(arguments.data, arguments.split), size=arguments.image)
    detector = HandDetector.load(arguments.checkpoint, size=arguments.image, threshold=0.01)
    truth, said = judged(detector, frames)
    figures = average_precision(truth, said, len(frames), by_side=False)
    figures |= {f"side_{name}": value for name, value in average_precision(truth, said, len(frames), by_side=True).items()}
    figures |= at_threshold(truth, said, 0.3)
    if arguments.json:
        print(json.dumps(figures))
    else:
        _print(figures, f"{arguments.checkpoint} on {len(frames)} frames")


def _held_out(folders: Sequence[Path], size: int) -> Frames | None:
    """Frames of val, else of test, of all folders that have any."""
    paths = [path for folder in folders for path in list(listed(folder, "val")) or list(listed(folder, "test"))]
    return Frames(dataset=Dataset.of(paths), size=size) if paths else None


def _print(figures: Mapping[str, float], title: str) -> None:
    grid = Table(title=title)
    grid.add_column("metric")
    grid.add_column("value", justify="right")
    for name, value in figures.items():
        grid.add_row(name, f"{value:.4f}")
    console.print(grid)
