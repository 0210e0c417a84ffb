"""One shard of any Parquet file with frames and hands: the bytes of any image, and the hands as columns.

Where the images lie plain, as `pack` writes them, one costs a look into a mapped file; elsewhere a row group is read and kept for a
while. The numeric columns of the hands are unpacked once into plain arrays beside a cache key, and mapped from then on.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from training.data.pages import Extents, map_file, page_is_sound
from training.data.unpacked import folder_of, identity_of, kept, open_parquet, unpacked

_GROUPS_KEPT = 4
"""Row groups held in memory of a shard whose images cannot be mapped."""


class CorruptSampleError(ValueError):
    """The bytes of one sample are not what was written."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Shard:
    """One open shard: the images of its rows, and the columns of its hands."""

    path: Path
    cache: Path
    identity: str
    """Key of its contents, wherever it lies."""
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
    """Columns of all hands of the shard, by name."""
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


def open_shard(path: Path, cache: Path) -> Shard:
    """Open one file; its index and hand columns are made at the first time.

    Raises FileNotFoundError where there is none, ValueError for one that is damaged, of another schema or no frames with hands.
    """
    file = open_parquet(path)
    mapped, identity = map_file(path), identity_of(path)
    arrays = unpacked(path, file, mapped, cache, identity)
    groups = np.cumsum([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)], dtype=np.int64)
    return _shard(arrays, path=path, cache=cache, identity=identity, group_end=groups, mapped=mapped)


def far_shard(path: Path, cache: Path, identity: str, sha256: str, far: Callable[[int, int, int], memoryview]) -> Shard:
    """A shard that was opened here once and is not here any more: its hands are."""
    return _shard(
        kept(folder_of(cache, identity, sha256)),
        path=path,
        cache=cache,
        identity=identity,
        group_end=np.zeros(0, np.int64),
        mapped=None,
        far=far,
    )


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
