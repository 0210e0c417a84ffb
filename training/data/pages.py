"""Byte extents of the values of a plain Parquet column, so that a reader may map the file and take any of them by byte offset.

A column chunk is a row of pages, each a header in Thrift's compact protocol and then the values; of an uncompressed, PLAIN-encoded,
required byte-array column these are length (uint32, little-endian) and bytes, again and again (Apache Parquet format, "Data Pages").
"""

import struct
import zlib
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int32, Int64

_PLAIN, _DATA_PAGE, _DATA_PAGE_V2 = 0, 0, 3
NO_CHECKSUM = -1
_LONGEST_LIST = 1000
"""A page header of today has no list at all."""


class Extents(NamedTuple):
    """Byte extents of a column's values and of the pages that hold them."""

    offset: Int64[np.ndarray, "rows"]
    size: Int32[np.ndarray, "rows"]
    page: Int32[np.ndarray, "rows"]
    page_offset: Int64[np.ndarray, "pages"]  # of what the checksum covers
    page_size: Int64[np.ndarray, "pages"]
    page_crc: Int64[np.ndarray, "pages"]  # CRC-32, or NO_CHECKSUM


def map_file(path: Path) -> mmap:
    """The whole file in memory as the system pages it in."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def extents(path: Path, column: str, mapped: mmap) -> Extents | None:
    """Extents of a binary column, or None where its values do not lie plain: compressed, dictionary-coded, or with nulls allowed.

    Raises ValueError when the file's pages contradict its footer.
    """
    metadata = pq.read_metadata(path)
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    leaf = names.index(column)
    described = metadata.schema.column(leaf)
    if described.physical_type != "BYTE_ARRAY" or described.max_definition_level or described.max_repetition_level:
        return None
    chunks = [metadata.row_group(group).column(leaf) for group in range(metadata.num_row_groups)]
    if any(chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page for chunk in chunks):
        return None
    offset, size, page = [], [], []
    pages: list[tuple[int, int, int]] = []
    for group, chunk in enumerate(chunks):
        at, left = chunk.data_page_offset, chunk.num_values
        try:
            while left:
                header, start = _struct(mapped, at)
                values, skipped = _values(header)
                if values is None:
                    return None
                _check_bounds(values, skipped, header[3], left, len(mapped) - start)
                at = start + header[3]
                pages.append((start, header[3], header[4] & 0xFFFFFFFF if 4 in header else NO_CHECKSUM))
                here = start + skipped
                for _ in range(values):
                    (length,) = struct.unpack_from("<I", mapped, here)
                    offset.append(here + 4)
                    size.append(length)
                    here += 4 + length
                page += [len(pages) - 1] * values
                left -= values
                if here != at or at < start or left < 0:
                    raise ValueError(f"{values} values end at byte {here}, their page at {at}")
        except (LookupError, TypeError, ValueError, RecursionError, struct.error) as error:  # bytes that are no header may say anything
            raise ValueError(
                f"{path}: the pages of row group {group} are not what the footer says ({error}): fetch the shard again"
            ) from error
    page_offset, page_size, page_crc = np.array(pages, np.int64).reshape(-1, 3).T
    return Extents(np.array(offset, np.int64), np.array(size, np.int32), np.array(page, np.int32), page_offset, page_size, page_crc)


def _check_bounds(values: int, skipped: int, size: int, left: int, room: int) -> None:
    """Refuse a page that declares more than there is, before anything is made for it. Raises ValueError."""
    if not (0 <= size <= room and 0 <= skipped <= size and 0 < values <= left and 4 * values <= size - skipped):
        raise ValueError(f"a page of {size} bytes and {values} values where {room} bytes and {left} values are left")


def page_is_sound(mapped: mmap, found: Extents, page: int) -> bool:
    """Whether a page's bytes have the checksum they were written with; true where none was written."""
    start, crc = int(found.page_offset[page]), int(found.page_crc[page])
    return crc == NO_CHECKSUM or zlib.crc32(memoryview(mapped)[start : start + int(found.page_size[page])]) == crc


def _values(header: dict[int, Any]) -> tuple[int | None, int]:
    """How many values a data page holds and how many bytes of levels come before them; None where they are not PLAIN.

    `header` by Thrift's ids: 1 type, 3 compressed size, 4 checksum, 5 and 8 data page.
    """
    if header[1] == _DATA_PAGE:
        return (header[5][1] if header[5][2] == _PLAIN else None), 0
    if header[1] == _DATA_PAGE_V2:
        page = header[8]
        return (page[1] if page[4] == _PLAIN else None), page[5] + page[6]
    raise ValueError(f"a page of type {header[1]} among data pages")


def _struct(data: mmap, at: int) -> tuple[dict[int, Any], int]:
    """A Thrift compact struct as {field id: value}, and the byte after it."""
    fields: dict[int, Any] = {}
    last = 0
    while head := data[at]:
        at += 1
        step, kind = head >> 4, head & 0x0F
        if not step:
            step, at = _zigzag(data, at)
            last = 0
        last += step
        fields[last], at = _value(data, at, kind)
    return fields, at + 1


def _value(data: mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _zigzag(data, at)
    if kind == 7:
        return struct.unpack_from("<d", data, at)[0], at + 8
    if kind == 8:
        length, at = _varint(data, at)
        if length > len(data) - at:
            raise ValueError(f"a text of {length} bytes where {len(data) - at} are left")
        return data[at : at + length], at + length
    if kind == 9:
        length, element = data[at] >> 4, data[at] & 0x0F
        at += 1
        if length == 15:
            length, at = _varint(data, at)
        if length > _LONGEST_LIST:
            raise ValueError(f"a list of {length} items has no place in a page header")
        values = []
        for _ in range(length):
            value, at = (data[at] == 1, at + 1) if element in (1, 2) else _value(data, at, element)
            values.append(value)
        return values, at
    if kind == 12:
        return _struct(data, at)
    raise ValueError(f"Thrift type {kind} has no place in a page header")


def _varint(data: mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _zigzag(data: mmap, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
