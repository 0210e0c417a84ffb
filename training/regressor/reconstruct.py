"""Hands of an image or a video in space: `whim reconstruct`. Meshes, parameters as a table, and the meshes drawn over every frame.

A video is read three times: to find the hands, to reconstruct those of many frames in one batch once tracks and sides are known, and to
draw them when they are smooth. No more than a batch of frames is in memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from html import escape
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, UInt8

from fitting.hand.mano import load_hand_model
from hands.drawing.hands import SIDE_COLOURS, draw_mesh, mesh_faces
from training.data.video import VideoFile, frames_of, origin_of, refuse_another_source, results_in
from training.detector.inference import HandDetector
from training.regressor.camera import frame_focal
from training.regressor.hand import HandLayer
from training.regressor.inference import HandReconstructor, ReconstructedHands, usable
from training.regressor.mesh_files import NamedMesh, write_meshes
from training.regressor.tracks import FoundHands, TrackSettings, follow, smooth

PIXEL_MIDDLE = 0.5
"""Middle of a pixel, counted from its corner, as points are here; drawing counts from middles."""

_F32 = pa.float32()
SCHEMA = pa.schema(
    {
        "frame": pa.int32(),
        "time_s": pa.float64(),
        "track": pa.int32(),
        "side": pa.int8(),  # 0 left, 1 right
        "score": _F32,  # the detector's; 0 where it missed the hand and the track went on
        "box": pa.list_(_F32, 4),
        "betas": pa.list_(_F32, 10),
        "global_orient": pa.list_(_F32, 3),
        "hand_pose": pa.list_(_F32, 45),
        "transl": pa.list_(_F32, 3),
        "focal_px": _F32,
        "joints_3d": pa.list_(pa.list_(_F32, 3), 21),  # metres, wrist-centred
        "joints_2d": pa.list_(pa.list_(_F32, 2), 21),  # pixels
    },
    {"frame_of_reference": "pixels; camera axes x right, y down, z forward, metres; smplx's parameters of a hand of the row's side"},
)


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
        if self.meshes not in ("glb", "obj", "none"):
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
    refuse_another_source(out / f"{name}.parquet", source)
    seen = look(detector, source, settings)
    overlay = out / f"{name}.{'jpg' if seen.rate is None else 'mp4'}"
    if overlay.exists() and overlay.samefile(source):
        raise ValueError(f"the hands drawn on {source} would be written over it: name another folder by --out")
    hands = _reconstructed(reconstructor, source, seen, settings)
    time_s, layer = seen.time_s[seen.found.frame], HandLayer(load_hand_model())
    hands = smooth(hands, seen.found.track, time_s, layer, seen.size, settings.focal_px, settings.tracks)
    table = _table(hands, seen, time_s, settings)
    faces = [mesh_faces(side) for side in (0, 1)]
    with results_in(out) as folder:
        pq.write_table(table.replace_schema_metadata({"source": origin_of(source)}), folder / f"{name}.parquet")
        if settings.meshes != "none":
            for frame in np.unique(seen.found.frame):
                rows = np.flatnonzero(seen.found.frame == frame).tolist()
                meshes = [_mesh(hands, seen.found, row, faces) for row in rows]
                write_meshes(folder / f"{name}-meshes" / f"{frame:06d}.{settings.meshes}", meshes)
        _draw(source, seen, hands, folder / overlay.name, faces, settings)
        (folder / f"{name}.html").write_text(page(name, overlay.name, seen))
        for stale in (out / f"{name}-meshes").glob("[0-9]" * 6 + ".*"):  # of a run with other settings: its frames need not be ours
            stale.unlink()
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


def _draw(
    source: str,
    seen: Seen,
    hands: ReconstructedHands,
    path: Path,
    faces: Sequence[Int[np.ndarray, "faces 3"]],
    settings: ReconstructSettings,
) -> None:
    """The meshes over every frame, far hands first."""
    with ExitStack() as stack:
        video: VideoFile | None = None
        for start, frames in _stretches(source, settings):
            for number, (_, rate, image) in enumerate(frames, start):
                rows = np.flatnonzero(seen.found.frame == number)
                for row in rows[np.argsort(-hands.transl[rows, 2])]:
                    side = int(hands.side[row])
                    draw_mesh(image, hands.vertices[row], hands.vertices_2d[row] - PIXEL_MIDDLE, faces[side], side)
                if rate is None:
                    cv2.imwrite(str(path), image[..., ::-1])
                    continue
                video = video or stack.enter_context(VideoFile(path, rate, image.shape))
                video.add(image)


def _mesh(hands: ReconstructedHands, found: FoundHands, row: int, faces: Sequence[Int[np.ndarray, "faces 3"]]) -> NamedMesh:
    side = int(hands.side[row])
    name = f"{('left', 'right')[side]}-{found.track[row]}"
    return NamedMesh(name=name, vertices=hands.vertices[row] + hands.transl[row], faces=faces[side], colour=SIDE_COLOURS[side])


def _table(hands: ReconstructedHands, seen: Seen, time_s: Float[np.ndarray, "n"], settings: ReconstructSettings) -> pa.Table:
    global_orient, hand_pose = hands.parameters()
    columns = {
        "frame": seen.found.frame,
        "time_s": time_s,
        "track": seen.found.track,
        "side": hands.side,
        "score": seen.found.score,
        "box": seen.found.box,
        "betas": hands.betas,
        "global_orient": global_orient,
        "hand_pose": hand_pose,
        "transl": hands.transl,
        "focal_px": np.full(len(hands), frame_focal(seen.size, settings.focal_px)),
        "joints_3d": hands.joints,
        "joints_2d": hands.joints_2d,
    }
    return pa.Table.from_arrays([pa.array(columns[field.name].tolist(), field.type) for field in SCHEMA], schema=SCHEMA)


def page(name: str, shown: str, seen: Seen) -> str:
    """A page that plays the overlay and says which hands are on it."""
    rows = []
    for track in np.unique(seen.found.track):
        mine = seen.found.track == track
        first, last = seen.time_s[seen.found.frame[mine][[0, -1]]]
        side = ("left", "right")[int(seen.found.side[mine][0])]
        rows.append(f"<tr><td>{track}</td><td>{side}</td><td>{first:.2f} s</td><td>{last:.2f} s</td><td>{int(mine.sum())}</td></tr>")
    link = quote(shown)
    look = f'<img src="{link}" alt="hands">' if seen.rate is None else f'<video src="{link}" controls loop muted autoplay></video>'
    return PAGE.format(name=escape(name), look=look, rows="\n".join(rows))


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}: hands</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1e26}}
video,img{{width:100%;border-radius:6px}}table{{border-collapse:collapse;margin-top:1rem}}
td,th{{padding:.2rem .9rem .2rem 0;text-align:left}}</style>
<h1>{name}</h1>
{look}
<p>Estimated meshes over the image, left hands blue, right hands orange.</p>
<table><tr><th>track</th><th>side</th><th>from</th><th>to</th><th>frames</th></tr>
{rows}
</table></html>
"""
