"""A map of hand poses in two dimensions, on which rare and near-duplicate poses are found. Angles in radians, distances in degrees."""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from stages.tables import LEFT

POSE_COLUMNS = ("map_x", "map_y", "rarity")
"""Place on the map, and how far the nearest of the reference poses is: root mean square over the 45 angles, degrees."""

_MIRROR = np.tile(np.array([1, -1, -1], np.float32), 15)
_MOST_LEARNED, _NUM_REFERENCES, _NUM_AXES = 20_000, 1024, 12


@dataclass(frozen=True, slots=True)
class PoseMap:
    """Axes of the poses of a data folder (scikit-learn's PCA), and a sample of them to hold others against."""

    mean: Float32[np.ndarray, "45"]
    axes: Float32[np.ndarray, "axes 45"]
    references: Float32[np.ndarray, "n axes"]

    def place(self, side: np.ndarray, hand_pose: pa.ChunkedArray) -> dict[str, np.ndarray]:
        """The pose columns of hands; NaN where a hand was not fitted."""
        poses = _as_right(side, hand_pose)
        placed = (poses - self.mean) @ self.axes.T
        squared = (placed**2).sum(1)[:, None] - 2 * placed @ self.references.T + (self.references**2).sum(1)
        nearest = np.sort(np.partition(np.maximum(squared, 0), 1, axis=1)[:, :2], axis=1) if len(placed) else np.zeros((0, 2))
        itself = nearest[:, 0] < 1e-8  # a reference is held against the others
        rarity = np.degrees(np.sqrt(np.where(itself, nearest[:, 1], nearest[:, 0]) / 45))
        columns = {"map_x": placed[:, 0], "map_y": placed[:, 1] if self.axes.shape[0] > 1 else placed[:, 0] * 0, "rarity": rarity}
        return {name: values.astype(np.float32) for name, values in columns.items()}

    def as_json(self) -> str:
        """The map as text, to be kept."""
        arrays = {name: getattr(self, name) for name in ("mean", "axes", "references")}
        return json.dumps({n: [a.shape, base64.b64encode(a.astype("<f4").tobytes()).decode()] for n, a in arrays.items()})

    @classmethod
    def from_json(cls, text: str) -> "PoseMap":
        """The map that `as_json` wrote."""
        known: dict[str, Any] = json.loads(text)
        return cls(**{n: np.frombuffer(base64.b64decode(data), "<f4").reshape(shape) for n, (shape, data) in known.items()})


def learn_poses(clips: Iterable[pa.Table | None]) -> PoseMap | None:
    """The map of poses of clips' fits: `side` and `hand_pose`, of at most 20,000 hands of as many clips as give them; None of too few."""
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    poses: list[np.ndarray] = []
    for table in clips:
        if table is None or not len(table):
            continue
        rows = _as_right(table["side"].to_numpy(), table["hand_pose"])
        rows = rows[np.isfinite(rows).all(1)]
        poses.append(rows[rng.permutation(len(rows))[:200]])
        if sum(map(len, poses)) >= _MOST_LEARNED:
            break
    learned = np.concatenate(poses) if poses else np.zeros((0, 45), np.float32)
    if len(learned) < 3:
        return None
    pca = PCA(min(_NUM_AXES, len(learned) - 1), svd_solver="full").fit(learned)
    axes, mean = pca.components_.astype(np.float32), pca.mean_.astype(np.float32)
    chosen = learned[rng.permutation(len(learned))[:_NUM_REFERENCES]]
    return PoseMap(mean, axes, ((chosen - mean) @ axes.T).astype(np.float32))


def _as_right(side: np.ndarray, hand_pose: pa.ChunkedArray) -> Float32[np.ndarray, "n 45"]:
    """Poses as right hands have them."""
    poses = hand_pose.combine_chunks().flatten().to_numpy().reshape(len(side), 45)
    return np.where((side == LEFT)[:, None], poses * _MIRROR, poses).astype(np.float32)
