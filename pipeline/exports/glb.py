"""glTF 2.0: an animated hand a track, `SPLIT/CLIP/track-0003-left.glb`: the mesh of its mean shape, skinned to MANO's 16 joints.

Every joint turns, the root moves, and the 135 pose blend shapes of MANO are morph targets, weighted as MANO weights them: the skinned
mesh is MANO's but for weights beyond the eight largest of a vertex. Axes are glTF's: x right, y up, z towards the viewer, metres. Hands
have their true orientation and, in x and y, their place in the image; depth is as weak perspective has it: the hand's distance is that at
which a camera of `FOCAL` times the image's longer side sees it as large. Where the camera is known all are metres before it, and where its
place is known on every frame of the track they are in the world. Elsewhere a hand that goes through views of a camera that bends straight
lines has a file for each, `track-0003-left-view-05.glb`: axes are those of the view. `extras` of the scene hold frames, times, boxes,
keypoints and `axes`: image, camera or world.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.exports.source import ABOUT, Frame, Source, plain, side_name
from stages.errors import UserError
from stages.tables import LEFT, UNKNOWN_SIDE

FOCAL = 1.2
"""Focal length over the image's longer side, where nobody knows the camera's."""
FLOAT, BYTE, SHORT = 5126, 5121, 5123
VERTICES, INDICES = 34962, 34963
"""glTF 2.0's component types and buffer targets (Khronos, sections 3.6.2 and 3.6.1)."""
JOINTS = (
    "wrist", "index1", "index2", "index3", "middle1", "middle2", "middle3", "little1", "little2", "little3",
    "ring1", "ring2", "ring3", "thumb1", "thumb2", "thumb3",
)  # fmt: skip
"""MANO's joints in their order."""
_UPRIGHT = np.array([1.0, -1.0, -1.0])
"""From camera axes to glTF's: a half turn about x."""


@dataclass(eq=False, slots=True)
class Track:
    """One hand through a clip, as its frames come."""

    split: str
    clip: str
    track: int
    side: int
    view: int
    """-1 where that does not matter."""
    about: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)


def write(source: Source, folder: Path, _: Mapping[str, object]) -> None:
    """Write a file for each track that has fitted hands; one clip is in memory. Raises UserError as `hand_model_of`."""
    model = hand_model_of(source)
    for _clip, frames in groupby(source.frames(images=False), key=lambda frame: (frame.split, frame.clip)):
        for track in _tracks(frames):
            view = f"-view-{track.view:02d}" if track.view >= 0 else ""
            path = folder / track.split / track.clip / f"track-{track.track:04d}-{side_name(track.side)}{view}.glb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_file(track, model))


def _tracks(frames: Iterator[Frame]) -> list[Track]:
    """The tracks of a clip; hands of no track, side or fit are left out."""
    tracks: dict[tuple[int, int, int], Track] = {}
    for frame in frames:
        hands = frame.hands
        fitted = np.isfinite(hands["hand_pose"]).all(1) & np.isfinite(hands["betas"]).all(1) & np.isfinite(hands["camera"]).all(1)
        for row in np.flatnonzero(fitted & (hands["side"] != UNKNOWN_SIDE) & (hands["track"] >= 0)).tolist():
            in_world = np.isfinite(hands["transl_world"][row]).all() and np.isfinite(hands["global_orient_world"][row]).all()
            key = int(hands["track"][row]), int(hands["side"][row]), frame.view if frame.is_view and not in_world else -1
            about = {"video": frame.video, "clip": frame.clip, **frame.about, "extra": dict(frame.extra)}
            track = tracks.setdefault(key, Track(frame.split, frame.clip, *key, about))
            if track.rows and track.rows[-1]["frame"] == frame.frame:
                continue  # one hand a frame is a track's
            names = ("box", "keypoints", "betas", "hand_pose", "quality", *PLACED)
            track.rows.append(
                {
                    "frame": frame.frame,
                    "time_s": frame.time_s,
                    "size": (frame.width, frame.height),
                    **{name: hands[name][row] for name in names},
                }
            )
    return [tracks[key] for key in sorted(tracks)]


PLACED = ("camera", "transl", "focal_px", "global_orient", "transl_world", "global_orient_world")
"""Columns of hands that say where they are."""


def standing(hands: Mapping[str, np.ndarray], size: Float[np.ndarray, "n 2"]) -> tuple[str, Float[np.ndarray, "n 3"], np.ndarray]:
    """Axes that all of some hands can be shown in (world, camera, image), their wrists, metres, and their `global_orient`."""
    if len(size) and np.isfinite(hands["transl_world"]).all() and np.isfinite(hands["global_orient_world"]).all() and _known(hands):
        return "world", hands["transl_world"].astype(np.float64), hands["global_orient_world"]
    if len(size) and _known(hands):
        return "camera", hands["transl"].astype(np.float64), hands["global_orient"]
    return "image", place(hands["camera"].astype(np.float64), size), hands["global_orient"]


