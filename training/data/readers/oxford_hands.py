"""Oxford-Hands (Mittal, Zisserman and Torr, BMVC 2011), official files: `test_dataset/test_data/{images/*.jpg, annotations/*.mat}`
and `training_dataset/training_data/`.

A hand is a turned rectangle, its corners a, b, c, d as MATLAB's (row, column), which count the middles of pixels from 1; here it is the
upright box around them. No sides. Every hand counts, however small.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from training.data.readers.labelled_image import UNKNOWN, LabelledImage

FOLDERS = {"test": "test_dataset/test_data", "train": "training_dataset/training_data"}
CORNERS = ("a", "b", "c", "d")


def oxford_hands(folder: Path, split: Literal["test", "train"] = "test") -> Iterator[LabelledImage]:
    """A split, below the folder that `hand_dataset.tar.gz` was unpacked to.

    Raises FileNotFoundError where it is not there, ValueError that names a file of labels that cannot be read.
    """
    named = FOLDERS[split]
    places = (folder / named, folder / "hand_dataset" / named, *([folder] if split == "test" else []))
    place = next((path for path in places if (path / "annotations").is_dir()), None)
    if place is None:
        raise FileNotFoundError(
            f"{folder} has no {named}/annotations: unpack hand_dataset.tar.gz of www.robots.ox.ac.uk/~vgg/data/hands there"
        )
    for labels in sorted((place / "annotations").glob("*.mat")):
        box = _boxes(labels)
        yield LabelledImage(
            name=labels.stem,
            source=place / "images" / f"{labels.stem}.jpg",
            box=box,
            side=np.full(len(box), UNKNOWN),
        )


def _boxes(labels: Path) -> Float64[np.ndarray, "n 4"]:
    """The upright boxes of a file's rectangles."""
    try:
        cells = loadmat(labels)["boxes"].ravel()
        corners = [[cell[corner][0, 0].ravel()[:2] for corner in CORNERS] for cell in cells]
        points = np.array(corners, np.float64).reshape(-1, 4, 2)[..., ::-1] - 0.5
    except (MatReadError, zlib.error, OSError, NotImplementedError, LookupError, ValueError, TypeError) as error:
        raise ValueError(f"{labels} cannot be read as Oxford-Hands' boxes ({error!r}): unpack hand_dataset.tar.gz again") from error
    return np.concatenate([points.min(1), points.max(1)], 1)
