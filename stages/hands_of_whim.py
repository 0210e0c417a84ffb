"""Hands as the official WHIM labels have them (WiLoR, sec. 3), laid on the videos that are here: checked, re-aligned or refused."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64

from fitting.files import sha256_of
from fitting.hand.restricted_pickle import as_array, objects_of_npy
from stages.fusion.synchrony import RATES, Step, synchrony
from stages.media.frames import Frames
from stages.stage import Failure, Key, Reason, Resources, check_settings, setting
from stages.tables import HandDetections, Hands, Table

MANIFEST = Path(__file__).resolve().parents[1] / "manifests" / "whim.txt"
SOURCE = "whim_labels"
"""What the rows name as their source."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Label:
    """The hands of one labelled frame, in pixels of the film that its annotators had."""

    box: Float64[np.ndarray, "n 4"]
    side: np.ndarray  # 0 left, 1 right
    keypoints: Float64[np.ndarray, "n 21 2"]  # the joints in the image; OpenPose's order
    world: Float64[np.ndarray, "n 21 3"]  # metres, about the wrist


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Rate and size of a video as its annotators had it."""

    frames_per_second: float
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandsOfWhim:
    """Boxes, sides and joints of the labels by time, in our size of the video; hands that our detectors see tell whether they lie on them.

    A label file is `FOLDER/VIDEO/FRAME.npy` (or below `train/anno`, `test/anno`), read without running what it holds. The model's
    parameters are not taken over: `fit` finds them anew from the labels' joints, as for all other hands.
    """

    name: ClassVar[str] = "hands-of-whim"
    version: ClassVar[int] = 2
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Frames, HandDetections)
    writes: ClassVar[type[Table]] = Hands
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=1)

    annotations: str = ""
    """Folder of the unpacked labels."""
    listed: str = ""
    """A list that tells rate and size of each labelled video as its annotators had it; '' is the project's own of WHIM."""
    window_s: float = setting(2.0, above=0, most=60)
    """Offsets that are tried, seconds to either side. Ours."""
    min_overlap: float = setting(0.5, above=0, below=1)
    """Mean IoU with our own detections below which labels are refused. Ours: boxes of one hand by two sources overlap by 0.6 to 0.8."""
    min_gain: float = setting(0.05, least=0, below=1)
    """By how much another step must overlap better than the labels as told, to be taken instead. Ours."""
    min_frames: int = setting(4, least=1)
    """Frames with both labels and detections that a stretch needs; labels of others are left out. Ours."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the list of labelled videos, and of the names of those that have labels here: a split unpacked later is laid then."""
        here = "\n".join(sorted(labelled(self.annotations))).encode()
        return {"listed": sha256_of(Path(self.listed) if self.listed else MANIFEST), "labelled": hashlib.sha256(here).hexdigest()}

    def build(self) -> Callable[[Frames, HandDetections], Hands | Failure]:
        """Know the labelled videos. Raises FileNotFoundError when there are no labels."""
        if not self.annotations or not Path(self.annotations).is_dir():
            raise FileNotFoundError(f"hands_of_whim.annotations is {self.annotations!r}, where no folder is: name that of the labels")
        films, folders = films_of(Path(self.listed) if self.listed else MANIFEST), labelled(self.annotations)

        def lay(frames: Frames, seen: HandDetections) -> Hands | Failure:
            folder, film = folders.get(frames.video), films.get(frames.video)
            if folder is None or frames.view or not len(frames.frame):
                return Hands.empty()
            if film is None:
                return Failure(Reason.OUT_OF_STEP, f"{self.listed or MANIFEST.name} tells neither rate nor size of {frames.video}")
            return self._lay(frames, seen, folder, film)

        return lay

    def _lay(self, frames: Frames, seen: HandDetections, folder: Path, film: Film) -> Hands | Failure:
        height, width = frames.images[0].shape[:2]
        scale = np.array([width / film.width, height / film.height])
        if abs(np.log(scale[0] / scale[1])) > 0.02:
            return Failure(Reason.OUT_OF_STEP, f"it shows {width} x {height}, its labels are of {film.width} x {film.height}")
        first_s, last_s = float(frames.time_s[0]) - self.window_s, float(frames.time_s[-1]) + self.window_s
        rates = (film.frames_per_second, *RATES)
        files = {n: file for n, file in numbered(folder).items() if any(first_s <= n / rate <= last_s for rate in rates)}
        try:
            labels = {n: read_label(file) for n, file in files.items()}
        except ValueError as error:
            return Failure(Reason.BROKEN_FILE, str(error), permanent=False)
        if not labels:
            return Hands.empty()
        detected = [
            (float(t), seen.box[seen.frame == frame].astype(np.float64)) for frame, t in zip(frames.frame, frames.time_s, strict=True)
        ]
        found = synchrony({n: one.box * np.tile(scale, 2) for n, one in labels.items()}, detected, film.frames_per_second, self.window_s)
        if found.best.num_frames < self.min_frames:
            return Hands.empty()
        step = found.best if found.best.overlap > found.told.overlap + self.min_gain else found.told
        if step.overlap < self.min_overlap:
            return Failure(Reason.OUT_OF_STEP, f"labels do not lie on the hands: {found}; {self.min_overlap:g} is wanted")
        return Hands.concat(list(_rows(frames, labels, step, scale)))


