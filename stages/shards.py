"""Columns of a shard: one row a frame, the JPEG beside the hands on it. Every hand column is one of `Hands`, `Fits` or `Reviews`.

Frame of reference. As in `stages.tables`, but all pixels are those of the stored image: `scale` times the video's upright frame.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
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
    ignore_boxes: BoxList  # of hands that were dropped, refused but unsure, or listed in another view: neither hand nor background
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


_PIECE = re.compile(r"(?P<whole>(?P<split>train|val|test)/(?P=split)-\d{5}-of-\d{5})(-\d+mb-(p[01]*|[0-9a-f]{16}-\d+-\d+))?")
"""Names of shards, with the part that is added where a shard is dealt out to several files."""


def whole_of(shard: str) -> str:
    """The name that a shard has where it is one file; '' for what is no shard's name."""
    found = _PIECE.fullmatch(shard)
    return found["whole"] if found else ""


def pieces(shard: str, videos: Sequence[str], sizes: Sequence[int], most_mb: int) -> dict[str, list[int]]:
    """Deal the clips of a shard, of these videos and sizes in bytes, out to files of `most_mb` at most: which clips, by name.

    One that is small enough stays one file. Else a video that alone is larger has files of its own, of clips in a row; the others are
    dealt out by bits of a hash of their ids. So a name stands for the same clips whatever else the list has, and when a video comes or
    goes one file is made anew.
    """
    most_bytes = most_mb * 1_000_000
    if sum(sizes) <= most_bytes:
        return {shard: list(range(len(sizes)))}
    of_video: dict[str, list[int]] = {}
    for place, video in enumerate(videos):
        of_video.setdefault(video, []).append(place)
    small = {video: places for video, places in of_video.items() if sum(sizes[place] for place in places) <= most_bytes}
    found: dict[str, list[int]] = {}
    for video in of_video.keys() - small.keys():
        name = f"{shard}-{most_mb}mb-{hashlib.sha256(video.encode()).hexdigest()[:16]}"
        first = 0
        for run in _runs(of_video[video], sizes, most_bytes):
            found[f"{name}-{first}-{first + len(run) - 1}"] = run
            first += len(run)
    return found | _dealt(f"{shard}-{most_mb}mb-p", small, sizes, most_bytes, 0)


def _runs(places: Sequence[int], sizes: Sequence[int], most_bytes: int) -> Iterator[list[int]]:
    """Clips in a row, as many as are small enough together, or one."""
    run: list[int] = []
    for place in places:
        if run and sum(sizes[one] for one in run) + sizes[place] > most_bytes:
            yield run
            run = []
        run.append(place)
    yield run


def _dealt(name: str, videos: Mapping[str, list[int]], sizes: Sequence[int], most_bytes: int, depth: int) -> dict[str, list[int]]:
    """Videos halved by one bit of their hash after another, until each file is small enough."""
    places = sorted(place for of_video in videos.values() for place in of_video)
    if len(videos) < 2 or sum(sizes[place] for place in places) <= most_bytes:
        return {name: places} if places else {}
    found: dict[str, list[int]] = {}
    for bit in (0, 1):
        half = {video: of for video, of in videos.items() if int(unit_hash(f"piece {video}") * 2**48) >> (47 - depth) & 1 == bit}
        found |= _dealt(f"{name}{bit}", half, sizes, most_bytes, depth + 1)
    return found
