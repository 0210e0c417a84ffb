"""What the chain finds in files, drawn on their frames and written as tables: `whim detect`; as meshes in space: `whim reconstruct`."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64, UInt8
from rich.console import Console

from fitting.hand.mano import load_hand_model, pose_either_hand, project
from hands.drawing.hands import draw_hands
from hands.drawing.sheets import write_image
from hands.drawing.space import HandsInSpace, frame_focal, refuse_source_in, write_space
from hands.drawing.video import VideoFile, frames_of, is_camera, origin_of, refuse_another_source, results_in, write_json
from hands.metrics.motion import shaking_mm
from pipeline.exports.source import plain
from pipeline.library.annotated import Annotated, annotated
from stages.errors import UserError
from stages.fusion.views import in_video
from stages.media.frames import read_frames
from stages.media.probe import is_image
from stages.tables import UNKNOWN_SIDE, to_numpy

FIRST = ("frame", "time_s", "box", "score", "side", "keypoints", "track", "quality", "keep", "reason")
"""Columns that come first in a table, the first six as a detector's has them."""


def detect(
    source: str,
    out: Path,
    *,
    table_format: str = "parquet",
    max_frames: int | None = None,
    console: Console | None = None,
    failed: list[str] | None = None,
) -> tuple[int, int, int]:
    """Draw the hands of a file, of all files of a folder, or of what a camera films until Ctrl-C; how many files, frames and hands.

    `failed` takes what could not be looked at, and why.

    Writes `out/NAME.jpg` or `.mp4` and `out/NAME.parquet` or `.json`, whole or not at all. Hands that the review would drop are in the
    table, `keep` false, and drawn dashed. Raises UserError and ValueError for what cannot be read, where the source itself would be
    written over, and where a table of another source of the same name lies already.
    """
    num_files = num_frames = num_hands = 0
    with _filmed(source, max_frames, console) as file:
        for one in annotated([str(file)], max_frames=max_frames, console=console, failed=failed):
            name = one.video if file.is_dir() else file.stem  # ids of a folder's files are all different
            origin = source if is_camera(source) else str(one.path)
            refuse_source_in(out, name, origin)
            refuse_another_source(out, name, origin)
            with results_in(out) as folder:
                num_frames += _draw(one, folder / name)
                _write_table(one, folder / f"{name}.{table_format}", origin)
            num_files, num_hands = num_files + 1, num_hands + len(one.hands)
    return num_files, num_frames, num_hands


def reconstruct(
    source: str,
    out: Path,
    *,
    meshes: str = "glb",
    focal_px: float | None = None,
    max_frames: int | None = None,
    console: Console | None = None,
    failed: list[str] | None = None,
    instead: Callable[[HandsInSpace, Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]], HandsInSpace] | None = None,
) -> tuple[int, int]:
    """The hands of an image or a video as the chain fits them, in space: meshes, overlay, parameters; how many frames and hands.

    `instead` makes other hands of the fitted ones and the frames by their numbers. Files and errors are those of a reconstruction by a
    network. Hands are those that the review keeps with a fit.
    """
    if not Path(source).is_file():
        raise ValueError(f"there is no file {source}: name an image or a video")
    name = Path(source).stem
    refuse_another_source(out, name, source)
    refuse_source_in(out, name, source)
    (one,) = annotated([source], max_frames=max_frames, console=console, failed=failed)
    numbers = [number for number, _ in _frames(one)]
    rate = _rate(one)
    hands = in_space(one, focal_px, numbers)
    shown = partial(_renumbered, one, numbers)
    if instead is not None:
        hands = instead(hands, shown())
    if console is not None and (told := _steadiness(one, hands)):
        console.print(told, markup=False)
    write_space(out, name, source, hands, shown, rate, meshes)
    return len(numbers), len(hands)


def _steadiness(one: Annotated, hands: HandsInSpace) -> str:
    """How much the hands shake beside the detector's own joints of each frame by itself; '' where no track has three frames in a row."""
    rows = _fitted(one)
    track = np.where(np.isfinite(one.hands.world[rows]).all((1, 2)), hands.track.astype(np.int64), -1)  # the same hands of both
    ours, theirs = (shaking_mm(joints, track, hands.frame) for joints in (hands.joints_3d, one.hands.world[rows]))
    if not np.isfinite([ours, theirs]).all():
        return ""
    return f"joints about the wrist accelerate by {ours:.1f} mm a frame squared, the detector's own, frame by frame, by {theirs:.1f}"


def _fitted(one: Annotated) -> Int64[np.ndarray, "n"]:
    """Rows of hands that the review keeps with a fit."""
    fits, reviews = one.fits, one.reviews
    fitted = np.isfinite(fits.hand_pose).all(1) & np.isfinite(fits.camera).all(1) & reviews.keep & ~reviews.box_only
    return np.flatnonzero(fitted & (fits.side != UNKNOWN_SIDE))


