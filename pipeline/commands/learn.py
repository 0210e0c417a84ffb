"""Commands that learn what the chain stands on: pose prior, landmark offsets, calibration."""

import argparse
from pathlib import Path


def learn_prior(arguments: argparse.Namespace) -> None:
    """Learn the pose prior from ARCTIC, or from invented poses."""
    from fitting.priors.pca import train

    train(arguments)


def learn_offsets(arguments: argparse.Namespace) -> None:
    """Learn where detectors' landmarks lie beside the hand model's joints."""
    from fitting.landmarks.learn_offsets import update
    from fitting.landmarks.offsets import LANDMARK_OFFSETS

    update(arguments.labelled, arguments.out or LANDMARK_OFFSETS)


def learn_all(arguments: argparse.Namespace) -> None:
    """Learn calibrations and landmark offsets of every member of a recipe in one go."""
    from pipeline.evaluate.learn_all import learn_all
    from pipeline.recipes import find_recipe
    from stages.tables import Manifest

    stages = find_recipe(arguments.recipe)(Manifest.empty(), Path())
    learn_all(
        stages,
        arguments.console,
        num_albums=arguments.albums,
        labels=arguments.labels,
        media=arguments.media,
        out=arguments.out,
        again=arguments.again,
    )


def learn_calibration(arguments: argparse.Namespace) -> None:
    """Learn what each detector's scores and boxes are worth, from labelled frames."""
    from pipeline.evaluate.calibrate import write_calibration

    write_calibration(arguments.labels, arguments.detections, arguments.out, arguments.console, people_tables=arguments.people)
