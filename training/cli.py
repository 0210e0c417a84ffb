"""Commands of training: what is trained is a dataclass, the command line says on what, where and how long."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from training.average import warmup_for
from training.detector.augment import Augmentation
from training.detector.network import DetectorSettings
from training.detector.objective import DetectorLossWeights
from training.loader import Loader
from training.loop import NotFiniteError, TrainSettings
from training.products import Frames
from training.regressor.cli import add_commands as add_regressor_commands
from training.shards import Dataset, listed

if TYPE_CHECKING:
    from training.detector.inference import HandDetector

console = Console(soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 when done, 1 on a user's error."""
    arguments = build_parser().parse_args(argv)
    try:
        if "image" in arguments and (arguments.image % 32 or arguments.image <= 0):
            raise ValueError(f"--image must be a multiple of 32, got {arguments.image}")
        arguments.command(arguments)
    except (ValueError, OSError, NotFiniteError) as error:
        console.print(f"whim: {error}", style="red", markup=False)
        sys.exit(1)


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(prog="whim", description=__doc__)
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
    measure = _on_checkpoint(commands, "evaluate-detector", evaluate_detector, "figures of a checkpoint on shards or labelled frames")
    on = measure.add_mutually_exclusive_group(required=True)
    on.add_argument("--data", type=Path, help="folder of shards")
    on.add_argument("--labels", type=Path, help="label file of frames of real video")
    measure.add_argument("--media", type=Path, help="folder that the label file's paths start from; default: above the file's own")
    measure.add_argument("--beside", type=Path, help="figures of the annotators on the same frames (JSON of whim evaluate hands)")
    measure.add_argument("--split", default="test")
    measure.add_argument("--json", action="store_true")
    watch = _on_checkpoint(commands, "detect", detect_hands, "hands of a picture, a video or a camera, drawn and as a table")
    watch.add_argument("source", help="a file, webcam, or webcam:2 for /dev/video2")
    watch.add_argument("--out", type=Path, default=Path("detected"), help="folder")
    watch.add_argument("--table", choices=("parquet", "json"), default="parquet")
    watch.add_argument("--frames", type=int, help="stop after so many")
    write = _on_checkpoint(commands, "export-detector", export_detector, "write a checkpoint for other runtimes")
    write.add_argument("--out", type=Path, required=True, help="file.onnx or file.pt2")
    write.add_argument("--hands", type=int, default=100, help="the most that a picture can have")
    add_regressor_commands(commands)
    return parser


def _on_checkpoint(commands: Any, name: str, command: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
    """A command that uses a trained detector."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--image", type=int, default=640, help="side of the network's pictures, pixels, a multiple of 32")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score of a hand")
    parser.add_argument("--gpu", action="store_true")
    parser.set_defaults(command=command)
    return parser


def train_detector(arguments: argparse.Namespace) -> None:
    """Train, and say how good the best epoch was."""
    from training.detector.task import DetectorTask
    from training.launch import launch

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
        average_warmup=warmup_for(len(loader) * arguments.epochs),
    )
    metrics = launch(task, loader, settings, arguments.out, num_workers=arguments.workers, use_gpu=arguments.gpu)
    _print(metrics, f"{arguments.out / 'best.pt'}")


def evaluate_detector(arguments: argparse.Namespace) -> None:
    """Figures of the averaged weights: COCO's on shards; recall, precision and side on labelled frames, beside the annotators'."""
    from training.detector.labelled import evaluate_labelled
    from training.detector.task import judged
    from training.metrics import at_threshold, average_precision

    detector = _detector(arguments, threshold=0.01)
    if arguments.labels:
        figures = dict(evaluate_labelled(detector, arguments.labels, arguments.media, threshold=arguments.threshold))
        title = f"{arguments.checkpoint} on {arguments.labels}"
    else:
        frames = Frames(dataset=Dataset.open(arguments.data, arguments.split), size=arguments.image)
        truth, said = judged(detector, frames)
        figures = average_precision(truth, said, len(frames), by_side=False)
        figures |= {f"side_{name}": value for name, value in average_precision(truth, said, len(frames), by_side=True).items()}
        figures |= at_threshold(truth, said, arguments.threshold)
        title = f"{arguments.checkpoint} on {len(frames)} frames"
    beside = json.loads(arguments.beside.read_text()) if arguments.beside else {}
    beside = {name: beside.get("side_accuracy" if name == "side" else name) for name in figures} if beside else {}
    if arguments.json:
        print(json.dumps(figures | ({"beside": beside} if beside else {})))
    else:
        _print(figures, title, beside)


def detect_hands(arguments: argparse.Namespace) -> None:
    """Draw what the detector sees, and write its hands."""
    from training.detector.detect import detect

    frames, hands = detect(_detector(arguments), arguments.source, arguments.out, table_format=arguments.table, max_frames=arguments.frames)
    console.print(f"{hands} hands in {frames} pictures: {arguments.out}", markup=False)


def export_detector(arguments: argparse.Namespace) -> None:
    """Write a checkpoint as ONNX or by torch.export."""
    from training.detector.export import export

    export(arguments.out, arguments.checkpoint, size=arguments.image, max_hands=arguments.hands)
    console.print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB", markup=False)


def _detector(arguments: argparse.Namespace, threshold: float | None = None) -> "HandDetector":
    from training.detector.inference import HandDetector

    device = "cuda" if arguments.gpu else "cpu"
    return HandDetector.load(arguments.checkpoint, device, size=arguments.image, threshold=threshold or arguments.threshold)


def _held_out(folders: Sequence[Path], size: int) -> Frames | None:
    """Frames of val, else of test, of all folders that have any."""
    paths = [path for folder in folders for path in list(listed(folder, "val")) or list(listed(folder, "test"))]
    return Frames(dataset=Dataset.of(paths), size=size) if paths else None


def _print(figures: Mapping[str, float], title: str, beside: Mapping[str, float | None] | None = None) -> None:
    grid = Table(title=title)
    grid.add_column("metric")
    grid.add_column("value", justify="right")
    if beside:
        grid.add_column("annotators", justify="right")
    for name, value in figures.items():
        other = (beside or {}).get(name)
        grid.add_row(name, f"{value:.4f}", "" if other is None else f"{other:.4f}")
    console.print(grid)
