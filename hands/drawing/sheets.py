"""Sheets of images: thumbnails side by side, and the few that went worst out of many.

Images are rows of red, green, blue.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "_ _ 3"]


def sheet(images: Sequence[Image], columns: int) -> Image:
    """Images of one size, `columns` in a line, black where a last line is not full. There must be one."""
    padded = [*images, *[np.zeros_like(images[0])] * (-len(images) % columns)]
    return np.concatenate([np.concatenate(padded[k : k + columns], 1) for k in range(0, len(padded), columns)])


def thumbnail(image: Image, size: int, title: str = "") -> UInt8[np.ndarray, "{size} {size} 3"]:
    """An image in the upper left of a black square, as large as fits, its title below."""
    scale = size / max(image.shape)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.zeros((size, size, 3), np.uint8)
    square[: small.shape[0], : small.shape[1]] = small[:size, :size]
    cv2.putText(square, title, (4, size - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255))
    return square


def write_image(path: Path, image: Image) -> None:
    """Write a JPEG or PNG, by the ending, into a folder that is made where there is none. Raises OSError that names the file.

    `cv2.imwrite` says nothing of a full disk, and dies of a name that is no UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(image[..., ::-1]))
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@dataclass(slots=True)
class Worst:
    """The images with the most faults of all that come by, drawn only as long as they are among the worst."""

    count: int = 12
    kept: list[tuple[int, int, Image]] = field(default_factory=list)
    """A heap of faults, the order of coming backwards, and the image."""
    num_seen: int = 0

    def offer(self, faults: int, draw: Callable[[], Image]) -> None:
        """Take an image in if it has faults, and more than one that is kept; of equals the first ones stay."""
        self.num_seen += 1
        if not faults or (len(self.kept) == self.count and faults <= self.kept[0][0]):
            return
        keep = heapq.heappush if len(self.kept) < self.count else heapq.heapreplace
        keep(self.kept, (faults, -self.num_seen, draw()))

    def images(self) -> list[Image]:
        """The images, worst first."""
        return [image for *_, image in sorted(self.kept, key=lambda item: item[:2], reverse=True)]
