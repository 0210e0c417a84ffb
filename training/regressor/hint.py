"""A regressor on HInt: the share of joints that fall near their labels in the image, of all, of seen and of hidden ones (HaMeR)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fitting.hand.mano import LEFT
from training.data.samples import moved
from training.data.sets.hint import SUBSETS, WHERE, hint
from training.regressor.camera import project_to_crop
from training.regressor.evaluate import CROP_FACTOR, estimates
from training.regressor.network import Regressor

THRESHOLDS = (0.05, 0.1, 0.15)
"""Distances as shares of the crop that the network sees, twice the box (HaMeR's evaluation)."""


def evaluate_hint(network: Regressor, folder: Path, *, batch_size: int = 64) -> dict[str, dict[str, Mapping[str, float]]]:
    """Shares of joints near their labels, `pck_05`, `pck_10` and `pck_15`, of each estimate on each subset that is there.

    Of all joints, and as `..._visible` and `..._occluded` of those.

    Raises FileNotFoundError where there is none.
    """
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for subset in SUBSETS:
        told = hint(folder, subset)
        if told is None:
            continue
        crops = replace(told.crops, factor=CROP_FACTOR)
        labels = crops.labels(range(len(crops)))
        target = moved(labels["keypoints"], labels["to_input"])[..., :2] / crops.size - 0.5
        target[..., 0] *= np.where(labels["side"] == LEFT, -1.0, 1.0)[:, None]
        found[f"hint-{subset}"] = {}
        for name, one in estimates(network, crops, batch_size=batch_size).items():
            points = project_to_crop(torch.as_tensor(one.hands.joints), torch.as_tensor(one.camera)).numpy()
            found[f"hint-{subset}"][name] = pck(np.linalg.norm(points - target, axis=2), told.occluded)
    if not found:
        raise FileNotFoundError(f"{folder} has no TEST_newdays_img/*.jpg with a .json beside it: {WHERE}")
    return found


def pck(distance: np.ndarray, occluded: np.ndarray) -> dict[str, float]:
    """Shares of joints within each threshold; NaN where there is no such joint."""
    kinds = {"": np.ones_like(occluded), "_visible": ~occluded, "_occluded": occluded}
    return {
        f"pck_{round(100 * most):02d}{kind}": float((distance[rows] < most).mean()) if rows.any() else float("nan")
        for most in THRESHOLDS
        for kind, rows in kinds.items()
    }
