"""Where a detector with a small input looks in a frame: the whole of it, and overlapping square tiles.

A view is an xyxy box in pixels of the frame. A detector that shrinks 1,280 pixels to 192 cannot see a hand of 40.
"""

import numpy as np
from jaxtyping import Float64

OVERLAP = 0.25
"""Share of a tile that its neighbour also covers, at least: what is cut by one tile lies whole in the next, up to this size. Ours."""


def whole(width: int, height: int) -> Float64[np.ndarray, "4"]:
    """The frame itself."""
    return np.array([0, 0, width, height], np.float64)


def tiles(width: int, height: int, side: float) -> Float64[np.ndarray, "n 4"]:
    """Square tiles that cover the frame, evenly spaced, row by row; a frame narrower than a tile is centred in it."""
    return np.array([[x, y, x + side, y + side] for y in _starts(height, side) for x in _starts(width, side)], np.float64)


def few_tiles(width: int, height: int, side: float, most: int) -> Float64[np.ndarray, "n 4"]:
    """Tiles of at least this side, enlarged by quarters until there are no more than `most`: a strip would have hundreds."""
    squares = tiles(width, height, side)
    while len(squares) > most:
        side *= 1.25
        squares = tiles(width, height, side)
    return squares


def _starts(length: int, side: float) -> Float64[np.ndarray, "n"]:
    if length <= 1.05 * side:
        return np.array([(length - side) / 2], np.float64)
    count = int(np.ceil((length - OVERLAP * side) / ((1 - OVERLAP) * side) - 1e-9))
    return np.linspace(0, length - side, max(count, 2))
