"""The path of a camera: where it stood, and how it was turned, on the frames of which COLMAP's images or a JSON file say so.

    {"model": ..., "poses": [{"frame": 0, "world_from_camera": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}, {"time_s": 0.4, ...}]}

What is said of a path is a file and its sha256 (`poses` in what `stages.cameras.said` reads), not the poses: a film has thousands.
Frame: world = R @ camera + t, camera axes x right, y down, z forward as COLMAP's and OpenCV's; metres, where the file's unit is told.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int16, Int64

from fitting.files import sha256_of
from stages.cameras.said import CameraError
from stages.tables import CameraPoses, Cameras, Clips, Fits, Hands

DIRECTIONS = ("world_from_camera", "camera_from_world")
_SAME_TIME_S = 2e-3
"""Most that a pose's time and a frame's may differ by: Matroska rounds to milliseconds."""
_NOT_TURNED = 1e-3
"""Most that R @ R.T may differ from 1 by."""
_LARGEST_FRAME = 1 << 40
_LATEST_S = 1e9
_NAME = re.compile(r"^\S*[A-Za-z]\S*$")
"""What no line of points ends with."""


def read_poses(path: Path, first: int = 0, rate: float = 0.0) -> CameraPoses:
    """The poses of a file, in its own unit. Numbers of COLMAP's image names are frames counted from `first`, at `rate` > 0 moments.

    Raises ValueError that says what is wrong, OSError.
    """
    if path.suffix == ".json":
        found = list(_of_json(json.loads(path.read_bytes())))
    else:
        images = _images_bin(path.read_bytes()) if path.suffix == ".bin" else _images_txt(path.read_text())
        found = [(*_moment(name, first, rate), _from_world(turn, shift, name)) for turn, shift, _, name in images]
    if not found:
        raise ValueError(f"{path.name} holds no pose")
    frame, time_s, pose = (np.array(column) for column in zip(*found, strict=True))
    poses = CameraPoses(frame=frame.astype(np.int64), time_s=time_s.astype(np.float64), world_from_camera=pose.astype(np.float64))
    _refuse_two(poses)
    return poses


def cameras_of_images(path: Path) -> set[int]:
    """The cameras that the images of COLMAP's file are of. Raises ValueError, OSError."""
    images = _images_bin(path.read_bytes()) if path.suffix == ".bin" else _images_txt(path.read_text())
    return {camera for *_, camera, _ in images}


def poses_said(said: str) -> CameraPoses:
    """The path that what is said of a camera names, in metres; no rows where it names none. Raises CameraError, FileNotFoundError."""
    known = json.loads(said).get("poses") if said else None
    if not known:
        return CameraPoses.empty()
    path = Path(known["file"])
    stat = path.stat()
    return _kept(path, (stat.st_size, stat.st_mtime_ns), known["sha256"], known["first"], known["rate"], known["unit_m"])


@lru_cache(maxsize=8)
def _kept(path: Path, facts: tuple[int, int], sha256: str, first: int, rate: float, unit_m: float) -> CameraPoses:
    assert facts
    if sha256_of(path) != sha256:
        raise CameraError(f"{path} is not what the list was read with: start the run again")
    poses = read_poses(path, first, rate)
    pose = poses.world_from_camera.copy()
    pose[:, :, 3] *= unit_m
    return CameraPoses(frame=poses.frame, time_s=poses.time_s, world_from_camera=pose)


