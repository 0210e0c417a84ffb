"""Near-duplicates of a run: hands of different tracks in nearly one pose, and frames of different videos that show nearly one image.

Both are looked for among a sample, one hand a track and second, one frame a video and second; what is said holds of the sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from pipeline.engine.files.shard import open_shard
from pipeline.engine.store import Store
from pipeline.report.found import Found
from stages.digest import UNREADABLE, CorruptFileError
from stages.tables import LEFT, Fits

NEAR_DEG = 4.0
"""Poses are near whose 45 angles differ by less, root mean square. Ours."""
NEAR_BITS, HASH_BITS = 10, 256
"""Images are near whose hashes differ in at most so many bits of all. Ours."""
MOST_HANDS, MOST_FRAMES, MOST_TOLD = 20_000, 1_000, 12
_NEIGHBOURS = 12
_LEAST_CONTRAST = 4.0
"""Standard deviation of grey below which an image says nothing: black, or one colour."""
_MIRROR = np.tile(np.array([1, -1, -1], np.float32), 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two places, each a video, a frame and a hand (-1: all of the frame), and how far apart they are."""

    first: tuple[str, int, int]
    second: tuple[str, int, int]
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """What was looked at, how much of it has a near-duplicate elsewhere, and the nearest pairs, one for two tracks or videos."""

    num_looked_at: int = 0
    num_near: int = 0
    pairs: Sequence[Pair] = ()


def near_poses(store: Store, found: Found) -> Near:
    """Kept hands that have nearly the pose of a hand of another track; distances in degrees."""
    rows = _one_a_second(found, found.keep & (found.track >= 0))
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_HANDS])
    poses = _poses(store, found, rows)
    known = np.isfinite(poses).all(1)
    rows, poses = rows[known], poses[known]
    if len(rows) < 2:
        return Near(num_looked_at=len(rows))
    track = _group(found.clip[rows], found.track[rows])
    other, distance_deg = _nearest_of_others(poses, track)
    near = distance_deg < NEAR_DEG
    places = [(str(found.video[row]), int(found.frame[row]), int(found.hand[row])) for row in rows.tolist()]
    return Near(num_looked_at=len(rows), num_near=int(near.sum()), pairs=_nearest_pairs(places, track, other, distance_deg, near))


def near_frames(store: Store) -> Near:
    """Stored frames that show nearly what a frame of another video shows; distances in bits of 256. What is damaged of
    index, shards and images is passed over."""
    places, hashes = [], []
    for name, frame, told in _hashed_frames(store):
        places.append((name, frame, -1))
        hashes.append(told)
    if len(places) < 2:
        return Near(num_looked_at=len(places))
    video = _group(np.array([place[0] for place in places], object))
    words = np.stack(hashes)
    bits = sum(np.bitwise_count(of[:, None] ^ of[None]).astype(np.int64) for of in words.T)
    bits[video[:, None] == video[None]] = HASH_BITS + 1
    other = bits.argmin(1)
    distance = bits[np.arange(len(bits)), other].astype(np.float64)
    near = distance <= NEAR_BITS
    return Near(num_looked_at=len(places), num_near=int(near.sum()), pairs=_nearest_pairs(places, video, other, distance, near))


def _one_a_second(found: Found, eligible: np.ndarray) -> Int64[np.ndarray, "n"]:
    """The first eligible hand of every second of every track."""
    rows = np.flatnonzero(eligible)
    keys = _group(found.clip[rows], found.track[rows], found.time_s[rows].astype(np.int64))
    return np.asarray(rows[np.unique(keys, return_index=True)[1]])


def _group(*columns: np.ndarray) -> Int64[np.ndarray, "n"]:
    """A number for each different row of some columns."""
    number = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, place = np.unique(column.astype(str) if column.dtype == object else column, return_inverse=True)
        number = np.unique(number * len(values) + place, return_inverse=True)[1]
    return number


