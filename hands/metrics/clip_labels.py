"""Labelled clips: reading a file of whole clips whose hands are known by name, side and owner through time.

A file is JSON lines. The first is `{"format": "whim-clips/1"}`; then a line a clip, a hand's stretch or a stretch to ignore:

    {"video": "cups.mp4", "sha256": "...", "width": 1280, "height": 720, "duration_s": 10.0, "persons": ["a"], "licence": "...", ...}
    {"video": "cups.mp4", "hand": "a-left", "person": "a", "side": "left", "start_s": 0.0, "end_s": 9.5, "boxes": [[0.0, 10, 20, 90, 120]]}
    {"video": "cups.mp4", "ignore": "a bystander", "start_s": 0.0, "end_s": 10.0, "boxes": [[0.0, 900, 0, 1280, 720]]}

Times are presentation times in seconds; a stretch holds the frames of [start_s, end_s). Boxes are xyxy in pixels of the full upright
frame at key times, linear between them and still before the first and after the last; to ignore without boxes is to ignore the frame.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from hands.metrics.labels import UNKNOWN, LabelledFrame
from stages.tables import LEFT, RIGHT

FORMAT = "whim-clips/1"
_SIDES: Mapping[str | None, int] = {"left": LEFT, "right": RIGHT, None: UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One hand in view, or a region to ignore, from one time to another."""

    hand: str  # '' of a region to ignore
    person: str
    side: int  # 0 left, 1 right, -1 not decidable
    start_s: float
    end_s: float
    time_s: Float64[np.ndarray, "keys"]
    box: Float64[np.ndarray, "keys 4"]  # no key: the whole frame

    def at(self, time_s: float) -> Float64[np.ndarray, "4"]:
        """Box at a time of the stretch."""
        return np.array([np.interp(time_s, self.time_s, edge) for edge in self.box.T])


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClip:
    """A video file all of whose hands are labelled from its beginning to its end."""

    video: str  # path relative to the media folder
    sha256: str
    width: int
    height: int
    duration_s: float
    persons: tuple[str, ...]
    hands: tuple[Stretch, ...]
    ignore: tuple[Stretch, ...]

    def at(self, frame: int, time_s: float) -> tuple[LabelledFrame, tuple[Stretch, ...]]:
        """The labelled frame at a time, and whose its boxes are."""
        here = tuple(s for s in self.hands if s.start_s <= time_s < s.end_s)
        ignored = [s.at(time_s) if len(s.time_s) else self.everywhere for s in self.ignore if s.start_s <= time_s < s.end_s]
        label = LabelledFrame(
            name=f"{self.video}#{frame}",
            video=self.video,
            frame=frame,
            image="",
            width=self.width,
            height=self.height,
            box=np.array([s.at(time_s) for s in here], np.float64).reshape(-1, 4),
            side=np.array([s.side for s in here], np.int64),
            ignore=np.array(ignored, np.float64).reshape(-1, 4),
            num_persons=len(self.persons),
        )
        return label, here

    @property
    def everywhere(self) -> Float[np.ndarray, "4"]:
        """A box that holds whatever is found in the frame or across its border."""
        return np.array([-self.width, -self.height, 2 * self.width, 2 * self.height], np.float64)


