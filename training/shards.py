"""Shards on disk as samples at random: pictures by byte offset out of the mapped files, hands as columns.

Any Parquet file with an `image` column of JPEG bytes and a `hands` list works. Where the images lie plain, as `pack` writes them, a
sample costs one look into a mapped file; elsewhere a row group is read and kept for a while. The numeric columns of the hands are
unpacked once into plain arrays beside a cache key, and mapped from then on.
"""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from stages.tables import SCHEMA_VERSION
from training.order import key_of
from training.pages import Extents, extents, map_file, page_is_sound

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
    far: Callable[[int, int], memoryview] | None = None
    """Bytes from an offset on, of a file that is not here; then nothing is mapped."""
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
            return self.far(start, size)
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
                except OSError as error:
                    raise CorruptSampleError(f"{self.path}, row {row}: {error}: fetch the shard again") from error
            first = int(self.group_end[group]) - len(self.groups[group])
            image: bytes = self.groups[group][row - first].as_py()
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

        A folder of an object store (`s3://bucket/prefix`) needs its index.json; see `training.cache`.
        Raises FileNotFoundError for a shard that is missing, ValueError for one that is damaged, of another schema or without rows.
        """
        scheme, _, place = str(folder).partition(":/")  # a Path makes s3:/bucket of s3://bucket
        if place and len(scheme) > 1:
            from training.cache import remote_shards

            uri = f"{scheme}://{place.removeprefix('/')}"
            return cls._of(remote_shards(uri, split, cache or default_cache()), f"the {split} split of {uri}")
        return cls.of(list(listed(Path(folder), split)), cache)

    @classmethod
    def of(cls, paths: Sequence[Path], cache: Path | None = None) -> "Dataset":
        """The rows of some files."""
        return cls._of([open_shard(path, cache or default_cache()) for path in paths], ", ".join(map(str, paths)) or "no shards")

    @classmethod
    def _of(cls, shards: Sequence[Shard], where: str) -> "Dataset":
        shards = [shard for shard in shards if shard.num_rows]
        if not shards:
            raise ValueError(f"no rows in {where}: nothing to train on")
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
        """Columns of all hands on some rows, and for each hand which of the rows it is on."""
        spans = [(shard, shard.hand_start[row], shard.hand_start[row + 1]) for shard, row in map(self.place, rows)]
        of = np.repeat(np.arange(len(rows)), [end - start for _, start, end in spans])
        return of, {name: np.concatenate([shard.columns[name][start:end] for shard, start, end in spans]) for name in columns}

    def ignore(self, rows: Sequence[int]) -> tuple[Int64[np.ndarray, "n"], np.ndarray]:
        """Boxes that are neither hand nor background, and for each which of the rows it is on."""
        spans = [(shard, shard.ignore_start[row], shard.ignore_start[row + 1]) for shard, row in map(self.place, rows)]
        of = np.repeat(np.arange(len(rows)), [end - start for _, start, end in spans])
        return of, np.concatenate([shard.ignore[start:end] for shard, start, end in spans]).reshape(-1, 4)


def default_cache() -> Path:
    """$WHIM_CACHE, else the user's cache folder."""
    named = os.environ.get("WHIM_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whim"


def open_shard(path: Path, cache: Path) -> Shard:
    """Open one file; its index and hand columns are made at the first time. Raises as `Dataset.open`."""
    file = _parquet(path)
    mapped, identity = map_file(path), _identity(path)
    arrays = _unpacked(path, file, mapped, cache / identity)
    groups = np.cumsum([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)], dtype=np.int64)
    return _shard(arrays, path=path, cache=cache, identity=identity, group_end=groups, mapped=mapped)


def far_shard(path: Path, cache: Path, identity: str, far: Callable[[int, int], memoryview]) -> Shard:
    """A shard that was opened here once and is not here any more: its hands are."""
    return _shard(_kept(cache / identity), path=path, cache=cache, identity=identity, group_end=np.zeros(0, np.int64), mapped=None, far=far)


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


def listed(folder: Path, split: str) -> Iterator[Path]:
    """The files of a split. Raises as `Dataset.open`."""
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


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"shard {path} is damaged ({error}): fetch it again") from error
    missing = {"image", "hands"} - set(file.schema_arrow.names)
    if missing:
        raise ValueError(f"{path} has no column {' and no '.join(sorted(missing))}: it is no shard of frames with hands")
    version = (file.schema_arrow.metadata or {}).get(b"schema_version")
    if version is not None and version.decode() != str(SCHEMA_VERSION):
        raise ValueError(f"shard {path} has schema version {version.decode()}, this code reads {SCHEMA_VERSION}: pack it again")
    return file


def _identity(path: Path) -> str:
    """Names a file's contents: the fingerprint that `pack` wrote, else its name, size and time; and the version of what is unpacked."""
    facts = pq.read_schema(path).metadata or {}
    stat = path.stat()
    own = facts.get(b"fingerprint", f"{path.name} {stat.st_mtime_ns}".encode()).decode()
    return f"{key_of('unpacked 1', own, stat.st_size):016x}"


def _unpacked(path: Path, file: pq.ParquetFile, mapped: mmap, folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard, mapped from the cache; made first where they are not there. Without a cache they are held in memory."""
    if not folder.exists():
        arrays = _unpack(path, file, mapped)
        try:
            _keep(arrays, folder)
        except OSError:
            return arrays
    return _kept(folder)


def _kept(folder: Path) -> dict[str, np.ndarray]:
    mapped_arrays = {each.stem: np.load(each, mmap_mode="r", allow_pickle=False) for each in folder.glob("*.npy")}
    return {name: np.asarray(values) for name, values in mapped_arrays.items()}  # np.memmap takes ten times as long to index


def _keep(arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write arrays to a folder that is complete as soon as it has its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        for name, values in arrays.items():
            np.save(aside / f"{name}.npy", values)
        if not folder.exists():
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unpack(path: Path, file: pq.ParquetFile, mapped: mmap) -> dict[str, np.ndarray]:
    arrays: dict[str, Any] = {}
    found = extents(path, "image", mapped)
    if found:
        arrays |= {f"extents.{name}": values for name, values in found._asdict().items()}
    names = [name for name in ("hands", "ignore_boxes") if name in file.schema_arrow.names]
    table = file.read(columns=names)
    hands = table.column("hands").combine_chunks()
    arrays["hand_start"] = np.concatenate([[0], np.cumsum(hands.value_lengths().to_numpy(zero_copy_only=False))]).astype(np.int64)
    flat = hands.flatten()
    for i in range(flat.type.num_fields):
        values = _numbers(flat.field(i))
        if values is not None:
            arrays[f"hand.{flat.type.field(i).name}"] = values
    lists = (
        table.column("ignore_boxes").combine_chunks() if "ignore_boxes" in names else pa.array([[]] * len(table), pa.list_(pa.float32()))
    )
    arrays["ignore_start"] = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))]).astype(np.int64)
    boxes = _numbers(lists.flatten())
    arrays["ignore"] = np.zeros((0, 4), np.float32) if boxes is None else boxes.reshape(-1, 4)
    return arrays


def _numbers(values: pa.Array) -> np.ndarray | None:
    """Numbers or fixed-size lists of them as an array [n, *shape]; None for what has no fixed shape or is text."""
    shape = []
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        return None
    return values.to_numpy(zero_copy_only=False).reshape(-1, *shape)
