"""HEIC and AVIF photos that are made of tiles, as phones write them: libavformat shows each tile as a film of its own.

The photo is put together as its file says (ISO/IEC 23008-12: `grid`, `irot`, `imir`) and becomes a lossless film of one frame in memory.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from stages.media.atoms import box_in, boxes_of
from stages.media.upright import Shape, Upright

_MOST_PIXELS = 1 << 26
"""A larger photo is refused: 8192 x 8192."""
_PHOTOS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")
"""Brands of files that are photos; those of image sequences are others."""


_IN_IDAT = 1
_MOST_EXIF_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """A photo's tiles, row by row, by the numbers of their streams, and how it is turned."""

    tiles: tuple[int, ...]
    columns: int
    width: int
    height: int
    turns: tuple[tuple[bytes, int], ...]  # `irot` by quarters against the clock, `imir` across (1) or upside down (0)


def is_heif_photo(path: Path) -> bool:
    """Whether a file says that it is a HEIC or AVIF photo, and no film. Raises OSError."""
    with path.open("rb") as file:
        return file.read(12)[4:] in [b"ftyp" + brand for brand in _PHOTOS]


def tiling_of(path: Path) -> Tiling | None:
    """How a photo is made of tiles; None of any other file, and of one whose tiling makes no sense. Raises OSError."""
    if not is_heif_photo(path):
        return None
    with path.open("rb") as file:
        meta = _index(file)
        try:
            (photo,) = struct.unpack_from(">H" if meta[b"pitm"][0] == 0 else ">I", meta[b"pitm"], 4)
            tiles, grid = _tiles(meta[b"iref"], photo), _content(file, meta, photo, 16)
            rows, columns = grid[2] + 1, grid[3] + 1
            width, height = struct.unpack_from(">II" if grid[1] & 1 else ">HH", grid, 4)
            turns = _turns(dict(boxes_of(meta[b"iprp"])), photo)
        except (KeyError, IndexError, struct.error):
            return None
    if grid[0] or len(tiles) != rows * columns or min(width, height) < 1:
        return None
    return Tiling(tiles=tiles, columns=columns, width=width, height=height, turns=turns)


def exif_of(path: Path) -> bytes:
    """A photo's EXIF from its TIFF header on; empty where there is none. Raises OSError."""
    if not is_heif_photo(path):
        return b""
    with path.open("rb") as file:
        meta = _index(file)
        try:
            listed = meta[b"iinf"][6 if meta[b"iinf"][0] == 0 else 8 :]
            for kind, entry in boxes_of(listed):
                number = ">H" if entry[0] < 3 else ">I"
                at = 4 + struct.calcsize(number) + 2
                if kind == b"infe" and entry[0] >= 2 and entry[at : at + 4] == b"Exif":
                    data = _content(file, meta, struct.unpack_from(number, entry, 4)[0], _MOST_EXIF_BYTES)
                    return data[4 + struct.unpack_from(">I", data)[0] :]
        except (KeyError, IndexError, struct.error):
            return b""
    return b""


def film_of_tiles(path: Path, tiling: Tiling) -> Any:
    """A PyAV container of the whole photo. Raises av.error.FFmpegError for what is damaged or too large."""
    import av

    if tiling.width * tiling.height > _MOST_PIXELS:
        raise av.error.InvalidDataError(1, f"its {tiling.width} x {tiling.height} pixels are too many", str(path))
    image = _whole(path, tiling)
    memory = io.BytesIO()
    with av.open(memory, "w", format="nut") as film:
        stream = film.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "rgb24"
        film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        film.mux(stream.encode())
    memory.seek(0)
    return av.open(memory)


