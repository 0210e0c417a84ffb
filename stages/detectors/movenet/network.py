"""MoveNet MultiPose: everybody in a picture and their 17 keypoints by one small network, whatever the number of people.

A MobileNetV2 with a feature pyramid and CenterNet's heads (Zhou et al., arXiv:1904.07850), a cell every four pixels: where people's middles
are, how large each is, where its keypoints should be, and where keypoints of anybody are. `convert.py` makes the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from stages.detectors.pictures import Picture
from stages.detectors.sessions import open_session

FILE = Path(__file__).resolve().parent / "assets" / "movenet_multipose.onnx"
HEADS = ("centre", "box_size", "box_offset", "keypoint_place", "keypoint_heat", "keypoint_offset")
STRIDE, MULTIPLE = 4, 32
PEAK = 5
"""Cells of the square within which a middle must be the highest (MoveNet's own)."""
WINDOW = 0.3
"""Of the shorter side in cells: the square of how far from its place a keypoint is looked for, in cells (MoveNet's own)."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FoundPeople:
    """The people of one picture, surest first; pixels of the picture."""

    score: Float64[np.ndarray, "n"]  # of the person's middle
    box: Float64[np.ndarray, "n 4"]
    keypoints: Float64[np.ndarray, "n 17 3"]  # COCO's order; the third is the height of the heat there, in [0, 1]

    def take(self, rows: Shaped[np.ndarray, "_"]) -> "FoundPeople":
        """Some of the people, by their rows."""
        return FoundPeople(score=self.score[rows], box=self.box[rows], keypoints=self.keypoints[rows])


FindPeople = Callable[[Picture, float], FoundPeople]


def load_people_detector(size: int, *, device: str = "cpu") -> FindPeople:
    """The network as a function of a picture and the least score of a person's middle, shown `size` pixels along its longer side.

    Raises ValueError when `device` is cuda and onnxruntime has none, BadWeights when the file is damaged.
    """
    session = open_session(FILE, device=device, setting="detect_people_movenet.device")

    def find(image: Picture, min_score: float) -> FoundPeople:
        shown, scale = as_input(image, size)
        heads = [head[0] for head in session.run(HEADS, {"image": shown[None]})]
        return decode(heads, min_score, scale)

    return find


def as_input(image: Picture, size: int) -> tuple[Float32[np.ndarray, "3 height width"], Float64[np.ndarray, "2"]]:
    """The picture in [-1, 1], its corner at the top left, filled up with black to sides that 32 divides; and how many of the picture's
    pixels one of these is, along x and y."""
    import cv2

    height, width = image.shape[:2]
    shrink = size / max(height, width)
    high, wide = max(1, round(height * shrink)), max(1, round(width * shrink))
    rectangle = np.zeros((-(-high // MULTIPLE) * MULTIPLE, -(-wide // MULTIPLE) * MULTIPLE, 3), np.float32)
    rectangle[:high, :wide] = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA if shrink < 1 else cv2.INTER_LINEAR)
    return rectangle.transpose(2, 0, 1) / np.float32(127.5) - np.float32(1), np.array([width / wide, height / high])


def decode(heads: Sequence[np.ndarray], min_score: float, scale: Float64[np.ndarray, "2"]) -> FoundPeople:
    """People of the network's six heads, as MoveNet decodes them, but any number of them in place of six.

    A keypoint is the cell of the person's box whose heat, less with the distance from where the middle expects it, is highest; that is its
    confidence, where MoveNet tells the highest of what all people make of the cell.
    """
    import cv2

    (centre,), size, offset, place, heat, finer = (head.astype(np.float64) for head in heads)
    height, width = centre.shape
    highest = cv2.dilate(centre, np.ones((PEAK, PEAK)))
    y, x = np.nonzero((centre >= min_score) & (centre >= highest))
    order = np.argsort(-centre[y, x], kind="stable")
    y, x = y[order], x[order]
    middle, half = np.stack([y, x]) + offset[:, y, x], np.maximum(size[:, y, x], 0) / 2
    low = np.clip(middle - half, 0, [[height], [width]])
    high = np.clip(middle + half, 0, [[height], [width]])
    expected = place[:, y, x].reshape(17, 2, -1).transpose(1, 2, 0) + np.stack([y, x])[..., None]
    near_y, near_x = (
        np.exp(-((np.arange(cells) - expected[axis, ..., None]) ** 2) / (WINDOW * min(height, width)))
        * ((np.arange(cells) >= low[axis, :, None]) & (np.arange(cells) < high[axis, :, None]))[:, None]
        for axis, cells in enumerate((height, width))
    )
    weighted = heat * near_y[..., None] * near_x[..., None, :]
    flat = weighted.reshape(*weighted.shape[:2], height * width)
    best = flat.argmax(-1)
    row, column = np.divmod(best, width)
    moved = finer.reshape(17, 2, height, width)[np.arange(17), :, row, column]
    points = (np.stack([column, row], -1) + moved[..., ::-1]) * STRIDE * scale
    sure = np.take_along_axis(flat, best[..., None], -1)
    corners = np.stack([low[1], low[0], high[1], high[0]], -1) * STRIDE * np.tile(scale, 2)
    return FoundPeople(score=centre[y, x], box=corners, keypoints=np.concatenate([points, sure], -1))
