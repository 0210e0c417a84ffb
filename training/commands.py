"""Handlers of training's commands, from the options that `training.cli` reads. Heavy imports lie inside: the help needs none."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from training.data.readers.labelled_image import LabelledImage
    from training.data.samples import Frames
    from training.detector.inference import HandDetector
    from training.regressor.evaluate import Benchmark
    from training.run.loop import TrainSettings

R = TypeVar("R")
"""DetectorRecipe or RegressorRecipe."""

_LEAST_STEPS = 50
"""Fewest steps of an epoch: little data is gone through several times before it is measured."""
_SHOWN = ("pa_mpjpe_mm", "pa_mpvpe_mm", "pa_f5", "pa_f15", "pa_auc_j", "pa_auc_v", "proper_pa_mpjpe_mm", "root_mpjpe_mm", "camera_mpjpe_mm")
"""On the terminal; the page has them all."""


def train_detector(arguments: argparse.Namespace) -> None:
    """Train the hand detector on shards and published sets."""
    from training.recipes import DETECTORS

    recipe = _recipe(arguments, DETECTORS, "detector")
    if arguments.settings:
        _print_settings(recipe, arguments)
        return
    from training.data.loader import Loader
    from training.detector.task import DetectorTask
    from training.run.launch import launch
    from training.sources import frames

    folders, weights = frames(arguments, recipe)
    counts = [len(folder) for folder in folders]
    few = _LEAST_STEPS * recipe.batch_size if sum(counts) < _LEAST_STEPS * recipe.batch_size else None
    loader = Loader(
        sources=folders,
        batch_size=recipe.batch_size,
        weights=weights or (counts if few else None),
        num_samples=few,
        seed=arguments.seed,
        num_threads=arguments.threads,
    )
    measured_on = arguments.held_out or photographed(arguments.data)
    held_out = held_out_frames(measured_on, recipe.image_px) if measured_on else None
    if held_out is None and arguments.held_out:
        raise ValueError(f"no shard of a val or test split in {', '.join(map(str, arguments.held_out))}: nothing to measure on")
    if held_out is None:
        arguments.console.print("no shard of a val or test split: nothing is measured, best.pt is the last epoch's", style="yellow")
    elif not any(shard.columns["keep"].any() for shard in held_out.dataset.shards):
        arguments.console.print("no hand on the frames to measure on: ap says nothing; name others by --held-out", style="yellow")
    task = DetectorTask(
        held_out=held_out,
        network_settings=replace(recipe.network, image=recipe.image_px),
        augmentation=recipe.augmentation,
        weights=recipe.loss,
        plain_share=recipe.plain_share,
        backbone_weights=recipe.backbone_weights,
        start=recipe.start,
    )
    settings = _as_long(recipe.train, arguments)
    metrics = launch(task, loader, settings, arguments.out, **_where(arguments))
    _print_metrics(metrics, f"{arguments.out / 'best.pt'}", arguments.console)


def train_regressor(arguments: argparse.Namespace) -> None:
    """Train the MANO regressor on shards and published sets."""
    from training.recipes import REGRESSORS

    recipe = _recipe(arguments, REGRESSORS, "regressor")
    if arguments.settings:
        _print_settings(recipe, arguments)
        return
    from training.data.loader import Loader
    from training.regressor.task import AdversarialRegressorTask, RegressorTask
    from training.run.launch import launch
    from training.sources import crops

    sources, weights = crops(arguments, recipe)
    loader = Loader(
        sources=sources,
        batch_size=recipe.batch_size,
        weights=weights,
        seed=arguments.seed,
        num_threads=arguments.threads,
    )
    kind = AdversarialRegressorTask if recipe.adversary else RegressorTask
    task = kind(
        held_out=_held_out_hands(arguments),
        network_settings=recipe.network,
        augmentation=recipe.augmentation,
        weights=recipe.loss,
        vitpose=recipe.vitpose,
        start=recipe.start,
        layer_decay=recipe.layer_decay or (0.75 if recipe.vitpose else 1.0),
    )
    settings = _as_long(recipe.train, arguments)
    metrics = launch(task, loader, settings, arguments.out, **_where(arguments))
    _print_metrics(metrics, f"{arguments.out / 'best.pt'}", arguments.console)


def train_landmarks(arguments: argparse.Namespace) -> None:
    """Train what reads MediaPipe's landmark network, in minutes: the fit's hint of the joints in space, and a regressor."""
    from stages.settings import print_settings, read_assignments, settings_of, with_values
    from training.regressor.landmark_heads import HeadsSettings, train_landmarks
    from training.regressor.targets import refuse_other_hand

    settings = with_values(HeadsSettings(), read_assignments(arguments.set, None), "landmarks")
    if arguments.settings:
        print_settings({setting.name: setting for setting in settings_of(settings)}, arguments.console)
        return
    for folder in arguments.data:
        refuse_other_hand(folder)
    train_landmarks(arguments.data, arguments.out, settings, lambda text: arguments.console.print(text, markup=False))


def evaluate_detector(arguments: argparse.Namespace) -> None:
    """Measure a detector: COCO's metrics, precision, recall and side, beside the annotators' on labelled frames."""
    from training.detector.evaluate import LEAST_SCORE, evaluate, metrics
    from training.detector.report import WorstImages, measured_in, write_report

    if arguments.report:
        measured_in(arguments.report, arguments.checkpoint)
    detector = _detector(arguments, threshold=LEAST_SCORE)
    name, images, min_iou = labelled_set(arguments)
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
        _print_metrics(found, f"{arguments.checkpoint} on {evaluation.num_images} images of {name}", arguments.console, beside)


def evaluate_regressor(arguments: argparse.Namespace) -> None:
    """Measure a regressor on FreiHAND, HO3D and shards."""
    from rich.table import Table

    from training.data.sets.hand_crops import write_predictions
    from training.regressor.evaluate import evaluate, placed
    from training.regressor.inference import read
    from training.regressor.report import write_report

    if not (arguments.freihand or arguments.ho3d or arguments.data or arguments.hint):
        raise ValueError("nothing to measure on: name --freihand DIR, --ho3d DIR, --hint DIR or --data DIR")
    network = read(arguments.checkpoint).to(_device(arguments))
    found: dict[str, Any] = {}
    for benchmark in _benchmarks(arguments):
        result = evaluate(network, benchmark, batch_size=arguments.batch)
        metrics = found[benchmark.name] = {name: dict(evaluation.metrics) for name, evaluation in result.evaluations.items()}
        if arguments.report:
            write_report(arguments.report, benchmark, result, arguments.checkpoint, network)
        if arguments.predictions and benchmark.submitted:
            hands = benchmark.submitted(placed(list(result.predictions.values())[-1], benchmark))
            write_predictions(arguments.predictions / benchmark.name / "pred.json", hands)
        if not arguments.json:
            grid = Table("metric", *metrics, title=f"{len(benchmark.crops)} hands: {benchmark.protocol}")
            for name in (name for name in _SHOWN if name in next(iter(metrics.values()))):
                grid.add_row(name, *(f"{of[name]:.4f}" for of in metrics.values()))
            arguments.console.print(grid)
    if arguments.hint:
        from training.regressor.hint import evaluate_hint

        on_hint = evaluate_hint(network, arguments.hint, batch_size=arguments.batch)
        found |= on_hint
        for subset, of in on_hint.items() if not arguments.json else ():
            _print_metrics(list(of.values())[-1], f"{list(of)[-1]} on {subset}", arguments.console)
    if arguments.json:
        print(json.dumps(found))


def export_detector(arguments: argparse.Namespace) -> None:
    """Write a detector's checkpoint as ONNX or by torch.export."""
    from training.detector.export import export, shrink

    size = _image(arguments.image)
    if arguments.out.suffix == ".pt":
        shrink(arguments.out, arguments.checkpoint, size=size)
    else:
        export(arguments.out, arguments.checkpoint, size=size, max_hands=arguments.hands, half=arguments.half)
    arguments.console.print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB", markup=False)


