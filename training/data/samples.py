"""Samples that training reads out of shards: whole frames for the detector, crops of single hands for the regressor.

Frame of reference: pixels of the stored image; `to_input` (scale, then x and y shift) takes them to the image of the batch.
"""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, Float32, Int64, UInt8

from hands.images import decoded
from training.data.dataset import Dataset
from training.data.order import key_of, shuffled
from training.data.shard import CorruptSampleError

FILL = 114
"""Grey of what lies outside the image; YOLO's."""

LEFT = 0
MOST_PIXELS = 1 << 26
"""Of a stored image, 8192 x 8192: shards hold smaller ones, and a header may declare 65,500 x 65,500."""
FARTHEST_PX = 32_768.0
"""No box of an image reaches farther."""
_WIDEST = 8
"""A square so many times larger than its image is filled without being made."""


def decode_jpeg(data: memoryview, min_side: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """An image, shrunk by the decoder itself by up to 8 as long as its longer side stays `min_side` or more (0: never).

    What simplejpeg cannot read (CMYK, 12 bits) OpenCV may. Raises CorruptSampleError.
    """
    _check_declared(data)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        low = (min_side, 0) if height >= width else (0, min_side)
        if not min_side or max(height, width) < 2 * min_side:
            low = (0, 0)
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True, min_height=low[0], min_width=low[1])
    except ValueError as error:
        image = decoded(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)  # boxes are of the image as it is stored
        if image is None:
            raise CorruptSampleError(f"no JPEG ({error})") from error
        return np.asarray(image)