def _poses(store: Store, found: Found, rows: np.ndarray) -> Float32[np.ndarray, "n 45"]:
    """The poses of hands, as right hands have them; NaN where a part cannot be read."""
    poses = np.full((len(rows), 45), np.nan, np.float32)
    for clip in np.unique(found.clip[rows].astype(str)).tolist():
        here = np.flatnonzero(found.clip[rows] == clip)
        fits = store.read(Fits, "fits", clip) if store.has("fits", clip) else Fits.empty()
        wanted = found.row[rows[here]]
        if len(wanted) and wanted.max() < len(fits):
            of_clip = fits.hand_pose[wanted]
            poses[here] = np.where((fits.side[wanted] == LEFT)[:, None], of_clip * _MIRROR, of_clip)
    return poses


def _nearest_of_others(poses: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find each pose's nearest one of another group, and how far it is, degrees; infinite where none of its neighbours is of another."""
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(poses))).fit(poses)
    distance, place = nearest.kneighbors(poses)
    distance = np.where(group[place] == group[:, None], np.inf, np.degrees(distance / np.sqrt(45)))
    best = distance.argmin(1)
    every = np.arange(len(poses))
    return place[every, best], distance[every, best]


def _nearest_pairs(
    places: Sequence[tuple[str, int, int]], group: np.ndarray, other: np.ndarray, distance: np.ndarray, near: np.ndarray
) -> list[Pair]:
    """The nearest pairs, one of any two groups."""
    pairs: dict[tuple[int, int], Pair] = {}
    for i in sorted(np.flatnonzero(near).tolist(), key=lambda row: float(distance[row])):
        j = int(other[i])
        key = (min(group[i], group[j]), max(group[i], group[j]))
        pairs.setdefault(key, Pair(first=places[min(i, j)], second=places[max(i, j)], distance=float(distance[i])))
        if len(pairs) == MOST_TOLD:
            break
    return list(pairs.values())


def _hashed_frames(store: Store) -> Iterator[tuple[str, int, UInt64[np.ndarray, "4"]]]:
    """Video, frame and hash of stored frames, as many of each video as come to `MOST_FRAMES` together."""
    listed: list[tuple[str, int, str, int, int]] = []
    try:
        entries = store.read_list("shards/index.json", "shards", path=str)
    except CorruptFileError:
        return
    for entry in entries:
        path = store.root / "shards" / entry["path"]
        try:
            shard = open_shard(path, memory_map=True)
            for group in range(shard.num_row_groups):
                rows = shard.read_row_group(group, ["video", "frame", "time_s"]).to_pylist()
                listed += [(row["video"], int(row["time_s"]), str(path), group, place) for place, row in enumerate(rows)]
        except UNREADABLE:
            continue
    a_second = {(video, second): (file, group, place) for video, second, file, group, place in reversed(listed)}
    chosen: list[int] = sorted(np.random.default_rng(0).permutation(np.arange(len(a_second)))[:MOST_FRAMES].tolist())
    wanted: dict[tuple[str, int], list[int]] = {}
    for file, group, place in sorted(list(a_second.values())[i] for i in chosen):
        wanted.setdefault((file, group), []).append(place)
    shards: dict[str, Any] = {}
    for (file, group), places in wanted.items():
        try:
            shards = shards if file in shards else {file: open_shard(Path(file), memory_map=True, page_checksum_verification=True)}
            rows = shards[file].read_row_group(group, ["video", "frame", "image"])
        except UNREADABLE:
            continue
        for place in places:
            try:
                told = image_hash(rows["image"][place].as_py())
            except ValueError:  # no JPEG
                continue
            if told is not None:
                yield rows["video"][place].as_py(), rows["frame"][place].as_py(), told


def image_hash(jpeg: bytes) -> UInt64[np.ndarray, "4"] | None:
    """A difference hash, 256 bits (is the left of two neighbours in 16 rows of 17 brighter?); None of an image that shows nothing."""
    import cv2
    import simplejpeg

    grey = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY", min_height=64, min_width=64, min_factor=1, fastdct=True)[..., 0]
    if grey.std() < _LEAST_CONTRAST:
        return None
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    words: np.ndarray = np.packbits(small[:, :-1] > small[:, 1:]).view(np.uint64)
    return words
