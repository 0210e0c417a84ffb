"""Shards of an object store (`s3://bucket/prefix`, `gs://...`), kept on the local disk as far as there is room.

A shard is fetched once, aside, checked against the sha256 of index.json and renamed; ranks of one machine share it. What was used
longest ago makes room, never a shard of the split that is being opened. Shards for which there is no room are taken apart and dropped:
their hands stay on disk, and their images are read one by one, by byte range, each checked by a CRC-32 of its own. So the order of
samples is the same full shuffle wherever the shards lie.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import UInt32
from pyarrow import NativeFile, fs

from fitting.files import below, read_arrays
from training.data.shard import CorruptSampleError, Shard, far_shard, open_shard
from training.data.unpacked import folder_of, is_kept

_AT_ONCE, _TRIES, _PIECE = 4, 3, 8 << 20
_LARGEST_INDEX = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a shard comes from, and whether it may stay."""

    uri: str
    """Address of the folder with index.json."""
    path: str
    """Within that folder."""
    num_bytes: int
    sha256: str
    keep: bool


def remote_shards(uri: str, split: str, cache: Path) -> list[Shard]:
    """The shards of a split, fetched where they are not here, `_AT_ONCE` at a time.

    Raises FileNotFoundError for an index or a shard that is missing, ValueError for a shard that is damaged, OSError when the store
    cannot be reached.
    """
    store, root = fs.FileSystem.from_uri(uri)
    try:
        with store.open_input_stream(f"{root}/index.json") as file:
            index = file.read(_LARGEST_INDEX)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no {root}/index.json in {uri}: upload the whole folder that `whim run` packed") from error
    room, origins = limit_bytes(cache), []
    for entry in entries_of(index, f"{uri}/index.json", split, far=True):
        room -= entry["bytes"]
        facts = {"path": entry["path"], "num_bytes": entry["bytes"], "sha256": entry["sha256"]}
        origins.append(Origin(uri=uri, keep=room >= 0, **facts))
    wanted = [_local(origin, cache) for origin in origins if origin.keep]
    make_room(cache, sum(origin.num_bytes for origin in origins if origin.keep), wanted)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as pool:
        return list(pool.map(lambda origin: fetched(origin, cache), origins))


def entries_of(index: bytes, where: object, split: str, *, far: bool = False) -> list[dict[str, Any]]:
    """The shards of a split that an index.json lists: paths below its folder, sizes, and whole sha256s (of `far` ones each has one).

    Raises ValueError that names the file for anything else: what it says becomes names of files.
    """
    try:
        shards = json.loads(index)["shards"]
        entries = [entry for entry in shards if entry["split"] == split]
        for entry in entries:
            below(Path(), entry["path"])
            sha256 = entry["sha256"] if far else entry.get("sha256", "0" * 64)
            if not isinstance(entry["bytes"], int) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
                raise ValueError(f"shard {entry['path']} has no size and sha256")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where} lists no shards as `whim run` writes them ({error!s:.200}): fetch it again, or pack again") from error
    return entries


def limit_bytes(cache: Path) -> int:
    """Most bytes of all shards of the cache: $WHIM_CACHE_GB, else nine tenths of what the disk could give.

    Raises ValueError for no number.
    """
    named = os.environ.get("WHIM_CACHE_GB")
    if named:
        try:
            return int(float(named) * 1e9)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"WHIM_CACHE_GB must be a number of gigabytes, got {named!r}") from error
    cache.mkdir(parents=True, exist_ok=True)
    held = sum(path.stat().st_size for path in cache.glob("shards/*.parquet"))
    return int(0.9 * (shutil.disk_usage(cache).free + held))


def make_room(cache: Path, num_bytes: int, wanted: Iterable[Path]) -> None:
    """Remove what was used longest ago until `wanted` files, `num_bytes` of them together, fit. Who reads a removed file reads on."""
    wanted = set(wanted)
    others = [(path.stat().st_mtime, path.stat().st_size, path) for path in cache.glob("shards/*.parquet") if path not in wanted]
    left = limit_bytes(cache) - num_bytes - sum(size for _, size, _ in others)
    for _, size, path in sorted(others):
        if left >= 0:
            return
        path.unlink(missing_ok=True)
        left += size


