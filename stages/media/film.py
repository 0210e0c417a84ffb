"""Opening a video file, and which of its streams is the film: the one that a player would show.

Covers, thumbnails and previews of one frame are passed over; of the rest those with the default flag count where only some have it;
of these the largest, of equals the first.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.media.crop import cropper_of
from stages.media.heif import film_of_tiles, tiling_of
from stages.media.spliced import Spliced, parts_of
from stages.media.webp import film_of_webp, is_animated_webp

_MOST_PIXELS = 1 << 26
"""A stream that grows beyond this, and beyond four times what it began with, is not followed: 8192 x 8192."""
_MAX_READ_ERRORS = 1000
"""A container that only errs ends here: no file makes it spin."""
_PEEK_PACKETS = 2000
"""How far a file with several streams is read to tell a film from a preview of one frame."""
_CROPPED_TO_THE_PIXEL = 1
"""AV_CODEC_FLAG_UNALIGNED, as ffmpeg's program: else what a film cuts off on its left side is shown."""
_MOST_NAMED = 6
"""So many films are named, the rest counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """The stream of a file that is its film, and why it is."""

    stream: int  # index among all streams of the file
    num_films: int  # moving streams that can be decoded
    why: str  # '' where there was nothing to choose


def open_video(path: Path) -> Any:
    """The file as a PyAV container. Raises FileNotFoundError, or av.error.FFmpegError when it is no media file."""
    import av

    av.logging.set_level(None)  # errors come as exceptions; libav would also print a line for every damaged block
    if is_animated_webp(path):
        return film_of_webp(path)
    if tiling := tiling_of(path):
        return film_of_tiles(path, tiling)
    if parts := parts_of(path):
        return Spliced(path, parts, _largest)
    # a playlist posing as a video must not reach the network
    # and img%03d.jpg is the name of one image, not of a thousand
    return av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file", "pattern_type": "none"})


def find_film(path: Path, container: Any) -> Film | None:
    """The film of an open file, or None where nothing in it moves (a sound file's cover does not)."""
    streams = [one for one in container.streams.video if one.codec_context is not None]
    moving = [one for one in streams if not _is_cover(one)]
    passed = {"cover": len(streams) - len(moving)}
    if len(moving) > 1:
        films = _without_previews(path, moving)
        passed["preview of one frame"] = len(moving) - len(films)
        moving = films
    if not moving:
        return None
    flagged = [one for one in moving if _has(one, "default")]
    rivals = flagged or moving
    film = max(rivals, key=_num_pixels)
    reasons = [f"{count} {name}{'s' if count > 1 else ''} passed over" for name, count in passed.items() if count]
    if len(moving) > 1:
        equals = sum(_num_pixels(one) == _num_pixels(film) for one in rivals)
        rule = "the default" if len(rivals) == 1 else "the largest" if equals == 1 else "the first of equals"
        named = [f"{one.index}: {one.width}x{one.height} {one.codec_context.name}" for one in moving[:_MOST_NAMED]]
        more = f" and {len(moving) - _MOST_NAMED} more" if len(moving) > _MOST_NAMED else ""
        reasons.insert(0, f"stream {film.index}, {rule} of {len(moving)} films ({', '.join(named)}{more})")
    return Film(stream=film.index, num_films=len(moving), why="; ".join(reasons))


def stream_of(container: Any, film: Film) -> Any:
    """The film's stream, ready to be decoded."""
    stream = container.streams[film.stream]
    stream.codec_context.thread_count = 1  # what comes out of damaged files is then the same everywhere
    stream.codec_context.flags |= _CROPPED_TO_THE_PIXEL
    grown = max(_MOST_PIXELS, 4 * _num_pixels(stream))
    stream.codec_context.options = {"max_pixels": str(grown)}
    return stream


def _largest(container: Any) -> Any:
    """The film of a part of a file, ready to be decoded; None where there is none."""
    streams = [one for one in container.streams.video if one.codec_context is not None]
    return stream_of(container, Film(stream=max(streams, key=_num_pixels).index, num_films=1, why="")) if streams else None


def raw_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Every frame that can be decoded from where the container stands; `opaque` of one after a change of the codec holds its part."""
    import av

    cropper, with_alpha = cropper_of(container, stream), _decoder_of_alpha(stream)
    for packet in packets(container, stream):
        try:
            frames = with_alpha.decode(packet) if with_alpha else packet.decode()
        except av.error.FFmpegError:
            continue
        frames = [cropper(frame) for frame in frames] if cropper else frames
        if part := getattr(container, "part", 0):
            for frame in frames:
                frame.opaque = (part,)  # an object of its own: PyAV forgets one with the first of its frames that goes
        yield from frames


def _decoder_of_alpha(stream: Any) -> Any:
    """A decoder of a film whose transparency lies beside it (WebM), which ffmpeg's own of VP8 and VP9 leave out; None for any other."""
    import av

    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.codec.canonical_name)
    if name is None or stream.metadata.get("alpha_mode") != "1" or name not in av.codecs_available:
        return None
    decoder = av.CodecContext.create(name, "r")
    decoder.thread_count = 1
    decoder.options = stream.codec_context.options
    return decoder


def packets(container: Any, *streams: Any) -> Iterator[Any]:
    """Every packet of some streams that can be read from where the container stands; damage is passed over."""
    import av

    for _ in range(_MAX_READ_ERRORS):
        try:
            yield from container.demux(*streams)
        except av.error.FFmpegError:
            continue
        return


def packet_ends_s(container: Any, *streams: Any) -> Iterator[tuple[Any, float]]:
    """Every packet of some streams, or of all, with the time when it ends, in seconds of the container's own clock."""
    for packet in packets(container, *streams):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is not None:
            yield packet, float((stamp + (packet.duration or 0)) * packet.time_base)


def _without_previews(path: Path, streams: list[Any]) -> list[Any]:
    """The streams that have more than one frame; all of them where none has."""
    counts = {one.index: int(one.frames) for one in streams}
    if not all(counts.values()):
        with open_video(path) as other:
            unknown = [other.streams[index] for index, count in counts.items() if not count]
            seen: Counter[int] = Counter()
            for number, packet in enumerate(packets(other, *unknown)):
                seen[packet.stream_index] += packet.size > 0
                if number >= _PEEK_PACKETS or all(seen[one.index] > 1 for one in unknown):
                    break
            counts |= {one.index: seen[one.index] for one in unknown}
    return [one for one in streams if counts[one.index] > 1] or streams


def _is_cover(stream: Any) -> bool:
    return any(_has(stream, name) for name in ("attached_pic", "timed_thumbnails", "still_image"))


def _has(stream: Any, name: str) -> bool:
    import av

    return bool(stream.disposition & getattr(av.stream.Disposition, name))


def _num_pixels(stream: Any) -> int:
    return int((stream.width or 0) * (stream.height or 0))
