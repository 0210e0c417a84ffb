"""Labelled frames as a run sees them: read with their neighbours in time, at the rate of annotation, and shown to a recipe's detectors."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hands.images import read_image
from hands.metrics.labels import MIRRORED, LabelledFrame, mirrored
from stages.media.frames import Frames, Reading, decode, read_frames
from stages.stage import Stage, tables_given, tables_written
from stages.tables import Clips, HandDetections, Hands, People, RefusedHands, Videos


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A labelled frame, its neighbours' rows with its own, and its picture."""

    label: LabelledFrame
    frame: int
    image: UInt8[np.ndarray, "height width 3"]
    videos: Videos
    clips: Clips
    people: People
    detections: HandDetections

    @property
    def here(self) -> HandDetections:
        """Detections on the labelled frame itself."""
        return self.detections.take(self.detections.frame == self.frame)

    def fused(self, fuse: Callable[[Videos, Clips, People, HandDetections], tuple[Hands, RefusedHands]]) -> Hands:
        """The hands of the labelled frame itself, tracked with its neighbours'."""
        hands, _ = fuse(self.videos, self.clips, self.people, self.detections)
        return hands.take(hands.frame == self.frame)


def observe(
    labels: Sequence[LabelledFrame], media: Path, stages: Sequence[Stage], *, mirror: bool = False, rate: float = 5.0, reach: int = 2
) -> Iterator[Seen]:
    """What `stages` find in and around each labelled frame: `reach` frames before and after it at `rate` a second.

    They are a recipe's stages of clips up to the last detector, in its order. With `mirror` they are shown all frames mirrored.
    """
    functions = [(stage, stage.build()) for stage in stages]
    times: dict[Path, list[float]] = {}
    for label in labels:
        path = media / label.video
        if label.video and path.exists():
            if path not in times:
                times[path] = [time_s for time_s, _ in decode(path)]
            frames, frame = _around(path, label, times[path], rate, reach), label.frame
        else:
            frames, frame = _still(media / label.image, label), 0
        image = frames.images[frames.frame.tolist().index(frame)]
        if image.shape[:2] != (label.height, label.width):
            raise ValueError(
                f"label {label.name} is of a {label.width}x{label.height} frame, {path} shows {image.shape[1]}x{image.shape[0]}"
            )
        if mirror:
            label, frames, image = mirrored(label), _mirrored(frames), image[:, ::-1]
        yield seen_on(functions, label, frames, frame, rate)


def seen_on(functions: Sequence[tuple[Stage, Callable[..., Any]]], label: LabelledFrame, frames: Frames, frame: int, rate: float) -> Seen:
    """Tables that built stages make of a stretch of frames, one of which is labelled."""
    image = frames.images[frames.frame.tolist().index(frame)]
    made: dict[type[Any], list[Any]] = defaultdict(list)
    made[Videos], made[Clips] = [_video(frames.video, image)], [_clip(frames, rate)]
    for stage, function in functions:
        inputs: Iterator[Any] = (frames if kind is Frames else kind.concat(made[kind]) for kind in stage.reads)  # type: ignore[attr-defined]
        result = function(*inputs)
        for kind, table in zip(tables_written(stage), tables_given(result), strict=True):
            made[kind].append(table)
    return Seen(
        label=label,
        frame=frame,
        image=image,
        videos=made[Videos][0],
        clips=made[Clips][0],
        people=People.concat(made[People]),
        detections=HandDetections.concat(made[HandDetections]),
    )


def _mirrored(frames: Frames) -> Frames:
    images = [np.ascontiguousarray(image[:, ::-1]) for image in frames.images]
    return Frames(video=MIRRORED + frames.video, frame=frames.frame, time_s=frames.time_s, images=images)


def _around(path: Path, label: LabelledFrame, times: list[float], rate: float, reach: int) -> Frames:
    """The labelled frame and those nearest to k / rate seconds from it, as one stretch."""
    if label.frame >= len(times):
        raise ValueError(f"label {label.name} is of frame {label.frame}, but {path} has {len(times)} that can be decoded")
    wanted = {int(np.abs(np.array(times) - (times[label.frame] + k / rate)).argmin()) for k in range(-reach, reach + 1)} | {label.frame}
    first, last = min(wanted), max(wanted)
    span = Frames(video=label.video, frame=np.array([first]), time_s=np.array([times[first]]), images=[])
    clip = _clip(span, 0.0, num_frames=last - first + 1, end_s=times[last] + 1e-3, reading=Reading.as_is(path))
    kept = [
        (f, t, i)
        for s in read_frames(path, clip)
        for f, t, i in zip(s.frame.tolist(), s.time_s.tolist(), s.images, strict=True)
        if f in wanted
    ]
    index, time_s, images = zip(*kept, strict=True)
    return Frames(video=label.video, frame=np.array(index), time_s=np.array(time_s), images=list(images))


def _still(path: Path, label: LabelledFrame) -> Frames:
    import cv2

    image = read_image(path, cv2.IMREAD_COLOR) if label.image else None
    if image is None:
        raise FileNotFoundError(f"label {label.name}: neither its video {label.video!r} nor a picture {path} can be read")
    return Frames(video=label.name, frame=np.array([0]), time_s=np.array([0.0]), images=[np.ascontiguousarray(image[..., ::-1])])


def _video(name: str, image: UInt8[np.ndarray, "height width 3"]) -> Videos:
    """A row that knows the video's name and size, nothing else."""
    known = {"video": name, "width": image.shape[1], "height": image.shape[0]}
    columns = {}
    for column in Videos.schema():
        text = str(column.type) == "string"
        columns[column.name] = np.array([known.get(column.name, "" if text else 0)], object if text else column.type.to_pandas_dtype())
    return Videos(**columns)


def _clip(
    frames: Frames,
    rate: float,
    num_frames: int | None = None,
    end_s: float | None = None,
    reading: Reading = Reading(),  # noqa: B008  frozen
) -> Clips:
    return Clips.of(
        clip=np.array([f"{frames.video}-0000"], object),
        video=np.array([frames.video], object),
        start_s=frames.time_s[:1],
        end_s=np.array([frames.time_s[-1] + 1e-3 if end_s is None else end_s]),
        first_frame=frames.frame[:1],
        num_frames=np.array([len(frames.frame) if num_frames is None else num_frames]),
        frames_per_second=np.array([rate]),
        ends_with=np.array(["end"], object),
        stream=np.array([reading.stream], np.int16),
        deinterlace=np.array([reading.deinterlace], object),
    )
