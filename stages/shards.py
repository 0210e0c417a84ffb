"""Columns of a shard: one row a frame, the JPEG beside the hands on it. Every hand column is one of `Hands`, `Fits` or `Reviews`.

Frame of reference. As in `stages.tables`, but all pixels are those of the stored image: `scale` times the video's upright frame.
"""

import dataclasses
import hashlib
import math
from typing import Annotated

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int16, Int32, Int64

from stages.tables import BoxList, Fits, FloatList, Hands, Reviews, Table, Text

SPLITS: tuple[str, ...] = ("train", "val", "test")

DEALT = ((0.8, "train"), (0.9, "val"), (1.0, "test"))
"""Upper bound of a video's hash for each split, for videos whose manifest names none. Ours."""


def _hand_columns() -> dict[str, tuple[type[Table], str]]:
    """Where each field of a hand comes from; what the frame's row says once is not said again for each hand."""
    columns: dict[str, tuple[type[Table], str]] = {}
    for table in (Hands, Fits, Reviews):
        for field in table.schema():
            name = "box_mesh" if (table, field.name) == (Fits, "box") else field.name
            if name not in ("video", "frame", "time_s", "width", "height", "view", "hint"):  # a hint is the fit's alone
                columns.setdefault(name, (table, field.name))
    return columns


HAND_COLUMNS = _hand_columns()
"""Table and column behind each field of a hand."""

HAND = pa.struct(
    [pa.field(name, table.schema().field(column).type, nullable=False) for name, (table, column) in HAND_COLUMNS.items()]
)  # fmt: skip

HandList = Annotated[np.ndarray, pa.list_(pa.field("element", HAND, nullable=False))]
Bytes = Annotated[np.ndarray, pa.binary()]
FloatPair = Annotated[np.ndarray, pa.list_(pa.float32(), 2)]

NO_CAMERA = {
    "view": 0,
    "projection": "rectilinear",
    "focal_px": [math.nan] * 2,
    "principal": [math.nan] * 2,
    "distortion": list[float](),
    "camera_from": "assumed",
    "world_from_camera": [[math.nan] * 4] * 3,
    "odd": "",
}
"""Of a plain image of whose camera nobody knows."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Shards(Table):
    """One row a frame, sorted by clip and frame."""

    sample: Text  # <video>/<frame>, of a view <video>/<frame>/<view>: the same through every run
    video: Text
    clip: Text
    frame: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    width: Int32[np.ndarray, "n"]  # of the image below
    height: Int32[np.ndarray, "n"]
    scale: Float32[np.ndarray, "n"]  # the image's size over the frame's
    source: Text  # where the video came from: URL, YouTube id, or the name of a local file
    title: Text
    channel: Text
    licence: Text
    video_sha256: Text
    extra: Text  # free columns that the list of videos has, as JSON; '' where it has none
    hands: HandList
    ignore_boxes: BoxList  # of hands that were dropped, or are listed in another view: neither hand nor background
    view: Int16[np.ndarray, "n"]  # which view of the frame the image is; 0 where it is the whole frame
    projection: Text  # of the image: rectilinear, fisheye, equirectangular
    focal_px: FloatPair  # along x and y, of the image below; NaN where nobody knows it
    principal: FloatPair  # pixels of the image below
    distortion: FloatList  # of a plain camera, see docs/camera.md; a view has none
    camera_from: Text  # who knows it: manifest, metadata, or assumed
    world_from_camera: Float64[np.ndarray, "n 3 4"]  # rotation and place of the image's camera, metres; NaN where nobody says them
    odd: Text  # what is odd of the clip's video, see `stages.split`
    image: Bytes  # JPEG, RGB, upright


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, on every machine and in every version."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def split_of(video: str, split: str) -> str:
    """The split a video belongs to: the manifest's, or one dealt by a hash of the id. Raises ValueError on an unknown name."""
    if split and split not in SPLITS:
        raise ValueError(f"video {video}: split must be one of {', '.join(SPLITS)} or empty, got {split!r}")
    return split or next(name for bound, name in DEALT if unit_hash(f"split {video}") < bound)


def shard_of(video: str, split: str, num_shards: int) -> str:
    """Name of the one shard that holds a video, such as train/train-00003-of-00008: a removed video rewrites that shard only."""
    split = split_of(video, split)
    return f"{split}/{split}-{int(unit_hash(video) * num_shards):05d}-of-{num_shards:05d}"
