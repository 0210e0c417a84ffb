"""What a first reading of the shards, without images, decides: the rate, the size of images, whose hands are shown, and the episodes."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.exports.source import Frame, Source

RATE_TOLERANCE = 0.25
"""Clips whose rate is farther from that of most are left out, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a first reading, without images, decides."""

    fps: float
    size: tuple[int, int]  # width and height of all images
    tracks: Mapping[tuple[str, int], int]  # of clip and side the track that is shown
    left_out: frozenset[str]  # clips of another rate
    in_world: bool  # whether some hand is


def planned(source: Source) -> Plan:
    """Read everything but the images once."""
    sizes: Counter[tuple[int, int]] = Counter()
    seen_on: defaultdict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    times: defaultdict[str, list[float]] = defaultdict(list)
    in_world = False
    for frame in source.frames(images=False):
        sizes[frame.width, frame.height] += 1
        times[frame.clip].append(frame.time_s)
        in_world = in_world or bool(np.isfinite(frame.hands["transl_world"]).all(1).any())
        for side, track in zip(frame.hands["side"].tolist(), frame.hands["track"].tolist(), strict=True):
            seen_on[frame.clip, side][track] += 1
    source.videos.clear()  # they are counted again by the reading that writes
    steps = {clip: float(np.diff(of).min()) for clip, of in times.items() if len(of) > 1}
    rates = Counter[float]()
    for clip, step in steps.items():
        rates[_round(1 / max(step, 1e-3))] += len(times[clip])
    fps = max(rates, key=lambda rate: (rates[rate], rate)) if rates else 1.0
    other = frozenset(clip for clip, step in steps.items() if abs(step * fps - 1) > RATE_TOLERANCE)
    tracks = {key: min(of, key=lambda track: (-of[track], track)) for key, of in seen_on.items()}
    size = max(sizes, key=lambda one: (sizes[one], one)) if sizes else (2, 2)
    return Plan(fps=fps, size=(size[0] - size[0] % 2, size[1] - size[1] % 2), tracks=tracks, left_out=other, in_world=in_world)


def _round(rate: float) -> float:
    """29.97 of every sixth frame is 5 frames a second: timestamps count frames."""
    return float(round(rate)) if round(rate) and abs(rate / round(rate) - 1) < 0.01 else round(rate, 3)


def episodes(source: Source, plan: Plan) -> Iterator[Iterator[Frame]]:
    """Frames by episode; each is read to its end before the next is asked for."""
    frames = (frame for frame in source.frames() if frame.clip not in plan.left_out)
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