def in_space(one: Annotated, focal_px: float | None, numbers: Sequence[int]) -> HandsInSpace:
    """The hands that the review keeps, placed before a pinhole camera: where it sees the wrist, at the distance of the fitted size.

    Raises UserError for hands that were seen through views of a camera that is no pinhole.
    """
    hands, fits, rows = one.hands, one.fits, _fitted(one)
    if np.isfinite(hands.box_source).all(1).any():
        raise UserError(f"{one.path} is of a camera that bends straight lines: whim run and whim export glb tell its hands in space")
    size = np.stack([hands.width, hands.height], 1)[rows].astype(np.float64)
    focal = np.array([frame_focal((int(width), int(height)), focal_px) for width, height in size])
    columns = [torch.from_numpy(getattr(fits, name)[rows]) for name in ("betas", "global_orient", "hand_pose")]
    camera = torch.from_numpy(fits.camera[rows])
    posed = pose_either_hand(load_hand_model(), torch.from_numpy(fits.side[rows].astype(np.int64)), *columns)
    return HandsInSpace(
        frame=np.searchsorted(np.array(numbers), hands.frame[rows]),
        time_s=hands.time_s[rows],
        track=hands.track[rows],
        side=fits.side[rows].astype(np.int64),
        score=hands.score[rows],
        box=hands.box[rows],
        betas=fits.betas[rows],
        global_orient=fits.global_orient[rows],
        hand_pose=fits.hand_pose[rows],
        transl=placed(fits.camera[rows], size, focal).astype(np.float32),
        focal_px=focal,
        joints_3d=fits.joints_3d[rows],
        joints_2d=fits.joints_2d[rows],
        vertices=posed.vertices.numpy(),
        vertices_2d=project(posed.vertices, camera).numpy(),
    )


def placed(camera: Float[np.ndarray, "n 3"], size: Float[np.ndarray, "n 2"], focal: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
    """Places of wrists, metres, at the depth where the pinhole sees the hand as large as weak perspective does."""
    depth = focal / camera[:, 0]
    return np.concatenate([(camera[:, 1:] - size / 2) / camera[:, :1], depth[:, None]], 1)


def _frames(one: Annotated) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Every frame with its number in the video."""
    for clip in one.clips.rows():
        for some in read_frames(one.path, clip):
            yield from zip(some.frame.tolist(), some.images, strict=True)


def _renumbered(one: Annotated, numbers: Sequence[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Every frame by its place among those that are read."""
    yield from ((place, image) for place, (_, image) in zip(range(len(numbers)), _frames(one), strict=False))


def _rate(one: Annotated) -> Fraction | None:
    """Frames a second of what is drawn; None of an image."""
    if is_image(one.path):
        return None
    rate = float(one.videos.frames_per_second[0])
    return Fraction(rate if np.isfinite(rate) and rate > 0 else 25).limit_denominator(60_000)


def _draw(one: Annotated, path: Path) -> int:
    """Draw the hands on every frame; how many there are."""
    count, rate = 0, _rate(one)  # of frames
    hands = in_video(one.hands)
    keypoints = hands.keypoints
    keypoints[one.reviews.box_only, :, 2] = 0  # grossly wrong as likely as not
    with ExitStack() as stack:
        video: VideoFile | None = None
        for number, image in _frames(one):
            count += 1
            rows = np.flatnonzero(hands.frame == number)
            side, box, score = (getattr(hands, name)[rows] for name in ("side", "box", "score"))
            canvas = np.ascontiguousarray(image)
            draw_hands(canvas, side, box, score, keypoints[rows], dropped=~one.reviews.keep[rows])
            if rate is None:
                write_image(path.with_name(f"{path.name}.jpg"), canvas)
                continue
            video = video or stack.enter_context(VideoFile(path.with_name(f"{path.name}.mp4"), rate, canvas.shape))
            video.add(canvas)
    return count


def _write_table(one: Annotated, path: Path, origin: str) -> None:
    table = one.table().arrow
    table = table.select([*FIRST, *(name for name in table.column_names if name not in FIRST)])
    if path.suffix == ".json":
        columns = {name: _listed(table.column(name)) for name in table.column_names}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        write_json(path, origin, rows)
    else:
        pq.write_table(table.replace_schema_metadata({"source": origin_of(origin)}), path)


def _listed(column: pa.ChunkedArray) -> list[object]:
    values = to_numpy(column)
    return column.to_pylist() if values.dtype == object else list(plain(values))


@contextmanager
def _filmed(source: str, max_frames: int | None, console: Console | None) -> Iterator[Path]:
    """The source as a file or folder: what a camera films is recorded first, until Ctrl-C or for so many frames."""
    if not is_camera(source):
        if not Path(source).exists():
            raise ValueError(f"there is no {source}: name an image, a video, a folder or webcam")
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="whim-") as folder, ExitStack() as stack:
        path, video = Path(folder) / "webcam.mp4", None
        if console is not None:
            console.print(
                f"filming {'for ' + str(max_frames) + ' frames' if max_frames else 'until Ctrl+C'}, then hands are looked for", markup=False
            )
        with suppress(KeyboardInterrupt):  # how a person ends it
            for count, (_, rate, image) in enumerate(frames_of(source), 1):
                video = video or stack.enter_context(VideoFile(path, rate or Fraction(25), image.shape))
                video.add(image)
                if count == max_frames:
                    break
        stack.close()
        if video is None:
            raise UserError(f"{source} filmed nothing")
        yield path
