"""Axis-aligned boxes: xyxy, pixels of the full upright frame, never clipped."""

import numpy as np
from jaxtyping import Bool, Float, Int64


def area(box: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    """Square pixels; an inverted box has none."""
    return np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), -1)


def centre(box: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 2"]:
    """Pixels."""
    return (box[..., :2] + box[..., 2:]) / 2


def scaled(box: Float[np.ndarray, "n 4"], extent: Float[np.ndarray, "2"]) -> Float[np.ndarray, "n 4"]:
    """Boxes grown about their centres by factors of width and height."""
    middle, half = centre(box), (box[:, 2:] - box[:, :2]) / 2 * extent
    return np.concatenate([middle - half, middle + half], axis=1)


def long_side(box: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    """Pixels, at least a thousandth so that one may divide by it."""
    return np.maximum((box[..., 2:] - box[..., :2]).max(-1, initial=1e-3), 1e-3)


def intersection(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Shared square pixels of every pair."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), -1)


def iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every pair, in [0, 1]."""
    shared = intersection(a, b)
    return shared / np.maximum(area(a)[:, None] + area(b)[None] - shared, 1e-9)


def is_cut(box: Float[np.ndarray, "n 4"], view: Float[np.ndarray, "*n 4"], width: int, height: int) -> Bool[np.ndarray, "n"]:
    """Boxes that reach within 2 % of a border of the view they were seen in, where the frame goes on beyond that border."""
    margin = 0.02 * (view[..., 2:] - view[..., :2])
    low = (box[:, :2] < view[..., :2] + margin) & (view[..., :2] > 1)
    high = (box[:, 2:] > view[..., 2:] - margin) & (view[..., 2:] < np.array([width, height]) - 1)
    return np.asarray((low | high).any(-1), np.bool_)


def each_once(same: Bool[np.ndarray, "n n"]) -> Int64[np.ndarray, "k"]:
    """Rows, best first as they come, that are not the same as one kept before."""
    kept: list[int] = []
    for row in range(len(same)):
        if not same[kept, row].any():
            kept.append(row)
    return np.array(kept, np.int64)
