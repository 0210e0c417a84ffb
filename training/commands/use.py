"""Handlers of the commands that use a network, or write it for other programs."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands.arguments import detector_of, device_of, image_side, least_score, refuse_unused

if TYPE_CHECKING:
    from training.regressor.tracks import TrackSettings

SHIPPED_HAND = "standin"
"""Whose parameters the regressor that ships says (docs/regressor_landmarks.md)."""


def detect(arguments: argparse.Namespace) -> None:
    """Find the hands of an image, a video or a camera: drawn, and as a table."""
    from training.detector.detect import detect

    if Path(arguments.source).is_dir():
        raise ValueError(
            f"{arguments.source} is a folder: a network takes a file or webcam; leave out --detector, the whole chain takes folders"
        )
    detector = detector_of(arguments)
    frames, hands = detect(detector, arguments.source, arguments.out, table_format=arguments.table, max_frames=arguments.frames)
    arguments.console.print(f"{hands} hands in {frames} images: {arguments.out}", markup=False)


def reconstruct(arguments: argparse.Namespace) -> None:
    """Reconstruct the hands of an image or a video in space: meshes, overlay, parameters."""
    from training.detector.inference import HandDetector
    from training.regressor.inference import HandReconstructor
    from training.regressor.reconstruct import ReconstructSettings, reconstruct

    device = device_of(arguments)
    detector = HandDetector.load(arguments.detector, device, size=image_side(arguments.detector_image), threshold=least_score(arguments))
    settings = ReconstructSettings(
        focal_px=arguments.focal, meshes=arguments.meshes, max_frames=arguments.frames, tracks=_tracks(arguments)
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

    refuse_unused(arguments, f"--regressor {arguments.regressor}", ("detector", "threshold", "detector_image"))
    if arguments.regressor == "fit":
        refuse_unused(arguments, "--regressor fit", ("smooth", "gpu"))
        return None
    if hand_in_use() != SHIPPED_HAND:
        arguments.console.print("the regressor that ships knows the stand-in hand alone: hands are fitted", style="yellow")
        return None
    settings = ReconstructSettings(focal_px=arguments.focal, tracks=_tracks(arguments))
    return partial(in_place_of_fits, HandReconstructor.load(SHIPPED, device_of(arguments)), settings=settings)


def _tracks(arguments: argparse.Namespace) -> "TrackSettings":
    from training.regressor.tracks import TrackSettings

    return TrackSettings() if arguments.smooth is None else TrackSettings(smooth_s=arguments.smooth)


def export_detector(arguments: argparse.Namespace) -> None:
    """Write a detector's checkpoint as ONNX or by torch.export."""
    from training.detector.export import export, shrink

    size = image_side(arguments.image)
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