def poses_at(poses: CameraPoses, frame: Int64[np.ndarray, "n"], time_s: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n 3 4"]:
    """World from camera on frames; NaN where nobody says it. Nothing is made up between two frames."""
    found = np.full((len(frame), 3, 4), np.nan)
    if not len(poses):
        return found
    by_frame = {int(number): row for row, number in enumerate(poses.frame.tolist()) if number >= 0}
    rows = np.array([by_frame.get(number, -1) for number in frame.tolist()], np.int64)
    timed = np.flatnonzero(np.isfinite(poses.time_s))
    timed = timed[np.argsort(poses.time_s[timed], kind="stable")]
    if len(timed):
        moments = poses.time_s[timed]
        after = np.searchsorted(moments, time_s).clip(0, len(timed) - 1)
        before = (after - 1).clip(0)
        nearest = np.where(np.abs(moments[before] - time_s) < np.abs(moments[after] - time_s), before, after)
        close = np.abs(moments[nearest] - time_s) <= _SAME_TIME_S
        rows = np.where((rows < 0) & close, timed[nearest], rows)
    found[rows >= 0] = poses.world_from_camera[rows[rows >= 0]]
    return found


def world_from_view(
    poses: CameraPoses,
    cameras: Cameras,
    frame: Int64[np.ndarray, "n"],
    time_s: Float64[np.ndarray, "n"],
    view: Int16[np.ndarray, "n"],
) -> Float64[np.ndarray, "n 3 4"]:
    """World from the axes of a view, on frames; NaN where nobody says where the camera stood."""
    found = poses_at(poses, frame, time_s)
    row = {int(number): place for place, number in enumerate(cameras.view.tolist())}
    turn = cameras.rotation[[row[number] for number in view.tolist()]]
    found[:, :, :3] = found[:, :, :3] @ turn.swapaxes(1, 2)
    return found


def in_world(fits: Fits, hands: Hands, cameras: Cameras, poses: CameraPoses) -> Fits:
    """Fits with their orientation and place in the world, on the frames of which a pose of the camera is known."""
    from scipy.spatial.transform import Rotation

    pose = world_from_view(poses, cameras, hands.frame, hands.time_s, hands.view)
    known = np.isfinite(pose).all((1, 2)) & np.isfinite(fits.transl).all(1) & np.isfinite(fits.focal_px)
    turn, shift = pose[known, :, :3], pose[known, :, 3]
    place, orient = np.full_like(fits.transl, np.nan), np.full_like(fits.global_orient, np.nan)
    place[known] = (turn @ fits.transl[known, :, None].astype(np.float64))[..., 0] + shift
    orient[known] = (Rotation.from_matrix(turn) * Rotation.from_rotvec(fits.global_orient[known].astype(np.float64))).as_rotvec()
    return replace(fits, transl_world=place, global_orient_world=orient)


def num_within(poses: CameraPoses, clips: Clips) -> int:
    """How many poses are of frames of a video's clips."""
    inside = np.zeros(len(poses), bool)
    for clip in clips.rows():
        first, start_s, end_s = int(clip.first_frame[0]), float(clip.start_s[0]), float(clip.end_s[0])
        inside |= (poses.frame >= first) & (poses.frame < first + int(clip.num_frames[0]))
        with np.errstate(invalid="ignore"):
            inside |= (poses.time_s >= start_s - _SAME_TIME_S) & (poses.time_s < end_s - _SAME_TIME_S)
    return int(inside.sum())


def _of_json(given: Mapping[str, Any]) -> Iterator[tuple[int, float, Float64[np.ndarray, "3 4"]]]:
    for number, one in enumerate(given["poses"]):
        where = f"poses[{number}]"
        named = [name for name in DIRECTIONS if isinstance(one, dict) and name in one]
        if len(named) != 1 or ("frame" in one) == ("time_s" in one):
            raise ValueError(f"{where} must have frame or time_s, and {' or '.join(DIRECTIONS)}")
        try:
            matrix = np.array(one[named[0]], np.float64)
        except (TypeError, ValueError, OverflowError):
            matrix = np.empty(0)
        if matrix.shape == (4, 4) and np.array_equal(matrix[3], [0, 0, 0, 1]):
            matrix = matrix[:3]
        if matrix.shape != (3, 4) or not np.isfinite(matrix).all():
            raise ValueError(f"{where}: {named[0]} must be 3 or 4 rows of 4 finite numbers, the fourth row 0 0 0 1")
        turn = matrix[:, :3]
        if np.abs(turn @ turn.T - np.eye(3)).max() > _NOT_TURNED or np.linalg.det(turn) < 0:
            raise ValueError(f"{where}: the first three columns of {named[0]} are no rotation")
        pose = matrix if named[0] == DIRECTIONS[0] else np.concatenate([turn.T, -turn.T @ matrix[:, 3:]], 1)
        frame, time_s = one.get("frame", -1), one.get("time_s", math.nan)
        if "frame" in one and (isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < _LARGEST_FRAME):
            raise ValueError(f"{where}: frame must be a whole number from 0, got {repr(frame)[:80]}")
        if "time_s" in one and (isinstance(time_s, bool) or not isinstance(time_s, int | float) or not 0 <= time_s < _LATEST_S):
            raise ValueError(f"{where}: time_s must be seconds from 0 to {_LATEST_S:g}, got {repr(time_s)[:80]}")
        yield frame, float(time_s), pose


def _moment(name: str, first: int, rate: float) -> tuple[int, float]:
    """Frame and time that an image's name says; the one that it does not say is -1 or NaN."""
    digits = re.findall(r"[0-9]+", name.rpartition("/")[2].rpartition(".")[0] or name)
    if not digits or len(digits[-1]) > 12:
        raise ValueError(f"image {name[:80]!r} has no number in its name: which frame is it?")
    number = int(digits[-1]) - first
    if number < 0:
        raise ValueError(f"image {name[:80]!r} is before the first, {first}: say pose_first={int(digits[-1])} or less")
    return (-1, number / rate) if rate else (number, math.nan)


def _from_world(turn: Sequence[float], shift: Sequence[float], name: str) -> Float64[np.ndarray, "3 4"]:
    """World from camera, of COLMAP's quaternion (w first) and translation, which go the other way."""
    w, x, y, z = turn
    length = math.sqrt(w * w + x * x + y * y + z * z)
    if not (math.isfinite(length) and length > 1e-9 and all(map(math.isfinite, shift))):
        raise ValueError(f"image {name[:80]!r} has no pose: {[*turn, *shift]}")
    w, x, y, z = (one / length for one in (w, x, y, z))
    to_camera = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return np.concatenate([to_camera.T, (-to_camera.T @ np.array(shift))[:, None]], 1)


Image = tuple[Sequence[float], Sequence[float], int, str]
"""Quaternion, translation, camera and name."""


def _images_txt(text: str) -> list[Image]:
    """COLMAP's images.txt: two lines an image, the second of which, its points, may be empty."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    while lines and not lines[0].strip():
        del lines[0]
    found: list[Image] = []
    for number, line in enumerate(lines[::2]):
        if not line.strip():
            continue
        words, points = line.split(maxsplit=9), lines[2 * number + 1].split(maxsplit=9) if 2 * number + 1 < len(lines) else []
        if len(points) == 10 and _NAME.search(points[9]):
            raise ValueError(f"images.txt lacks the line of points after image {number + 1}: it stands there though it may be empty")
        try:
            found.append(([float(one) for one in words[1:5]], [float(one) for one in words[5:8]], int(words[8]), words[9].strip()))
        except (ValueError, IndexError):
            told = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of its points, which may be empty"
            raise ValueError(f"image {number + 1} of images.txt is not {told}") from None
    return found


def _images_bin(data: bytes) -> list[Image]:
    """COLMAP's images.bin (src/colmap/scene/reconstruction_io_binary.cc)."""
    found: list[Image] = []
    try:
        (count,) = struct.unpack_from("<Q", data, 0)
        at = 8
        for _ in range(min(count, len(data))):
            _, *pose, camera = struct.unpack_from("<i7di", data, at)
            end = data.index(b"\0", at + 64)
            (points,) = struct.unpack_from("<Q", data, end + 1)
            found.append((pose[:4], pose[4:], camera, data[at + 64 : end].decode(errors="replace")))
            at = end + 9 + 24 * points
        if at > len(data) or count > len(data):
            raise ValueError
    except (struct.error, ValueError):
        raise ValueError(f"images.bin ends in the middle of image {len(found) + 1}") from None
    return found


def _refuse_two(poses: CameraPoses) -> None:
    """Raise ValueError where one frame has two poses."""
    for values, name in ((poses.frame[poses.frame >= 0], "frame"), (poses.time_s[np.isfinite(poses.time_s)], "time_s")):
        found, count = np.unique(values, return_counts=True)
        if (count > 1).any():
            raise ValueError(f"{name} {found[count > 1][0]:g} has two poses; keep one")
