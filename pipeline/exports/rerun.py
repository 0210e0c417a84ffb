"""Rerun: a recording a clip, `SPLIT/CLIP.rrd`, with the image, what was seen in it, and the hands in space; `rerun CLIP.rrd` shows it.

    camera/image              the JPEG                                camera/image/hands        boxes, with side, track and quality
    camera/image/keypoints    21 points a hand, bones between them    camera/image/ignored      boxes that count neither way
    space/left, space/right   the meshes of the fitted hands          space/joints              their 21 joints

Entities in space are metres in camera axes (x right, y down, z forward), at the distance of `pipeline.exports.glb.place` where nobody knows
the camera. On frames of which it is known where the camera stood they are in `world` instead of `space`, and `world/camera` moves through
it. Views of a camera that bends straight lines have entities of their own, `camera/view-05/image`, `space/view-05/left` and so on.
Timelines: `frame`, a number of the video, and `time`. Needs `pip install rerun-sdk`, which deals every recording ids of its own.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exports.glb import PLACED, hand_model_of, standing
from pipeline.exports.source import Frame, Source, plain, seen, side_name
from stages.errors import UserError
from stages.tables import LEFT, RIGHT

COLOURS = {LEFT: (56, 168, 255), RIGHT: (255, 146, 60), -1: (168, 174, 186)}
BONES = [(a, b) for finger in range(5) for a, b in pairwise([0, *range(4 * finger + 1, 4 * finger + 5)])]
APPLICATION = "whim"


def write(source: Source, folder: Path, _: Mapping[str, object]) -> None:
    """Write a file for each clip. Raises UserError where the library is not installed, and as `hand_model_of`."""
    try:
        import rerun
    except ImportError as error:
        raise UserError("recordings are written by Rerun's own library: pip install rerun-sdk") from error
    model = hand_model_of(source)
    for (split, clip), frames in groupby(source.frames(), key=lambda frame: (frame.split, frame.clip)):
        path = folder / split / f"{clip}.rrd"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_clip(rerun, path, clip, frames, model)
        except RuntimeError:  # its writer does not say of what kind
            _write_more(path)
            raise
        rerun.bindings.flush_and_cleanup_orphaned_recordings()  # else each keeps its threads and buffers until the process ends


def _write_more(path: Path) -> None:
    """Raise OSError that says why nothing more can be written to a file, if nothing can."""
    try:
        with path.open("ab") as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_clip(rerun: Any, path: Path, clip: str, frames: Iterable[Frame], model: Any) -> None:
    """Write the recording of one clip, a frame in memory; nobody may hold it afterwards."""
    with rerun.RecordingStream(APPLICATION, recording_id=clip) as recording:
        recording.save(str(path))
        recording.log("space", rerun.ViewCoordinates.RDF, static=True)
        moves = False
        for number, frame in enumerate(frames):
            if not number:
                recording.send_recording_name(clip)
                about = {name: str(value) for name, value in {**frame.about, **frame.extra}.items()}
                recording.log("about", rerun.AnyValues(**about), static=True)
            recording.set_time("frame", sequence=frame.frame)
            recording.set_time("time", duration=frame.time_s)
            _log_image(rerun, recording, frame)
            _log_space(rerun, recording, frame, model, moves=moves)
            moves |= bool(np.isfinite(frame.world_from_camera).all())
        recording.flush()
        recording.disconnect()


def _log_image(rerun: Any, recording: Any, frame: Frame) -> None:
    hands, known, root = frame.hands, seen(frame.hands["keypoints"]), f"camera{_of_view(frame)}/image"
    recording.log(root, rerun.EncodedImage(contents=frame.image, media_type="image/jpeg"))
    colours = [COLOURS[int(side)] for side in hands["side"]]
    labels = [f"{side_name(side)} {track}: {quality:.2f}" for side, track, quality in zip(*_named(frame), strict=True)]
    boxes = rerun.Boxes2D(array=hands["box"], array_format=rerun.Box2DFormat.XYXY, labels=labels, colors=colours)
    recording.log(f"{root}/hands", boxes)
    columns = {name: hands[name] for name in ("side", "track", "hand", "score", "quality")}
    recording.log(f"{root}/hands/columns", rerun.AnyValues(**{name: plain(values) for name, values in columns.items()}))
    points, of = hands["keypoints"].reshape(-1, 3), np.repeat(np.arange(len(frame)), 21)
    shown = rerun.Points2D(points[:, :2], colors=[colours[row] for row in of], radii=2.0)
    recording.log(f"{root}/keypoints", shown)
    strips = [hands["keypoints"][row, [a, b], :2] for row in range(len(frame)) for a, b in BONES if known[row, a] and known[row, b]]
    recording.log(f"{root}/bones", rerun.LineStrips2D(strips))
    recording.log(f"{root}/ignored", rerun.Boxes2D(array=frame.ignore, array_format=rerun.Box2DFormat.XYXY))


def _of_view(frame: Frame) -> str:
    """What names a view within the path of an entity; '' of a whole frame."""
    return f"/view-{frame.view:02d}" if frame.is_view else ""


def _named(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return frame.hands["side"], frame.hands["track"], frame.hands["quality"]


def _log_space(rerun: Any, recording: Any, frame: Frame, model: Any, *, moves: bool) -> None:
    """`moves`: whether some frame before was in the world."""
    import torch

    from fitting.hand.mano import closed_faces, pose_either_hand

    hands = frame.hands
    fitted = np.isfinite(hands["hand_pose"]).all(1) & np.isfinite(hands["camera"]).all(1) & (hands["side"] >= 0)
    rows = np.flatnonzero(fitted)
    size = np.tile([[frame.width, frame.height]], (len(rows), 1)).astype(np.float64)
    axes, wrist, orient = standing({name: hands[name][rows] for name in PLACED}, size)
    joints = hands["joints_3d"][rows].astype(np.float64)
    root, other = (f"{name}{_of_view(frame)}" for name in (("world", "space") if axes == "world" else ("space", "world")))
    if np.isfinite(frame.world_from_camera).all():
        pose = frame.world_from_camera
        recording.log(f"world{_of_view(frame)}/camera", rerun.Transform3D(translation=pose[:, 3], mat3x3=pose[:, :3]))
        joints = joints @ pose[:, :3].T if axes == "world" else joints
    if axes == "world" or moves:
        recording.log(other, rerun.Clear(recursive=True))
    recording.log(f"{root}/joints", rerun.Points3D((joints + wrist[:, None]).reshape(-1, 3), radii=0.004))
    shape = [torch.from_numpy(values[rows].astype(np.float32)) for values in (hands["betas"], hands["hand_pose"])]
    shape.insert(1, torch.from_numpy(orient.astype(np.float32)))
    vertices = pose_either_hand(model, torch.from_numpy(hands["side"][rows].astype(np.int64)), *shape).vertices.numpy()
    for side in (LEFT, RIGHT):
        of = np.flatnonzero(hands["side"][rows] == side)
        if not len(of):
            recording.log(f"{root}/{side_name(side)}", rerun.Clear(recursive=False))
            continue
        faces = closed_faces(model, side).numpy()
        points = (vertices[of] + wrist[of, None]).reshape(-1, 3)
        triangles = np.concatenate([faces + k * vertices.shape[1] for k in range(len(of))])
        mesh = rerun.Mesh3D(vertex_positions=points, triangle_indices=triangles, albedo_factor=COLOURS[side])
        recording.log(f"{root}/{side_name(side)}", mesh)
