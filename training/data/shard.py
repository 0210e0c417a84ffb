"""Shards on disk as samples at random: images by byte offset out of the mapped files, hands as columns.

Any Parquet file with an `image` column of JPEG bytes and a `hands` list works. Where the images lie plain, as `pack` writes them, a
sample costs one look into a mapped file; elsewhere a row group is read and kept for a while. The numeric columns of the hands are
unpacked once into plain arrays beside a cache key, and mapped from then on.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from training.data.order import key_of
from training.data.pages import Extents, map_file, page_is_sound
from training.data.unpacked import identity_of, kept, open_parquet, unpacked

_GROUPS_KEPT = 4
"""Row groups held in memory of a shard whose images cannot be mapped."""


class CorruptSampleError(ValueError):
    """The bytes of one sample are not what was written."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Shard:
    """One open file."""

    path: Path
    cache: Path
    identity: str
    """Of its contents, wherever it lies."""
    num_rows: int
    group_end: Int64[np.ndarray, "groups"]
    """Row after the last one of each row group."""
    mapped: mmap | None
    found: Extents | None
    far: Callable[[int, int, int], memoryview] | None = None
    """The image of a row, its offset and size being these, of a file that is not here; then nothing is mapped."""
    again: tuple[Any, ...] | None = None
    """How another process opens it, as `__reduce__` says it; None: by its path."""
    hand_start: Int64[np.ndarray, "rows_and_1"]
    """First hand of each row; the last entry is the number of hands."""
    columns: Mapping[str, np.ndarray]
    """Of all hands of the shard, by name."""
    ignore_start: Int64[np.ndarray, "rows_and_1"]
    ignore: np.ndarray
    """Boxes that are neither hand nor background."""
    sound: dict[int, bool] = field(default_factory=dict)
    """Pages whose checksum has been looked at."""
    groups: dict[int, pa.Array] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file for itself."""
        return self.again or (open_shard, (self.path, self.cache))

    def image(self, row: int) -> memoryview:
        """The JPEG bytes of a row. Raises CorruptSampleError when the page's checksum is another."""
        if self.found is None:
            return memoryview(self._from_group(row))
        start, size = int(self.found.offset[row]), int(self.found.size[row])
        if self.mapped is None:
            assert self.far
            return self.far(row, start, size)
        page = int(self.found.page[row])
        if page not in self.sound:
            self.sound[page] = page_is_sound(self.mapped, self.found, page)
        if not self.sound[page]:
            raise CorruptSampleError(f"{self.path}, row {row}: the page's checksum does not hold: fetch the shard again")
        return memoryview(self.mapped)[start : start + size]

    def _from_group(self, row: int) -> bytes:
        with self.lock:
            group = int(np.searchsorted(self.group_end, row, side="right"))
            if group not in self.groups:
                file = pq.ParquetFile(pa.py_buffer(self.mapped), page_checksum_verification=True)
                while len(self.groups) >= _GROUPS_KEPT:
                    self.groups.pop(next(iter(self.groups)))
                try:
                    self.groups[group] = file.read_row_group(group, columns=["image"]).column("image").combine_chunks()
                except (OSError, pa.ArrowException) as error:
                    raise CorruptSampleError(f"{self.path}, row {row}: {error}: fetch the shard again") from error
            first = int(self.group_end[group]) - len(self.groups[group])
            image: bytes | None = self.groups[group][row - first].as_py()
            if image is None:
                raise CorruptSampleError(f"{self.path}, row {row} has no image")
            return image


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """The rows of some shards, one after the other."""

    shards: Sequence[Shard]
    fingerprint: str
    """Of the shards and their order."""
    start: Int64[np.ndarray, "shards_and_1"]

    @classmethod
    def open(cls, folder: Path | str, split: str = "train", cache: Path | None = None) -> "Dataset":
        """The shards of a split, checked against index.json; without one, the files of `folder/split`, for train else of the folder.

        A folder of an object store (`s3://bucket/prefix`) needs its index.json; see `training.data.remote`.
        Raises FileNotFoundError for a shard that is missing, ValueError for one that is damaged, of another schema or without rows.
        """
        return cls._of(opened(folder, split, cache), f"the {split} split of {folder}")

    @classmethod
    def held_out(
        cls, folders: Sequence[Path | str], splits: Sequence[str] = ("val", "test"), cache: Path | None = None
    ) -> "Dataset | None":
        """Of each folder the first of these splits that has rows; None where no folder has any. Raises as `open`."""
        shards = [shard for folder in folders for shard in next(filter(None, (opened(folder, split, cache) for split in splits)), [])]
        return cls._of(shards, "what is held out") if shards else None

    @classmethod
    def of(cls, paths: Sequence[Path], cache: Path | None = None) -> "Dataset":
        """The rows of some files."""
        return cls._of(_with_rows(open_shard(path, cache or default_cache()) for path in paths), ", ".join(map(str, paths)) or "no shards")

    @classmethod
    def _of(cls, shards: Sequence[Shard], where: str) -> "Dataset":
        if not shards:
            raise ValueError(f"no rows in {where}: nothing to train on, nothing to measure")
        start = np.cumsum([0, *(shard.num_rows for shard in shards)])
        return cls(shards, f"{key_of(*(shard.identity for shard in shards)):016x}", start)

    def __len__(self) -> int:
        return int(self.start[-1])

    def place(self, row: int) -> tuple[Shard, int]:
        """Shard and row within it. Raises IndexError beyond the end."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        shard = int(self.start.searchsorted(row, side="right")) - 1
        return self.shards[shard], row - int(self.start[shard])

    def hands(self, rows: Sequence[int], columns: Sequence[str]) -> tuple[Int64[np.ndarray, "n"], dict[str, np.ndarray]]:
        """Columns of all hands on some rows, and for each hand which of the rows it is on. Raises ValueError for a column they lack."""
        spans = [(shard, int(shard.hand_start[row]), int(shard.hand_start[row + 1])) for shard, row in map(self.place, rows)]
        some = [span for span in spans if span[2] > span[1]] or [(self.shards[0], 0, 0)]
        try:
            found = {name: np.concatenate([shard.columns[name][start:end] for shard, start, end in some]) for name in columns}
        except KeyError as error:
            lacking = next(shard.path for shard, *_ in some if error.args[0] not in shard.columns)
            raise ValueError(f"the hands of {lacking} have no column {error} of numbers, the same count for each of them") from error
        return _which(spans), found

    def ignore(self, rows: Sequence[int]) -> tuple[Int64[np.ndarray, "n"], np.ndarray]:
        """Boxes that are neither hand nor background, and for each which of the rows it is on."""
        spans = [(shard, int(shard.ignore_start[row]), int(shard.ignore_start[row + 1])) for shard, row in map(self.place, rows)]
        return _which(spans), np.concatenate([shard.ignore[start:end] for shard, start, end in [(self.shards[0], 0, 0), *spans]])


def _which(spans: Sequence[tuple[Shard, int, int]]) -> Int64[np.ndarray, "n"]:
    """For each item of the spans the span it is of."""
    return np.repeat(np.arange(len(spans)), np.array([end - start for _, start, end in spans], np.int64))


def default_cache() -> Path:
    """$WHIM_CACHE, else the user's cache folder."""
    named = os.environ.get("WHIM_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whim"


def opened(folder: Path | str, split: str, cache: Path | None = None) -> list[Shard]:
    """The shards of a split that have rows, here or in an object store. Raises as `Dataset.open`, but for there being none."""
    cache = cache or default_cache()
    scheme, _, place = str(folder).partition(":/")  # a Path makes s3:/bucket of s3://bucket
    if place and len(scheme) > 1:
        from training.data.remote import remote_shards

        return _with_rows(remote_shards(f"{scheme}://{place.removeprefix('/')}", split, cache))
    return _with_rows(open_shard(path, cache) for path in _listed(Path(folder), split))


def _with_rows(shards: Iterable[Shard]) -> list[Shard]:
    return [shard for shard in shards if shard.num_rows]


def open_shard(path: Path, cache: Path) -> Shard:
    """Open one file; its index and hand columns are made at the first time. Raises as `Dataset.open`."""
    file = open_parquet(path)
    mapped, identity = map_file(path), identity_of(path)
    arrays = unpacked(path, file, mapped, cache / identity)
    groups = np.cumsum([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)], dtype=np.int64)
    return _shard(arrays, path=path, cache=cache, identity=identity, group_end=groups, mapped=mapped)


