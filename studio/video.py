"""A labelled video: shots are rendered, encoded by ffmpeg, and their exact truth is written beside them.

The same settings and seed give the same bytes on one kind of processor: the encoder runs on one thread and writes neither date nor version.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from fitting.hand.anatomy import compose
from fitting.hand.mano import LEFT, HandModel, pose_either_hand
from fitting.hand.rotation import axis_angle_from_matrix, mirror_axis_angle
from studio.backdrop import Backdrop
from studio.hand import DressedHand, finger_axes, studio_model
from studio.person import Person
from studio.raster import fill
from studio.render import SUPERSAMPLE, Camera, Mesh, Picture, Renderer, join
from studio.scene import Kind, Track, make_shot
from studio.truth import write_labels, write_truth

NOISE_LEVEL = 1.6
"""Deviation of the sensor's noise, of 255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """What to render."""

    seed: int = 0
    seconds: float = 6.0
    frames_per_second: float = 25.0
    width: int = 640
    height: int = 480
    shots: tuple[Kind, ...] = ("signer", "close")
    """One after the other, cut hard, of equal length."""

    def __post_init__(self) -> None:
        if self.width % 4 or self.height % 4 or min(self.width, self.height) < 64:
            raise ValueError(f"film.width and film.height must be multiples of 4 and at least 64, got {self.width} x {self.height}")
        if round(self.seconds * self.frames_per_second) < 2 * len(self.shots):
            raise ValueError(f"film.seconds must leave two frames a shot, got {self.seconds} s at {self.frames_per_second} frames/s")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class PosedTrack:
    """A track's hand at every frame, with the parameters that explain it."""

    hand: DressedHand
    track: Track
    vertices: Float64[np.ndarray, "frames 778 3"]  # before the camera
    joints: Float64[np.ndarray, "frames 21 3"]  # before the camera
    global_orient: Float64[np.ndarray, "frames 3"]
    hand_pose: Float64[np.ndarray, "frames 45"]


def pose_track(model: HandModel, track: Track) -> PosedTrack:
    """Turn a track's angles into smplx's parameters of its side, and those into a mesh."""
    rotations = compose(torch.from_numpy(track.angles), torch.from_numpy(finger_axes(model)))
    pose, orient = axis_angle_from_matrix(rotations), axis_angle_from_matrix(torch.from_numpy(track.orient))
    if track.side == LEFT:
        pose, orient = mirror_axis_angle(pose), mirror_axis_angle(orient)
    frames = len(orient)
    betas = torch.from_numpy(track.betas).expand(frames, 10)
    posed = pose_either_hand(model, torch.full((frames,), track.side), betas, orient, pose.flatten(1))
    wrist = track.wrist[:, None]
    return PosedTrack(
        hand=DressedHand(model, track.side, track.dress, part=track.side),
        track=track,
        vertices=posed.vertices.numpy() + wrist,
        joints=posed.joints.numpy() + wrist,
        global_orient=orient.numpy(),
        hand_pose=pose.flatten(1).numpy(),
    )


def render_film(film: Film) -> Iterator[tuple[Picture, list[dict[str, np.ndarray]]]]:
    """Pictures in order, each with one row of truth a hand (see `studio.truth.TRUTH`; without the video's name)."""
    rng = np.random.default_rng(film.seed)
    model, camera = studio_model(), Camera(width=film.width, height=film.height, focal_px=Camera().focal_px * film.width / Camera().width)
    total = round(film.seconds * film.frames_per_second)
    bounds = np.linspace(0, total, len(film.shots) + 1).round().astype(int)
    for index, kind in enumerate(film.shots):
        shot = make_shot(kind, int(bounds[index + 1] - bounds[index]), film.frames_per_second, rng)
        posed = [pose_track(model, track) for track in shot.tracks]
        renderer, backdrop = Renderer(camera, rng), Backdrop(film.width, film.height, rng)
        grain = rng.normal(0, NOISE_LEVEL, (film.height + 64, film.width + 64, 3)).astype(np.float32)
        figure = Person(shot) if kind == "signer" else None
        for frame in range(shot.num_frames):
            time_s = frame / film.frames_per_second
            mesh = _scene_mesh(posed, figure, frame, time_s)
            row, column = rng.integers(0, 64, 2)
            background = backdrop.at(time_s)
            picture = renderer.draw(mesh, background, grain[row : row + film.height, column : column + film.width])
            number = int(bounds[index]) + frame
            place = {"frame": np.int64(number), "time_s": np.float64(number / film.frames_per_second), "shot": np.int16(index)}
            rows = [{name: np.asarray(v) for name, v in (place | truth_row(p, frame, camera, picture)).items()} for p in posed]
            yield picture, rows


def _scene_mesh(posed: list[PosedTrack], figure: Person | None, frame: int, time_s: float) -> Mesh:
    meshes = [p.hand.mesh(p.vertices[frame], p.track.elbow[frame]) for p in posed]
    return join([*meshes, figure.mesh(frame, time_s)] if figure else meshes)