def _known(hands: Mapping[str, np.ndarray]) -> bool:
    """Whether the cameras of all hands are."""
    return bool((np.nan_to_num(hands["focal_px"]) > 0).all() and np.isfinite(hands["transl"]).all())


def place(camera: Float[np.ndarray, "n 3"], size: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Where the wrist is in camera axes, metres, if a camera of `FOCAL` took the image."""
    focal = FOCAL * size.max(1)
    depth = focal / camera[:, 0]
    return np.concatenate([(camera[:, 1:] - size / 2) * (depth / focal)[:, None], depth[:, None]], 1)


def hand_model_of(source: Source) -> Any:
    """The hand model whose parameters the hands are told in. Raises UserError where that is MANO, which is not here."""
    from fitting.files import STANDIN, licensed_model, model_file
    from fitting.hand.mano import load_hand_model

    model = load_hand_model(STANDIN if source.hand_model == "standin" else model_file())
    if source.hand_model not in ("", model.source):
        where = f"put MANO_RIGHT.pkl at {licensed_model()}, or set WHIM_MANO"
        raise UserError(f"the hands of {source.folder} are told in MANO's parameters, and here is the stand-in hand alone: {where}")
    return model


def _file(track: Track, model: Any) -> bytes:
    """The whole of a GLB."""
    from fitting.hand.anatomy import PARENTS
    from fitting.hand.mano import closed_faces

    mirror = np.array([-1.0, 1.0, 1.0]) if track.side == LEFT else np.ones(3)
    columns = {name: np.stack([row[name] for row in track.rows]) for name in ("betas", "hand_pose", *PLACED)}
    axes, wrist, orient = standing(columns, np.array([row["size"] for row in track.rows], np.float64))
    betas = columns["betas"].astype(np.float64).mean(0)
    template = model.v_template.numpy() + model.shapedirs.numpy() @ betas
    joints = model.J_regressor.numpy() @ template
    to_file = mirror * _UPRIGHT
    vertices, rest = (template - joints[0]) * to_file, (joints - joints[0]) * to_file
    poses = np.concatenate([orient, columns["hand_pose"]], 1).reshape(-1, 16, 3).astype(np.float64)
    right = poses * ([1, -1, -1] if track.side == LEFT else [1, 1, 1])
    turns = _matrices(right)
    features = (turns[:, 1:] - np.eye(3)).reshape(len(turns), 135)
    times = np.array([row["time_s"] for row in track.rows])
    buffer = _Buffer()
    attributes = _attributes(buffer, vertices, model.weights.numpy())
    indices = buffer.add(closed_faces(model, track.side).numpy().astype(np.uint16).reshape(-1, 1), SHORT, "SCALAR", INDICES)
    targets = [{"POSITION": buffer.put(packed)} for packed in _blend_shapes(model, track.side)]
    binds = np.tile(np.eye(4, dtype=np.float32), (16, 1, 1))
    binds[:, :3, 3] = -rest
    inverse = buffer.add(binds.transpose(0, 2, 1).reshape(16, 16), FLOAT, "MAT4")
    nodes = [_joint(j, PARENTS, rest) for j in range(16)]
    shown = [*nodes, {"name": f"{side_name(track.side)} hand", "mesh": 0, "skin": 0}]
    colour = [0.04, 0.39, 1.0, 1.0] if track.side == LEFT else [1.0, 0.29, 0.05, 1.0]
    document = {
        "asset": {"version": "2.0", "generator": "whim export glb"},
        "scene": 0,
        "scenes": [{"nodes": [0, 16], "extras": _extras(track) | {"axes": axes}}],
        "nodes": shown,
        "skins": [{"joints": list(range(16)), "inverseBindMatrices": inverse, "skeleton": 0}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": colour, "metallicFactor": 0.0, "roughnessFactor": 0.7}}],
        "meshes": [
            {
                "primitives": [{"attributes": attributes, "indices": indices, "material": 0, "targets": targets}],
                "weights": [0.0] * 135,
            }
        ],
        "animations": [_animation(buffer, times - times[0], turns, wrist * _UPRIGHT, features, to_file)],
    }
    return buffer.packed(document)


@cache
def _blend_shapes(model: Any, side: int) -> list["_Packed"]:
    """The 135 pose blend shapes of a side, as they lie in every file."""
    to_file = _UPRIGHT * ([-1.0, 1.0, 1.0] if side == LEFT else [1.0, 1.0, 1.0])
    shapes = np.moveaxis(model.posedirs.numpy(), 2, 0)
    return [_packed((shape * to_file).astype(np.float32), FLOAT, "VEC3", VERTICES, bounds=True) for shape in shapes]


def _joint(j: int, parents: Any, rest: np.ndarray) -> dict[str, Any]:
    children = [k for k in range(1, 16) if parents[k] == j]
    offset = rest[j] - rest[parents[j]] if j else rest[0]
    return {"name": JOINTS[j], "translation": plain(offset.astype(np.float32))} | ({"children": children} if children else {})


def _attributes(buffer: "_Buffer", vertices: np.ndarray, weights: np.ndarray) -> dict[str, int]:
    """Positions, and the eight joints that move each vertex most, in two sets of four."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :8]
    largest = np.take_along_axis(weights, order, 1)
    largest = largest / largest.sum(1, keepdims=True)
    found = {"POSITION": buffer.add(vertices.astype(np.float32), FLOAT, "VEC3", VERTICES, bounds=True)}
    for k in range(2):
        of = slice(4 * k, 4 * k + 4)
        found[f"JOINTS_{k}"] = buffer.add(np.where(largest[:, of] > 0, order[:, of], 0).astype(np.uint8), BYTE, "VEC4", VERTICES)
        found[f"WEIGHTS_{k}"] = buffer.add(largest[:, of].astype(np.float32), FLOAT, "VEC4", VERTICES)
    return found


def _animation(
    buffer: "_Buffer", times: np.ndarray, turns: np.ndarray, wrist: np.ndarray, features: np.ndarray, to_file: np.ndarray
) -> dict[str, Any]:
    """Rotations of all joints, the place of the root, and the weights of the pose blend shapes, at the times of the frames."""
    from scipy.spatial.transform import Rotation

    clock = buffer.add(times.astype(np.float32).reshape(-1, 1), FLOAT, "SCALAR", bounds=True)
    flip = np.diag(to_file)
    quaternions = Rotation.from_matrix((flip @ turns @ flip).reshape(-1, 3, 3)).as_quat().reshape(len(turns), 16, 4)
    for k in range(1, len(quaternions)):  # the nearer of the two quaternions of a rotation, so that players turn the short way
        quaternions[k] *= np.where((quaternions[k] * quaternions[k - 1]).sum(-1, keepdims=True) < 0, -1, 1)
    outputs = [(j, "rotation", buffer.add(quaternions[:, j].astype(np.float32), FLOAT, "VEC4")) for j in range(16)]
    outputs.append((0, "translation", buffer.add(wrist.astype(np.float32), FLOAT, "VEC3")))
    outputs.append((16, "weights", buffer.add(features.astype(np.float32).reshape(-1, 1), FLOAT, "SCALAR")))
    return {
        "name": "hand",
        "samplers": [{"input": clock, "output": output, "interpolation": "LINEAR"} for _, _, output in outputs],
        "channels": [{"sampler": k, "target": {"node": node, "path": path}} for k, (node, path, _) in enumerate(outputs)],
    }


def _extras(track: Track) -> dict[str, Any]:
    rows = track.rows
    about = {name: track.about[name] for name in ("video", "clip", *ABOUT, "extra")}
    columns = {name: plain(np.stack([row[name] for row in rows])) for name in ("box", "keypoints", "quality")}
    numbers = {name: [row[name] for row in rows] for name in ("frame", "time_s", "size")}
    view = {"view": track.view} if track.view >= 0 else {}
    return {**about, "split": track.split, "track": track.track, "side": side_name(track.side), **view, **numbers, **columns}


def _matrices(axis_angle: Float[np.ndarray, "n 16 3"]) -> Float[np.ndarray, "n 16 3 3"]:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(axis_angle.reshape(-1, 3)).as_matrix()).reshape(*axis_angle.shape[:2], 3, 3)


