"""Frames of our own shards as labelled pictures: squares of the network's size, hands that were dropped to be ignored."""

from collections.abc import Iterator

import numpy as np

from training.products import Frames
from training.readers.labelled_picture import LabelledPicture


def shard_frames(frames: Frames) -> Iterator[LabelledPicture]:
    """Every frame, its labels in pixels of the square."""
    for row in range(len(frames)):
        picture = np.empty(frames.shape, np.uint8)
        frames.decode(row, picture)
        labels = frames.labels([row])
        kept = labels["keep"]
        yield LabelledPicture(
            name=str(row),
            picture=picture,
            box=labels["box"][kept].astype(np.float64),
            side=labels["side"][kept].astype(np.int64),
            ignore=np.concatenate([labels["ignore"], labels["box"][~kept]]).astype(np.float64),
        )
