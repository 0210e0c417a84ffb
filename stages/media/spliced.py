"""Transport streams whose film changes its codec on the way: libavformat takes one codec for all of a file, and loses the rest.

Such a file (recordings put behind each other, a broadcast that switches) is read as parts, each opened by itself; what reads it sees one
container. Where parts begin is what the stream itself says: its program map names another codec, or another stream (ISO/IEC 13818-1).
"""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

PACKET_BYTES, SYNC = 188, 0x47
_VIDEO_TYPES = frozenset((0x01, 0x02, 0x10, 0x1B, 0x20, 0x24, 0x27, 0x33, 0x42, 0xD1, 0xEA))
"""stream_type of MPEG-1, -2, -4, AVC, HEVC, VVC, AVS, Dirac and VC-1."""
_PACKETS_AT_ONCE = 1 << 16
_BESIDE_BYTES = 4 * PACKET_BYTES
"""A map this near behind its association table begins a part there."""
_READ_BYTES = 1 << 20
_MOST_PARTS = 256
"""A stream whose maps change more often is noise, and is read as libavformat reads it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a file with one codec: the association table before it, where it has none of its own, then bytes of the file."""

    head: bytes
    start: int
    stop: int


def parts_of(path: Path) -> tuple[Part, ...]:
    """The parts of a transport stream whose film changes its codec; none of any other file. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(2 * PACKET_BYTES + 1)
    if len(head) <= 2 * PACKET_BYTES or any(head[k * PACKET_BYTES] != SYNC for k in range(3)):
        return ()
    stat = path.stat()
    return _parts(path, (stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=64)
def _parts(path: Path, facts: tuple[int, int]) -> tuple[Part, ...]:
    found, known = list[tuple[int, bytes]](), dict[int, frozenset[tuple[int, int]]]()
    table_at, table = 0, b""
    for at, pid, packet, programs in _tables(path):
        if pid == 0:
            table_at, table = at, packet
            continue
        program, films = _films(packet)
        program = program if programs > 1 else 0
        if films and known.get(program, films) != films:
            found.append((table_at, b"") if at - table_at <= _BESIDE_BYTES else (at, table))
        if films:
            known[program] = films
    if not 0 < len(found) < _MOST_PARTS:
        return ()
    starts = [(0, b""), *found]
    stops = [start for start, _ in found] + [facts[0]]
    return tuple(Part(head, start, stop) for (start, head), stop in zip(starts, stops, strict=True))


def _tables(path: Path) -> Iterator[tuple[int, int, bytes, int]]:
    """Offset, pid and bytes of every packet that begins an association table (pid 0) or a program map, and the number of programs."""
    maps: set[int] = set()
    programs = at = 0
    with path.open("rb") as file:
        while block := file.read(_PACKETS_AT_ONCE * PACKET_BYTES):
            packets = np.frombuffer(block[: len(block) // PACKET_BYTES * PACKET_BYTES], np.uint8).reshape(-1, PACKET_BYTES)
            pid = (packets[:, 1].astype(np.int32) & 0x1F) << 8 | packets[:, 2]
            opens = (packets[:, 0] == SYNC) & (packets[:, 1] & 0x40 > 0)
            for row in np.flatnonzero(opens & (pid == 0)).tolist():
                maps |= set(_map_pids(packets[row].tobytes()))
            for row in np.flatnonzero(opens & np.isin(pid, [0, *maps])).tolist():
                packet = packets[row].tobytes()
                programs = len(_map_pids(packet)) if pid[row] == 0 else programs
                yield at + row * PACKET_BYTES, int(pid[row]), packet, programs
            at += len(block)


def _section(packet: bytes, table: int) -> bytes:
    """A section of a table that is in force, without its checksum, as far as it lies within the packet; empty where there is none."""
    at = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
    section = packet[at + 1 + packet[at] :] if at < PACKET_BYTES else b""
    if len(section) < 12 or section[0] != table or not section[5] & 1:
        return b""
    return section[: 3 + ((section[1] & 0x0F) << 8 | section[2]) - 4]


def _map_pids(packet: bytes) -> list[int]:
    """Where an association table says that program maps lie."""
    section = _section(packet, 0)
    entries = [section[k : k + 4] for k in range(8, len(section) - 3, 4)]
    return [(one[2] & 0x1F) << 8 | one[3] for one in entries if one[:2] != b"\0\0"]


def _films(packet: bytes) -> tuple[int, frozenset[tuple[int, int]]]:
    """The number of a program, and codec and pid of its moving streams."""
    section = _section(packet, 2)
    if not section:
        return 0, frozenset()
    found, at = set[tuple[int, int]](), 12 + ((section[10] & 0x0F) << 8 | section[11])
    while at + 5 <= len(section):
        kind, pid = section[at], (section[at + 1] & 0x1F) << 8 | section[at + 2]
        if kind in _VIDEO_TYPES:
            found.add((kind, pid))
        at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
    return section[3] << 8 | section[4], frozenset(found)


class _Slice(io.RawIOBase):
    """The bytes of a part as a file."""

    def __init__(self, path: Path, part: Part) -> None:
        self._file, self._part, self._at = path.open("rb"), part, 0
        self._size = len(part.head) + part.stop - part.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = min(max(0, (0, self._at, self._size)[whence] + offset), self._size)
        return self._at

    def read(self, size: int = -1) -> bytes:
        size = self._size - self._at if size < 0 else min(size, self._size - self._at, _READ_BYTES)
        head = self._part.head[self._at : self._at + size]
        self._file.seek(self._part.start + max(0, self._at - len(self._part.head)))
        data = head + self._file.read(size - len(head))
        self._at += len(data)
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


class Spliced:
    """A container of several parts; it stands for the first, and its packets go on through the others.

    It cannot be sought in. `part` is the number of the part that the last packet is of.
    """

    def __init__(self, path: Path, parts: tuple[Part, ...], find: Callable[[Any], Any]) -> None:
        """`find`: the film's stream of a part's container, ready to be decoded, or None."""
        self._path, self._parts, self._find = path, parts, find
        self.part = 0
        self._first = self._opened(0)
        self.duration = (self._first.duration or 0) + sum(later.duration or 0 for later in self._later())
        self.length_s = self.duration / 1e6

    def _opened(self, number: int) -> Any:
        import av

        return av.open(_Slice(self._path, self._parts[number]), format="mpegts", metadata_errors="ignore")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)

    def __enter__(self) -> "Spliced":
        return self

    def __exit__(self, *_: object) -> None:
        self._first.close()

    def seek(self, *_: object, **__: object) -> None:
        """Raises av.error.FFmpegError: from its beginning alone."""
        import av

        raise av.error.InvalidDataError(22, "parts of several codecs are read from the beginning")

    def demux(self, *streams: Any) -> Iterator[Any]:
        """The packets of the first part's streams, then those of the later parts' films; the last of each part is empty.

        Raises av.error.FFmpegError over damage in the first part, which can be read on behind it; damage in a later part ends that part:
        whoever reads on would get all later parts again.
        """
        import av

        self.part = 0
        yield from self._first.demux(*streams)
        for later in self._later():
            with suppress(av.error.FFmpegError):
                film = self._find(later)
                if film is not None:
                    yield from later.demux(film)

    def _later(self) -> Iterator[Any]:
        """The containers of the parts after the first, in turn; damaged ones are passed over."""
        import av

        for number in range(1, len(self._parts)):
            self.part = number
            with suppress(av.error.FFmpegError), self._opened(number) as later:
                yield later
