"""Hands of a bent camera's frame, found in several overlapping views: each once, with its place in the video's own pixels.

Where a full sphere's image ends its other side goes on: a box across the seam is not cut, it reaches beyond the image, and keypoints lie
with their box.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Float64

from stages import boxes
from stages.cameras.views import camera_of_view, rays_of, to_source
from stages.tables import Cameras, Hands, RefusedHands

_PEOPLE = 256
"""More than anybody finds in one view."""
_NEAR, _ALIKE = 0.5, 2.5
"""Two hands of two views are one where their middles lie nearer than this many of the larger one's sizes, and their sizes within this
factor: one may be cut by its view. Ours."""
_MARGIN = 0.05
"""Share of its box by which a hand lies within its view at least to count as whole."""


def placed(hands: RefusedHands, cameras: Cameras) -> RefusedHands:
    """Hands with box and keypoints in the video's own pixels beside those of their view."""
    if not len(hands):
        return hands
    box, keypoints = hands.box_source.copy(), hands.keypoints_source.copy()
    around = float(cameras.width[0]) if cameras.projection[0] == "equirectangular" else 0.0
    for view in np.unique(hands.view).tolist():
        rows = np.flatnonzero(hands.view == view)
        border = to_source(cameras, view, _border(hands.box[rows]))
        points = to_source(cameras, view, hands.keypoints[rows, :, :2])
        if around:
            middle = to_source(cameras, view, boxes.centre(hands.box[rows]))[:, None, :1]
            for some in (border, points):
                some[..., :1] = middle + (some[..., :1] - middle + around / 2) % around - around / 2
        box[rows] = np.concatenate([np.nanmin(border, 1), np.nanmax(border, 1)], 1)
        keypoints[rows] = points
    return replace(hands, box_source=box, keypoints_source=keypoints)


def _border(box: Float[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 16 2"]:
    """Points along the border of boxes."""
    share = np.linspace(0, 1, 5)[:-1]
    one, nought = np.ones_like(share), np.zeros_like(share)
    x, y = np.concatenate([share, one, 1 - share, nought]), np.concatenate([nought, share, one, 1 - share])
    low, size = box[:, None, :2].astype(np.float64), (box[:, 2:] - box[:, :2])[:, None].astype(np.float64)
    return low + np.stack([x, y], 1)[None] * size


def seen_before(hands: RefusedHands, cameras: Cameras) -> Bool[np.ndarray, "n"]:
    """Which hands are one that another view of their frame shows better: whole where they are cut, or nearer to its axis."""
    ray, size, whole, off_axis = _directions(hands, cameras)
    again = np.zeros(len(hands), bool)
    for frame in np.unique(hands.frame):
        rows = np.flatnonzero(hands.frame == frame)
        rows = rows[np.lexsort((off_axis[rows], ~whole[rows]))]
        kept: list[int] = []
        absorbed: set[tuple[int, int]] = set()
        for row in rows.tolist():
            angle = np.arccos(np.clip(ray[kept] @ ray[row], -1, 1))
            larger, ratio = np.maximum(size[kept], size[row]), size[kept] / size[row]
            same = (angle < _NEAR * larger) & (ratio < _ALIKE) & (ratio > 1 / _ALIKE) & (hands.view[kept] != hands.view[row])
            which = [kept[i] for i in np.argsort(angle) if same[i] and (kept[i], int(hands.view[row])) not in absorbed]
            if which:
                again[row] = True
                absorbed.add((which[0], int(hands.view[row])))
            else:
                kept.append(row)
    return again


def _directions(
    hands: RefusedHands, cameras: Cameras
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n"], Bool[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """Ray through the middle of each hand, its size and its angle off the axis, radians, and whether its view shows all of it."""
    n = len(hands)
    ray, size, whole, off_axis = np.zeros((n, 3)), np.zeros(n), np.zeros(n, bool), np.zeros(n)
    for view in np.unique(hands.view).tolist():
        rows, camera = np.flatnonzero(hands.view == view), camera_of_view(cameras, view)
        box = hands.box[rows].astype(np.float64)
        middle = boxes.centre(box)
        ray[rows] = rays_of(cameras, view, middle)
        off_axis[rows] = np.arccos(np.clip(camera.rays(middle)[:, 2], -1, 1))
        ends = [np.stack([end, middle[:, 1]], 1) for end in (box[:, 0], box[:, 2])]
        ends += [np.stack([middle[:, 0], end], 1) for end in (box[:, 1], box[:, 3])]
        left, right, top, bottom = (camera.rays(end) for end in ends)
        across, down = (np.arccos(np.clip((a * b).sum(1), -1, 1)) for a, b in ((left, right), (top, bottom)))
        size[rows] = np.maximum(across, down)
        inner = np.minimum(box[:, :2], (camera.width, camera.height) - box[:, 2:]).min(1)
        whole[rows] = inner > _MARGIN * boxes.long_side(box)
    return ray, np.maximum(size, 1e-6), whole, off_axis


def told_apart(person: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Numbers of people that differ from view to view."""
    return np.where(person < 0, -1, person + _PEOPLE * view.astype(np.int16)).astype(np.int16)


def as_numbered(person: np.ndarray) -> np.ndarray:
    """The inverse of `told_apart`."""
    return np.where(person < 0, -1, person % _PEOPLE).astype(np.int16)


def in_video(hands: Hands) -> Hands:
    """Hands whose box and keypoints are in the video's own pixels, whatever view they were found in."""
    is_of_view = np.isfinite(hands.box_source).all(1)
    keypoints = hands.keypoints.copy()
    keypoints[is_of_view, :, :2] = hands.keypoints_source[is_of_view]
    return replace(hands, box=np.where(is_of_view[:, None], hands.box_source, hands.box), keypoints=keypoints)


def swapped(hands: Hands) -> Hands:
    """Hands whose `box` is in the video's own pixels, and `box_source` in their view's; and back."""
    return replace(hands, box=hands.box_source, box_source=hands.box)
