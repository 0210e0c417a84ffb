"""The rows of the shards of a folder, here or in an object store, as one data set of samples at random.

A folder is told by its index.json; without one, by its Parquet files.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from fitting.files import below
from training.data.order import key_of
from training.data.remote import entries_of, remote_shards
from training.data.shard import Shard, open_shard


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """The rows of some shards, one after the other."""

    shards: Sequence[Shard]
    fingerprint: str
    """Key of the shards and their order."""
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
        """For each folder the first of these splits that has rows; None where no folder has any. Raises as `open`."""
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
        return _with_rows(remote_shards(f"{scheme}://{place.removeprefix('/')}", split, cache))
    return _with_rows(open_shard(path, cache) for path in _listed(Path(folder), split))


def _with_rows(shards: Iterable[Shard]) -> list[Shard]:
    return [shard for shard in shards if shard.num_rows]


def _listed(folder: Path, split: str) -> Iterator[Path]:
    """The files of a split. Raises as `Dataset.open`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: name one of shards, as `whim run` leaves them")
    index = folder / "index.json"
    if not index.exists():
        yield from sorted((folder / split).glob("*.parquet")) or (sorted(folder.glob("*.parquet")) if split == "train" else ())
        return
    for entry in entries_of(index.read_bytes(), index, split):
        path = below(folder, entry["path"])
        if not path.exists():
            raise FileNotFoundError(f"shard {path} is missing, {index} lists it: fetch it again, or run `whim run` to pack it")
        if path.stat().st_size != entry["bytes"]:
            raise ValueError(f"shard {path} has {path.stat().st_size} bytes, {index} says {entry['bytes']}: fetch it again")
        yield path