@dataclass(frozen=True, slots=True)
class _Packed:
    """Rows of numbers as bytes, and what the file says of them."""

    data: bytes
    view: Mapping[str, int]
    told: Mapping[str, Any]


def _packed(values: np.ndarray, component: int, kind: str, target: int = 0, *, bounds: bool = False) -> _Packed:
    data = np.ascontiguousarray(values).tobytes()
    told: dict[str, Any] = {"componentType": component, "count": len(values), "type": kind}
    if bounds:
        told |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
    return _Packed(data, {"byteLength": len(data)} | ({"target": target} if target else {}), told)


class _Buffer:
    """The one binary buffer of a file, and what lies where in it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, values: np.ndarray, component: int, kind: str, target: int = 0, *, bounds: bool = False) -> int:
        """Number of the accessor of some rows."""
        return self.put(_packed(values, component, kind, target, bounds=bounds))

    def put(self, packed: _Packed) -> int:
        """Number of the accessor of rows that are bytes already."""
        self.accessors.append({"bufferView": len(self.views), **packed.told})
        self.views.append({"buffer": 0, "byteOffset": len(self.data), **packed.view})
        self.data += packed.data + bytes(-len(packed.data) % 4)
        return len(self.accessors) - 1

    def packed(self, document: dict[str, Any]) -> bytes:
        """The file: header, JSON, buffer (Khronos, section 4.4)."""
        document |= {"accessors": self.accessors, "bufferViews": self.views, "buffers": [{"byteLength": len(self.data)}]}
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(self.data), 0x004E4942) + bytes(self.data)
        return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