def truth_row(posed: PosedTrack, frame: int, camera: Camera, picture: Picture) -> dict[str, Any]:
    """What is known of one hand in one picture; where the picture stands in its video is for the caller to add."""
    pixels, keypoints = camera.project(posed.vertices[frame]), camera.project(posed.joints[frame])
    box = np.concatenate([pixels.min(0), pixels.max(0)])
    inside, area = _areas(posed, frame, pixels, box, camera)
    seen = np.count_nonzero(picture.part_at == posed.track.side) / SUPERSAMPLE**2
    wrist = posed.joints[frame, 0]
    scale = camera.focal_px / wrist[2]
    return {
        "side": posed.track.side,
        "width": camera.width,
        "height": camera.height,
        "box": box,
        "inside": inside / area,
        "visible": min(seen / area, inside / area),
        "keypoints": keypoints,
        "joints_3d": posed.joints[frame] - wrist,
        "betas": posed.track.betas,
        "global_orient": posed.global_orient[frame],
        "hand_pose": posed.hand_pose[frame],
        "transl": wrist,
        "camera": np.array([scale, *keypoints[0]]),
        "focal_px": camera.focal_px,
    }


def _areas(
    posed: PosedTrack, frame: int, pixels: Float64[np.ndarray, "778 2"], box: Float64[np.ndarray, "4"], camera: Camera
) -> tuple[int, int]:
    """Pixels of the hand alone that lie within the picture, and all of them, from a drawing of its outline."""
    low = np.floor(box[:2]).astype(int)
    columns, rows = np.ceil(box[2:]).astype(int) - low + 1
    face_at, depth_at = np.full((rows, columns), -1, np.int32), np.full((rows, columns), np.inf, np.float32)
    fill(pixels - low - 0.5, posed.vertices[frame, :, 2], posed.hand.faces, face_at, depth_at)
    covered = face_at >= 0
    top, left = np.maximum(-low[::-1], 0)
    bottom, right = np.maximum(np.array([camera.height, camera.width]) - low[::-1], 0)
    return int(covered[top:bottom, left:right].sum()), max(int(covered.sum()), 1)


def write_video(path: Path, images: Iterator[UInt8[np.ndarray, "height width 3"]], film: Film) -> None:
    """H.264 in MP4 through a pipe; written aside and renamed. OSError with ffmpeg's last words when it fails."""
    import ffmpeg
    import imageio_ffmpeg

    aside = path.with_name(path.stem + ".part" + path.suffix)
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{film.width}x{film.height}", r=film.frames_per_second)
    exact = {"threads": 1, "map_metadata": -1, "fflags": "+bitexact", "flags:v": "+bitexact"}
    sink = source.output(str(aside), vcodec="libx264", pix_fmt="yuv420p", preset="veryfast", crf=19, loglevel="error", **exact)
    process = sink.overwrite_output().run_async(cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdin=True, pipe_stderr=True)
    try:
        with process:
            with suppress(BrokenPipeError):
                for image in images:
                    process.stdin.write(image.tobytes())
            with suppress(BrokenPipeError):
                process.stdin.close()
            words = process.stderr.read().decode(errors="replace").strip()
        if process.returncode != 0:
            told = words[-500:] or f"it ended by signal {-process.returncode}: is there room, and no limit on the size of files?"
            raise OSError(f"ffmpeg could not write {path}: {told}")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)  # half a film is a film to whoever looks through the folder


def make_video(path: Path, film: Film) -> dict[str, np.ndarray]:
    """Render, encode to `path`, write `<name>.truth.parquet` beside it, and return the truth's columns."""
    rows: list[dict[str, np.ndarray]] = []

    def images() -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        for picture, truths in render_film(film):
            rows.extend(truths)
            yield picture.image

    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, images(), film)
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    columns["video"] = np.full(len(rows), path.stem, object)
    write_truth(path.with_suffix(".truth.parquet"), columns)
    return columns


def make_videos(folder: Path, num_videos: int = 2, film: Film | None = None, say: Callable[[str], object] = print) -> list[Path]:
    """`studio-<seed>.mp4`, ... with their truths, and one `labels.json` for all; `say` is told the speed of each."""
    first = film or Film()
    truths: dict[str, dict[str, np.ndarray]] = {}
    for number in range(num_videos):
        one = replace(first, seed=first.seed + number)
        path = folder / f"studio-{one.seed}.mp4"
        start = time.perf_counter()
        truths[path.name] = make_video(path, one)
        frames = round(one.seconds * one.frames_per_second)
        say(f"studio: {path.name}: {frames} frames, {frames / (time.perf_counter() - start):.1f} frames/s")
    write_labels(folder / "labels.json", truths, first.frames_per_second)
    return [folder / name for name in truths]
