"""How good estimated hands are: as the official scripts of FreiHAND and HO3D count, and beside it what those let pass.

Frame of reference: camera axes, metres, one row a hand; 21 joints in OpenPose's order. Figures are millimetres or shares. Both scripts
align joints and vertices each by its own similarity, which may be a reflection: a left hand in place of a right one costs them
nothing. So every aligned figure stands here twice: `pa_` as the scripts have it, `proper_pa_` with rotations only.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy.spatial import cKDTree

from fitting.hand.similarity import aligned
from stages.tables import HAND_KEYPOINTS

THRESHOLDS_M = np.linspace(0, 0.05, 100)
"""Distances of the PCK curve and of the area below it (both scripts)."""
F_THRESHOLDS_M = (0.005, 0.015)
"""Distances of F@5 and F@15 (both scripts)."""

WRIST, MIDDLE_KNUCKLE = HAND_KEYPOINTS.index("wrist"), HAND_KEYPOINTS.index("middle1")
"""The bone by which HO3D's script scales: its joints 0 and 4."""
FINGERTIPS = [HAND_KEYPOINTS.index(f"{finger}4") for finger in ("thumb", "index", "middle", "ring", "little")]

_Points = Float[np.ndarray, "n points 3"]


class Hands3D(NamedTuple):
    """Joints and vertices of hands in space."""

    joints: Float[np.ndarray, "n 21 3"]
    vertices: Float[np.ndarray, "n 778 3"]

    def about_wrist(self) -> "Hands3D":
        """These hands with each one's wrist at the origin."""
        wrist = self.joints[:, WRIST, None]
        return Hands3D(self.joints - wrist, self.vertices - wrist)


def scale_translation_aligned(
    prediction: Float[np.ndarray, "n 21 3"], target: Float[np.ndarray, "n 21 3"]
) -> Float64[np.ndarray, "n 21 3"]:
    """HO3D's second alignment: the wrist where it is, and the bone to the middle finger's knuckle as long as it is. Joints only."""
    length, wanted = (np.linalg.norm(x[:, MIDDLE_KNUCKLE] - x[:, WRIST], axis=1)[:, None, None] for x in (prediction, target))
    scale = wanted / np.where(length > 0, length, 1)
    return (prediction - prediction[:, WRIST, None]).astype(np.float64) * scale + target[:, WRIST, None]


def distances(prediction: _Points, target: _Points) -> Float64[np.ndarray, "n points"]:
    """Euclidean distances between predicted and target points."""
    return np.linalg.norm(prediction.astype(np.float64) - target, axis=2)


def pck(distance: Float[np.ndarray, "n points"]) -> Float64[np.ndarray, "100"]:
    """Share of hands within each threshold, inclusive; the mean over the points."""
    ranked = np.sort(distance, axis=0)
    return np.mean([np.searchsorted(point, THRESHOLDS_M, side="right") for point in ranked.T], axis=0) / len(distance)


def auc(curve: Float[np.ndarray, "100"]) -> float:
    """Area under a PCK curve by the trapezoidal rule, over the range."""
    return float(np.trapezoid(curve, THRESHOLDS_M) / THRESHOLDS_M[-1])


def f_scores(prediction: _Points, target: _Points) -> Float64[np.ndarray, "n 2"]:
    """F@5 and F@15 of each hand: harmonic mean of the shares of either cloud's points that lie nearer than that to the other."""
    found = np.zeros((len(prediction), len(F_THRESHOLDS_M)))
    for row, (one, other) in enumerate(zip(prediction, target, strict=True)):
        there, back = (cKDTree(a).query(b, distance_upper_bound=max(F_THRESHOLDS_M))[0] for a, b in ((other, one), (one, other)))
        for k, threshold in enumerate(F_THRESHOLDS_M):
            recall, precision = (there < threshold).mean(), (back < threshold).mean()
            found[row, k] = 2 * recall * precision / max(recall + precision, 1e-12)
    return found


def _each_aligned(prediction: Hands3D, target: Hands3D, mirrored: bool) -> tuple[Hands3D, Hands3D]:
    """Joints and vertices, each by its own similarity."""
    return Hands3D(*(aligned(a, b, mirrored=mirrored) for a, b in zip(prediction, target, strict=True))), target


ALIGNMENTS: Mapping[str, Callable[[Hands3D, Hands3D], tuple[Hands3D, Hands3D]]] = {
    "pa": partial(_each_aligned, mirrored=True),
    "proper_pa": partial(_each_aligned, mirrored=False),
    "root": lambda prediction, target: (prediction.about_wrist(), target.about_wrist()),
    "camera": lambda prediction, target: (prediction, target),
}
"""Predictions and targets, as each alignment puts them beside each other."""


class Evaluation(NamedTuple):
    """The metrics of a set of predicted hands, with curves, errors by joint and by hand."""

    metrics: Mapping[str, float]
    curves: Mapping[str, Float64[np.ndarray, "100"]]
    """PCK at `THRESHOLDS_M`, by figure: `pa_auc_j` and so on."""
    joint_mm: Mapping[str, Float64[np.ndarray, "21"]]
    """Mean error of each joint, by alignment."""
    hand_mm: Float64[np.ndarray, "n"]
    """PA-MPJPE of each hand without reflections: which are best and worst."""


def evaluate_hands3d(prediction: Hands3D, target: Hands3D, *, in_camera: bool) -> Evaluation:
    """All metrics, by alignment: `<alignment>_mpjpe_mm`, `_mpvpe_mm`, `_auc_j`, `_auc_v`, `_f5`, `_f15`.

    Alignments: `pa` and `proper_pa`; `root` at the wrist; `camera` none, where the truth's place before the camera is known
    (`in_camera`); `scaled` is HO3D's scale and translation, of joints. Raises ValueError when there is no hand.
    """
    if not len(prediction.joints):
        raise ValueError("no hand to evaluate: the data hold none, or none with a known shape")
    metrics: dict[str, float] = {}
    curves, joint_mm = {}, {}
    for name in [*ALIGNMENTS][: None if in_camera else -1]:
        estimate, truth = ALIGNMENTS[name](prediction, target)
        for kind, error in zip("jv", map(distances, estimate, truth), strict=True):
            curves[f"{name}_auc_{kind}"] = pck(error)
            metrics[f"{name}_mp{kind}pe_mm"] = 1000 * float(error.mean())
            metrics[f"{name}_auc_{kind}"] = auc(pck(error))
        joint_mm[name] = 1000 * distances(estimate.joints, truth.joints).mean(0)
        f5, f15 = f_scores(estimate.vertices, truth.vertices).mean(0)
        metrics |= {f"{name}_f5": float(f5), f"{name}_f15": float(f15)}
    scaled = distances(scale_translation_aligned(prediction.joints, target.joints), target.joints)
    metrics |= {"scaled_mpjpe_mm": 1000 * float(scaled.mean()), "scaled_auc_j": auc(pck(scaled))}
    curves["scaled_auc_j"], joint_mm["scaled"] = pck(scaled), 1000 * scaled.mean(0)
    hand_mm = 1000 * distances(aligned(prediction.joints, target.joints), target.joints).mean(1)
    return Evaluation(metrics, curves, joint_mm, hand_mm)
