"""Borders that a container says are to be cut off every frame: the clean aperture of MP4 and QuickTime (`clap`), Matroska's PixelCrop.

ffmpeg's program and players cut it off; libavcodec, and so PyAV, does not. What a codec cuts off by itself is no matter of this module.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from stages.media.atoms import box_in, boxes_of, places_of

_OF_SAMPLE_ENTRY = 78
"""Bytes of a VisualSampleEntry before the boxes in it."""
_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_CROPS = {0x54CC: 0, 0x54BB: 1, 0x54DD: 2, 0x54AA: 3}
"""Matroska's PixelCropLeft, Top, Right, Bottom."""
_MOST_ELEMENTS = 4096
"""So many elements in a row are looked at: tracks come before the clusters, of which a long film has thousands."""
_MOST_CUT = 1 << 15
"""A larger cut is taken for damage: films are at most half as wide."""


class Crop(NamedTuple):
    """Pixels of the stored frame that are cut off."""

    left: int
    top: int
    right: int
    bottom: int


class Cropper:
    """Cuts frames to what is shown of them; where colour comes by pairs of pixels, to whole pairs, as ffmpeg's filter does."""

    def __init__(self, crop: Crop, time_base: Fraction) -> None:
        self._crop, self._time_base = crop, time_base
        self._layout: tuple[Any, ...] | None = None
        self._graph: Any = None

    def __call__(self, frame: Any) -> Any:
        """The frame as it is shown; as it is, where nothing would be left of it."""
        import av

        left, top, right, bottom = self._crop
        width, height = frame.width - left - right, frame.height - top - bottom
        if width < 1 or height < 1:
            return frame
        if self._layout != (layout := (frame.width, frame.height, frame.format.name)):
            self._layout, self._graph = layout, av.filter.Graph()
            source = self._graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=self._time_base)
            cut, sink = self._graph.add("crop", f"{width}:{height}:{left}:{top}"), self._graph.add("buffersink")
            source.link_to(cut)
            cut.link_to(sink)
            self._graph.configure()
        self._graph.push(frame)
        return self._graph.pull()


def cropper_of(container: Any, stream: Any) -> Cropper | None:
    """What cuts a stream's frames; None where its container cuts nothing off."""
    name = str(container.name)
    if not name.startswith("file:"):
        return None
    path = Path(name.removeprefix("file:"))
    try:
        stat = path.stat()
        crop = _crops(path, (stat.st_size, stat.st_mtime_ns), container.format.name).get(
            stream.id if "mp4" in container.format.name else stream.index
        )
    except OSError:
        return None
    return Cropper(crop, stream.time_base) if crop and any(crop) else None


@lru_cache(maxsize=64)
def _crops(path: Path, facts: tuple[int, int], kind: str) -> dict[int, Crop]:
    """Crops of the tracks of a file: MP4 names them by their numbers, Matroska by their places. Raises OSError."""
    if "mp4" not in kind and "matroska" not in kind:
        return {}
    with path.open("rb") as file:
        try:
            found = dict(_of_mp4(file, facts[0]) if "mp4" in kind else _of_matroska(file, facts[0]))
        except (struct.error, IndexError, ZeroDivisionError):
            return {}
    return {track: crop for track, crop in found.items() if all(0 <= cut < _MOST_CUT for cut in crop)}


def _of_mp4(file: BinaryIO, size: int) -> Iterator[tuple[int, Crop]]:
    for moov, start, stop in places_of(file, 0, size):
        if moov != b"moov":
            continue
        for trak, first, end in list(places_of(file, start, stop)):
            if trak != b"trak":
                continue
            header = box_in(file, (b"tkhd",), first, end)
            entry = box_in(file, (b"mdia", b"minf", b"stbl", b"stsd"), first, end)[16:]
            clap = dict(boxes_of(entry[_OF_SAMPLE_ENTRY:])).get(b"clap", b"")
            if len(clap) >= 32 and len(header) >= 24:
                (number,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
                yield number, _of_aperture(struct.unpack_from(">8i", clap), struct.unpack_from(">HH", entry, 24))
        return


def _of_aperture(clap: tuple[int, ...], size: tuple[int, int]) -> Crop:
    """A clean aperture's width, height and the shift of its middle, as fractions (ISO/IEC 14496-12, 12.1.4)."""
    cuts = []
    for axis, whole in enumerate(size):
        shown, shift = Fraction(*clap[2 * axis : 2 * axis + 2]), Fraction(*clap[4 + 2 * axis : 6 + 2 * axis])
        middle = Fraction(whole - 1, 2) + shift
        low, high = middle - (shown - 1) / 2, middle + (shown - 1) / 2
        if low < 0 or high > whole - 1 or shown < 1:
            return Crop(0, 0, 0, 0)
        cuts.append((int(low), whole - 1 - int(high)))
    return Crop(cuts[0][0], cuts[1][0], cuts[0][1], cuts[1][1])


def _of_matroska(file: BinaryIO, size: int) -> Iterator[tuple[int, Crop]]:
    for segment, start, stop in _elements(file, 0, size):
        for tracks, first, end in _elements(file, start, stop) if segment == _SEGMENT else ():
            if tracks != _TRACKS:
                continue
            within = [place for place in _elements(file, first, end) if place[0] == _TRACK]
            for number, (_, track_start, track_stop) in enumerate(within):
                yield number, _of_track(file, track_start, track_stop)
            return


def _of_track(file: BinaryIO, start: int, stop: int) -> Crop:
    cuts = [0, 0, 0, 0]
    for video, first, end in list(_elements(file, start, stop)):
        for name, at, until in list(_elements(file, first, end)) if video == _VIDEO else ():
            if name in _CROPS:
                file.seek(at)
                cuts[_CROPS[name]] = int.from_bytes(file.read(min(until - at, 8)), "big")
    return Crop(*cuts)


def _elements(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Names of EBML's elements in a stretch of a file, and where their contents begin and end (RFC 8794)."""
    at = start
    for _ in range(_MOST_ELEMENTS):
        file.seek(at)
        head = file.read(12)
        if at >= stop or len(head) < 2 or not head[0] or head[0] < 16:
            return
        of_name = 9 - head[0].bit_length()
        lead = head[of_name]
        of_size = 9 - lead.bit_length()
        told = head[of_name : of_name + of_size]
        if of_size > 8 or len(told) < of_size:
            return
        bits = 7 * of_size
        length, first = int.from_bytes(told, "big") & (1 << bits) - 1, at + of_name + of_size
        end = stop if length == (1 << bits) - 1 else min(first + length, stop)  # a file that was cut off ends early
        yield int.from_bytes(head[:of_name], "big"), first, end
        at = end
