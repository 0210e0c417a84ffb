"""A detector on a picture, a video or a camera: what it sees drawn, and the hands as a table."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from training.detector.draw import draw_hands
from training.detector.inference import DetectedHands, HandDetector

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(eq=False, slots=True)
class HandTable:
    """The hands of all pictures so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, frame: int, time_s: float, hands: DetectedHands) -> None:
        columns = {name: values.tolist() for name, values in asdict(hands).items()}
        self.rows += [
            {"frame": frame, "time_s": time_s, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)
        ]

    def write(self, path: Path) -> None:
        """Parquet, or JSON by the file's ending: frame, time_s, box, score, side (0 left, 1 right), side_score, keypoints."""
        if path.suffix == ".json":
            path.write_text(json.dumps(self.rows, indent=1))
        else:
            pq.write_table(pa.Table.from_pylist(self.rows, _SCHEMA), path)


_F32 = pa.float32()
_SCHEMA = pa.schema(
    {
        "frame": pa.int32(),
        "time_s": pa.float64(),
        "box": pa.list_(_F32, 4),
        "score": _F32,
        "side": pa.int8(),
        "side_score": _F32,
        "keypoints": pa.list_(pa.list_(_F32, 3), 21),
    }
)


def detect(
    detector: HandDetector, source: str, out: Path, *, table_format: str = "parquet", max_frames: int | None = None
) -> tuple[int, int]:
    """Write `out/NAME.jpg` or `.mp4`, drawn, and `out/NAME.parquet` or `.json`; how many pictures were seen and hands found.

    `source` is a picture, a video, or `webcam` (`webcam:2` for /dev/video2), which ends with Ctrl-C. Raises ValueError for what
    cannot be read as either.
    """
    out.mkdir(parents=True, exist_ok=True)
    name = "webcam" if source.startswith("webcam") else Path(source).stem
    table, count = HandTable(), 0
    with ExitStack() as stack:
        video: _Video | None = None
        try:
            for count, (time_s, rate, picture) in enumerate(_pictures(source), 1):
                (hands,) = detector([picture])
                table.add(count - 1, time_s, hands)
                draw_hands(picture, hands)
                if rate is None:
                    cv2.imwrite(str(out / f"{name}.jpg"), picture[..., ::-1])
                    continue
                video = video or stack.enter_context(_Video(out / f"{name}.mp4", rate, picture.shape))
                video.add(picture)
                if count == max_frames:
                    break
        except KeyboardInterrupt:
            pass
        finally:
            table.write(out / f"{name}.{table_format}")
    return count, len(table.rows)


class _Video:
    """An MPEG-4 file that grows; its sides are even, as the codec wants."""

    def __init__(self, path: Path, rate: Fraction, shape: tuple[int, ...]) -> None:
        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream("mpeg4", rate=rate)
        self.stream.height, self.stream.width = (side - side % 2 for side in shape[:2])
        self.stream.pix_fmt, self.stream.bit_rate = "yuv420p", 8_000_000

    def __enter__(self) -> "_Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.mux(self.stream.encode())
        self.container.close()

    def add(self, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        inner = np.ascontiguousarray(picture[: self.stream.height, : self.stream.width])
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(inner, format="rgb24")))


def _pictures(source: str) -> Iterator[tuple[float, Fraction | None, UInt8[np.ndarray, "h w 3"]]]:
    """Time, frame rate (None of a picture) and RGB of each, turned upright."""
    if Path(source).suffix.lower() in PICTURES:
        picture = cv2.imread(source, cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise ValueError(f"{source} cannot be read as a picture: does it exist, and is it whole?")
        yield 0.0, None, np.asarray(picture)
        return
    camera = source.startswith("webcam")
    place = f"/dev/video{source.partition(':')[2] or 0}" if camera else source
    try:
        with av.open(place, format="v4l2" if camera else None) as container:
            stream = container.streams.video[0]
            rate = Fraction(stream.average_rate or 25).limit_denominator(60_000)
            for frame in container.decode(stream):
                turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
                yield float(frame.time or 0.0), rate, np.ascontiguousarray(turned)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{place} cannot be read as a video ({error}): is it there, and is it a picture, a video or webcam?") from error
