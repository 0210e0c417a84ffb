"""Handlers of the commands that measure a network."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands.arguments import detector_of, device_of, image_side, print_metrics

if TYPE_CHECKING:
    from training.data.readers.labelled_image import LabelledImage
    from training.regressor.evaluate import Benchmark

_SHOWN = ("pa_mpjpe_mm", "pa_mpvpe_mm", "pa_f5", "pa_f15", "pa_auc_j", "pa_auc_v", "proper_pa_mpjpe_mm", "root_mpjpe_mm", "camera_mpjpe_mm")
"""On the terminal; the page has them all."""


def evaluate_detector(arguments: argparse.Namespace) -> None:
    """Measure a detector: COCO's metrics, precision, recall and side, beside the annotators' on labelled frames."""
    from training.detector.evaluate import LEAST_SCORE, evaluate, metrics
    from training.detector.report import WorstImages, measured_in, write_report

    if arguments.report:
        measured_in(arguments.report, arguments.checkpoint)
    detector = detector_of(arguments, threshold=LEAST_SCORE)
    name, images, min_iou = labelled_set(arguments)
    annotators = _metrics_in(arguments.beside) if arguments.beside else {}
    worst = WorstImages(threshold=arguments.threshold, min_iou=min_iou)
    evaluation = evaluate(detector, images, onlooker=worst if arguments.report else None)
    if not evaluation.num_images:
        raise ValueError(f"{name} has no labelled image: there is nothing to measure on")
    found = metrics(evaluation, threshold=arguments.threshold, min_iou=min_iou)
    if arguments.report:
        write_report(arguments.report, name, arguments.checkpoint, detector, evaluation, found, worst)
    beside = {key: annotators.get("side_accuracy" if key == "side" else key) for key in found} if annotators else {}
    if arguments.json:
        print(json.dumps(dict(found) | ({"beside": beside} if beside else {})))
    else:
        print_metrics(found, f"{arguments.checkpoint} on {evaluation.num_images} images of {name}", arguments.console, beside)


def _metrics_in(path: Path) -> dict[str, float]:
    """The metrics of `whim evaluate annotators --json` in a file. Raises ValueError for another file."""
    from training.data.readers.labelled_image import read_json

    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("recall"), float | int):
        raise ValueError(f"{path} holds no metrics of annotators: whim evaluate annotators --json writes them")
    return {name: value for name, value in found.items() if isinstance(value, float | int)}


def evaluate_regressor(arguments: argparse.Namespace) -> None:
    """Measure a regressor on FreiHAND, HO3D and shards."""
    from rich.table import Table

    from training.data.sets.hand_crops import write_predictions
    from training.regressor.evaluate import evaluate, placed
    from training.regressor.inference import read
    from training.regressor.report import write_report

    if not (arguments.freihand or arguments.ho3d or arguments.data or arguments.hint):
        raise ValueError("nothing to measure on: name --freihand DIR, --ho3d DIR, --hint DIR or --data DIR")
    network = read(arguments.checkpoint).to(device_of(arguments))
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
            print_metrics(list(of.values())[-1], f"{list(of)[-1]} on {subset}", arguments.console)
    if arguments.json:
        print(json.dumps(found))


def labelled_set(arguments: argparse.Namespace) -> tuple[str, "Iterator[LabelledImage]", float]:
    """Name of the labelled images asked for, the images, and the overlap at which a hand is found."""
    from hands.metrics.labels import MATCH_IOU
    from training.data.dataset import Dataset
    from training.data.readers.coco_wholebody import coco_wholebody
    from training.data.readers.labelled_frames import labelled_frames
    from training.data.readers.official_whim import official_whim
    from training.data.readers.oxford_hands import oxford_hands
    from training.data.readers.shard_frames import shard_frames
    from training.data.samples import Frames
    from training.detector.inference import read

    if arguments.labels:
        return arguments.labels.stem, labelled_frames(arguments.labels, arguments.media), MATCH_IOU
    if arguments.coco_wholebody:
        return "coco-wholebody", coco_wholebody(arguments.coco_wholebody), 0.5
    if arguments.oxford_hands:
        return "oxford-hands", oxford_hands(arguments.oxford_hands), 0.5
    if arguments.whim:
        return "whim", official_whim(arguments.whim, arguments.media), 0.5
    size = image_side(arguments.image) or read(arguments.checkpoint).settings.image
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
        arguments.console.print(
            f"{arguments.data} has no test split: measured on val, which may have chosen the epoch", style="yellow", markup=False
        )
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
        detector = HandDetector.load(named, device_of(arguments), threshold=0.1)
        yield from (with_detected_boxes(benchmark, detector) for benchmark in published)
    if arguments.data:
        yield shards_benchmark(arguments.data, split_to_measure(arguments), max_hands=arguments.hands)
