"""HEIC and AVIF photos that are made of tiles, as phones write them: libavformat shows each tile as a film of its own.

The photo is put together as its file says (ISO/IEC 23008-12: `grid`, `irot`, `imir`) and becomes a lossless film of one frame in memory.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from stages.media.atoms import MOST_BYTES, boxes_of, places_of
from stages.media.upright import Shape, Upright

_MOST_PIXELS = 1 << 26
"""A larger photo is refused: 8192 x 8192, more than phones take, is 192 MiB in memory."""
_MOST_TILE_GROWTH = 4
"""A tile whose codec says more than this many times the pixels that the file says is not decoded: codecs pad to whole blocks, no more."""
_MOST_ITEMS = 1 << 15
"""A longer index is refused: twice the tiles of the largest photo in the smallest tiles that encoders write, 64 x 64."""
_MOST_EXIF_BYTES = 1 << 16
"""Longer EXIF is cut: in a JPEG it has no more room than this, and the focal length lies at its front."""
_PHOTOS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif")
"""Brands of files that are photos; those of image sequences are others."""
_BOXES = (b"pitm", b"iinf", b"iref", b"iprp", b"iloc", b"idat")
"""What is read of the index."""
_IN_IDAT = 1
"""How an item's place is counted that lies in the index itself."""


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
    """How a photo is made of tiles; None of any other file. Raises OSError, and av.error.InvalidDataError where it cannot be told."""
    if not is_heif_photo(path):
        return None
    with path.open("rb") as file:
        meta = _index(file, path)
        try:
            (photo,) = struct.unpack_from(">H" if meta[b"pitm"][0] == 0 else ">I", meta[b"pitm"], 4)
            if (photo, b"grid") not in _kinds(meta[b"iinf"]):
                return None
        except (KeyError, IndexError, struct.error):
            return None
        try:
            tiles, grid = _tiles(meta[b"iref"], photo), _content(file, meta, photo, 16)
            rows, columns = grid[2] + 1, grid[3] + 1
            width, height = struct.unpack_from(">II" if grid[1] & 1 else ">HH", grid, 4)
            turns = _turns(dict(boxes_of(meta[b"iprp"])), photo)
        except (KeyError, IndexError, struct.error):
            raise _damaged(path, "what it says of its tiles is missing or makes no sense") from None
    if grid[0] or len(tiles) != rows * columns or min(width, height) < 1:
        raise _damaged(path, f"its {columns} x {rows} tiles for {width} x {height} pixels make no sense, {len(tiles)} are named")
    return Tiling(tiles=tiles, columns=columns, width=width, height=height, turns=turns)


def exif_of(path: Path) -> bytes:
    """A photo's EXIF from its TIFF header on; empty where there is none. Raises as `tiling_of`."""
    if not is_heif_photo(path):
        return b""
    with path.open("rb") as file:
        meta = _index(file, path)
        try:
            for item, kind in _kinds(meta[b"iinf"]):
                if kind == b"Exif":
                    data = _content(file, meta, item, _MOST_EXIF_BYTES)
                    return data[4 + struct.unpack_from(">I", data)[0] :]
        except (KeyError, IndexError, struct.error):
            return b""
    return b""


def film_of_tiles(path: Path, tiling: Tiling) -> Any:
    """A PyAV container of the whole photo. Raises av.error.FFmpegError for what is damaged or too large."""
    import av

    if tiling.width * tiling.height > _MOST_PIXELS:
        raise _damaged(path, f"its {tiling.width} x {tiling.height} pixels are too many")
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

    places: dict[int, list[int]] = {}
    for place, number in enumerate(tiling.tiles):
        places.setdefault(number, []).append(place)
    image = np.empty((tiling.height, tiling.width, 3), np.uint8)
    with av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
        streams = {stream.id: stream for stream in container.streams.video if stream.id in places and stream.codec_context}
        width, height = _tile_size(path, tiling, len(places), streams)
        for stream in streams.values():
            stream.codec_context.options = {"max_pixels": str(_MOST_TILE_GROWTH * max(width * height, 1 << 12))}
        for packet in container.demux(*streams.values()):
            for frame in packet.decode():
                if (frame.width, frame.height) != (width, height):
                    raise _damaged(path, f"a tile is {frame.width} x {frame.height} where the file says {width} x {height}")
                plain = Shape(width=width, height=height, transposed=False, mirrored_x=False, mirrored_y=False)
                tile = Upright(plain)(frame)
                for place in places.pop(packet.stream.id, ()):
                    y, x = place // tiling.columns * height, place % tiling.columns * width
                    image[y : y + height, x : x + width] = tile[: tiling.height - y, : tiling.width - x]
    if places:
        raise _damaged(path, f"{len(places)} of its tiles cannot be decoded")
    for kind, how in tiling.turns:
        image = np.rot90(image, how) if kind == b"irot" else image[:, ::-1] if how else image[::-1]
    return np.ascontiguousarray(image)


