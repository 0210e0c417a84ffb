"""Hands of MPII and of New Zealand sign language (Simon et al., CVPR 2017), official files of `hand_labels.zip`: `manual_train/*.jpg`, each
with a `.json` of one hand: `hand_pts`, 21 of x, y and whether it is known in OpenPose's order, and `is_left`."""

from pathlib import Path

import numpy as np

from fitting.hand.mano import LEFT, RIGHT
from training.data.readers.labelled_image import read_json
from training.data.sets.hand_crops import HandCrops, training_crops

WHERE = "get hand_labels.zip from domedb.perception.cs.cmu.edu/handdb.html, and unzip it"


def mpii_nzsl(folder: Path) -> HandCrops:
    """Every labelled hand of the training set. Raises as the other readers."""
    place = next((path for path in (folder / "manual_train", folder / "hand_labels" / "manual_train") if path.is_dir()), None)
    labels = sorted(place.glob("*.json")) if place else []
    if not labels:
        raise FileNotFoundError(f"{folder} has no manual_train/*.json: {WHERE}")
    side, points = [], []
    for path in labels:
        told = read_json(path)
        try:
            points.append(np.array(told["hand_pts"], np.float64).reshape(21, 3))
            side.append(LEFT if told["is_left"] else RIGHT)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no label of a hand ({error!r}): {WHERE}") from error
    return training_crops("mpii+nzsl train", [str(path.with_suffix(".jpg")) for path in labels], np.array(side), points=np.array(points))
