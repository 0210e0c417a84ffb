"""A detector on an image, a video or a camera: what it sees drawn, and the hands as a table."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hands.drawing.sheets import write_image
from hands.drawing.video import VideoFile, frames_of, is_camera, origin_of, refuse_another_source, results_in, write_json
from training.detector.inference import DetectedHands, HandDetector


@dataclass(eq=False, slots=True)
class HandTable:
    """The hands of all images so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, frame: int, time_s: float, hands: DetectedHands) -> None:
        columns = {name: values.tolist() for name, values in asdict(hands).items()}
        self.rows += [
            {"frame": frame, "time_s": time_s, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)
        ]

    def write(self, path: Path, source: str) -> None:
        """Parquet, or JSON (`hands`) by the file's ending: frame, time_s, box, score, side (0 left, 1 right), side_score, keypoints."""
        if path.suffix == ".json":
            write_json(path, source, self.rows)
        else:
            pq.write_table(pa.Table.from_pylist(self.rows, _SCHEMA.with_metadata({"source": origin_of(source)})), path)


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
    """Write `out/NAME.jpg` or `.mp4`, drawn, and `out/NAME.parquet` or `.json`; how many images were seen and hands found.

    `source` is an image, a video, or a camera, which ends with Ctrl-C: `webcam` (`webcam:2` for /dev/video2), or its address. The files
    appear when they are whole. Raises ValueError for what cannot be read as either, where the source itself would be written over, and
    where a table of another source of the same name lies already.
    """
    name = "webcam" if is_camera(source) else Path(source).stem
    drawn = (out / f"{name}.jpg", out / f"{name}.mp4")
    if Path(source).exists() and any(path.exists() and path.samefile(source) for path in drawn):
        raise ValueError(f"the hands drawn on {source} would be written over it: name another folder by --out")
    refuse_another_source(out, name, source)
    table, count = HandTable(), 0
    with results_in(out) as folder, ExitStack() as stack:
        video: VideoFile | None = None
        try:
            for count, (time_s, rate, image) in enumerate(frames_of(source), 1):
                (hands,) = detector([image])
                table.add(count - 1, time_s, hands)
                hands.draw(image)
                if rate is None:
                    write_image(folder / f"{name}.jpg", image)
                    continue
                video = video or stack.enter_context(VideoFile(folder / f"{name}.mp4", rate, image.shape))
                video.add(image)
                if count == max_frames:
                    break
        except KeyboardInterrupt:
            if not is_camera(source):  # of half a film nothing is written
                raise
        stack.close()  # the video is whole before it is moved
        table.write(folder / f"{name}.{table_format}", source)
    return count, len(table.rows)
