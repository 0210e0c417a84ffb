"""Commands of training: what is trained is a dataclass, the command line says on what, where and how long."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.samples import Frames
from training.detector.ablations import DetectorRecipe, ablations
from training.detector.network import DetectorSettings
from training.regressor.cli import add_commands as add_regressor_commands
from training.regressor.evaluate_command import add_command as add_regressor_evaluation
from training.run.loop import NotFiniteError, TrainSettings

if TYPE_CHECKING:
    from training.data.readers.labelled_image import LabelledImage
    from training.detector.inference import HandDetector

console = Console(soft_wrap=True)

_LEAST_STEPS = 50
"""Of an epoch: little data is gone through several times before it is measured."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 when done, 1 on a user's error."""
    arguments = build_parser().parse_args(argv)
    try:
        if "image" in arguments and (arguments.image % 32 or arguments.image <= 0):
            raise ValueError(f"--image must be a multiple of 32, got {arguments.image}")
        if getattr(arguments, "gpu", False) and not getattr(arguments, "workers", 0) and not torch.cuda.is_available():
            raise ValueError("--gpu: torch sees no GPU here: leave it out, or look at nvidia-smi and python -m torch.utils.collect_env")
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
    train.add_argument("--size", choices=("s", "m"), help="of the network (default: s, of an ablation m)")
    train.add_argument("--backbone", choices=("darknet", "resnet50", "hrnet"), default="darknet")
    train.add_argument("--backbone-weights", type=Path, help="learned on ImageNet, as torchvision or timm save a resnet50 or hrnet_w32")
    train.add_argument("--image", type=int, default=640, help="side of the images, pixels, a multiple of 32")
    train.add_argument("--batch", type=int, default=16, help="images of a step, of all workers together")
    train.add_argument("--epochs", type=int, default=100)
    train.add_argument("--minutes", type=float, default=math.inf, help="end after this time at the latest")
    train.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    train.add_argument(
        "--ablation", choices=tuple(ablations()), help="a row of WiLoR's Table 2, instead of --backbone, --samples and the --no- options"
    )
    train.add_argument("--samples", type=float, default=1.0, help="share of the data")
    train.add_argument("--no-augmentation", action="store_true")
    train.add_argument("--no-landmarks", action="store_true", help="neither predict nor learn from keypoints")
    train.add_argument("--keypoint-loss", choices=("similarity", "distance"), default="similarity")
    train.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    train.add_argument("--compile", action="store_true", help="torch.compile: minutes at the start, faster steps on a GPU")
    train.add_argument("--threads", type=int, default=2, help="that decode images, of each worker")
    train.add_argument("--workers", type=int, default=0, help="of Ray Train; 0 trains in this process")
    train.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(command=train_detector)
    measure = _on_checkpoint(commands, "evaluate-detector", evaluate_detector, "figures of a checkpoint on labelled images")
    on = measure.add_mutually_exclusive_group(required=True)
    on.add_argument("--data", type=Path, help="folder of shards")
    on.add_argument("--labels", type=Path, help="label file of frames of real video")
    on.add_argument("--coco-wholebody", type=Path, metavar="DIR", help="with annotations/coco_wholebody_val_v1.0.json and val2017/")
    on.add_argument("--oxford-hands", type=Path, metavar="DIR", help="with test_dataset/")
    on.add_argument("--whim", type=Path, metavar="DIR", help="the official labels, with test/anno/")
    measure.add_argument(
        "--media", type=Path, help="folder that --labels' paths start from (default: above the file's own), or of --whim's videos"
    )
    measure.add_argument("--report", type=Path, metavar="DIR", help="add the figures to a page with tables, curves and the worst images")
    measure.add_argument("--beside", type=Path, help="figures of the annotators on the same frames (JSON of whim evaluate hands)")
    measure.add_argument("--split", default="test")
    measure.add_argument("--json", action="store_true")
    watch = _on_checkpoint(commands, "detect", detect_hands, "hands of an image, a video or a camera, drawn and as a table")
    watch.add_argument("source", help="a file, webcam, or webcam:2 for /dev/video2")
    watch.add_argument("--out", type=Path, default=Path("detected"), help="folder")
    watch.add_argument("--table", choices=("parquet", "json"), default="parquet")
    watch.add_argument("--frames", type=int, help="stop after so many")
    write = _on_checkpoint(commands, "export-detector", export_detector, "write a checkpoint for other runtimes")
    write.add_argument("--out", type=Path, required=True, help="file.onnx or file.pt2")
    write.add_argument("--hands", type=int, default=100, help="the most that an image can have")
    add_regressor_commands(commands)
    add_regressor_evaluation(commands)
    return parser