def _tile_size(path: Path, tiling: Tiling, wanted: int, streams: dict[int, Any]) -> tuple[int, int]:
    """Width and height of every tile by what the file says, before one is decoded: just as many as cover the photo."""
    sizes = {(stream.width, stream.height) for stream in streams.values()}
    if len(streams) != wanted:
        raise _damaged(path, f"{wanted - len(streams)} of its tiles are missing")
    if len(sizes) != 1 or min(min(sizes)) < 1:
        raise _damaged(path, "its tiles are not of one size")
    ((width, height),) = sizes
    rows = len(tiling.tiles) // tiling.columns
    if (tiling.columns, rows) != (-(-tiling.width // width), -(-tiling.height // height)):
        told = f"its {tiling.columns} x {rows} tiles of {width} x {height} pixels"
        raise _damaged(path, f"{told} are not those that cover {tiling.width} x {tiling.height}")
    return width, height


def _damaged(path: Path, why: str) -> Exception:
    import av

    return av.error.InvalidDataError(1, why, str(path))


def _kinds(listed: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and kinds of a photo's items."""
    for name, entry in boxes_of(listed[6 if listed[0] == 0 else 8 :]):
        if name == b"infe" and len(entry) >= 12 and entry[0] >= 2:
            number = ">H" if entry[0] == 2 else ">I"
            at = 4 + struct.calcsize(number) + 2
            yield struct.unpack_from(number, entry, 4)[0], entry[at : at + 4]


def _tiles(references: bytes, photo: int) -> tuple[int, ...]:
    """The items that a photo is derived from."""
    number, size = (">H", 2) if references[0] == 0 else (">I", 4)
    for kind, content in boxes_of(references[4:]):
        if kind == b"dimg" and struct.unpack_from(number, content)[0] == photo:
            (count,) = struct.unpack_from(">H", content, size)
            return tuple(struct.unpack_from(number, content, size + 2 + size * k)[0] for k in range(count))
    raise KeyError("dimg")


def _place(locations: bytes, wanted: int) -> tuple[int, int, int]:
    """Where an item lies that is in one piece: how it is counted, offset, length."""
    version, sizes = locations[0], locations[4:6]
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version else 0
    at = 6

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(locations):
            raise IndexError
        at += size
        return int.from_bytes(locations[at - size : at], "big")

    of_number = 4 if version == 2 else 2
    for _ in range(min(number(of_number), _MOST_ITEMS)):
        item, how = number(of_number), number(2) & 15 if version else 0
        number(2)
        base, pieces = number(base_size), number(2)
        if item == wanted and pieces:
            number(index_size)
            return how, base + number(offset_size), number(length_size)
        at += pieces * (index_size + offset_size + length_size)
    raise KeyError(wanted)


def _index(file: BinaryIO, path: Path) -> dict[bytes, bytes]:
    """The boxes of what a file says of its items."""
    size, found = file.seek(0, 2), dict[bytes, bytes]()
    for name, start, stop in places_of(file, 0, size):
        if name != b"meta":
            continue
        for kind, first, end in places_of(file, start + 4, stop):
            if kind not in _BOXES:
                continue
            if end - first > MOST_BYTES:
                raise _damaged(path, f"its box {kind.decode()} of {end - first} bytes is larger than a camera writes")
            file.seek(first)
            found[kind] = file.read(end - first)
        break
    return found


def _content(file: BinaryIO, meta: dict[bytes, bytes], item: int, most: int) -> bytes:
    """The first bytes of an item, which lies in the file or in `idat`. Raises IndexError where it lies beyond the end."""
    how, start, length = _place(meta[b"iloc"], item)
    if start + length > (len(meta[b"idat"]) if how == _IN_IDAT else file.seek(0, 2)):
        raise IndexError
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
