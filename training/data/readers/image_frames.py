"""Labelled images of any reader as samples to train the detector on: squares with all their hands, as `training.data.samples.Frames`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from training.data.order import key_of
from training.data.readers.labelled_image import LabelledImage, read_image
from training.data.samples import FILL, moved, placed
from training.data.shard import CorruptSampleError


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ImageFrames:
    """Images in files, in the middle of a grey square. A hand whose side nobody told has UNKNOWN, which the loss takes for either."""

    name: str
    images: Sequence[LabelledImage]
    size: int = 640
    """Side of the square, pixels."""
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        names = hashlib.sha256("\n".join(f"{image.name} {len(image.box)}" for image in self.images).encode()).hexdigest()
        return f"images {self.name} {key_of(names):016x}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, 3

    def decode(self, sample: int, out: UInt8[np.ndarray, "size size 3"]) -> None:
        try:
            image = self.images[sample].image()
        except FileNotFoundError as error:
            raise CorruptSampleError(str(error)) from error
        left, top, width, height = placed(image.shape[1], image.shape[0], self.size)
        out[:] = FILL
        shrinks = image.shape[1] > width
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        out[top : top + height, left : left + width] = resized

    def labels(self, samples: Sequence[int]) -> dict[str, np.ndarray]:
        """The columns of `Frames.labels`, in the square's pixels; keypoints that are not known are NaN."""
        chosen = [self.images[sample] for sample in samples]
        to_input = np.array([self._to_input(sample) for sample in samples], np.float32).reshape(-1, 3)
        of, ignore_of = (np.repeat(np.arange(len(chosen)), [len(boxes) for boxes in several]) for several in _boxes(chosen))
        box, ignore = (np.concatenate([np.zeros((0, 4)), *several]).astype(np.float32) for several in _boxes(chosen))
        keypoints = np.concatenate([np.zeros((0, 21, 3)), *(_keypoints(image) for image in chosen)]).astype(np.float32)
        return {
            "image": of,
            "box": moved(box, to_input[of]),
            "side": np.concatenate([np.zeros(0, np.int8), *(image.side.astype(np.int8) for image in chosen)]),
            "keypoints": moved(keypoints, to_input[of]),
            "keep": np.ones(len(of), bool),
            "ignore_image": ignore_of,
            "ignore": moved(ignore, to_input[ignore_of]),
            "to_input": to_input,
        }

    def _to_input(self, sample: int) -> tuple[float, int, int]:
        width, height = self._sizes.get(sample) or self._sizes.setdefault(sample, _size(self.images[sample].source))
        left, top, _, _ = placed(width, height, self.size)
        return self.size / max(width, height), left, top


def _boxes(images: Sequence[LabelledImage]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [image.box for image in images], [image.ignore for image in images]


def _keypoints(image: LabelledImage) -> np.ndarray:
    return np.full((len(image.box), 21, 3), np.nan) if image.keypoints is None else image.keypoints


def _size(source: Path | UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    """Width and height, of a JPEG by its header alone; of what is no image (1, 1), which `decode` then refuses."""
    if not isinstance(source, Path):
        return source.shape[1], source.shape[0]
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(source.read_bytes())
        return width, height
    except (ValueError, OSError):
        try:
            image = read_image(source)
        except FileNotFoundError:
            return 1, 1
        return image.shape[1], image.shape[0]
