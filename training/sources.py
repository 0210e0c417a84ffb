"""What a run is trained on, from the options `--data`, `--weights` and `--sets`: sample sources and their shares of an epoch."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.recipes import DetectorRecipe, RegressorRecipe

_SIDE_PX = 384
"""Of the regressor's training images: three times the hand's box, at the resolution that the network's 256 pixels have of twice the box."""
DETECTOR_SETS = ("oxford-hands", "coco-wholebody")


def crops(arguments: argparse.Namespace, recipe: "RegressorRecipe") -> tuple[list[Any], list[float] | None]:
    """Crops with room to turn: half as wide again as what the network sees, at its resolution; and their weights.

    Raises ValueError where the recipe names other data than those given, FileNotFoundError for files that are missing.
    """
    from training.data.dataset import Dataset
    from training.data.samples import Crops
    from training.data.sets.table import chosen_sets, read_set
    from training.regressor.targets import refuse_other_hand

    chosen = chosen_sets(arguments.sets)
    recipe.refuse_other_data([one.name for one in chosen], num_folders=len(arguments.data))
    sources: list[Any] = []
    for folder in arguments.data:
        refuse_other_hand(folder)
        sources.append(Crops.of(Dataset.open(folder, "train"), recipe.min_quality, size=_SIDE_PX, share=recipe.share))
    sources += [replace(read_set(one), size=_SIDE_PX) for one in chosen]
    if not sources:
        raise ValueError("nothing to train on: name --data DIR or --sets NAME=DIR")
    return sources, weights_of(arguments.weights, len(arguments.data), [one.weight for one in chosen])


def frames(arguments: argparse.Namespace, recipe: "DetectorRecipe") -> tuple[list[Any], list[float] | None]:
    """Whole images with all their hands, of shards and of published sets, and their weights; of shards as many as the recipe says.

    Raises as `crops`.
    """
    from training.data.dataset import Dataset
    from training.data.samples import Frames

    chosen = [_detector_set(word, recipe.image_px) for words in arguments.sets for word in words.split(",") if word]
    recipe.refuse_other_data([source.name for source, _ in chosen], num_folders=len(arguments.data))
    datasets = [Dataset.open(folder, "train") for folder in arguments.data]
    shares = shares_of([len(dataset) for dataset in datasets], recipe.num_images, recipe.share)
    sources: list[Any] = [Frames(dataset=one, size=recipe.image_px, share=share) for one, share in zip(datasets, shares, strict=True)]
    if datasets and not chosen and not any(shard.columns["keep"].any() for dataset in datasets for shard in dataset.shards):
        raise ValueError(f"no hand in the train split of {', '.join(map(str, arguments.data))}: name shards with hands, --data DIR")
    sources += [source for source, _ in chosen]
    if not sources:
        raise ValueError(f"nothing to train on: name --data DIR, or --sets NAME=DIR of {', '.join(DETECTOR_SETS)}")
    return sources, weights_of(arguments.weights, len(arguments.data), [weight for _, weight in chosen])


def weights_of(weights: Sequence[float] | None, num_folders: int, of_sets: Sequence[float | None]) -> list[float] | None:
    """Weights of all sources: those of `--weights` for the folders and those that `--sets` tells; None where nobody tells any.

    Raises ValueError where some have a weight and others have none.
    """
    if weights is not None and len(weights) == num_folders + len(of_sets) and not any(of_sets):
        return list(weights)
    told: list[float | None] = [*(weights if weights else [None for _ in range(num_folders)]), *of_sets]
    if all(weight is None for weight in told):
        return None
    if (weights is not None and len(weights) != num_folders) or any(weight is None for weight in told):
        raise ValueError(
            f"weights of {sum(weight is not None for weight in told)} of {num_folders + len(of_sets)} sets: give each folder of --data one"
            " by --weights and each of --sets one as NAME=DIR:WEIGHT, or none at all"
        )
    return [weight for weight in told if weight is not None]


def shares_of(counts: Sequence[int], num_images: int | None, share: float) -> list[float]:
    """Share of each folder's images: `share`, or such that `num_images` are taken of all together, each folder by its size.

    Raises ValueError where there are fewer.
    """
    if num_images is None:
        return [share] * len(counts)
    if sum(counts) < num_images:
        raise ValueError(f"detector.num_images is {num_images:,}, --data has {sum(counts):,}: name more folders, or --set num_images=none")
    ends = [round(num_images * sum(counts[: k + 1]) / sum(counts)) for k in range(len(counts))]
    taken = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return [max(one, 1) / count for one, count in zip(taken, counts, strict=True)]


def _detector_set(word: str, size: int) -> tuple[Any, float | None]:
    """The source that one word of `--sets` names."""
    from training.data.readers.coco_wholebody import coco_wholebody
    from training.data.readers.image_frames import ImageFrames
    from training.data.readers.oxford_hands import oxford_hands
    from training.data.sets.table import split_word

    name, folder, weight = split_word(word, DETECTOR_SETS)
    read = oxford_hands if name == "oxford-hands" else coco_wholebody
    return ImageFrames(name=name, images=list(read(Path(folder), "train")), size=size), weight
