"""Hands in space as files: parameters as a table, meshes, an overlay of every frame, and a page that plays it.

Whoever found the hands, a network or the fit, hands them over in the same columns. A frame is in memory.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from math import isfinite
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32, Int, UInt8

from hands.drawing.hands import SIDE_COLOURS, draw_mesh, mesh_faces
from hands.drawing.mesh_files import NamedMesh, write_meshes
from hands.drawing.sheets import write_image
from hands.drawing.video import VideoFile, origin_of, results_in

PIXEL_MIDDLE = 0.5
"""Middle of a pixel, counted from its corner, as points are here; drawing counts from middles."""
MESHES = ("glb", "obj", "none")
CROP_FOCAL = 5000 / 256
"""Focal length over the image's longer side where nobody knows it: WiLoR's 5000 of 256."""
PLAUSIBLE_FOCAL = (0.2, 100.0)
"""Least and largest focal length over a frame's longer side: a fisheye of 136 degrees, a long telephoto lens and the default. Ours."""

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


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class HandsInSpace:
    """One row a hand and frame, frames rising."""

    frame: Int[np.ndarray, "n"]
    time_s: Float[np.ndarray, "n"]
    track: Int[np.ndarray, "n"]
    side: Int[np.ndarray, "n"]  # 0 left, 1 right
    score: Float[np.ndarray, "n"]
    box: Float[np.ndarray, "n 4"]
    betas: Float32[np.ndarray, "n 10"]
    global_orient: Float32[np.ndarray, "n 3"]
    hand_pose: Float32[np.ndarray, "n 45"]
    transl: Float32[np.ndarray, "n 3"]
    focal_px: Float[np.ndarray, "n"]
    joints_3d: Float32[np.ndarray, "n 21 3"]
    joints_2d: Float32[np.ndarray, "n 21 2"]
    vertices: Float32[np.ndarray, "n 778 3"]  # wrist-centred
    vertices_2d: Float32[np.ndarray, "n 778 2"]

    def __len__(self) -> int:
        return len(self.frame)

    def table(self) -> pa.Table:
        """The parameters as a table."""
        return pa.Table.from_arrays([pa.array(getattr(self, field.name).tolist(), field.type) for field in SCHEMA], schema=SCHEMA)


def frame_focal(size: tuple[int, int], known: float | None = None) -> float:
    """Focal length of a frame (width, height), pixels: the one that is known, else WiLoR's 5000 of 256.

    Raises ValueError for one that no lens has.
    """
    longest = max(size)
    if known is None:
        return CROP_FOCAL * longest
    low, high = (share * longest for share in PLAUSIBLE_FOCAL)
    if not (isfinite(known) and low <= known <= high):
        raise ValueError(
            f"a focal length of {known:g} pixels for a frame of {size[0]} x {size[1]}: expected {low:g} to {high:g},"
            " in pixels of this frame; leave it out where it is not known"
        )
    return known


def refuse_source_in(out: Path, name: str, source: str) -> None:
    """Raise ValueError where the overlay would be written over its own source."""
    for overlay in (out / f"{name}.jpg", out / f"{name}.mp4"):
        if overlay.exists() and Path(source).exists() and overlay.samefile(source):
            raise ValueError(f"the hands drawn on {source} would be written over it: name another folder by --out")


def write_space(
    out: Path,
    name: str,
    source: str,
    hands: HandsInSpace,
    frames: Callable[[], Iterable[tuple[int, UInt8[np.ndarray, "h w 3"]]]],
    rate: Fraction | None,
    meshes: str,
) -> None:
    """Write `out/NAME.mp4` or `.jpg`, `NAME.parquet`, `NAME.html` and `NAME-meshes/`, all when they are whole.

    `frames` gives number and image of every frame of the source, `rate` those of a second, None of an image; `meshes` is glb, obj or none.
    """
    faces = [mesh_faces(side) for side in (0, 1)]
    overlay = f"{name}.{'jpg' if rate is None else 'mp4'}"
    with results_in(out) as folder:
        about = {**(SCHEMA.metadata or {}), "source": origin_of(source)}
        pq.write_table(hands.table().replace_schema_metadata(about), folder / f"{name}.parquet")
        if meshes != "none":
            for frame in np.unique(hands.frame):
                of = [_mesh(hands, row, faces) for row in np.flatnonzero(hands.frame == frame).tolist()]
                write_meshes(folder / f"{name}-meshes" / f"{frame:06d}.{meshes}", of)
        _draw(folder / overlay, hands, frames(), rate, faces)
        (folder / f"{name}.html").write_text(page(name, overlay, hands))
        for stale in (out / f"{name}-meshes").glob("[0-9]" * 6 + ".*"):  # of a run with other settings: its frames need not be ours
            stale.unlink()


def _draw(
    path: Path,
    hands: HandsInSpace,
    frames: Iterable[tuple[int, UInt8[np.ndarray, "h w 3"]]],
    rate: Fraction | None,
    faces: Sequence[Int[np.ndarray, "faces 3"]],
) -> None:
    """The meshes over every frame, far hands first."""
    with ExitStack() as stack:
        video: VideoFile | None = None
        for number, image in frames:
            rows = np.flatnonzero(hands.frame == number)
            for row in rows[np.argsort(-hands.transl[rows, 2])]:
                side = int(hands.side[row])
                draw_mesh(image, hands.vertices[row], hands.vertices_2d[row] - PIXEL_MIDDLE, faces[side], side)
            if rate is None:
                write_image(path, image)
                continue
            video = video or stack.enter_context(VideoFile(path, rate, image.shape))
            video.add(image)


def _mesh(hands: HandsInSpace, row: int, faces: Sequence[Int[np.ndarray, "faces 3"]]) -> NamedMesh:
    side = int(hands.side[row])
    name = f"{('left', 'right')[side]}-{hands.track[row]}"
    return NamedMesh(name=name, vertices=hands.vertices[row] + hands.transl[row], faces=faces[side], colour=SIDE_COLOURS[side])


def page(name: str, shown: str, hands: HandsInSpace) -> str:
    """A page that plays the overlay and says which hands are on it."""
    rows = []
    for track in np.unique(hands.track):
        mine = hands.track == track
        first, last = hands.time_s[mine][[0, -1]]
        side = ("left", "right")[int(hands.side[mine][0])]
        rows.append(f"<tr><td>{track}</td><td>{side}</td><td>{first:.2f} s</td><td>{last:.2f} s</td><td>{int(mine.sum())}</td></tr>")
    link = quote(shown)
    look = f'<img src="{link}" alt="hands">' if shown.endswith(".jpg") else f'<video src="{link}" controls loop muted autoplay></video>'
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
