"""A map of hand poses in two dimensions, on which rare and near-duplicate poses are found. Angles in radians, distances in degrees.

The map is scikit-learn's t-SNE of at most 4,000 hands; every other hand lies among the six of them whose poses are nearest to its own.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from stages.tables import LEFT

POSE_COLUMNS = ("map_x", "map_y", "rarity")
"""Place on the map, and how far the nearest of the reference poses is: root mean square over the 45 angles, degrees."""

_MIRROR = np.tile(np.array([1, -1, -1], np.float32), 15)
_MOST_READ, _LEAST_OF_CLIP = 20_000, 50
_NUM_REFERENCES, _NUM_AXES = 4000, 12
_NUM_NEAREST, _SAME = 6, 1e-4
_PERPLEXITY, _ITERATIONS, _ANGLE = 30.0, 500, 0.8
"""Iterations and angle of t-SNE: more of the one and less of the other keep no more neighbours on the map (real hands), in three times
the time."""


@dataclass(frozen=True)
class PoseMap:
    """Reference poses of a data folder, where each lies on the map, and the main axes (scikit-learn's PCA) that neighbours are found by."""

    axes: Float32[np.ndarray, "axes 45"]
    references: Float32[np.ndarray, "n 45"]
    places: Float32[np.ndarray, "n 2"]

    def place(self, side: np.ndarray, hand_pose: pa.ChunkedArray) -> dict[str, np.ndarray]:
        """The pose columns of hands; NaN where a hand was not fitted."""
        poses = _as_right(side, hand_pose)
        known = np.flatnonzero(np.isfinite(poses).all(1))
        columns = np.full((len(POSE_COLUMNS), len(poses)), np.nan, np.float32)
        if len(known):
            nearest = self._tree.query(poses[known] @ self.axes.T, k=min(_NUM_NEAREST, len(self.references)), return_distance=False)
            apart = np.linalg.norm(poses[known, None] - self.references[nearest], axis=2)
            weight = 1 / (apart + _SAME) ** 2
            columns[:2, known] = ((self.places[nearest] * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)).T
            apart.sort(axis=1)
            itself = apart[:, 0] < _SAME  # a reference is held against the others
            columns[2, known] = np.degrees(np.where(itself, apart[:, 1], apart[:, 0]) / np.sqrt(45))
        return dict(zip(POSE_COLUMNS, columns, strict=True))

    @cached_property
    def _tree(self) -> Any:
        from sklearn.neighbors import KDTree

        return KDTree(self.references @ self.axes.T)

    def as_json(self) -> str:
        """The map as text, to be kept."""
        arrays = {name: getattr(self, name) for name in ("axes", "references", "places")}
        return json.dumps({n: [a.shape, base64.b64encode(a.astype("<f4").tobytes()).decode()] for n, a in arrays.items()})

    @classmethod
    def from_json(cls, text: str) -> "PoseMap":
        """The map that `as_json` wrote."""
        known: dict[str, Any] = json.loads(text)
        return cls(**{n: np.frombuffer(base64.b64decode(data), "<f4").reshape(shape) for n, (shape, data) in known.items()})


def learn_poses(clips: Iterable[pa.Table | None], num_clips: int) -> PoseMap | None:
    """The map of poses of clips' fits: `side` and `hand_pose`; of as many clips, in their order, as give enough hands; None of too few."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rng = np.random.default_rng(0)
    most, poses, count = max(_LEAST_OF_CLIP, _MOST_READ // max(num_clips, 1)), list[np.ndarray](), 0
    for table in clips:
        if table is None or not len(table):
            continue
        rows = _as_right(table["side"].to_numpy(), table["hand_pose"])
        rows = rows[np.isfinite(rows).all(1)]
        poses.append(rows[rng.permutation(len(rows))[:most]])
        count += len(poses[-1])
        if count >= _MOST_READ:
            break
    if count < 3:
        return None
    learned = np.concatenate(poses)
    pca = PCA(min(_NUM_AXES, count - 1), svd_solver="full").fit(learned)
    axes, references = pca.components_.astype(np.float32), learned[rng.permutation(count)[:_NUM_REFERENCES]]
    settings = {"perplexity": min(_PERPLEXITY, (len(references) - 1) / 3), "max_iter": _ITERATIONS, "angle": _ANGLE}
    map_of = TSNE(init="pca", random_state=0, n_jobs=1, **settings)  # threads wait for each other where a core is busy
    return PoseMap(axes, references, map_of.fit_transform(references @ axes.T).astype(np.float32))


def _as_right(side: np.ndarray, hand_pose: pa.ChunkedArray) -> Float32[np.ndarray, "n 45"]:
    """Poses as right hands have them."""
    poses = hand_pose.combine_chunks().flatten().to_numpy().reshape(len(side), 45)
    return np.where((side == LEFT)[:, None], poses * _MIRROR, poses).astype(np.float32)