def _whole(path: Path, tiling: Tiling) -> UInt8[np.ndarray, "height width 3"]:
    import av

    found: dict[int, np.ndarray] = {}
    with av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
        wanted = [stream for stream in container.streams.video if stream.id in tiling.tiles]
        for packet in container.demux(*wanted):
            for frame in packet.decode():
                plain = Shape(width=frame.width, height=frame.height, transposed=False, mirrored_x=False, mirrored_y=False)
                found.setdefault(packet.stream.id, Upright(plain)(frame))
    if found.keys() != set(tiling.tiles) or len({tile.shape for tile in found.values()}) != 1:
        raise av.error.InvalidDataError(1, f"{len(set(tiling.tiles) - found.keys())} of its tiles cannot be decoded", str(path))
    rows = [tiling.tiles[start : start + tiling.columns] for start in range(0, len(tiling.tiles), tiling.columns)]
    image = np.concatenate([np.concatenate([found[tile] for tile in row], 1) for row in rows])[: tiling.height, : tiling.width]
    if image.shape[:2] != (tiling.height, tiling.width):
        raise av.error.InvalidDataError(1, "its tiles do not cover it", str(path))
    for kind, how in tiling.turns:
        image = np.rot90(image, how) if kind == b"irot" else image[:, ::-1] if how else image[::-1]
    return np.ascontiguousarray(image)


def _tiles(references: bytes, photo: int) -> tuple[int, ...]:
    """The items that a photo is derived from."""
    number, size = (">H", 2) if references[0] == 0 else (">I", 4)
    for kind, content in boxes_of(references[4:]):
        if kind == b"dimg" and struct.unpack_from(number, content)[0] == photo:
            (count,) = struct.unpack_from(">H", content, size)
            return tuple(struct.unpack_from(number, content, size + 2 + size * k)[0] for k in range(count))
    raise KeyError("dimg")


def _items(locations: bytes) -> dict[int, tuple[int, int, int]]:
    """Where items lie that are in one piece: how it is counted, offset, length."""
    version, sizes = locations[0], locations[4:6]
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version else 0
    at, found = 6, dict[int, tuple[int, int, int]]()

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(locations):
            raise IndexError
        at += size
        return int.from_bytes(locations[at - size : at], "big")

    for _ in range(number(4 if version == 2 else 2)):
        item, how = number(4 if version == 2 else 2), number(2) & 15 if version else 0
        number(2)
        base, pieces = number(base_size), number(2)
        for piece in range(pieces):
            number(index_size)
            place = how, base + number(offset_size), number(length_size)
            if piece == 0:
                found[item] = place
    return found


def _index(file: BinaryIO) -> dict[bytes, bytes]:
    """The boxes of what a file says of its items."""
    return dict(boxes_of(box_in(file, (b"meta",), 0, file.seek(0, 2))[4:]))


def _content(file: BinaryIO, meta: dict[bytes, bytes], item: int, most: int) -> bytes:
    """The first bytes of an item, which lies in the file or in `idat`."""
    how, start, length = _items(meta[b"iloc"])[item]
    if how == _IN_IDAT:
        return meta[b"idat"][start : start + min(length, most)]
    file.seek(start)
    return file.read(min(length, most))


def _turns(properties: dict[bytes, bytes], photo: int) -> tuple[tuple[bytes, int], ...]:
    """Rotation and mirroring of a photo in the order in which they are applied."""
    known, told = list(boxes_of(properties[b"ipco"])), properties[b"ipma"]
    wide, long = bool(told[3] & 1), bool(told[0])
    at = 8
    for _ in range(struct.unpack_from(">I", told, 4)[0]):
        (item,) = struct.unpack_from(">I" if long else ">H", told, at)
        count = told[at + (4 if long else 2)]
        at += 5 if long else 3
        step = 2 if wide else 1
        if item == photo:
            numbers = [int.from_bytes(told[at + step * k : at + step * (k + 1)], "big") & (0x7FFF if wide else 0x7F) for k in range(count)]
            ours = [known[number - 1] for number in numbers if number]
            return tuple(
                (kind, content[0] & 3 if kind == b"irot" else content[0] & 1) for kind, content in ours if kind in (b"irot", b"imir")
            )
        at += step * count
    return ()