def export_regressor(arguments: argparse.Namespace) -> None:
    """Write a regressor's checkpoint as ONNX."""
    from training.regressor.export import export

    export(arguments.out, arguments.checkpoint)
    arguments.console.print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB", markup=False)


def detect(arguments: argparse.Namespace) -> None:
    """Find the hands of an image, a video or a camera: drawn, and as a table."""
    from training.detector.detect import detect

    if Path(arguments.source).is_dir():
        raise ValueError(
            f"{arguments.source} is a folder: a network takes a file or webcam; leave out --detector, the whole chain takes folders"
        )
    detector = _detector(arguments)
    frames, hands = detect(detector, arguments.source, arguments.out, table_format=arguments.table, max_frames=arguments.frames)
    arguments.console.print(f"{hands} hands in {frames} images: {arguments.out}", markup=False)


def reconstruct(arguments: argparse.Namespace) -> None:
    """Reconstruct the hands of an image or a video in space: meshes, overlay, parameters."""
    from training.detector.inference import HandDetector
    from training.regressor.inference import HandReconstructor
    from training.regressor.reconstruct import ReconstructSettings, reconstruct
    from training.regressor.tracks import TrackSettings

    device = _device(arguments)
    detector = HandDetector.load(arguments.detector, device, size=_image(arguments.detector_image), threshold=arguments.threshold)
    settings = ReconstructSettings(
        focal_px=arguments.focal, meshes=arguments.meshes, max_frames=arguments.frames, tracks=TrackSettings(smooth_s=arguments.smooth)
    )
    reconstructor = HandReconstructor.load(Path(arguments.regressor), device)
    frames, hands = reconstruct(detector, reconstructor, arguments.source, arguments.out, settings)
    arguments.console.print(f"{hands} hands in {frames} frames: {arguments.out}", markup=False)