def far_shard(path: Path, cache: Path, identity: str, far: Callable[[int, int, int], memoryview]) -> Shard:
    """A shard that was opened here once and is not here any more: its hands are."""
    return _shard(kept(cache / identity), path=path, cache=cache, identity=identity, group_end=np.zeros(0, np.int64), mapped=None, far=far)


def _shard(arrays: dict[str, np.ndarray], **facts: Any) -> Shard:
    return Shard(
        num_rows=len(arrays["hand_start"]) - 1,
        found=Extents(*(arrays.pop(f"extents.{name}") for name in Extents._fields)) if "extents.offset" in arrays else None,
        hand_start=arrays.pop("hand_start"),
        ignore_start=arrays.pop("ignore_start"),
        ignore=arrays.pop("ignore"),
        columns={name.removeprefix("hand."): values for name, values in arrays.items()},
        **facts,
    )


def _listed(folder: Path, split: str) -> Iterator[Path]:
    """The files of a split. Raises as `Dataset.open`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: name one of shards, as `whim run` leaves them")
    index = folder / "index.json"
    if not index.exists():
        yield from sorted((folder / split).glob("*.parquet")) or (sorted(folder.glob("*.parquet")) if split == "train" else ())
        return
    entries = [entry for entry in json.loads(index.read_text())["shards"] if entry["split"] == split]
    for entry in entries:
        path = folder / entry["path"]
        if not path.exists():
            raise FileNotFoundError(f"shard {path} is missing, {index} lists it: fetch it again, or run `whim run` to pack it")
        if path.stat().st_size != entry["bytes"]:
            raise ValueError(f"shard {path} has {path.stat().st_size} bytes, {index} says {entry['bytes']}: fetch it again")
        yield path
