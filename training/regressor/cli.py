"""The regressor's commands, as options of `whim`; `training.cli` calls `add_commands`."""

import argparse
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from training.regressor.ablations import ABLATIONS
from training.run.loop import TrainSettings

SIDE = 384
"""Of the training images, pixels: three times the hand's box, at the resolution that the network's 256 pixels have of twice the box."""


def add_commands(commands: Any) -> None:
    """`train-regressor`, `reconstruct`, `export-regressor`."""
    train = commands.add_parser("train-regressor", help="train the MANO regressor on shards")
    train.add_argument("--data", type=Path, nargs="+", default=[], help="folders of shards (with index.json)")
    train.add_argument("--freihand", type=Path, help="folder of the official files, to train on besides or alone")
    train.add_argument("--ho3d", type=Path, help="folder of the official files, to train on besides or alone")
    train.add_argument("--weights", type=float, nargs="+", help="share of each set in an epoch: folders, then FreiHAND, then HO3D")
    train.add_argument("--held-out", type=Path, help="folder to measure on (default: the first); its split val")
    train.add_argument("--held-out-hands", type=int, default=1000, help="of it, the most that an epoch is measured on")
    train.add_argument("--out", type=Path, default=Path("runs/regressor"), help="folder of the run; one that exists is gone on with")
    train.add_argument("--size", choices=("xs", "s", "b", "l", "h"), default="h", help="of the transformer")
    train.add_argument("--ablation", choices=tuple(ABLATIONS), default="full", help="a row of WiLoR's Table 5")
    train.add_argument("--refine-steps", type=int, help="times that the coarse hand is mended (default: the row's)")
    train.add_argument("--aggregation", nargs="+", choices=("mean", "max", "sum", "joints"), help="of the vertices' features")
    train.add_argument("--vitpose", type=Path, help="ViTPose checkpoint that the transformer begins with")
    train.add_argument("--layer-decay", type=float, help="of the learning rate, block by block (default: 0.75 with --vitpose, else 1)")
    train.add_argument("--no-adversary", action="store_true", help="without the discriminator")
    train.add_argument("--no-augmentation", action="store_true", help="crops as they are")
    train.add_argument("--augmentation", type=json.loads, default={}, metavar="JSON", help='of its settings, such as {"turned": 0}')
    train.add_argument("--loss", type=json.loads, default={}, metavar="JSON", help='weights of terms, such as {"points": 0.4}')
    train.add_argument("--drop-path", type=float, help="share of the samples that skip the last block (default: by size)")
    train.add_argument("--min-quality", type=float, default=0.0, help="least quality of a hand")
    train.add_argument("--samples", type=float, help="share of the data (default: the row's)")
    train.add_argument("--batch", type=int, default=256, help="hands of a step, of all workers together")
    train.add_argument("--epochs", type=int, default=100)
    train.add_argument("--minutes", type=float, default=math.inf, help="end after this time at the latest")
    train.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    train.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw", help="muon learns faster from scratch")
    train.add_argument("--warmup", type=int, default=2000, help="steps over which it rises, a twentieth of the run at the most")
    train.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    train.add_argument("--compile", action="store_true", help="torch.compile: minutes at the start, faster steps on a GPU")
    train.add_argument("--checkpoint-activations", action="store_true", help="less memory, more arithmetic: for l and h")
    train.add_argument("--threads", type=int, default=2, help="that decode images, of each worker")
    train.add_argument("--workers", type=int, default=0, help="of Ray Train; 0 trains in this process")
    train.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(command=train_regressor)
    show = commands.add_parser("reconstruct", help="hands of an image or a video in space: meshes, overlay, parameters")
    show.add_argument("source", help="a file")
    show.add_argument("--detector", type=Path, default=Path("runs/detector/best.pt"), help="checkpoint")
    show.add_argument("--regressor", type=Path, default=Path("runs/regressor/best.pt"), help="checkpoint")
    show.add_argument("--out", type=Path, default=Path("reconstructed"), help="folder")
    show.add_argument("--meshes", choices=("glb", "obj", "none"), default="glb", help="a file a frame, an object a hand")
    show.add_argument("--focal", type=float, metavar="PIXELS", help="focal length, where it is known")
    show.add_argument("--smooth", type=float, default=0.05, metavar="SECONDS", help="deviation over time; 0: every frame by itself")
    show.add_argument("--threshold", type=float, default=0.3, help="least score of a hand")
    show.add_argument("--detector-image", type=int, default=640, help="side of the detector's images, pixels, a multiple of 32")
    show.add_argument("--frames", type=int, help="stop after so many")
    show.add_argument("--gpu", action="store_true")
    show.set_defaults(command=reconstruct_hands)
    write = commands.add_parser("export-regressor", help="write a checkpoint as ONNX")
    write.add_argument("checkpoint", type=Path)
    write.add_argument("--out", type=Path, required=True, help="file.onnx")
    write.set_defaults(command=export_regressor)


