"""Images, videos and cameras frame by frame, a video file that grows, and the folder where results come to lie whole."""

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import UInt8

from stages.media.frames import images_of
from stages.media.probe import is_image, probe
from stages.stage import Failure

STREAM_OPTIONS = {"protocol_whitelist": "http,https,rtsp,rtp,tcp,udp,tls,crypto", "rw_timeout": "15000000"}
"""A stream leads to no file of this machine, and one that falls silent for 15 s has ended."""


def is_camera(source: str) -> bool:
    """webcam, webcam:2 for /dev/video2, or the address of a camera in the network (http, https or rtsp)."""
    return re.fullmatch(r"webcam(:\d+)?|(https?|rtsp)://\S+", source) is not None


def frames_of(source: str) -> Iterator[tuple[float, Fraction | None, UInt8[np.ndarray, "h w 3"]]]:
    """Time, frame rate (None of an image) and RGB of each, turned upright. Raises ValueError for what is neither image nor video."""
    if is_camera(source):
        yield from _camera_frames(source)
        return
    found = probe(Path(source), images=True)
    if isinstance(found, Failure):
        raise ValueError(f"cannot be read as an image or a video: {found.message}")
    rate = None
    if not is_image(Path(source)):
        rate = Fraction(25 if math.isnan(found.frames_per_second) else found.frames_per_second).limit_denominator(60_000)
    yield from ((time_s, rate, image) for time_s, image in images_of(Path(source)))


def _camera_frames(source: str) -> Iterator[tuple[float, Fraction | None, UInt8[np.ndarray, "h w 3"]]]:
    """Frames that a camera films until it ends: one that breaks off after its first frame has ended."""
    attached = source.startswith("webcam")
    place = f"/dev/video{source.partition(':')[2] or 0}" if attached else source
    count = 0
    try:
        with av.open(place, format="v4l2") if attached else av.open(place, options=STREAM_OPTIONS) as container:
            stream = container.streams.video[0]
            rate = Fraction(stream.average_rate or 25).limit_denominator(60_000)
            for count, frame in enumerate(container.decode(stream), 1):
                yield float((count - 1) / rate if frame.time is None else frame.time), rate, frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        if not count:
            advice = "is it plugged in, and may this user read it?" if attached else "does a player show it?"
            raise ValueError(f"{place if attached else origin_of(source)} cannot be read as a camera ({error}): {advice}") from error


class VideoFile:
    """An MP4 file that grows, H.264 where the library has it, so that browsers play it; its sides are even, as the codec wants.

    An image of another size than the first, as some films have them from some frame on, is shown whole on black.
    """

    def __init__(self, path: Path, rate: Fraction, shape: tuple[int, ...]) -> None:
        self.container, self.shape = av.open(str(path), "w"), shape[:2]
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self.stream = self.container.add_stream(codec, rate=rate)
        self.stream.height, self.stream.width = (side - side % 2 for side in shape[:2])
        self.stream.pix_fmt, self.stream.bit_rate = "yuv420p", 8_000_000

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()

    def add(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        whole = image if image.shape[:2] == self.shape else _within(image, self.shape)
        inner = np.ascontiguousarray(whole[: self.stream.height, : self.stream.width])
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(inner, format="rgb24")))


def _within(image: UInt8[np.ndarray, "h w 3"], shape: tuple[int, ...]) -> UInt8[np.ndarray, "rows columns 3"]:
    """An image in the middle of a black one of another shape, as large as fits."""
    import cv2

    scale = min(shape[0] / image.shape[0], shape[1] / image.shape[1])
    high, wide = (max(1, round(side * scale)) for side in image.shape[:2])
    top, left = (shape[0] - high) // 2, (shape[1] - wide) // 2
    canvas = np.zeros((*shape, 3), np.uint8)
    canvas[top : top + high, left : left + wide] = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
    return canvas


@contextmanager
def results_in(out: Path) -> Iterator[Path]:
    """A folder whose files move into `out` when the block ends well; what lies there stays as it is when it does not."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=out) as folder:
        yield Path(folder)
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            final = out / path.relative_to(folder)
            final.parent.mkdir(parents=True, exist_ok=True)
            path.replace(final)


def refuse_another_source(out: Path, name: str, source: str) -> None:
    """Raise ValueError where a table of results, `out/NAME.parquet` or `.json`, is of another source of that name: neither is to vanish."""
    for table in (out / f"{name}.parquet", out / f"{name}.json"):
        before = _source_of(table)
        if before and before != origin_of(source):
            raise ValueError(f"{table} holds the hands of {before}: name another folder by --out")


def _source_of(table: Path) -> str:
    """Source of a table of results, as the table names it; '' where it names none, or cannot be read."""
    try:
        if table.suffix == ".parquet":
            return (pq.read_schema(table).metadata or {}).get(b"source", b"").decode()
        told = json.loads(table.read_bytes())
    except (OSError, ValueError):
        return ""
    return str(told.get("source", "")) if isinstance(told, dict) else ""


def write_json(table: Path, source: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table of results as JSON: `source`, as a Parquet table has it in its metadata, and `hands`, an object each."""
    table.write_text(json.dumps({"source": origin_of(source), "hands": rows}, indent=1, allow_nan=False))


def origin_of(source: str) -> str:
    """How a source stands in the metadata of its table: the absolute path of a file, a camera's address without its password."""
    return re.sub(r"//[^/@]*@", "//", source) if is_camera(source) else str(Path(source).absolute())
