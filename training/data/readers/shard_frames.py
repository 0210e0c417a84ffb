"""Frames of our own shards as labelled pictures: squares of the network's size, hands that were dropped to be ignored.

Boxes are cut at the frame's border; a hand of which a tenth or less is seen counts neither way, as it does in training.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from hands.metrics.detections import area
from training.data.readers.labelled_picture import LabelledPicture
from training.data.samples import Frames
from training.data.shard import CorruptSampleError

_log = logging.getLogger(__name__)


def shard_frames(frames: Frames, rows: Sequence[int] | None = None) -> Iterator[LabelledPicture]:
    """Every frame or some, labels in pixels of the square. A corrupt one is left out, by name."""
    for row in range(len(frames)) if rows is None else rows:
        picture = np.empty(frames.shape, np.uint8)
        try:
            frames.decode(row, picture)
        except CorruptSampleError as error:
            _log.warning("frame %d left out: %s", row, error)
            continue
        labels = frames.labels([row])
        border = np.tile(labels["to_picture"][0, 1:], 2)
        whole = labels["box"].astype(np.float64)
        box, ignore = (np.clip(boxes, border, frames.size - border) for boxes in (whole, labels["ignore"].astype(np.float64)))
        counts = labels["keep"] & (area(box) > 0.1 * area(whole))
        yield LabelledPicture(
            name=str(row),
            picture=picture,
            box=box[counts],
            side=labels["side"][counts].astype(np.int64),
            ignore=np.concatenate([ignore, box[~counts]]),
        )
