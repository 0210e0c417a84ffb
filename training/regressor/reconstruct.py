"""Hands of an image or a video in space: `whim reconstruct`. Meshes, parameters as a table, and the meshes drawn over every frame.

A video is read three times: to find the hands, to reconstruct those of many frames in one batch once tracks and sides are known, and to
draw them when they are smooth. No more than a batch of frames is in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from fitting.hand.mano import load_hand_model
from hands.drawing.space import MESHES, HandsInSpace, frame_focal, refuse_source_in, write_space
from hands.drawing.video import frames_of, refuse_another_source
from training.detector.inference import HandDetector
from training.regressor.hand import HandLayer
from training.regressor.inference import HandReconstructor, ReconstructedHands, usable
from training.regressor.tracks import FoundHands, TrackSettings, follow, smooth


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructSettings:
    """Settings of a reconstruction."""

    focal_px: float | None = None
    """Focal length in pixels of the source; None: WiLoR's 5000 of 256, so that depths are relative."""
    meshes: str = "glb"
    """Ending of the files of meshes, one a frame: glb, obj or none."""
    max_frames: int | None = None
    batch_frames: int = 16
    """Frames read at once."""
    tracks: TrackSettings = field(default_factory=TrackSettings)

    def __post_init__(self) -> None:
        if self.meshes not in MESHES:
            raise ValueError(f"reconstruct.meshes must be glb, obj or none, got {self.meshes}")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"reconstruct.max_frames must be 1 or more, got {self.max_frames}")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Seen:
    """A source as its first reading leaves it."""

    time_s: Float[np.ndarray, "frames"]
    rate: Fraction | None
    size: tuple[int, int]
    found: FoundHands


def reconstruct(
    detector: HandDetector, reconstructor: HandReconstructor, source: str, out: Path, settings: ReconstructSettings
) -> tuple[int, int]:
    """Write `out/NAME.mp4` or `.jpg`, `NAME.parquet`, `NAME.html` and `NAME-meshes/`; how many frames and hands.

    Raises ValueError for what cannot be read, for a focal length that no lens has, and where the source itself would be written over.
    """
    name = Path(source).stem
    refuse_another_source(out, name, source)
    refuse_source_in(out, name, source)
    seen = look(detector, source, settings)
    hands = _reconstructed(reconstructor, source, seen, settings)
    time_s, layer = seen.time_s[seen.found.frame], HandLayer(load_hand_model())
    hands = smooth(hands, seen.found.track, time_s, layer, seen.size, settings.focal_px, settings.tracks)
    write_space(
        out, name, source, _in_space(hands, seen, time_s, settings), partial(_numbered, source, settings), seen.rate, settings.meshes
    )
    return len(seen.time_s), len(hands)


def look(detector: HandDetector, source: str, settings: ReconstructSettings) -> Seen:
    """Find the hands of all frames and follow them."""
    times: list[float] = []
    columns: list[list[np.ndarray]] = []
    rate, size = None, (1, 1)
    for start, frames in _stretches(source, settings):
        rate, size = frames[0][1], (frames[0][2].shape[1], frames[0][2].shape[0])
        times += [time_s for time_s, _, _ in frames]
        for k, hands in enumerate(detector([image for _, _, image in frames])):
            good = usable(hands.box, *size)
            columns.append([np.full(int(good.sum()), start + k), hands.box[good], hands.side[good], hands.score[good]])
    if not times:
        raise ValueError(f"{source} holds no frame")
    frame, box, side, score = (np.concatenate(values) for values in zip(*columns, strict=True))
    found = FoundHands(frame=frame, box=box, side=side, score=score, track=np.full(len(frame), -1))
    time_s = np.array(times)
    return Seen(time_s=time_s, rate=rate, size=size, found=follow(found, time_s, settings.tracks))


def _stretches(
    source: str, settings: ReconstructSettings
) -> Iterator[tuple[int, list[tuple[float, Fraction | None, UInt8[np.ndarray, "h w 3"]]]]]:
    """Number of the first frame, and some frames."""
    frames = islice(frames_of(source), settings.max_frames)
    start = 0
    while some := list(islice(frames, settings.batch_frames)):
        yield start, some
        start += len(some)


def _reconstructed(reconstructor: HandReconstructor, source: str, seen: Seen, settings: ReconstructSettings) -> ReconstructedHands:
    """The hands of all frames, each as its own crop shows it."""
    parts = []
    for start, frames in _stretches(source, settings):
        rows = np.flatnonzero((seen.found.frame >= start) & (seen.found.frame < start + len(frames)))
        images = [image for _, _, image in frames]
        columns = (seen.found.frame[rows] - start, seen.found.box[rows], seen.found.side[rows])
        parts.append(reconstructor(images, *columns, focal_px=settings.focal_px))
    return ReconstructedHands.joined(parts)


def _numbered(source: str, settings: ReconstructSettings) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Every frame with its number."""
    for start, frames in _stretches(source, settings):
        yield from ((number, image) for number, (_, _, image) in enumerate(frames, start))


def _in_space(hands: ReconstructedHands, seen: Seen, time_s: Float[np.ndarray, "n"], settings: ReconstructSettings) -> HandsInSpace:
    global_orient, hand_pose = hands.parameters()
    return HandsInSpace(
        frame=seen.found.frame,
        time_s=time_s,
        track=seen.found.track,
        side=hands.side,
        score=seen.found.score,
        box=seen.found.box,
        betas=hands.betas,
        global_orient=global_orient,
        hand_pose=hand_pose,
        transl=hands.transl,
        focal_px=np.full(len(hands), frame_focal(seen.size, settings.focal_px)),
        joints_3d=hands.joints,
        joints_2d=hands.joints_2d,
        vertices=hands.vertices,
        vertices_2d=hands.vertices_2d,
    )


def in_place_of_fits(
    reconstructor: HandReconstructor,
    fitted: HandsInSpace,
    frames: Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]],
    settings: ReconstructSettings,
) -> HandsInSpace:
    """Hands that the chain found, followed and fitted, as a network sees each of them, smoothed along their tracks."""
    parts, size = [], (1, 1)
    for number, image in frames:
        rows = np.flatnonzero(fitted.frame == number)
        size = image.shape[1], image.shape[0]
        if len(rows):
            told = (np.zeros(len(rows), int), fitted.box[rows], fitted.side[rows])
            parts.append(reconstructor([image], *told, focal_px=settings.focal_px, keypoints=fitted.joints_2d[rows].astype(np.float64)))
    if not parts:
        return fitted
    hands, layer = ReconstructedHands.joined(parts), HandLayer(load_hand_model())
    track = np.where(fitted.track < 0, -1 - np.arange(len(fitted)), fitted.track)  # those of no track are nobody's neighbours
    hands = smooth(hands, track, fitted.time_s, layer, size, settings.focal_px, settings.tracks)
    global_orient, hand_pose = hands.parameters()
    return replace(
        fitted,
        betas=hands.betas,
        global_orient=global_orient,
        hand_pose=hand_pose,
        transl=hands.transl,
        joints_3d=hands.joints,
        joints_2d=hands.joints_2d,
        vertices=hands.vertices,
        vertices_2d=hands.vertices_2d,
    )