def train_regressor(arguments: argparse.Namespace) -> None:
    """Train, and print how good the best epoch was."""
    from rich.console import Console

    from training.data.loader import Loader
    from training.run.launch import launch

    loader = Loader(
        sources=_sources(arguments),
        batch_size=arguments.batch,
        weights=arguments.weights,
        seed=arguments.seed,
        num_threads=arguments.threads,
    )
    num_steps = len(loader) * arguments.epochs
    settings = TrainSettings(
        epochs=arguments.epochs,
        learning_rate=arguments.rate,
        optimizer=arguments.optimizer,
        weight_decay=1e-4,
        clip_norm=1.0,
        max_minutes=arguments.minutes,
        precision=arguments.precision,
        compile=arguments.compile,
        patience=arguments.epochs,
        warmup_steps=min(arguments.warmup, max(1, num_steps // 20)),
    )
    metrics = launch(_task(arguments), loader, settings, arguments.out, num_workers=arguments.workers, use_gpu=arguments.gpu)
    console = Console(soft_wrap=True)
    for name, value in metrics.items():
        console.print(f"{name} {value:.4f}", markup=False)
    console.print(f"{arguments.out / 'best.pt'}", markup=False)


def reconstruct_hands(arguments: argparse.Namespace) -> None:
    """Find hands, reconstruct and draw them."""
    from training.detector.inference import HandDetector
    from training.regressor.inference import HandReconstructor
    from training.regressor.reconstruct import ReconstructSettings, reconstruct
    from training.regressor.tracks import TrackSettings

    device = "cuda" if arguments.gpu else "cpu"
    detector = HandDetector.load(arguments.detector, device, size=arguments.detector_image, threshold=arguments.threshold)
    settings = ReconstructSettings(
        focal_px=arguments.focal, meshes=arguments.meshes, max_frames=arguments.frames, tracks=TrackSettings(smooth_s=arguments.smooth)
    )
    reconstructor = HandReconstructor.load(arguments.regressor, device)
    frames, hands = reconstruct(detector, reconstructor, arguments.source, arguments.out, settings)
    print(f"{hands} hands in {frames} frames: {arguments.out}")


def export_regressor(arguments: argparse.Namespace) -> None:
    """Write a checkpoint as ONNX."""
    from training.regressor.export import export

    export(arguments.out, arguments.checkpoint)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")


def _sources(arguments: argparse.Namespace) -> list[Any]:
    """Crops with room to turn: half as wide again as what the network sees, at its resolution."""
    from training.data.dataset import Dataset
    from training.data.readers.freihand import freihand
    from training.data.readers.ho3d import ho3d
    from training.data.samples import Crops
    from training.regressor.targets import refuse_other_hand

    share = ABLATIONS[arguments.ablation].share if arguments.samples is None else arguments.samples
    sources: list[Any] = []
    for folder in arguments.data:
        refuse_other_hand(folder)
        sources.append(Crops.of(Dataset.open(folder, "train"), arguments.min_quality, size=SIDE, share=share))
    if arguments.freihand:
        sources.append(replace(freihand(arguments.freihand, "training"), size=SIDE))
    if arguments.ho3d:
        sources.append(replace(ho3d(arguments.ho3d, "train"), size=SIDE))
    if not sources:
        raise ValueError("nothing to train on: name --data DIR, --freihand DIR or --ho3d DIR")
    return sources


def _task(arguments: argparse.Namespace) -> Any:
    """What the options and the row of the paper's table ask for."""
    from training.data.dataset import Dataset
    from training.regressor.augment import CropAugmentation
    from training.regressor.evaluate import shards_benchmark
    from training.regressor.network import RegressorSettings
    from training.regressor.objective import RegressorLossWeights
    from training.regressor.task import AdversarialRegressorTask, RegressorTask

    row = ABLATIONS[arguments.ablation]
    asked = {"size": arguments.size, "drop_path": arguments.drop_path, "checkpoint_activations": arguments.checkpoint_activations}
    asked |= {} if arguments.refine_steps is None else {"refine_steps": arguments.refine_steps}
    asked |= {} if arguments.aggregation is None else {"aggregation": tuple(arguments.aggregation)}
    held_out = arguments.held_out or next(iter(arguments.data), None)
    benchmark = None
    if held_out is not None and Dataset.held_out([held_out], ("val",)):
        benchmark = shards_benchmark(held_out, "val", max_hands=arguments.held_out_hands)
    else:
        print(f"{held_out or 'the sets named'}: no shard of a val split; nothing is measured, best.pt is the last epoch's")
    vitpose = arguments.vitpose if row.vitpose else None
    kind = RegressorTask if arguments.no_adversary else AdversarialRegressorTask
    return kind(
        held_out=benchmark,
        network_settings=replace(row.settings(RegressorSettings()), **asked),
        augmentation=_changed(CropAugmentation.none() if arguments.no_augmentation else CropAugmentation(), arguments.augmentation),
        weights=_changed(RegressorLossWeights(), arguments.loss),
        vitpose=vitpose,
        layer_decay=arguments.layer_decay or (0.75 if vitpose else 1.0),
    )


def _changed(settings: Any, asked: Any) -> Any:
    """Settings with some of other values, as JSON told them. Raises ValueError for names and values that they do not have."""
    known = [field.name for field in fields(settings)]
    if not isinstance(asked, dict) or not asked.keys() <= set(known) or any(not isinstance(value, int | float) for value in asked.values()):
        raise ValueError(f"expected a JSON object of numbers by some of these names: {', '.join(known)}; got {json.dumps(asked)}")
    return replace(settings, **asked)
