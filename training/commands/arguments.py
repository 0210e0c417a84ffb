"""Arguments that several handlers read: where to compute, the network, the frames to measure on; and a table of what was measured."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import UserError

if TYPE_CHECKING:
    from training.data.samples import Frames
    from training.detector.inference import HandDetector


def device_of(arguments: argparse.Namespace) -> str:
    """Where to compute. Raises ValueError where a GPU is asked for and none is seen."""
    import torch

    if arguments.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu: torch sees no GPU here: leave it out, or look at nvidia-smi and python -m torch.utils.collect_env")
    return "cuda" if arguments.gpu else "cpu"


def image_side(side_px: int | None) -> int | None:
    """The side of square images that a detector is shown, pixels; None leaves it to the checkpoint. Raises ValueError where it is no
    multiple of 32."""
    if side_px is not None and (side_px <= 0 or side_px % 32):
        raise ValueError(f"--image must be a multiple of 32, got {side_px}")
    return side_px


def detector_of(arguments: argparse.Namespace, threshold: float | None = None) -> "HandDetector":
    """The detector of the checkpoint named, on the device and at the size asked for. A `threshold` that is told counts before that of the
    command line."""
    from training.detector.inference import HandDetector

    size, device = image_side(arguments.image), device_of(arguments)
    return HandDetector.load(arguments.checkpoint, device, size=size, threshold=threshold or least_score(arguments))


def least_score(arguments: argparse.Namespace) -> float:
    """`--threshold`, or what it is where nobody says it."""
    return 0.3 if arguments.threshold is None else float(arguments.threshold)


def refuse_unused(arguments: argparse.Namespace, by: str, names: Sequence[str]) -> None:
    """Raise UserError for the first option of these that was given: what does the work, told by the option `by`, does not read it."""
    for name in names:
        if getattr(arguments, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} has no effect with {by}: leave it out, or name a network")


def held_out_frames(folders: Sequence[Path], size: int) -> "Frames | None":
    """Frames of val, else of test, of all folders that have any."""
    from training.data.dataset import Dataset
    from training.data.samples import Frames

    dataset = Dataset.held_out(folders)
    return Frames(dataset=dataset, size=size) if dataset else None


def print_metrics(metrics: Mapping[str, float], title: str, console: Any, beside: Mapping[str, float | None] | None = None) -> None:
    """Print metrics as a table, with those of the annotators `beside` where there are any."""
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