def regressor_that_ships(arguments: argparse.Namespace) -> Callable[..., Any] | None:
    """What makes other hands of those that the chain fits: the regressor that comes with the project; None where the fit is asked for, or
    where another hand model is in use than the one whose parameters it says."""
    from training.regressor.inference import SHIPPED, HandReconstructor
    from training.regressor.network import hand_in_use
    from training.regressor.reconstruct import ReconstructSettings, in_place_of_fits
    from training.regressor.tracks import TrackSettings

    if arguments.regressor == "fit":
        return None
    if hand_in_use() != SHIPPED_HAND:
        arguments.console.print("the regressor that ships knows the stand-in hand alone: hands are fitted", style="yellow")
        return None
    settings = ReconstructSettings(focal_px=arguments.focal, tracks=TrackSettings(smooth_s=arguments.smooth))
    return partial(in_place_of_fits, HandReconstructor.load(SHIPPED, _device(arguments)), settings=settings)


SHIPPED_HAND = "standin"
"""Whose parameters the regressor that ships says (docs/regressor_landmarks.md)."""


def _recipe(arguments: argparse.Namespace, known: Mapping[str, Callable[[], R]], what: str) -> R:
    """The recipe named, with the settings that the command line changes. Raises ValueError that names what is not known."""
    from stages.settings import function_of_file, read_assignments, unknown, with_values

    function: Callable[[], R] | None = function_of_file(arguments.recipe) or known.get(arguments.recipe)
    if function is None:
        raise ValueError(f"{unknown(arguments.recipe, known, f'{what} recipe')} (or path/to/file.py:function)")
    recipe: Any = function()
    kind = type(next(iter(known.values()))())
    if not isinstance(recipe, kind):
        raise ValueError(f"{arguments.recipe} must return a {kind.__name__}, got {type(recipe).__name__}")
    if arguments.start:
        recipe = _from_checkpoint(recipe, arguments.start, what)
    if arguments.watch:
        recipe = replace(recipe, train=replace(recipe.train, watch=arguments.watch))
    recipe = with_values(recipe, read_assignments(arguments.set, arguments.config), what)
    _check_follower(recipe.train.watch)
    return recipe


def _check_follower(name: str) -> None:
    from training.run.watch import check_follower

    check_follower(name)


def _from_checkpoint(recipe: Any, path: Path, what: str) -> Any:
    """The recipe of a fine-tuning: the network is the checkpoint's. Raises ValueError for a checkpoint of another kind."""
    from stages.settings import with_values
    from training.run.checkpoint import Checkpoint

    saved = Checkpoint.load(path, what)
    network = with_values(type(recipe.network)(), saved.settings, what)
    size = {"image_px": network.image} if what == "detector" else {}
    return replace(recipe, network=network, start=path, **size)


def _print_settings(recipe: Any, arguments: argparse.Namespace) -> None:
    from stages.settings import print_settings, settings_of

    print_settings({setting.name: setting for setting in settings_of(recipe)}, arguments.console)


def _as_long(settings: "TrainSettings", arguments: argparse.Namespace) -> "TrainSettings":
    """The recipe's training, for as long and in the arithmetic that the command line says."""
    if not arguments.workers:
        _device(arguments)
    epochs = arguments.epochs or settings.epochs
    return replace(
        settings,
        epochs=epochs,
        max_minutes=min(arguments.minutes, settings.max_minutes),
        precision=arguments.precision or settings.precision,
    )


