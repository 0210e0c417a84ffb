"""Probing a file: what it is and how it is shown, or the reason why it cannot be used. A few frames are decoded, no more."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stages.cameras.tags import camera_tags
from stages.media.clock import rate_of, step_of
from stages.media.film import Film, find_film, open_video, packet_ends_s, raw_frames, stream_of
from stages.media.frames import LOOKED_AT
from stages.media.heif import is_heif_photo, tiling_of
from stages.media.sequence import IMAGE_SUFFIXES
from stages.media.spliced import Spliced
from stages.media.tone import transfer_of
from stages.media.upright import Shape, is_transparent
from stages.media.webp import is_animated_webp
from stages.stage import Failure, Reason

_HEAD_MARKS = {
    0: (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"FLV", b"GIF8", b"\x30\x26\xb2\x75", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x47"),
    4: (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"),
}
"""First bytes, at an offset, of the containers videos come in: what begins so and does not open is broken, the rest is no video."""
_MORE_MARKS = {
    0: (b"\x00\x00\x00\x01", b"\x00\x00\x01", b"\x06\x0e\x2b\x34", b"\x1f\x07\x00", b"DKIF", b"YUV4MPEG", b"nut/multimedia"),
    4: (b"G",),
}
"""First bytes of further files with moving images: bare streams, MXF, DV, IVF, Y4M, NUT, transport streams of cameras."""
_CUT_OFF_S = 1.0
"""A file whose last packet ends this much before its claimed end was cut off."""
_NO_VIDEO_FORMATS = ("image2", "tty", "hls", "dash", "concat", "sdp", "subviewer", "srt", "webvtt", "ass")
"""Readers that accept pictures, texts and playlists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a video file says of itself, and how its frames are shown."""

    width: int  # upright, square pixels: the size of every image `read_frames` gives
    height: int
    frames_per_second: float  # average; NaN when unknown
    duration_s: float  # claimed; NaN when unknown
    codec: str
    pixel_format: str
    rotation_deg: int  # clockwise turn that makes it upright
    film: Film
    interlaced: bool
    transfer: str  # pq, hlg, bt2020, or '' of ordinary video
    transparent: bool
    camera: str  # what the file says of it, as JSON; '' where it says nothing


def probe(path: Path, max_pixels: int = 0, *, images: bool = False) -> Probe | Failure:
    """Size, rate, duration and codec of a file's video stream; a Failure with its reason for what is none.

    With `images`, a file that is an image by its name is a video of one frame. Images of more than `max_pixels` pixels are refused
    before one is decoded, and by the size they would be shown at; 0 allows any.
    """
    import av

    if path.exists() and not path.is_file():  # a pipe is waited for, a device never ends
        return Failure(Reason.NOT_A_VIDEO, f"{path} is no file of the disk")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        return Failure(Reason.FILE_MISSING, f"{path}: {error.strerror}")
    if not head:
        return Failure(Reason.EMPTY_FILE, f"{path} has no bytes")
    try:
        container = open_video(path)
    except (av.error.FFmpegError, ValueError) as error:
        marked = _is_marked(head, _HEAD_MARKS)
        reason = Reason.BROKEN_FILE if marked else Reason.NOT_A_VIDEO
        return Failure(
            reason, f"{path}: {'its index is missing or damaged' if marked else 'no video container'} ({getattr(error, 'strerror', error)})"
        )
    with container:
        names = container.format.name.split(",")
        wanted = images and _is_image(container) and path.suffix.lower() in IMAGE_SUFFIXES
        if not wanted and any(name in _NO_VIDEO_FORMATS or name.endswith("_pipe") for name in names):
            return Failure(Reason.NOT_A_VIDEO, f"{path} is a picture, a text or a playlist ({names[0]})")
        film = find_film(path, container)
        if film is None:
            return Failure(Reason.NO_VIDEO_STREAM, f"{path} ({names[0]}) has no video stream, only {_kinds(container)}")
        stream = stream_of(container, film)
        if failure := _too_large(path, stream.width, stream.height, max_pixels):
            return failure
        frames = list(islice(raw_frames(container, stream), LOOKED_AT))
        if not frames:
            return Failure(Reason.NO_FRAMES, f"{path}: no frame of its {stream.codec_context.name} stream could be decoded")
        found = _probe(path, container, stream, film, frames)
        return _too_large(path, found.width, found.height, max_pixels) or found


def is_video(path: Path) -> bool:
    """Whether a file holds moving images by its content, whatever its name: cameras have suffixes of their own."""
    import av

    try:
        with path.open("rb") as file:
            head = file.read(16)
        if not _is_marked(head, _HEAD_MARKS) and not _is_marked(head, _MORE_MARKS):
            return False
        with open_video(path) as container:
            is_other = any(name in _NO_VIDEO_FORMATS for name in container.format.name.split(",")) or _is_image(container)
            return not is_other and find_film(path, container) is not None
    except (OSError, ValueError, av.error.FFmpegError):
        return False


def _is_marked(head: bytes, marks: Mapping[int, Sequence[bytes]]) -> bool:
    return any(head.startswith(mark, offset) for offset, some in marks.items() for mark in some)


def is_image(path: Path) -> bool:
    """Whether a file is one image, of whatever name. Raises as `open_video`."""
    with open_video(path) as container:
        return (_is_image(container) or is_heif_photo(path)) and container.streams.video[0].frames <= 1


def _is_image(container: Any) -> bool:
    return any(name == "image2" or name.endswith("_pipe") for name in container.format.name.split(","))


def _too_large(path: Path, width: int, height: int, max_pixels: int) -> Failure | None:
    if not 0 < max_pixels < width * height:
        return None
    return Failure(
        Reason.TOO_LARGE, f"{path}: its images are {width} x {height}, {width * height:,} pixels, where {max_pixels:,} are allowed"
    )


def _probe(path: Path, container: Any, stream: Any, film: Film, frames: list[Any]) -> Probe:
    shape = Shape.of(stream, frames[0])
    return Probe(
        width=shape.width,
        height=shape.height,
        frames_per_second=rate_of(container, stream),
        duration_s=_duration_s(path, container, stream),
        codec="webp" if is_animated_webp(path) else "heif" if tiling_of(path) else stream.codec_context.codec.canonical_name,
        pixel_format=frames[0].format.name,
        rotation_deg=round(-frames[0].rotation / 90) * 90 % 360,
        film=film,
        interlaced=any(frame.interlaced_frame for frame in frames),
        transfer=transfer_of(frames[0]),
        transparent=any(is_transparent(frame) for frame in frames),
        camera=camera_tags(path, container, stream, frames[0], shape.width, shape.height),
    )


def _duration_s(path: Path, container: Any, stream: Any) -> float:
    """Length of the stream as claimed; of one that claims none beside others, how far its packets go.

    Matroska and NUT claim the last time, not a length: timestamps may start at 100 s.
    """
    if isinstance(container, Spliced):
        return container.length_s
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration is None or container.duration <= 0:
        return math.nan
    start = container.start_time or 0
    claimed_s = float((container.duration - (start if container.format.name.split(",")[0] in ("matroska", "nut") else 0)) / 1e6)
    return claimed_s if len(container.streams) == 1 else min(claimed_s, _packets_s(path, stream.index, claimed_s))


def _packets_s(path: Path, index: int, claimed_s: float) -> float:
    """How long a stream's packets last, by their times; infinite when it has none, or when the whole file ends before it claims to."""
    with open_video(path) as container:
        stream, ends_s = container.streams[index], list[float]()
        begins_s, last_s = (container.start_time or 0) / 1e6, -math.inf
        for packet, end_s in packet_ends_s(container):
            last_s = max(last_s, end_s)
            if packet.stream_index == index:
                ends_s.append(end_s)
        step_s = step_of(container, stream)
    whole = claimed_s - (last_s - begins_s) < _CUT_OFF_S
    return max(ends_s) - min(ends_s) + step_s if ends_s and whole else math.inf


def _kinds(container: Any) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
