"""Boxes of MP4, QuickTime and HEIF files: a size, a name, a content (ISO/IEC 14496-12)."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

MOST_BYTES = 1 << 20
"""A larger box is not read: what cameras say of a film or photo is some kilobytes."""
_MOST_BOXES = 4096
"""So many boxes in a row are looked at: films of fragments have thousands, behind what is looked for; damaged ones may have millions."""


def places_of(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Names of the boxes in a stretch of a file, and where their contents begin and end; ends at one that is damaged."""
    at = start
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if at + 8 > stop or len(head) < 8:
            return
        size, name, first = struct.unpack(">I", head[:4])[0], head[4:8], at + 8
        if size == 1 and len(head) == 16:
            size, first = struct.unpack(">Q", head[8:])[0], at + 16
        end = stop if size == 0 else at + size
        if end < first or end > stop:
            return
        yield name, first, end
        at = end


def box_in(file: BinaryIO, names: tuple[bytes, ...], start: int, stop: int) -> bytes:
    """The content of a box within boxes of a file; empty where there is none, or more than a camera writes."""
    for name, first, end in places_of(file, start, stop):
        if name == names[0] and len(names) == 1:
            file.seek(first)
            return file.read(end - first) if end - first <= MOST_BYTES else b""
        if name == names[0] and (found := box_in(file, names[1:], first, end)):
            return found
    return b""


def boxes_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the boxes that a content consists of, as far as they are whole."""
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            return
        yield name, data[at + 8 : at + size]
        at += size
