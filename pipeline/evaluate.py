"""Evaluate the annotators on labelled frames: run people, hands and fusion around each, score, and draw what went wrong.

Each labelled frame of a video is read with its neighbours in time, at the rate of annotation, so that tracks work as in a run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table as Grid

from pipeline.hand_scores import Score, score_hands
from pipeline.members import hand_detectors
from pipeline.store import Store
from stages.detect_hands import DetectHands
from stages.detect_people import DetectPeople
from stages.frames import Frames, decode, read_frames
from stages.fuse_hands import FuseHands
from stages.labels import LabelledFrame, load_labels, match_hands
from stages.stage import Stage
from stages.tables import LEFT, RIGHT, Clips, HandDetections, Hands, People, Videos

NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


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

    def fused(self, fuse: Callable[[Videos, Clips, People, HandDetections], Hands]) -> Hands:
        """The hands of the labelled frame itself, tracked with its neighbours'."""
        hands = fuse(self.videos, self.clips, self.people, self.detections)
        return hands.take(hands.frame == self.frame)


def evaluate_hands(
    labels: Path,
    media: Path,
    *,
    people: Stage | None = None,
    hands: Sequence[Stage] = (),
    fuse: FuseHands | None = None,
    overlays: Path | None = None,
    detections: Path | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Score of the stages (their defaults when not given) on the frames of a label file whose paths are relative to `media`.

    With `overlays`, one PNG a labelled frame is written into that folder; with `detections`, the labelled frames' detections into that
    Parquet file, for `python -m stages.calibrate`. `tick(done, total)` is called after each frame. Raises ValueError for a label file
    of another format, or one that does not fit its videos, and FileNotFoundError for a missing file.
    """
    frames, hands = load_labels(labels), hands or (DetectHands(),)
    fuse = fuse or FuseHands(detectors=hand_detectors(hands))
    fuse_tables = fuse.build()
    found, everything = [], []
    for done, seen in enumerate(observe(frames, media, people=people, hands=hands), 1):
        found.append(seen.fused(fuse_tables))
        everything.append(replace(seen, image=NO_IMAGE))
        if overlays is not None:
            overlays.mkdir(parents=True, exist_ok=True)
            draw(seen.image, seen.label, found[-1], overlays / f"{seen.label.name}.png")
        tick(done, len(frames))
    here = [seen.here for seen in everything]
    if detections is not None:
        with Store(detections.parent).aside(detections.absolute()) as temporary:
            pq.write_table(HandDetections.concat(here).to_arrow(), temporary)
    return replace(score_hands(frames, found, here), leave_one_out=leave_one_out(everything, fuse))


def leave_one_out(frames: Sequence[Seen], fuse: FuseHands) -> dict[str, dict[str, float]]:
    """Recall, precision and side accuracy without the people, without each detector and without each of its routes.

    A detector lists a hand once, by its best route: without that route's rows the hand is gone even where another route saw it too, so
    the loss is the most that the route can add.
    """

    def part(name: str, seen: Seen) -> Seen:
        if name == "people":
            return replace(seen, people=People.empty())
        source, _, route = name.partition("/")
        rows = (seen.detections.source == source) & ((seen.detections.route == route) | (route == ""))
        return replace(seen, detections=seen.detections.take(~rows))

    routes = {f"{s}/{r}" for seen in frames for s, r in zip(seen.detections.source, seen.detections.route, strict=True)}
    scores = {}
    for name in ["people", *fuse.detectors, *sorted(routes)]:
        others = tuple(detector for detector in fuse.detectors if detector != name) or fuse.detectors
        fuse_tables = replace(fuse, detectors=others).build()
        score = score_hands([seen.label for seen in frames], [part(name, seen).fused(fuse_tables) for seen in frames])
        scores[name] = {"recall": score.recall, "precision": score.precision, "side_accuracy": score.side_accuracy}
    return scores


def observe(
    labels: Sequence[LabelledFrame],
    media: Path,
    *,
    people: Stage | None = None,
    hands: Sequence[Stage] = (),
    rate: float = 5.0,
    reach: int = 2,
) -> Iterator[Seen]:
    """People and hand detections in and around each labelled frame: `reach` frames before and after it at `rate` a second.

    `hands` read frames and people.
    """
    find_people, find_hands = (people or DetectPeople()).build(), [stage.build() for stage in hands or (DetectHands(),)]
    times: dict[Path, list[float]] = {}
    for label in labels:
        path = media / label.video
        if label.video and path.exists():
            if path not in times:
                times[path] = [time_s for time_s, _ in decode(path)]
            frames = _around(path, label, times[path], rate, reach)
            frame = label.frame
        else:
            frames, frame = _still(media / label.image, label), 0
        image = frames.images[frames.frame.tolist().index(frame)]
        if image.shape[:2] != (label.height, label.width):
            raise ValueError(
                f"label {label.name} is of a {label.width}x{label.height} frame, {path} shows {image.shape[1]}x{image.shape[0]}"
            )
        bodies = find_people(frames)
        yield Seen(
            label=label,
            frame=frame,
            image=image,
            videos=_video(frames.video, image),
            clips=_clip(frames, rate),
            people=bodies,
            detections=HandDetections.concat([find(frames, bodies) for find in find_hands]),
        )


def _around(path: Path, label: LabelledFrame, times: list[float], rate: float, reach: int) -> Frames:
    """The labelled frame and those nearest to k / rate seconds from it, as one stretch."""
    if label.frame >= len(times):
        raise ValueError(f"label {label.name} is of frame {label.frame}, but {path} has {len(times)} that can be decoded")
    wanted = {int(np.abs(np.array(times) - (times[label.frame] + k / rate)).argmin()) for k in range(-reach, reach + 1)} | {label.frame}
    first, last = min(wanted), max(wanted)
    span = Frames(video=label.video, frame=np.array([first]), time_s=np.array([times[first]]), images=[])
    clip = _clip(span, 0.0, num_frames=last - first + 1, end_s=times[last] + 1e-3)
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

    image = cv2.imread(str(path)) if label.image else None
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


def _clip(frames: Frames, rate: float, num_frames: int | None = None, end_s: float | None = None) -> Clips:
    return Clips(
        clip=np.array([f"{frames.video}-0000"], object),
        video=np.array([frames.video], object),
        start_s=frames.time_s[:1],
        end_s=np.array([frames.time_s[-1] + 1e-3 if end_s is None else end_s]),
        first_frame=frames.frame[:1],
        num_frames=np.array([len(frames.frame) if num_frames is None else num_frames]),
        frames_per_second=np.array([rate]),
        ends_with=np.array(["end"], object),
    )


def draw(image: UInt8[np.ndarray, "height width 3"], label: LabelledFrame, hands: Hands, path: Path) -> None:
    """Write a PNG: labels green, or red when missed; hands blue, or red when false (a wrong side has '!'); ignored regions grey."""
    import cv2

    canvas = np.ascontiguousarray(image[..., ::-1])
    thick = max(1, round(max(canvas.shape) / 500))
    match = match_hands(label, hands.box, hands.score)
    green, blue, red, grey = (60, 200, 60), (255, 120, 30), (40, 40, 255), (150, 150, 150)

    def rectangle(box: Any, colour: tuple[int, int, int], text: str, below: bool) -> None:
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, thick)
        place = (x0, y1 + 12 * thick) if below else (x0, y0 - 3 * thick)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thick, colour, thick)

    for box in label.ignore:
        rectangle(box, grey, "ignore", False)
    letters = {RIGHT: "R", LEFT: "L"}
    for i, box in enumerate(label.box):
        rectangle(box, green if match.found[i] >= 0 else red, letters.get(int(label.side[i]), "?"), False)
    for i, box in enumerate(hands.box):
        truth = label.side[match.found == i]
        wrong = "!" if len(truth) and truth[0] >= 0 and truth[0] != hands.side[i] else ""
        text = f"{letters[int(hands.side[i])]}{wrong} {hands.score[i]:.2f} t{hands.track_length[i]}"
        rectangle(box, red if match.false[i] else blue, ("false " if match.false[i] else "") + text, True)
    cv2.imwrite(str(path), canvas)


def write_score(score: Score, path: Path) -> None:
    """The score as JSON, whole or not at all."""
    with Store(path.parent).aside(path.absolute()) as temporary:
        temporary.write_text(score.to_json() + "\n")


def print_score(score: Score, console: Console) -> None:
    """The score as a table on the terminal: everything, then by size, of several people, by route, and without each part."""

    def share(value: float) -> str:
        return f"{value:.3f}" if value == value else ""  # NaN: there was nothing to count

    table = Grid(title=f"hands at IoU 0.3, {score.num_frames} frames")
    for column in ("hands", "number", "recall", "precision", "side accuracy"):
        table.add_column(column, justify="left" if column == "hands" else "right")
    table.add_row("all", str(score.num_hands), share(score.recall), share(score.precision), share(score.side_accuracy))
    for name, part in score.by_size.items():
        table.add_row(f"{name} of the frame", f"{part['num_hands']:.0f}", share(part["recall"]), "", share(part["side_accuracy"]))
    several = score.multi_person
    shares = [share(several[name]) for name in ("recall", "precision", "side_accuracy")]
    table.add_row("of several people", f"{several['num_hands']:.0f}", *shares)
    for name, count in score.routes.items():
        table.add_row(f"route {name}", str(count["num"]), "", f"{count['num_found'] / max(count['num'], 1):.3f}", "")
    for name, part in score.leave_one_out.items():
        table.add_row(f"without {name}", "", *(share(part[of]) for of in ("recall", "precision", "side_accuracy")))
    console.print(table)