def _on_checkpoint(commands: Any, name: str, command: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
    """A command that uses a trained detector."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--image", type=int, default=640, help="side of the network's images, pixels, a multiple of 32")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score of a hand")
    parser.add_argument("--gpu", action="store_true")
    parser.set_defaults(command=command)
    return parser


def train_detector(arguments: argparse.Namespace) -> None:
    """Train, and say how good the best epoch was."""
    from training.detector.task import DetectorTask
    from training.run.launch import launch

    recipe = _recipe(arguments)
    folders = [Frames(dataset=Dataset.open(folder, "train"), size=arguments.image, share=recipe.share) for folder in arguments.data]
    counts = [len(folder) for folder in folders]
    few = _LEAST_STEPS * arguments.batch if sum(counts) < _LEAST_STEPS * arguments.batch else None
    shares = arguments.weights or (counts if few else None)
    loader = Loader(
        sources=folders,
        batch_size=arguments.batch,
        weights=shares,
        num_samples=few,
        seed=arguments.seed,
        num_threads=arguments.threads,
    )
    held_out = _held_out(arguments.held_out or arguments.data, arguments.image)
    if held_out is None and arguments.held_out:
        raise ValueError(f"no shard of a val or test split in {', '.join(map(str, arguments.held_out))}: nothing to measure on")
    if held_out is None:
        console.print("no shard of a val or test split: nothing is measured, best.pt is the last epoch's", style="yellow")
    task = DetectorTask(
        held_out=held_out,
        network_settings=recipe.network,
        augmentation=recipe.augmentation,
        weights=recipe.weights,
        backbone_weights=arguments.backbone_weights,
    )
    settings = TrainSettings(
        epochs=arguments.epochs,
        learning_rate=arguments.rate,
        max_minutes=arguments.minutes,
        precision=arguments.precision,
        compile=arguments.compile,
        warmup_steps=min(500, max(1, len(loader) * arguments.epochs // 20)),
    )
    metrics = launch(task, loader, settings, arguments.out, num_workers=arguments.workers, use_gpu=arguments.gpu)
    _print(metrics, f"{arguments.out / 'best.pt'}")


def evaluate_detector(arguments: argparse.Namespace) -> None:
    """COCO's figures, precision, recall and side of the averaged weights; on labelled frames of video beside the annotators'."""
    from hands.drawing.sheets import WorstImages
    from training.detector.evaluate import LEAST_SCORE, evaluate, metrics
    from training.detector.report import measured_in, write_report

    if arguments.report:
        measured_in(arguments.report, arguments.checkpoint)
    detector = _detector(arguments, threshold=LEAST_SCORE)
    name, images, min_iou = _test_set(arguments)
    worst = WorstImages(threshold=arguments.threshold, min_iou=min_iou)
    evaluation = evaluate(detector, images, onlooker=worst if arguments.report else None)
    found = metrics(evaluation, threshold=arguments.threshold, min_iou=min_iou)
    if arguments.report:
        write_report(arguments.report, name, arguments.checkpoint, detector, evaluation, found, worst)
    beside = json.loads(arguments.beside.read_text()) if arguments.beside else {}
    beside = {key: beside.get("side_accuracy" if key == "side" else key) for key in found} if beside else {}
    if arguments.json:
        print(json.dumps(dict(found) | ({"beside": beside} if beside else {})))
    else:
        _print(found, f"{arguments.checkpoint} on {evaluation.num_images} images of {name}", beside)


def detect_hands(arguments: argparse.Namespace) -> None:
    """Draw what the detector sees, and write its hands."""
    from training.detector.detect import detect

    frames, hands = detect(_detector(arguments), arguments.source, arguments.out, table_format=arguments.table, max_frames=arguments.frames)
    console.print(f"{hands} hands in {frames} images: {arguments.out}", markup=False)


def export_detector(arguments: argparse.Namespace) -> None:
    """Write a checkpoint as ONNX or by torch.export."""
    from training.detector.export import export

    export(arguments.out, arguments.checkpoint, size=arguments.image, max_hands=arguments.hands)
    console.print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB", markup=False)


def _detector(arguments: argparse.Namespace, threshold: float | None = None) -> "HandDetector":
    from training.detector.inference import HandDetector

    device = "cuda" if arguments.gpu else "cpu"
    return HandDetector.load(arguments.checkpoint, device, size=arguments.image, threshold=threshold or arguments.threshold)


def _recipe(arguments: argparse.Namespace) -> DetectorRecipe:
    """What the options ask for, or the row of the paper's table."""
    if arguments.ablation:
        if arguments.no_augmentation or arguments.no_landmarks or arguments.samples != 1 or arguments.backbone != "darknet":
            raise ValueError("--ablation says what to leave out: give it alone, or --backbone, --samples and the --no- options without it")
        recipe = ablations()[arguments.ablation].recipe
        recipe = replace(recipe, network=replace(recipe.network, size=arguments.size or recipe.network.size))
    else:
        network = DetectorSettings(size=arguments.size or "s", backbone=arguments.backbone)
        recipe = DetectorRecipe(network=network, share=arguments.samples)
    recipe = replace(recipe, weights=replace(recipe.weights, keypoint_loss=arguments.keypoint_loss))
    recipe = recipe.without_augmentation() if arguments.no_augmentation else recipe
    return recipe.without_landmarks() if arguments.no_landmarks else recipe


def _test_set(arguments: argparse.Namespace) -> tuple[str, "Iterator[LabelledImage]", float]:
    """Name of the labelled images asked for, the images, and the overlap at which a hand is found."""
    from training.data.readers.coco_wholebody import coco_wholebody
    from training.data.readers.labelled_frames import MIN_IOU, labelled_frames
    from training.data.readers.official_whim import official_whim
    from training.data.readers.oxford_hands import oxford_hands
    from training.data.readers.shard_frames import shard_frames

    if arguments.labels:
        return arguments.labels.stem, labelled_frames(arguments.labels, arguments.media), MIN_IOU
    if arguments.coco_wholebody:
        return "coco-wholebody", coco_wholebody(arguments.coco_wholebody), 0.5
    if arguments.oxford_hands:
        return "oxford-hands", oxford_hands(arguments.oxford_hands), 0.5
    if arguments.whim:
        return "whim", official_whim(arguments.whim, arguments.media), 0.5
    frames = Frames(dataset=Dataset.open(arguments.data, arguments.split), size=arguments.image)
    place = Path(str(arguments.data).partition("?")[0])  # of a store without what only leads there
    return f"{place.resolve().name}-{arguments.split}", shard_frames(frames), 0.5


def _held_out(folders: Sequence[Path], size: int) -> Frames | None:
    """Frames of val, else of test, of all folders that have any."""
    dataset = Dataset.held_out(folders)
    return Frames(dataset=dataset, size=size) if dataset else None


def _print(metrics: Mapping[str, float], title: str, beside: Mapping[str, float | None] | None = None) -> None:
    grid = Table(title=title)
    grid.add_column("metric")
    grid.add_column("value", justify="right")
    if beside:
        grid.add_column("annotators", justify="right")
    for name, value in metrics.items():
        other = (beside or {}).get(name)
        grid.add_row(name, f"{value:.4f}", *([] if other is None else [f"{other:.4f}"]))
    console.print(grid)