def _where(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where a training works, and whether it says so."""
    return {
        "num_workers": arguments.workers,
        "use_gpu": arguments.gpu,
        "join_ray": arguments.join_ray,
        "quiet": arguments.quiet,
    }


def _device(arguments: argparse.Namespace) -> str:
    """Where to compute. Raises ValueError where a GPU is asked for and none is seen."""
    import torch

    if arguments.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu: torch sees no GPU here: leave it out, or look at nvidia-smi and python -m torch.utils.collect_env")
    return "cuda" if arguments.gpu else "cpu"


def _image(side_px: int | None) -> int | None:
    if side_px is not None and (side_px <= 0 or side_px % 32):
        raise ValueError(f"--image must be a multiple of 32, got {side_px}")
    return side_px


def _detector(arguments: argparse.Namespace, threshold: float | None = None) -> "HandDetector":
    from training.detector.inference import HandDetector

    size, device = _image(arguments.image), _device(arguments)
    return HandDetector.load(arguments.checkpoint, device, size=size, threshold=threshold or arguments.threshold)


def photographed(folders: Sequence[Path]) -> Sequence[Path]:
    """Those of some folders of shards that `whim render shards` did not make: rendered images choose no epoch where there are others."""
    import pyarrow.parquet as pq

    def rendered(folder: Path) -> bool:
        first = next(folder.glob("*/*.parquet"), None)
        return first is not None and "albums" in json.loads((pq.read_schema(first).metadata or {}).get(b"recipe", b"{}"))

    return [folder for folder in folders if not rendered(folder)] or folders


def held_out_frames(folders: Sequence[Path], size: int) -> "Frames | None":
    """Frames of val, else of test, of all folders that have any."""
    from training.data.dataset import Dataset
    from training.data.samples import Frames

    dataset = Dataset.held_out(folders)
    return Frames(dataset=dataset, size=size) if dataset else None


def _held_out_hands(arguments: argparse.Namespace) -> "Benchmark | None":
    from training.data.dataset import Dataset
    from training.regressor.evaluate import shards_benchmark

    folder = arguments.held_out or next(iter(arguments.data), None)
    if folder is not None and Dataset.held_out([folder], ("val",)):
        return shards_benchmark(folder, "val", max_hands=arguments.held_out_hands)
    text = f"{folder or 'the sets named'}: no shard of a val split; nothing is measured, best.pt is the last epoch's"
    arguments.console.print(text, style="yellow", markup=False)
    return None


def labelled_set(arguments: argparse.Namespace) -> tuple[str, "Iterator[LabelledImage]", float]:
    """Name of the labelled images asked for, the images, and the overlap at which a hand is found."""
    from training.data.dataset import Dataset
    from training.data.readers.coco_wholebody import coco_wholebody
    from training.data.readers.labelled_frames import MIN_IOU, labelled_frames
    from training.data.readers.official_whim import official_whim
    from training.data.readers.oxford_hands import oxford_hands
    from training.data.readers.shard_frames import shard_frames
    from training.data.samples import Frames
    from training.detector.inference import read

    if arguments.labels:
        return arguments.labels.stem, labelled_frames(arguments.labels, arguments.media), MIN_IOU
    if arguments.coco_wholebody:
        return "coco-wholebody", coco_wholebody(arguments.coco_wholebody), 0.5
    if arguments.oxford_hands:
        return "oxford-hands", oxford_hands(arguments.oxford_hands), 0.5
    if arguments.whim:
        return "whim", official_whim(arguments.whim, arguments.media), 0.5
    size = _image(arguments.image) or read(arguments.checkpoint).settings.image
    split = split_to_measure(arguments)
    frames = Frames(dataset=Dataset.open(arguments.data, split), size=size)
    place = Path(str(arguments.data).partition("?")[0])  # of a store without what only leads there
    return f"{place.resolve().name}-{split}", shard_frames(frames), 0.5


def split_to_measure(arguments: argparse.Namespace) -> str:
    """The split that is named, else test, else val where the shards have no test, which is said."""
    from training.data.dataset import opened

    if arguments.split or opened(arguments.data, "test") or not opened(arguments.data, "val"):
        return str(arguments.split or "test")
    if not arguments.json:
        arguments.console.print(f"{arguments.data} has no test split: measured on val, which may have chosen the epoch", style="yellow")
    return "val"


def _benchmarks(arguments: argparse.Namespace) -> "Iterator[Benchmark]":
    from training.regressor.evaluate import freihand_benchmark, ho3d_benchmark, shards_benchmark

    published = [freihand_benchmark(arguments.freihand)] if arguments.freihand else []
    published += [ho3d_benchmark(arguments.ho3d, every=arguments.every)] if arguments.ho3d else []
    yield from published
    if arguments.detector:
        from training.detector.inference import HandDetector
        from training.regressor.detected_boxes import with_detected_boxes

        if not published:
            raise ValueError("--detector measures on the images of published sets: name --freihand DIR or --ho3d DIR")
        named = None if arguments.detector == "ours" else Path(arguments.detector)
        detector = HandDetector.load(named, _device(arguments), threshold=0.1)
        yield from (with_detected_boxes(benchmark, detector) for benchmark in published)
    if arguments.data:
        yield shards_benchmark(arguments.data, split_to_measure(arguments), max_hands=arguments.hands)


def _print_metrics(metrics: Mapping[str, float], title: str, console: Any, beside: Mapping[str, float | None] | None = None) -> None:
    from rich.table import Table

    if not metrics:
        console.print(f"{title}: nothing was measured", markup=False)
        return
    grid = Table(title=title)
    grid.add_column("metric")
    grid.add_column("value", justify="right")
    if beside:
        grid.add_column("annotators", justify="right")
    for name, value in metrics.items():
        other = (beside or {}).get(name)
        grid.add_row(name, f"{value:.4f}", *([] if other is None else [f"{other:.4f}"]))
    console.print(grid)