def fetched(origin: Origin, cache: Path) -> Shard:
    """A shard from the cache, else from the store. Raises as `remote_shards`."""
    local = _local(origin, cache)
    local.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(local.with_suffix(".lock")):
        if local.exists():
            os.utime(local)
        elif origin.keep:
            _download(origin, local)
        if local.exists():
            shard = open_shard(local, cache)
        else:
            identity, crc = _taken_apart(origin, local, cache)
            shard = far_shard(local, cache, identity, origin.sha256, partial(_image, origin, crc))
    if shard.mapped is None and shard.found is None:
        raise ValueError(f"{origin.path} of {origin.uri} does not fit into {cache} and cannot be read by byte range: raise WHIM_CACHE_GB")
    return dataclasses.replace(shard, again=(fetched, (origin, cache)))


def _taken_apart(origin: Origin, local: Path, cache: Path) -> tuple[str, UInt32[np.ndarray, "rows"]]:
    """Identity of a shard that may not stay, and a CRC-32 of each image, by which it is known when it comes alone. Fetched whole once."""
    note = local.with_suffix(".npz")
    with contextlib.suppress(FileNotFoundError, ValueError):
        told = read_arrays(note, ("identity", "crc"))
        if told.keys() == {"identity", "crc"} and is_kept(folder_of(cache, str(told["identity"]), origin.sha256)):
            return str(told["identity"]), told["crc"]
    with tempfile.TemporaryDirectory(dir=local.parent) as aside:
        whole, written = Path(aside) / local.name, Path(aside) / note.name
        _download(origin, whole)
        shard = open_shard(whole, cache)
        if not folder_of(cache, shard.identity, origin.sha256).exists():
            raise OSError(f"cannot keep the hands of {origin.path} of {origin.uri} in {cache}: make room there, or set WHIM_CACHE")
        extents = zip(shard.found.offset.tolist(), shard.found.size.tolist(), strict=True) if shard.found else ()
        assert shard.mapped
        crc = np.array([zlib.crc32(memoryview(shard.mapped)[start : start + size]) for start, size in extents], np.uint32)
        np.savez(written, identity=shard.identity, crc=crc)
        written.rename(note)
    return shard.identity, crc


def _image(origin: Origin, crc: UInt32[np.ndarray, "rows"], row: int, offset: int, size: int) -> memoryview:
    return _read(origin, offset, size, int(crc[row]))


@lru_cache(maxsize=1024)  # a batch asks for an image's bytes twice: to decode it, and for its size
def _read(origin: Origin, offset: int, size: int, crc: int) -> memoryview:
    """Bytes of a file of the store. Raises CorruptSampleError where they are not those that were there."""
    data = _opened(origin).read_at(size, offset)
    if zlib.crc32(data) != crc:
        raise CorruptSampleError(f"{origin.path} of {origin.uri}, bytes {offset} to {offset + size}, has changed: upload it again")
    return memoryview(data)


@lru_cache(maxsize=256)
def _opened(origin: Origin) -> NativeFile:
    store, root = fs.FileSystem.from_uri(origin.uri)
    return store.open_input_file(f"{root}/{origin.path}")


def _local(origin: Origin, cache: Path) -> Path:
    return cache / "shards" / f"{origin.sha256}.parquet"


def _download(origin: Origin, to: Path) -> None:
    """Fetch a file whole or not at all. Raises as `remote_shards`."""
    store, root = fs.FileSystem.from_uri(origin.uri)
    for _ in range(_TRIES):
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=to.parent, prefix="partial-") as aside:
            try:
                with store.open_input_stream(f"{root}/{origin.path}") as file:
                    while piece := file.read(_PIECE):
                        digest.update(piece)
                        aside.write(piece)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{origin.path} of {origin.uri} is missing, index.json lists it: upload it again") from error
            aside.flush()
            if digest.hexdigest() == origin.sha256:
                os.link(aside.name, to)
                return
    raise ValueError(f"{origin.path} of {origin.uri} has sha256 {digest.hexdigest()}, index.json says {origin.sha256}: upload it again")
