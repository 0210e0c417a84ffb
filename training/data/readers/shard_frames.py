"""Frames of our own shards as labelled images: squares of the network's size, hands that were dropped to be ignored.

Boxes are cut at the frame's border; a hand of which a tenth or less is seen counts neither way, as it does in training.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from stages import boxes
from training.data.readers.labelled_image import LabelledImage
from training.data.samples import Frames
from training.data.shard import CorruptSampleError

_log = logging.getLogger(__name__)


def shard_frames(frames: Frames, rows: Sequence[int] | None = None) -> Iterator[LabelledImage]:
    """Every frame or some, labels in pixels of the square. A corrupt one is left out, by name."""
    for row in range(len(frames)) if rows is None else rows:
        image = np.empty(frames.shape, np.uint8)
        try:
            frames.decode(row, image)
        except CorruptSampleError as error:
            _log.warning("frame %d left out: %s", row, error)
            continue
        labels = frames.labels([row])
        border = np.tile(labels["to_input"][0, 1:], 2)
        whole = labels["box"].astype(np.float64)
        box, ignore = (np.clip(some, border, frames.size - border) for some in (whole, labels["ignore"].astype(np.float64)))
        counts = labels["keep"] & (boxes.area(box) > 0.1 * boxes.area(whole))
        yield LabelledImage(
            name=str(row),
            source=image,
            box=box[counts],
            side=labels["side"][counts].astype(np.int64),
            ignore=np.concatenate([ignore, box[~counts]]),
        )
