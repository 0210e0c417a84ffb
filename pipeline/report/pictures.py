"""Which hands a report shows, and their pictures: the frame and a close-up, as JPEG within a budget of bytes."""

import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from fitting.hand.mano import HandModel, load_hand_model, pose_either_hand, project
from hands.drawing.hands import Canvas, Image, View, around, draw_hands, draw_mesh, mesh_faces, outline, whole
from stages.cameras.views import through_views
from stages.media.frames import read_frames
from stages.pack import ClipTables
from stages.shards import unit_hash
from stages.tables import Fits, Hands, Reviews

FRAME_HEIGHT, CLOSE_UP_HEIGHT = 320, 320
"""Of the pictures, in pixels."""
_QUALITIES = (84, 76, 66, 54, 40)
"""Of the JPEGs, tried in turn until a picture is within its share of the budget."""
_APART_S = 1.0
"""Two hands of one video that are nearer in time show the same thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One hand to show: a row of its clip's `Hands`."""

    video: str
    clip: str
    row: int
    frame: int
    time_s: float
    index: int  # among all hands of the run


def spread(ranked: Iterable[Example], count: int) -> list[Example]:
    """The first of a ranking, but every video once before any is shown again, and never twice about the same moment."""
    candidates = list(ranked)
    chosen: list[Example] = []
    of_video: Counter[str] = Counter()
    for limit in range(1, count + 1):
        for example in candidates:
            if len(chosen) == count:
                return chosen
            near = (c for c in chosen if c.video == example.video)
            if of_video[example.video] < limit and all(abs(c.time_s - example.time_s) >= _APART_S for c in near):
                chosen.append(example)
                of_video[example.video] += 1
    return chosen


def by_chance(examples: Iterable[Example]) -> list[Example]:
    """An order that is arbitrary and always the same."""
    return sorted(examples, key=lambda e: unit_hash(f"{e.clip}/{e.frame}/{e.row}"))


def draw_examples(examples: Sequence[Example], load: Callable[[str], ClipTables], *, budget_bytes: int) -> dict[Example, tuple[str, str]]:
    """The frame and the close-up of each example as data URIs; one that can no longer be read is left out."""
    share = budget_bytes * 3 // 4 // max(1, 2 * len(examples))  # base64 makes four bytes of three
    pictures: dict[Example, tuple[str, str]] = {}
    by_clip: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_clip[example.clip].append(example)
    for clip, of_clip in by_clip.items():
        tables = load(clip)
        for frame, view, image in _frames_of(tables, {e.frame for e in of_clip}):
            here = (tables.hands.frame == frame) & (tables.hands.view == view)
            for example in (e for e in of_clip if e.frame == frame and here[e.row : e.row + 1].all()):
                pictures[example] = _draw_example(image, tables, example, share)
    return pictures


def _frames_of(tables: ClipTables, wanted: set[int]) -> Iterable[tuple[int, int, np.ndarray]]:
    """The wanted frames, each with the number of its view, as far as the video can be read, decoding no further than the last of them."""
    import av

    try:
        stretches = read_frames(Path(tables.videos.path[0]), tables.clips, max_frames=8)
        cameras = tables.cameras
        last = 0 if cameras is None else int(cameras.view[-1])
        for frames in stretches if cameras is None else through_views(stretches, cameras):
            for frame, image in zip(frames.frame.tolist(), frames.images, strict=True):
                if frame in wanted:
                    yield frame, frames.view, image
            if frames.frame[-1] >= max(wanted) and frames.view == last:
                return
    except (OSError, av.error.FFmpegError):  # moved or damaged since: the report says so in the picture's place
        return


def _draw_example(image: np.ndarray, tables: ClipTables, example: Example, share: int) -> tuple[str, str]:
    """The frame with all of its hands, and the close-up with the one alone."""
    on_frame = (tables.hands.frame == example.frame) & (tables.hands.view == tables.hands.view[example.row])
    hands, fits, reviews = tables.hands.take(on_frame), tables.fits.take(on_frame), tables.reviews.take(on_frame)
    box = tables.hands.box[example.row]
    frame, close_up = whole(image, FRAME_HEIGHT), around(image, box, CLOSE_UP_HEIGHT)
    drawn = draw_fits(image, hands, fits, reviews, frame)
    outline(drawn, frame, close_up)
    one = slice(example.row, example.row + 1)
    alone = draw_fits(image, tables.hands.take(one), tables.fits.take(one), tables.reviews.take(one), close_up)
    return _jpeg(drawn, share), _jpeg(alone, share)


def draw_fits(image: Image, hands: Hands, fits: Fits, reviews: Reviews, view: View) -> Canvas:
    """The view of an image with the hands of its frame on it; rows of the three tables belong together.

    Hands that were not fitted lack a mesh. Dropped ones have a grey, dashed box.
    """
    canvas = view.canvas(image)
    shown = np.array([view.shows(box) for box in hands.box], bool)
    hands, fits, dropped = hands.take(shown), fits.take(shown), ~reviews.keep[shown].astype(bool)
    fitted = np.isfinite(np.concatenate([fits.camera, fits.hand_pose, fits.global_orient, fits.betas], 1)).all(1)
    for row in np.flatnonzero(fitted).tolist():
        side = int(fits.side[row])
        vertices, pixels = _posed(fits.take(slice(row, row + 1)))
        draw_mesh(canvas, vertices, view.points(pixels), _faces(side), side)
    keypoints = np.concatenate([view.points(hands.keypoints[..., :2]), hands.keypoints[..., 2:]], 2)
    box = view.points(hands.box.reshape(-1, 2, 2)).reshape(-1, 4)
    draw_hands(canvas, hands.side, box, hands.score, keypoints, dropped=dropped, labels=False)
    return canvas


@cache
def _hand_model() -> HandModel:
    return load_hand_model()


@cache
def _faces(side: int) -> np.ndarray:
    return mesh_faces(side)


def _posed(fit: Fits) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of one fitted hand, metres, and where they fall in its frame, pixels."""
    parameters = (torch.tensor(values) for values in (fit.betas, fit.global_orient, fit.hand_pose))
    vertices = pose_either_hand(_hand_model(), torch.tensor([int(fit.side[0])]), *parameters).vertices
    if not fit.focal_px[0] > 0:  # nobody knows it
        return vertices[0].numpy(), project(vertices, torch.tensor(fit.camera))[0].numpy()
    placed = vertices[0].numpy() + fit.transl
    return vertices[0].numpy(), fit.focal_px[0] * placed[:, :2] / np.maximum(placed[:, 2:], 1e-3) + fit.principal


def _jpeg(image: np.ndarray, share: int) -> str:
    """A data URI of at most `share` bytes of JPEG: coarser, then smaller, until it fits or is 40 pixels high."""
    import cv2
    import simplejpeg

    data, height, width = b"", *image.shape[:2]
    while not data or (len(data) > share and height > 40):
        for quality in _QUALITIES:
            data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="420")
            if len(data) <= share:
                break
        height, width = height * 3 // 4, max(1, width * 3 // 4)
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
