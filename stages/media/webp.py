"""Animated WebP, which libavformat does not read yet: its frames as a lossless film in memory."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

_ANIMATED = 0x02
"""Flag of the header `VP8X` (RFC 9649, 2.7)."""
_FRAMES_AT_ONCE = 16
_MOST_PIXELS = 1 << 26
"""A larger canvas is refused: 8192 x 8192."""


def is_animated_webp(path: Path) -> bool:
    """Whether a file begins as a WebP of several frames. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & _ANIMATED)


def film_of_webp(path: Path) -> Any:
    """A PyAV container of its frames, each with its time. Raises av.error.InvalidDataError for what is damaged or too large."""
    import av
    import cv2

    with path.open("rb") as file:
        header = file.read(30)
    width, height = (int.from_bytes(header[at : at + 3], "little") + 1 for at in (24, 27))
    if width * height > _MOST_PIXELS:
        raise av.error.InvalidDataError(1, f"its canvas of {width} x {height} is too large", str(path))
    memory, at_ms, count = io.BytesIO(), 0, 0
    with av.open(memory, "w", format="nut") as film:
        stream = film.add_stream("png", rate=1000)
        stream.width, stream.height, stream.pix_fmt = width, height, "rgba"
        stream.codec_context.time_base = Fraction(1, 1000)
        while True:
            whole, some = cv2.imreadanimation(str(path), count, _FRAMES_AT_ONCE)
            if not whole or not len(some.frames):
                break
            for image, duration_ms in zip(some.frames, some.durations, strict=True):
                frame = av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA), format="rgba")
                frame.pts, frame.time_base = at_ms, Fraction(1, 1000)
                film.mux(stream.encode(frame))
                at_ms += max(1, int(duration_ms))
            count += len(some.frames)
            if len(some.frames) < _FRAMES_AT_ONCE:
                break
        film.mux(stream.encode())
    if not count:
        raise av.error.InvalidDataError(1, "no frame of the animation could be decoded", str(path))
    memory.seek(0)
    return av.open(memory)