def films_of(listed: Path) -> dict[str, Film]:
    """Rate and size by video, of the lines of a list that tell both. Raises FileNotFoundError."""
    films = {}
    for line in listed.read_text().splitlines():
        name, *words = line.split() or [""]
        told = dict(word.split("=", 1) for word in words if "=" in word)
        if not name.startswith("#") and {"fps", "size"} <= told.keys():
            width, height = map(int, told["size"].split("x"))
            films[told.get("id", name)] = Film(frames_per_second=float(told["fps"]), width=width, height=height)
    return films


def labelled(annotations: str) -> dict[str, Path]:
    """Folders with labels by video: those of `train/anno`, `test/anno`, `anno` or the folder itself; none where no folder is named."""
    root = Path(annotations)
    places = (root, root / "anno", root / "test" / "anno", root / "train" / "anno") if annotations else ()
    return {path.name: path for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()}


@cache
def numbered(folder: Path) -> dict[int, Path]:
    """Label files of a video by the numbers of their frames, however many zeros these begin with."""
    return {int(path.stem): path for path in sorted(folder.glob("*.npy")) if path.stem.isdecimal()}


def read_label(file: Path) -> Label:
    """One label file. Raises ValueError that names the file and its fault."""
    try:
        hands: list[Any] = objects_of_npy(file.read_bytes())
        box = np.array([as_array(hand["bbox"]) for hand in hands], np.float64).reshape(-1, 4)
        side = np.array([as_array(hand["side"]).item() for hand in hands]).astype(np.int64)
        joints = np.array([as_array(hand["joints_3d"]) for hand in hands], np.float64).reshape(-1, 21, 3)
        shift = np.array([as_array(hand["trans"]) for hand in hands], np.float64).reshape(-1, 1, 3)
        camera = np.array([as_array(hand["K"]) for hand in hands], np.float64).reshape(-1, 3, 3)
        if len({len(hands), *map(len, (box, side, joints, shift, camera))}) > 1:
            raise ValueError("not one box, joints, place and camera a hand")
        shown = (joints + shift) @ camera.transpose(0, 2, 1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # what is no number is told below
            keypoints = shown[..., :2] / shown[..., 2:]
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        raise ValueError(f"{file} is no label of WHIM ({error}): unpack the labels again") from error
    if not (np.isfinite(box).all() and np.isfinite(keypoints).all() and np.isin(side, (0, 1)).all()):
        raise ValueError(f"{file} has numbers that are none, or sides that are neither 0 nor 1: unpack the labels again")
    return Label(box=box, side=side, keypoints=keypoints, world=joints - joints[:, :1])


def _rows(frames: Frames, labels: Mapping[int, Label], step: Step, scale: Float64[np.ndarray, "2"]) -> Iterator[Hands]:
    """The labelled hands of each frame, in pixels of our video."""
    height, width = frames.images[0].shape[:2]
    for frame, time_s in zip(frames.frame, frames.time_s, strict=True):
        label = labels.get(step.number_at(float(time_s)))
        if label is None or not len(label.box):
            continue
        count = len(label.box)
        keypoints = np.concatenate([label.keypoints * scale, np.ones((count, 21, 1))], 2)
        box = (label.box * np.tile(scale, 2)).astype(np.float32)
        yield Hands(
            video=np.full(count, frames.video, object),
            frame=np.full(count, frame, np.int64),
            time_s=np.full(count, time_s, np.float64),
            hand=np.arange(count, dtype=np.int16),
            width=np.full(count, width, np.int32),
            height=np.full(count, height, np.int32),
            box=box,
            score=np.full(count, 0.99, np.float32),
            side=label.side.astype(np.int8),
            side_log_odds=np.where(label.side == 1, 5.0, -5.0).astype(np.float32),
            keypoints=keypoints.astype(np.float32),
            landmark_score=np.full(count, np.nan, np.float32),
            world=label.world.astype(np.float32),
            person=np.full(count, -1, np.int16),
            track=np.full(count, -1, np.int32),
            track_length=np.ones(count, np.int32),
            num_agree=np.ones(count, np.int16),
            num_run=np.ones(count, np.int16),
            keypoint_sources=np.ones((count, 21), np.int16),
            **_sources(box),
        )


def _sources(box: Float32[np.ndarray, "n 4"]) -> dict[str, np.ndarray]:
    """The ragged columns: the labels are the one source of every hand."""
    columns = {name: np.empty(len(box), object) for name in ("sources", "source_scores", "source_scores_raw", "source_boxes")}
    for row, one in enumerate(box):
        values: tuple[list[Any], ...] = ([SOURCE], [0.99], [0.99], [one.tolist()])
        for column, value in zip(columns.values(), values, strict=True):
            column[row] = value
    return columns