def placed(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of an image in the middle of a square."""
    scale = size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    return (size - wide) // 2, (size - high) // 2, wide, high


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Frames:
    """Frames in the middle of a grey square, with all their hands."""

    dataset: Dataset
    size: int = 640
    """Side of the square, pixels."""
    columns: Sequence[str] = ("box", "side", "keypoints", "keep")
    """Columns of the hands that labels have."""
    share: float = 1.0
    """Share of the dataset's frames, always the same ones (paper, Table 2: how much data)."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"frames.share must lie in (0, 1], got {self.share}")

    def __len__(self) -> int:
        return max(1, round(self.share * len(self.dataset)))

    @property
    def fingerprint(self) -> str:
        return f"frames {self.dataset.fingerprint} {self.share}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    def decode(self, sample: int, out: UInt8[np.ndarray, "size size 3"]) -> None:
        shard, row = self.dataset.place(self._row(sample))
        data = shard.image(row)
        left, top, width, height = placed(*_size(data), self.size)
        out[:top], out[top + height :] = FILL, FILL
        out[top : top + height, :left], out[top : top + height, left + width :] = FILL, FILL
        window = out[top : top + height, left : left + width]
        if (width, height) == _size(data) and width == self.size:
            with contextlib.suppress(ValueError):
                simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True, buffer=window)
                return
        image = decode_jpeg(data, self.size)
        shrinks = image.shape[1] > width
        window[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def labels(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """`image` and the columns of every hand in images' pixels; `ignore_image` and `ignore`; `to_input` of every image."""
        rows = [self._row(sample) for sample in samples]
        of, hands = self.dataset.hands(rows, self.columns)
        ignore_of, ignore = self.dataset.ignore(rows)
        to_input = np.array([self._to_input(row) for row in rows], np.float32).reshape(-1, 3)
        for name in {"box", "keypoints", "joints_2d"} & set(hands):
            hands[name] = moved(hands[name], to_input[of])
        return {"image": of, **hands, "ignore_image": ignore_of, "ignore": moved(ignore, to_input[ignore_of]), "to_input": to_input}

    def _row(self, sample: int) -> int:
        """Row of the dataset."""
        if self.share == 1:
            return sample
        return int(shuffled(np.array([sample]), len(self.dataset), key_of(self.dataset.fingerprint, "share"))[0])

    def _to_input(self, row: int) -> tuple[float, int, int]:
        shard, row = self.dataset.place(row)
        width, height = _size(shard.image(row))
        left, top, _, _ = placed(width, height, self.size)
        return self.size / max(width, height), left, top


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Crops:
    """Squares around single hands, left hands mirrored, so that every image shows a right hand."""

    dataset: Dataset
    hand: Int64[np.ndarray, "n 3"]
    """Row of the dataset, shard, hand of the shard."""
    fingerprint: str
    size: int = 256
    """Side of the square, pixels."""
    factor: float = 3.0
    """Side of the square over the box's longer side: 2 as WiLoR's crops, and a margin for rotation and shift on the device."""
    columns: Sequence[str] = ("side", "keypoints", "joints_2d", "joints_3d", "betas", "global_orient", "hand_pose", "camera", "quality")
    """Columns of the hands that labels have."""

    @classmethod
    def of(cls, dataset: Dataset, min_quality: float = 0.0, size: int = 256, factor: float = 3.0, share: float = 1.0) -> "Crops":
        """The hands that were kept, fitted, are good enough and have a box of some area, or a share of them, always the same ones.

        Raises ValueError when there are none.
        """
        if not 0 < share <= 1:
            raise ValueError(f"crops.share must lie in (0, 1], got {share}")
        chosen = []
        for number, shard in enumerate(dataset.shards):
            columns = shard.columns
            good = columns["keep"] & (columns["quality"] >= min_quality) & np.isfinite(columns["hand_pose"]).all(1)
            good &= np.isfinite(columns["box"]).all(1) & (columns["box"][:, 2:] > columns["box"][:, :2]).all(1)
            good &= (np.abs(columns["box"]) < FARTHEST_PX).all(1)
            hand = np.flatnonzero(good)
            row = np.searchsorted(shard.hand_start, hand, side="right") - 1 + dataset.start[number]
            chosen.append(np.stack([row, np.full_like(row, number), hand], 1))
        hands = np.concatenate(chosen)
        if not len(hands):
            raise ValueError(f"no hand of quality {min_quality} or more in {len(dataset)} frames: nothing to train on")
        if share < 1:
            some = np.arange(max(1, round(share * len(hands))))
            hands = hands[np.sort(shuffled(some, len(hands), key_of(dataset.fingerprint, "share")))]
        fingerprint = f"crops {dataset.fingerprint} {key_of(hashlib.sha256(hands.tobytes()).hexdigest()):016x}"
        return cls(dataset=dataset, hand=hands, fingerprint=fingerprint, size=size, factor=factor)

    def __len__(self) -> int:
        return len(self.hand)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    def decode(self, sample: int, out: UInt8[np.ndarray, "size size 3"]) -> None:
        row, number, hand = self.hand[sample].tolist()
        data = self.dataset.shards[number].image(row - int(self.dataset.start[number]))
        to_input = self._to_input(number, hand)
        size = _size(data)
        image = decode_jpeg(data, math.ceil(min(to_input[0], 1) * max(size)))
        cut(image, size, to_input, out, mirrored=self._is_left(number, hand))

    def labels(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """The columns of each hand as the shard has them (pixels of the stored image, its own side), with `image` and `to_input`.

        A left hand's image is mirrored after `to_input`: x -> size - x.
        """
        where = [self.hand[sample].tolist() for sample in samples]
        columns = {name: np.array([self.dataset.shards[n].columns[name][h] for _, n, h in where]) for name in self.columns}
        to_input = np.array([self._to_input(n, h) for _, n, h in where], np.float32).reshape(-1, 3)
        return {"image": np.arange(len(where)), **columns, "to_input": to_input}

    def _to_input(self, number: int, hand: int) -> Float32[np.ndarray, "3"]:
        return squared(self.dataset.shards[number].columns["box"][hand], self.size, self.factor)

    def _is_left(self, number: int, hand: int) -> bool:
        return bool(self.dataset.shards[number].columns["side"][hand] == LEFT)


def squared(box: Float[np.ndarray, "4"], size: int, factor: float) -> Float32[np.ndarray, "3"]:
    """`to_input` of the square around a box, `factor` times its longer side, to the nearest pixel that `cut` may begin and end at."""
    x0, y0, x1, y1 = box.tolist()
    side = max(1, round(factor * max(x1 - x0, y1 - y0)))
    unit = 8 if side >= 2 * size else 1  # a decoder shrinks by eighths
    side = unit * round(side / unit)
    left, top = (unit * round((middle - side / 2) / unit) for middle in ((x0 + x1) / 2, (y0 + y1) / 2))
    return np.array([size, -left * size, -top * size], np.float32) / np.float32(side)


def cut(
    image: UInt8[np.ndarray, "height width 3"],
    full: tuple[int, int],
    to_input: Float32[np.ndarray, "3"],
    out: UInt8[np.ndarray, "size size 3"],
    *,
    mirrored: bool = False,
) -> None:
    """Write the square of an image that `squared` chose; `full` is the image's width and height before it was shrunk.

    The square is of whole pixels because OpenCV resizes them in a third of the time that it warps.
    """
    scale, dx, dy = to_input.tolist()
    shrunk = round(8 * max(image.shape) / max(full)) / 8
    left, top, side = (round(shrunk * full_size) for full_size in (-dx / scale, -dy / scale, len(out) / scale))
    height, width = image.shape[:2]
    x0, x1, y0, y1 = max(left, 0), min(left + side, width), max(top, 0), min(top + side, height)
    if x0 >= x1 or y0 >= y1:
        out[:] = FILL
        return
    inside = image[y0:y1, x0:x1]
    if side > _WIDEST * max(width, height):  # the border would be most of it: no image of that size is made
        out[:] = FILL
        u0, u1, v0, v1 = (round(len(out) * at / side) for at in (x0 - left, x1 - left, y0 - top, y1 - top))
        if u1 > u0 and v1 > v0:
            cv2.resize(inside, (u1 - u0, v1 - v0), dst=out[v0:v1, u0:u1], interpolation=cv2.INTER_AREA)
        if mirrored:
            cv2.flip(out, 1, dst=out)
        return
    if inside.shape[:2] != (side, side):
        around = (y0 - top, top + side - y1, x0 - left, left + side - x1)
        inside = cv2.copyMakeBorder(inside, *around, cv2.BORDER_CONSTANT, value=(FILL,) * 3)
    cv2.resize(inside, out.shape[:2], dst=out, interpolation=cv2.INTER_LINEAR)
    if mirrored:
        cv2.flip(out, 1, dst=out)


def moved(points: Float32[np.ndarray, "n *shape"], to_input: Float32[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n *shape"]:
    """Boxes [n, 4] or points [n, k, 2 or 3] (a third number is kept) in pixels of the image."""
    scale, shift = to_input[:, :1], to_input[:, 1:]
    if points.ndim == 2:
        return points * scale + np.concatenate([shift, shift], 1)
    return np.concatenate([points[..., :2] * scale[:, None] + shift[:, None], points[..., 2:]], -1)


def _size(data: memoryview) -> tuple[int, int]:
    """Width and height of a JPEG. Raises CorruptSampleError for what is none, and for one that declares more than any camera takes."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise CorruptSampleError(f"no JPEG ({error})") from error
    _check_declared(data)
    return width, height


def _check_declared(data: memoryview) -> None:
    """Read the size in a JPEG's frame header, before anything is made for it. Raises CorruptSampleError when it is beyond any camera."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[at + place : at + place + 2], "big") for place in (5, 7))
            if width * height > MOST_PIXELS:
                raise CorruptSampleError(f"a JPEG of {len(data):,} bytes that declares {width} x {height} pixels")
            return
        at += 1 if kind == 0xFF else 2 + length
