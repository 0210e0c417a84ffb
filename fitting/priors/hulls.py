"""Convex hulls of pairs of angles, as plain arrays: learned from samples, counter-clockwise, padded to one number of corners."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull, QhullError

MOST_CORNERS = 16
"""Of a learned hull."""

ROUNDING = 1e-6
"""Square radians: a file's float32 may bend a flat corner inward by so much."""

Polygon = Float[np.ndarray, "_ 2"]


def inside(samples: Float[np.ndarray, "n 2"], polygon: Polygon, slack: float = 1e-12) -> Bool[np.ndarray, "n"]:
    """Whether samples lie in a counter-clockwise convex polygon or on its border, but for a `slack` of edge times distance."""
    edge = np.roll(polygon, -1, 0) - polygon
    return np.asarray((_cross(edge, samples[:, None] - polygon) >= -slack).all(1))


def hull_of(samples: Float[np.ndarray, "n 2"], kept: float = 0.9995) -> Polygon:
    """A convex polygon of at most `MOST_CORNERS` corners that holds at least the share `kept` of the samples.

    The convex hull of all but the few samples whose absence makes it smaller most (Spurr et al. 2020, section 3.1; so chosen by us), so
    that strays do not set the limits. Then edges go by extending their neighbours, which loses no sample. ValueError when the samples
    lie in a line.
    """
    try:
        polygon = _hull_without_strays(samples, num_strays=int((1 - kept) * len(samples)))
    except (QhullError, ValueError) as error:
        raise ValueError(f"{len(samples)} samples span no area, so they have no hull: give more of them") from error
    while len(polygon) > MOST_CORNERS:
        polygon = _one_edge_fewer(polygon)
    return polygon


def _hull_without_strays(samples: Float[np.ndarray, "n 2"], num_strays: int) -> Polygon:
    rim = _outer_layers(samples, num_strays + 1)
    for _ in range(num_strays):
        rim = np.delete(rim, _stray(rim), 0)
    return np.asarray(rim[ConvexHull(rim).vertices])


def _stray(samples: Float[np.ndarray, "n 2"]) -> int:
    """The sample without which the hull is smallest. Losing a corner costs at most the triangle with its neighbours."""
    hull = ConvexHull(samples)
    corners = samples[hull.vertices]
    before = np.roll(corners, 1, 0)
    triangle = _cross(corners - before, np.roll(corners, -1, 0) - before) / 2
    stray, most = 0, -1.0
    for corner in np.argsort(-triangle):
        if triangle[corner] <= most:
            break
        less = hull.volume - ConvexHull(np.delete(samples, hull.vertices[corner], 0)).volume
        if less > most:
            stray, most = int(hull.vertices[corner]), less
    return stray


def _outer_layers(samples: Float[np.ndarray, "n 2"], num_layers: int) -> Float[np.ndarray, "_ 2"]:
    """The samples that are corners of the hull once fewer than `num_layers` others are gone, and more."""
    layers = []
    while num_layers and len(samples) > 3:
        corners = ConvexHull(samples).vertices
        layers.append(samples[corners])
        samples, num_layers = np.delete(samples, corners, 0), num_layers - 1
    return np.concatenate([*layers, samples[:3]])


def _one_edge_fewer(polygon: Polygon) -> Polygon:
    """The polygon with one edge replaced by the corner where its neighbours meet: the edge that adds least area so."""
    start, end = polygon, np.roll(polygon, -1, 0)
    before, after = start - np.roll(polygon, 1, 0), np.roll(polygon, -2, 0) - end
    edge, turn = end - start, _cross(before, after)
    meets = turn > 1e-12  # the neighbours come together outside
    share = np.where(meets, _cross(edge, after) / np.where(meets, turn, 1), np.inf)
    added = np.where(meets, share * _cross(before, edge) / 2, np.inf)
    gone = int(added.argmin())
    corner = start[gone] + share[gone] * before[gone]
    fewer = polygon.copy()
    fewer[gone] = corner
    return np.delete(fewer, (gone + 1) % len(polygon), 0)


def _cross(a: Float[np.ndarray, "... 2"], b: Float[np.ndarray, "... 2"]) -> Any:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def padded(polygons: Sequence[Polygon]) -> Float[np.ndarray, "polygons corners 2"]:
    """Convex polygons in one array: counter-clockwise, the last corner repeated. ValueError names the one that is not convex."""
    most = max(len(polygon) for polygon in polygons)
    rows = []
    for number, polygon in enumerate(polygons):
        area = _cross(polygon, np.roll(polygon, -1, 0)).sum() / 2
        turned = polygon if area > 0 else polygon[::-1]
        if len(polygon) < 3 or not inside(turned, turned, ROUNDING).all() or abs(area) < 1e-12:
            raise ValueError(f"hull {number} is no convex polygon: {np.asarray(polygon).tolist()}")
        rows.append(np.concatenate([turned, np.repeat(turned[-1:], most - len(turned), 0)]))
    return np.stack(rows)
