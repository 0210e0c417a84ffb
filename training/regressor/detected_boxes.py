"""A benchmark whose boxes a detector finds, one image after the other, as a video is reconstructed (WiLoR, section 5.3)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from fitting.hand.mano import RIGHT
from training.data.sets.hand_crops import HandCrops, read_crop_image
from training.data.shard import CorruptSampleError
from training.detector.inference import DetectedHands, HandDetector
from training.regressor.evaluate import Benchmark

_AT_ONCE = 16


def with_detected_boxes(benchmark: Benchmark, detector: HandDetector) -> Benchmark:
    """The benchmark on the boxes of a detector, which is shown whole images and not told where the hand is.

    Of an image it is the surest right hand's box, else the surest hand's; where nothing is found the last box of the same video is kept, at
    a video's first images the next one, and where its video has none the whole image. Raises ValueError for a benchmark without images.
    """
    crops = benchmark.crops
    if not isinstance(crops, HandCrops):
        raise ValueError(f"--detector measures on the images of published sets, and {benchmark.name} is shards: name --freihand or --ho3d")
    box, whole = np.full((len(crops), 4), np.nan), np.zeros((len(crops), 4))
    for start in range(0, len(crops), _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, len(crops)))
        images = [_image(crops, row) for row in rows]
        for row, image, hands in zip(rows, images, detector(images), strict=True):
            whole[row, 2:] = image.shape[1], image.shape[0]
            if len(hands.box):
                box[row] = hands.box[_chosen(hands)]
    found = np.isfinite(box[:, 0])
    filled = kept(box, whole, crops.sequence or [str(row) for row in range(len(crops))], crops.frame)
    return replace(
        benchmark,
        name=f"{benchmark.name}-detected",
        protocol=f"{benchmark.protocol.split(',')[0]}, boxes of a detector, which finds {found.mean():.1%} of the hands",
        crops=replace(crops, box=filled),
        submitted=None,
    )


def kept(
    box: Float64[np.ndarray, "n 4"],  # NaN where nothing was found
    whole: Float64[np.ndarray, "n 4"],
    sequence: Sequence[str],
    frame: np.ndarray,
) -> Float64[np.ndarray, "n 4"]:
    """Every gap filled by the last box of the same video, its beginning by the first one, a video without any by whole images."""
    filled = box.copy()
    names = np.asarray(sequence, dtype=str)
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        rows = rows[np.argsort(frame[rows], kind="stable")] if len(frame) else rows
        known = np.isfinite(box[rows, 0])
        if known.any():
            last = np.maximum.accumulate(np.where(known, np.arange(len(rows)), -1))
            filled[rows] = box[rows[np.where(last < 0, known.argmax(), last)]]
        else:
            filled[rows] = whole[rows]
    return filled


def _chosen(hands: DetectedHands) -> int:
    return int(np.lexsort((hands.score, hands.side == RIGHT))[-1])


def _image(crops: HandCrops, row: int) -> np.ndarray:
    """The whole image, or grey where it cannot be read: nothing is found there."""
    try:
        return read_crop_image(crops.images[row])
    except CorruptSampleError:
        return np.full((64, 64, 3), 114, np.uint8)
