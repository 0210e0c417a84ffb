"""What a first reading of the shards, without images, decides: the rate, the size of images, whose hands are shown, and the episodes."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.exports.source import Frame, Source

RATE_TOLERANCE = 0.25
"""Clips whose rate is farther from that of most are left out, by name."""
UNBROKEN = 1.75
"""Two frames of a clip follow each other where their distance is at most so many short ones: at 5 a second those of a film of 24 are 4 or 5
of its frames apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a first reading, without images, decides."""

    fps: float
    size: tuple[int, int]  # width and height of all images
    views: Mapping[str, int]  # of each clip the view that is shown: that of most hands
    tracks: Mapping[tuple[str, int], int]  # of clip and side the track that is shown
    num_elsewhere: int  # hands in other views
    left_out: frozenset[str]  # clips of another rate
    in_world: bool  # whether some hand is


def planned(source: Source) -> Plan:
    """Read everything but the images once."""
    sizes: Counter[tuple[int, int]] = Counter()
    hands: defaultdict[str, Counter[int]] = defaultdict(Counter)
    seen_on: defaultdict[tuple[str, int, int], Counter[int]] = defaultdict(Counter)
    of_views: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    in_world = False
    for frame in source.frames(images=False):
        sizes[frame.width, frame.height] += 1
        of_views[frame.clip, frame.view].append(frame.time_s)
        hands[frame.clip][frame.view] += len(frame)
        in_world = in_world or bool(np.isfinite(frame.hands["transl_world"]).all(1).any())
        for side, track in zip(frame.hands["side"].tolist(), frame.hands["track"].tolist(), strict=True):
            seen_on[frame.clip, frame.view, side][track] += 1
    source.videos.clear()  # they are counted again by the reading that writes
    views = {clip: min(of, key=lambda view: (-of[view], view)) for clip, of in hands.items()}
    times = {clip: of_views[clip, view] for clip, view in views.items()}
    steps = {clip: step_s for clip, of in times.items() if (step_s := mean_step_s(of))}
    rates = Counter[float]()
    for clip, step in steps.items():
        rates[_round(1 / max(step, 1e-3))] += len(times[clip])
    fps = max(rates, key=lambda rate: (rates[rate], rate)) if rates else 1.0
    other = frozenset(clip for clip, step in steps.items() if abs(step * fps - 1) > RATE_TOLERANCE)
    shown = {(clip, side): of for (clip, view, side), of in seen_on.items() if view == views[clip]}
    size = max(sizes, key=lambda one: (sizes[one], one)) if sizes else (2, 2)
    return Plan(
        fps=fps,
        size=size_of_film(size),
        views=views,
        tracks={key: min(of, key=lambda track: (-of[track], track)) for key, of in shown.items()},
        num_elsewhere=sum(of.total() - of[views[clip]] for clip, of in hands.items()),
        left_out=other,
        in_world=in_world,
    )


def size_of_film(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a film of images of a size: even ones, as its colours have half of them."""
    width, height = size
    return max(2, width - width % 2), max(2, height - height % 2)


def mean_step_s(times: Sequence[float]) -> float:
    """Mean distance of frames that follow each other, seconds; 0 where none do."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(steps[steps <= UNBROKEN * np.percentile(steps, 10)].mean()) if len(steps) else 0.0


def _round(rate: float) -> float:
    """29.97 is 30 frames a second, and so is what a short clip is off: timestamps count frames."""
    return float(round(rate)) if round(rate) and abs(rate / round(rate) - 1) < 0.02 else round(rate, 3)


def episodes(source: Source, plan: Plan) -> Iterator[Iterator[Frame]]:
    """Frames by episode; each is read to its end before the next is asked for."""
    frames = (frame for frame in source.frames() if frame.clip not in plan.left_out and frame.view == plan.views[frame.clip])
    ahead = next(frames, None)

    def stretch() -> Iterator[Frame]:
        nonlocal ahead
        while ahead is not None:
            before = ahead
            yield before
            ahead = next(frames, None)
            if ahead is None or ahead.clip != before.clip or (ahead.time_s - before.time_s) * plan.fps > 1.5:
                return

    while ahead is not None:
        yield stretch()