def load_clips(path: Path, media: Path | None = None) -> list[LabelledClip]:
    """Clips of a label file; with `media`, the folder that its paths start from, every file must be there with its sha256.

    Raises ValueError with one line for each fault: file, line, what is wrong.
    """
    faults: list[str] = []
    items: list[tuple[str, dict[str, Any]]] = []
    for number, text in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            item = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError) as error:
            faults.append(f"{path}:{number}: not JSON: {error}")
            continue
        if item is not None and not isinstance(item, dict):
            faults.append(f"{path}:{number}: not a JSON object")
        elif item is not None:
            items.append((f"{path}:{number}", item))
    if not items or items[0][1].get("format") != FORMAT:
        raise ValueError(f'{path}:1: wanted {{"format": "{FORMAT}"}} first, found {items[0][1] if items else "nothing"}')
    headers: dict[str, tuple[str, dict[str, Any]]] = {}
    stretches: dict[str, list[tuple[str, Stretch]]] = defaultdict(list)
    for where, item in items[1:]:
        try:
            if "sha256" in item:
                if item["video"] in headers:
                    raise ValueError(f"{item['video']} is described twice, first in {headers[item['video']][0]}")
                headers[item["video"]] = where, item
            elif item["video"] not in headers:
                raise ValueError(f"unknown video {item['video']!r}: no line before this one describes it")
            else:
                stretches[item["video"]].append((where, _stretch(item, headers[item["video"]][1])))
        except KeyError as error:
            faults.append(f"{where}: {error} is missing")
        except (TypeError, ValueError, OverflowError) as error:
            faults.append(f"{where}: {error}")
    clips = []
    for video, (where, header) in headers.items():
        faults += _contradictions(stretches[video])
        try:
            clips.append(_clip(header, [s for _, s in stretches[video]]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            faults.append(f"{where}: {error!r}")
            continue
        faults += [f"{where}: {fault}" for fault in _file_faults(clips[-1], media)]
    if faults:
        raise ValueError("\n".join(faults))
    return clips


def _clip(header: Mapping[str, Any], stretches: list[Stretch]) -> LabelledClip:
    return LabelledClip(
        video=str(header["video"]),
        sha256=str(header["sha256"]),
        width=int(header["width"]),
        height=int(header["height"]),
        duration_s=float(header["duration_s"]),
        persons=tuple(map(str, header["persons"])),
        hands=tuple(s for s in stretches if s.hand),
        ignore=tuple(s for s in stretches if not s.hand),
    )


def _stretch(item: Mapping[str, Any], header: Mapping[str, Any]) -> Stretch:
    """A line as a stretch. Raises ValueError, TypeError or KeyError that says what of it is wrong."""
    ignored = "ignore" in item
    keys = np.array(item["boxes"], np.float64).reshape(-1, 5)
    start_s, end_s = float(item["start_s"]), float(item["end_s"])
    if not 0 <= start_s < end_s:
        raise ValueError(f"a stretch must start before it ends, at 0 or later: {start_s} to {end_s}")
    if not (len(keys) or ignored):
        raise ValueError("a hand needs a box")
    if not (np.diff(keys[:, 0]) > 0).all():
        raise ValueError("the key times of the boxes must rise")
    if len(keys) and not (start_s <= keys[0, 0] and keys[-1, 0] <= end_s):
        raise ValueError(f"the boxes lie at {keys[0, 0]} to {keys[-1, 0]} s, outside the stretch {start_s} to {end_s}")
    if not (np.isfinite(keys).all() and (keys[:, 3:] > keys[:, 1:3]).all()):
        raise ValueError("a box must be [time_s, x1, y1, x2, y2] with x1 < x2 and y1 < y2")
    person, side = ("", None) if ignored else (item["person"], item["side"])
    if not ignored and person not in header["persons"]:
        raise ValueError(f"unknown person {person!r}: {item['video']} has {', '.join(header['persons'])}")
    if side not in _SIDES:
        raise ValueError(f"side must be left, right or null, got {side!r}")
    hand = "" if ignored else str(item["hand"])
    return Stretch(hand=hand, person=person, side=_SIDES[side], start_s=start_s, end_s=end_s, time_s=keys[:, 0], box=keys[:, 1:])


def _contradictions(stretches: list[tuple[str, Stretch]]) -> Iterator[str]:
    """Contradictions between the lines of one clip."""
    hands = [(where, s) for where, s in stretches if s.hand]
    for i, (where, later) in enumerate(hands):
        for before, earlier in hands[:i]:
            if later.hand == earlier.hand:
                if later.start_s < earlier.end_s and earlier.start_s < later.end_s:
                    yield f"{where}: hand {later.hand!r} overlaps its own stretch of {before}: {later.start_s} to {later.end_s} s"
                if (later.person, later.side) != (earlier.person, earlier.side):
                    yield f"{where}: hand {later.hand!r} has another person or side than in {before}"
            elif UNKNOWN != later.side == earlier.side and later.person == earlier.person:
                yield f"{where}: person {later.person!r} has two hands of one side: {earlier.hand!r} and {later.hand!r}"


def _file_faults(clip: LabelledClip, media: Path | None) -> Iterator[str]:
    if media is None:
        return
    file = media / clip.video
    if not file.is_file():
        yield f"{file} is not there"
    elif hashlib.sha256(file.read_bytes()).hexdigest() != clip.sha256:
        yield f"{file} is another file than the one that was labelled: its sha256 is not {clip.sha256[:12]}..."
