"""The hands of a shard as plain arrays, and where its images lie: unpacked once into a cache, beside its identity, and mapped from then on.

Checksums of pages are verified where they were written. Lists of numbers may be of any kind that Parquet has, as long as those of one
column are of one length.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from fitting.files import mapped_array, sha256_of
from stages.tables import SCHEMA_VERSION
from training.data.order import key_of
from training.data.pages import extents

_OF = "sha256"
"""File of a folder of arrays: the content that they are of."""

_SUMS = "arrays.sha256"
"""File of a folder of arrays: what each of them was when it was written."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Raises ValueError for a file that is damaged, of another schema version, or no frames with hands."""
    with _damage_named(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    schema = file.schema_arrow
    missing = {"image", "hands"} - set(schema.names)
    if missing:
        raise ValueError(f"{path} has no column {' and no '.join(sorted(missing))}: it is no shard of frames with hands")
    image, hands = schema.field("image").type, schema.field("hands").type
    if image not in (pa.binary(), pa.large_binary()) or not (_is_list(hands) and pa.types.is_struct(hands.value_type)):
        raise ValueError(f"{path} has images of type {image} and hands of type {hands!s:.60}: they must be JPEG bytes and lists of structs")
    version = (schema.metadata or {}).get(b"schema_version")
    if version is not None and version.decode() != str(SCHEMA_VERSION):
        raise ValueError(f"shard {path} has schema version {version.decode()}, this code reads {SCHEMA_VERSION}: pack it again")
    return file


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Name the file in errors of Parquet's reader."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"shard {path} is damaged ({error}): fetch it again") from error


def identity_of(path: Path) -> str:
    """Names a file's contents: the fingerprint that `pack` wrote, else its name, size and time; and the version of what is unpacked."""
    facts = pq.read_schema(path).metadata or {}
    stat = path.stat()
    own = facts.get(b"fingerprint", f"{path.name} {stat.st_mtime_ns}".encode()).decode()
    return f"{key_of('unpacked 1', own, stat.st_size):016x}"


def folder_of(cache: Path, identity: str, sha256: str) -> Path:
    """Where the arrays of a file lie: below its identity, which is what the file says of itself, and of its very content."""
    plain = cache / identity
    return plain if not plain.exists() or _noted(plain)[:1] == [sha256] else plain.with_name(f"{identity}-{sha256[:32]}")


def _noted(folder: Path) -> list[str]:
    """The sha256 of the file that a folder's arrays are of, then the files that were seen to have it."""
    try:
        return (folder / _OF).read_text().split()
    except (OSError, UnicodeDecodeError):
        return []


def _content(path: Path, cache: Path, identity: str) -> tuple[Path, str, str]:
    """Folder and sha256 of a file, which is computed once while nobody has touched it; and by what it is known then."""
    stat = path.stat()
    facts = f"{key_of(path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns):016x}"
    for folder in (cache / identity, *cache.glob(f"{identity}-*")):
        sha256, *files = _noted(folder) or [""]
        if facts in files:
            return folder, sha256, facts
    sha256 = sha256_of(path)
    folder = folder_of(cache, identity, sha256)
    if folder.exists():
        with contextlib.suppress(OSError), (folder / _OF).open("a") as note:
            note.write(f"{facts}\n")
    return folder, sha256, facts


def unpacked(path: Path, file: pq.ParquetFile, mapped: mmap, cache: Path, identity: str) -> dict[str, np.ndarray]:
    """The arrays of a shard, mapped from the cache; made first where they are not there. Without a cache they are held in memory."""
    folder, *known = _content(path, cache, identity)
    if is_kept(folder):
        return kept(folder)
    with _damage_named(path):
        arrays = _unpack(path, file, mapped)
    try:
        _keep(arrays, folder, known)
        return kept(folder)
    except OSError:
        return arrays


def is_kept(folder: Path) -> bool:
    """Whether a folder of arrays is there and as it was written; a damaged one goes, to be made again."""
    if not folder.exists():
        return False
    with contextlib.suppress(OSError, ValueError):
        stated = dict(line.split()[::-1] for line in (folder / _SUMS).read_text().splitlines())
        arrays = {path.name: _sha256(path, path.stat().st_mtime_ns) for path in folder.glob("*.npy")}
        if arrays and arrays == stated:
            return True
    with contextlib.suppress(OSError):  # another rank has done it
        away = folder.with_name(f".damaged-{folder.name}-{os.getpid()}")
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)
    return False


@cache
def _sha256(path: Path, modified_ns: int) -> str:
    """Taken once by each process."""
    return sha256_of(path)


def kept(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder that `is_kept`, mapped."""
    mapped_arrays = {each.stem: mapped_array(each) for each in folder.glob("*.npy")}
    return {name: np.asarray(values) for name, values in mapped_arrays.items()}  # np.memmap takes ten times as long to index


def _keep(arrays: Mapping[str, np.ndarray], folder: Path, known: Iterable[str]) -> None:
    """Write arrays to a folder that is complete as soon as it has its name, with what is known of the file that they are of."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        for name, values in arrays.items():
            np.save(aside / f"{name}.npy", values)
        sums = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(aside.glob("*.npy"))]
        (aside / _SUMS).write_text("".join(sums))
        (aside / _OF).write_text("".join(f"{line}\n" for line in known))
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
    arrays["hand_start"], hands = _items(table.column("hands"))
    for i in range(hands.type.num_fields):
        values = _numbers(hands.field(i))
        if values is not None:
            arrays[f"hand.{hands.type.field(i).name}"] = values
    arrays["ignore_start"], boxes = np.zeros(len(table) + 1, np.int64), None
    if "ignore_boxes" in names:
        arrays["ignore_start"], items = _items(table.column("ignore_boxes"))
        boxes = _numbers(items)
    arrays["ignore"] = np.zeros((0, 4), np.float32) if boxes is None else boxes.reshape(-1, 4)
    return arrays


def _items(column: pa.ChunkedArray) -> tuple[Int64[np.ndarray, "rows_and_1"], pa.Array]:
    """First item of each row's list, and after them how many there are; all items. A row without a list has none."""
    lists = column.combine_chunks()
    counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), lists.flatten()


def _numbers(values: pa.Array) -> np.ndarray | None:
    """Numbers, or lists of them of one length, as an array [n, *shape], NaN for a list that lacks; None where they have no such shape."""
    if not _is_list(values.type):
        known = pa.types.is_floating(values.type) or not values.null_count
        is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
        return values.to_numpy(zero_copy_only=False) if is_number and known else None
    lengths = values.value_lengths().drop_null().unique().to_pylist()
    inner = _numbers(values.flatten())
    if inner is None or len(lengths) > 1 or (values.null_count and inner.dtype.kind != "f"):
        return None
    size = values.type.list_size if pa.types.is_fixed_size_list(values.type) else sum(lengths)
    inner = inner.reshape(len(values) - values.null_count, size, *inner.shape[1:])
    if not values.null_count:
        return inner
    whole = np.full((len(values), *inner.shape[1:]), np.nan, inner.dtype)
    whole[values.is_valid().to_numpy(zero_copy_only=False)] = inner
    return whole


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
