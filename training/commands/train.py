"""Handlers of the commands that train. Heavy imports lie inside: the help needs none."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from training.commands.arguments import device_of, held_out_frames, print_metrics

if TYPE_CHECKING:
    from training.regressor.evaluate import Benchmark
    from training.run.loop import TrainSettings

R = TypeVar("R")
"""DetectorRecipe or RegressorRecipe."""

_LEAST_STEPS = 50
"""Fewest steps of an epoch: little data is gone through several times before it is measured."""


def train_detector(arguments: argparse.Namespace) -> None:
    """Train the hand detector on shards and published sets."""
    from training.recipes import DETECTORS

    recipe = _recipe(arguments, DETECTORS, "detector")
    if arguments.settings:
        _print_settings(recipe, arguments)
        return
    from training.data.loader import Loader
    from training.detector.augment import GROUP
    from training.detector.task import DetectorTask
    from training.run.launch import launch
    from training.sources import frames

    together = GROUP * max(1, arguments.workers)
    if (recipe.augmentation.mosaic or recipe.augmentation.mixup) and recipe.batch_size % together:
        raise ValueError(
            f"detector.batch_size must be a multiple of {together}, {GROUP} a worker for mosaic and mixup, got {recipe.batch_size}"
        )
    folders, weights = frames(arguments, recipe)
    counts = [len(folder) for folder in folders]
    few = _LEAST_STEPS * recipe.batch_size if sum(counts) < _LEAST_STEPS * recipe.batch_size else None
    num_samples = recipe.epoch_images or few
    loader = Loader(
        sources=folders,
        batch_size=recipe.batch_size,
        weights=weights or (counts if num_samples else None),
        num_samples=num_samples,
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
    print_metrics(metrics, f"{arguments.out / 'best.pt'}", arguments.console)


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
    print_metrics(metrics, f"{arguments.out / 'best.pt'}", arguments.console)


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


def photographed(folders: Sequence[Path]) -> Sequence[Path]:
    """Those of some folders of shards that `whim render shards` did not make: rendered images choose no epoch where there are others."""
    import pyarrow.parquet as pq

    def rendered(folder: Path) -> bool:
        first = next(folder.glob("*/*.parquet"), None)
        return first is not None and "albums" in json.loads((pq.read_schema(first).metadata or {}).get(b"recipe", b"{}"))

    return [folder for folder in folders if not rendered(folder)] or folders


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
        device_of(arguments)
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


def _held_out_hands(arguments: argparse.Namespace) -> "Benchmark | None":
    from training.data.dataset import Dataset
    from training.regressor.evaluate import shards_benchmark

    folder = arguments.held_out or next(iter(arguments.data), None)
    if folder is not None and Dataset.held_out([folder], ("val",)):
        return shards_benchmark(folder, "val", max_hands=arguments.held_out_hands)
    text = f"{folder or 'the sets named'}: no shard of a val split; nothing is measured, best.pt is the last epoch's"
    arguments.console.print(text, style="yellow", markup=False)
    return None
