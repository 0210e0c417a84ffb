"""The official WHIM labels (WiLoR, sec. 3): `test/anno/VIDEO/FRAME.npy`, an array of one dictionary a hand, read without running code.

FRAME counts frames of the video that its annotators had. A video fetched today may have another rate, size or cut, so labels are laid
on it by time, FRAME over that rate, and scaled to its size; a video of another length or shape is left out, by name. Rates, sizes and
lengths are those of `manifests/whim.txt`. Images cut out by somebody else (FRAME.jpg beside the labels) are taken as they are.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float64, UInt8

from fitting.hand.restricted_pickle import as_array, objects_of_npy
from stages.media.frames import images_of
from stages.media.probe import probe
from stages.stage import Failure
from training.data.readers.labelled_image import LabelledImage, read_image

MANIFEST = Path(__file__).resolve().parents[3] / "manifests" / "whim.txt"
ENDINGS = (".mp4", ".mkv", ".webm", ".mov")
ASPECT_TOLERANCE = 0.02
LENGTH_TOLERANCE_S = 1.0

_log = logging.getLogger(__name__)


class AnotherCutError(ValueError):
    """A video is not the one that was labelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Rate, length and size of a video as its annotators had it."""

    frames_per_second: float
    num_frames: int
    width: int
    height: int


def official_whim(folder: Path, videos: Path | None = None) -> Iterator[LabelledImage]:
    """Labelled images of the test split below `folder` (the unpacked WHIM/), from `videos`/VIDEO.mp4 or from JPEGs beside the labels.

    Raises FileNotFoundError when there are no labels, or no image for any; ValueError that names a file that is not the labels'.
    """
    place = next((path for path in (folder / "test" / "anno", folder / "anno") if path.is_dir()), None)
    if place is None:
        raise FileNotFoundError(f"{folder} has no test/anno: unpack the test split of WHIM (huggingface.co/rolpotamias/WHIM) there")
    facts, count = known_videos(), 0
    for labels in sorted(path for path in place.iterdir() if path.is_dir()):
        try:
            for path in _of_video(labels, facts, videos):
                count += 1
                yield path
        except (AnotherCutError, FileNotFoundError, av.FFmpegError) as error:
            _log.warning("video %s left out: %s", labels.name, error)
    if not count:
        raise FileNotFoundError(f"no image for any label in {place}: name the folder of the videos with --media")


def _of_video(labels: Path, facts: Mapping[str, Facts], videos: Path | None) -> Iterator[LabelledImage]:
    known = facts.get(labels.name)
    for file, image in _beside(labels) if videos is None else _in_video(labels, videos, known):
        height, width = image.shape[:2]
        scale = np.array([width / known.width, height / known.height] * 2) if known else np.ones(4)
        box, side = read_hands(file)
        box = np.clip(box * scale, 0, [width, height, width, height])
        seen = (box[:, 2:] > box[:, :2]).all(1)
        yield LabelledImage(name=f"{labels.name}/{file.stem}", source=image, box=box[seen], side=side[seen])


def _beside(labels: Path) -> Iterator[tuple[Path, UInt8[np.ndarray, "h w 3"]]]:
    """Labels with their images, named as the official downloader does or as everybody renames them."""
    for file in sorted(labels.glob("*.npy")):
        path = next((path for path in (file.with_suffix(".jpg"), Path(f"{file}.jpg")) if path.is_file()), None)
        if path:
            yield file, read_image(path)


def _in_video(labels: Path, videos: Path, known: Facts | None) -> Iterator[tuple[Path, UInt8[np.ndarray, "h w 3"]]]:
    """Labels with the frames of their video that show their times."""
    video = next((path for path in (videos / f"{labels.name}{end}" for end in ENDINGS) if path.is_file()), None)
    if video is None:
        raise FileNotFoundError(f"{videos} has no {labels.name} of {', '.join(ENDINGS)}")
    if known is None:
        raise AnotherCutError(f"{MANIFEST.name} knows neither its rate nor its size")
    files = sorted((path for path in labels.glob("*.npy") if path.stem.isdecimal()), key=lambda path: int(path.stem))
    yield from zip(files, frames_at(video, [int(file.stem) / known.frames_per_second for file in files], known), strict=True)


def read_hands(file: Path) -> tuple[Float64[np.ndarray, "n 4"], np.ndarray]:
    """Boxes, pixels of the labelled frame, and sides (0 left, 1 right). Raises ValueError that names the file and its fault."""
    try:
        hands = objects_of_npy(file.read_bytes())
        box = np.array([as_array(hand["bbox"]) for hand in hands], np.float64).reshape(-1, 4)
        side = np.array([as_array(hand["side"]).item() for hand in hands]).astype(np.int64)
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        raise ValueError(f"{file} is no label of WHIM ({error}): unpack the split again") from error
    if not (np.isfinite(box).all() and np.isin(side, (0, 1)).all()):
        raise ValueError(f"{file} has boxes that are no numbers, or sides that are neither 0 nor 1: unpack the split again")
    return box, side


def frames_at(path: Path, times_s: Sequence[float], known: Facts) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames nearest to these rising times after the first one, upright.

    Raises AnotherCutError when the video's shape or length is not what is known of it.
    """
    known_s, found = known.num_frames / known.frames_per_second, probe(path)
    if isinstance(found, Failure):
        raise AnotherCutError(found.message)
    if abs(found.duration_s - known_s) > LENGTH_TOLERANCE_S + 0.01 * known_s:  # one that claims no length is taken
        raise AnotherCutError(f"{path} lasts {found.duration_s:.1f} s, the labelled one {known_s:.1f} s")
    if abs(np.log(found.width / found.height * known.height / known.width)) > ASPECT_TOLERANCE:
        raise AnotherCutError(f"{path} shows {found.width}x{found.height}, the labelled one {known.width}x{known.height}")
    frames = images_of(path)
    before = after = next(frames, None)
    if before is None or after is None:
        raise AnotherCutError(f"{path} has no frame that can be decoded")
    for time_s in times_s:
        while after[0] < time_s and (following := next(frames, None)):
            before, after = after, following
        shown_s, image = min(before, after, key=lambda one: abs(one[0] - time_s))
        if abs(shown_s - time_s) > LENGTH_TOLERANCE_S:
            raise AnotherCutError(f"{path} ends at {shown_s:.1f} s, a label is of {time_s:.1f} s")
        yield image


def known_videos() -> dict[str, Facts]:
    """Facts of each video of WHIM, from the manifest."""
    found = {}
    for line in MANIFEST.read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        name, *fields = line.split()
        of = dict(field.split("=", 1) for field in fields)
        width, height = map(int, of["size"].split("x"))
        found[name] = Facts(frames_per_second=float(of["fps"]), num_frames=int(of["frames"]), width=width, height=height)
    return found
