"""Numbered images as one film: `frame_%04d.png` is what `frame_0001.png`, `frame_0002.png` ... show, at a rate that a list says.

The images are put into one file beside the downloads, PNG and JPEG byte by byte, others as PNG: all that reads videos reads it. A number
that is missing is a gap in time, of which no frame is made up.
"""

import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from stages.media.film import find_film, open_video, raw_frames, stream_of

DEFAULT_RATE = 25.0
"""Images a second where nobody says it: ffmpeg's."""
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .webp .tif .tiff .heic .heif .avif".split())  # noqa: SIM905  one line reads better
"""A file of one of these names is a video of one frame, or one frame of a film; an image that poses as a video is none."""
FEWEST = 5
"""So many numbered images of a folder are a film, fewer are images of their own. Ours."""
_PATTERN = re.compile(r"([^%]*)%(?:0([1-9]))?d([^%]*)")
_NUMBERED = re.compile(r"(.*?)([0-9]+)")
_TICKS = 1000
"""Ticks of an image's time: the rate need be no whole number."""
_AS_THEY_ARE = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8": "mjpeg"}
"""First bytes of what the file holds, and its codec."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """An image of a film and its number."""

    number: int
    path: Path


def is_pattern(source: str) -> bool:
    """Whether a path names numbered images: a `%d` or `%04d` in the name of an image that is itself no file."""
    name = source.rpartition("/")[2]
    suffix = f".{name.rpartition('.')[2].lower()}"
    return "%" in name and suffix in IMAGE_SUFFIXES and bool(_PATTERN.fullmatch(name)) and not os.path.lexists(source)


def numbered(pattern: Path) -> list[Numbered]:
    """The images that a pattern names, by their numbers. Raises OSError where there is no such folder."""
    match = _PATTERN.fullmatch(pattern.name)
    assert match is not None
    before, width, after = match.groups()
    digits = f"[0-9]{{{width}}}|[1-9][0-9]{{{width},}}" if width else "0|[1-9][0-9]*"
    wanted = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")
    found = [(int(fits[1]), path.name) for path in pattern.parent.iterdir() if (fits := wanted.fullmatch(path.name)) and path.is_file()]
    return [Numbered(number, pattern.parent / name) for number, name in sorted(found)]


def images_of_pattern(pattern: Path) -> list[Numbered]:
    """The images that a pattern names; none where their folder is gone."""
    try:
        return numbered(pattern)
    except OSError:
        return []


def name_of(pattern: Path) -> Path:
    """What a film of images is called: its folder, and what stands before the numbers."""
    before = pattern.name.partition("%")[0].rstrip("_-. ")
    return pattern.parent / before if before else pattern.parent


def listing_digest(images: Sequence[Numbered]) -> str:
    """sha256 of names, sizes and times of images: while it stays, they are what they were. Raises OSError."""
    told = hashlib.sha256()
    for one in images:
        stat = one.path.stat()
        told.update(f"{one.path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return told.hexdigest()


def films_among(images: Iterable[Path]) -> dict[Path, list[Path]]:
    """The images, of a folder each, that are numbered without a gap and of one size: by the pattern that names them."""
    groups: dict[tuple[Path, str, str], dict[str, Path]] = defaultdict(dict)
    for path in images:
        if fits := _NUMBERED.fullmatch(path.stem):
            groups[path.parent, fits[1], path.suffix][fits[2]] = path
    films = {}
    for (folder, before, suffix), of in groups.items():
        numbers = sorted(map(int, of))
        widths = {len(digits) for digits in of}
        padded = any(digits.startswith("0") and len(digits) > 1 for digits in of)
        if len(of) < FEWEST or numbers != list(range(numbers[0], numbers[0] + len(of))) or "%" in before or (padded and min(widths) > 9):
            continue
        width = min(widths) if padded else 0
        paths = [of[digits] for digits in sorted(of, key=int)]
        meant = [f"{before}{number:0{width}d}{suffix}" for number in numbers]
        if [path.name for path in paths] == meant and _are_alike(paths):
            films[folder / f"{before}%{f'0{width}' if padded else ''}d{suffix}"] = paths
    return films


def _are_alike(paths: Sequence[Path]) -> bool:
    """Whether the first, the middle and the last of some images are of one size."""
    return len({_size(path) for path in (paths[0], paths[len(paths) // 2], paths[-1])} - {None}) == 1


def _size(path: Path) -> tuple[int, int] | None:
    import av

    try:
        with open_video(path) as container:
            stream = container.streams.video[0]
            return int(stream.width), int(stream.height)
    except (OSError, IndexError, ValueError, av.error.FFmpegError):
        return None


def write_film(images: Sequence[Numbered], rate: float, path: Path) -> None:
    """Put images into one file, each at its number's time. Raises ValueError that names one which is no image like the first, OSError."""
    import av

    kind, first, stream = "", images[0].number, None
    tick = Fraction(1, round(_TICKS * rate))
    with av.open(str(path), "w", format="nut", options={"fflags": "bitexact"}) as film:
        for one in images:
            try:
                data, codec = _held(one.path)
                if stream is None:
                    kind = codec
                    with av.open(io.BytesIO(data)) as like:
                        stream = film.add_stream_from_template(like.streams.video[0])
                    stream.time_base = tick
            except (IndexError, av.error.FFmpegError) as error:
                raise ValueError(f"{one.path} cannot be read as an image ({getattr(error, 'strerror', error)})") from None
            if codec != kind:
                raise ValueError(f"{one.path} is {codec}, where the first of these images is {kind}")
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.duration, packet.is_keyframe = stream, tick, _TICKS, True
            packet.pts = packet.dts = _TICKS * (one.number - first)
            film.mux(packet)


def _held(path: Path) -> tuple[bytes, str]:
    """An image as the film holds it, and its codec there. Raises as `open_video`, IndexError for what is no image."""
    data = path.read_bytes()
    codec = next((name for mark, name in _AS_THEY_ARE.items() if data.startswith(mark)), "")
    if codec:
        return data, codec
    with open_video(path) as container:
        return _as_png(path, container), "png"


def _as_png(path: Path, container: Any) -> bytes:
    """An image of another kind, without loss."""
    import av

    film = find_film(path, container)
    frame = next(raw_frames(container, stream_of(container, film)), None) if film else None
    if frame is None:
        raise av.error.InvalidDataError(1, "it could not be decoded", str(path))
    alpha, deep = any(one.is_alpha for one in frame.format.components), max(one.bits for one in frame.format.components) > 8
    wanted = {(False, False): "rgb24", (True, False): "rgba", (False, True): "rgb48be", (True, True): "rgba64be"}[alpha, deep]
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = frame.width, frame.height, wanted, Fraction(1, 25)
    packets = [*encoder.encode(frame.reformat(format=wanted)), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)
