"""Labelled pictures of the media folder as frames that detectors read."""

import json
from pathlib import Path

import cv2
import numpy as np

from stages.media.frames import Frames


def frames_of(*images: np.ndarray) -> Frames:
    """Pictures as consecutive frames, five a second."""
    count = len(images)
    return Frames(video="v", frame=np.arange(count, dtype=np.int64), time_s=np.arange(count) / 5, images=list(images))


def labelled(media: Path, name: str) -> tuple[np.ndarray, dict]:
    """RGB picture and label of one frame of bench_A."""
    row = next(row for row in json.loads((media / "labels" / "bench_A.json").read_text())["images"] if row["id"] == name)
    return cv2.cvtColor(cv2.imread(str(media / row["jpeg"])), cv2.COLOR_BGR2RGB), row
