"""What a LeRobot dataset of hands holds of every frame: names, types, shapes and units, and the Arrow schema that follows from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.exports.lerobot.plan import Plan
from stages.tables import HAND_KEYPOINTS, LEFT, RIGHT

CAMERA = "observation.images.camera"
SIDES = {"left": LEFT, "right": RIGHT}
FINGERS = ("index", "middle", "little", "ring", "thumb")


def _pose_names() -> list[str]:
    return [f"{finger}{joint}_{axis}_rad" for finger in FINGERS for joint in (1, 2, 3) for axis in "xyz"]


HAND: Mapping[str, list[str]] = {
    "present": ["present"],
    "quality": ["quality"],
    "box": ["x1_px", "y1_px", "x2_px", "y2_px"],
    "keypoints": [f"{name}_{axis}" for name in HAND_KEYPOINTS for axis in ("x_px", "y_px", "confidence")],
    "wrist": ["wrist_x_m", "wrist_y_m", "wrist_z_m"],
    "global_orient": ["orient_x_rad", "orient_y_rad", "orient_z_rad"],
    "hand_pose": _pose_names(),
    "betas": [f"shape_{k}" for k in range(10)],
    "joints_3d": [f"{name}_{axis}_m" for name in HAND_KEYPOINTS for axis in "xyz"],
    "camera": ["scale_px_per_m", "wrist_x_px", "wrist_y_px"],
}
"""State of a hand, with names and units: `observation.left_hand.box` and so on. Camera axes: x right, y down, z forward."""
WORLD: Mapping[str, list[str]] = {
    "in_world": ["in_world"],
    "wrist_world": ["wrist_x_world_m", "wrist_y_world_m", "wrist_z_world_m"],
    "global_orient_world": ["orient_x_world_rad", "orient_y_world_rad", "orient_z_world_rad"],
}
"""Besides, where some hand of the data set is in the world; `in_world` says whether this one is."""
STATE = ("present", "wrist", "global_orient", "hand_pose")
"""What `observation.state` holds of each hand, one after the other: what policies take."""


def of_hand(plan: Plan) -> Mapping[str, list[str]]:
    """The state of a hand in a data set."""
    return {**HAND, **WORLD} if plan.in_world else HAND


def features(plan: Plan, *, video: bool) -> dict[str, dict[str, Any]]:
    """Every feature with its type, shape and names, as info.json states them."""
    width, height = plan.size
    of_image: dict[str, Any] = {
        "dtype": "video" if video else "image",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
    }
    if video:
        facts = {"height": height, "width": width, "codec": "h264", "pix_fmt": "yuv420p", "is_depth_map": False, "fps": plan.fps}
        of_image["info"] = {f"video.{name}": value for name, value in (facts | {"channels": 3}).items()} | {"has_audio": False}
    both = [f"{side}_{name}" for side in SIDES for key in STATE for name in HAND[key]]
    vectors = {"observation.state": both} | {
        f"observation.{side}_hand.{key}": names for side in SIDES for key, names in of_hand(plan).items()
    }
    told = {CAMERA: of_image} | {name: {"dtype": "float32", "shape": [len(of)], "names": of} for name, of in vectors.items()}
    single = {"source.time_s": "float64", "source.frame": "int64", "timestamp": "float32"}
    single |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    return told | {name: {"dtype": kind, "shape": [1], "names": [name]} for name, kind in single.items()}


def schema(of: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """The columns of the data files; films are files of their own."""
    fields = []
    for name, told in of.items():
        if told["dtype"] == "image":
            fields.append(pa.field(name, pa.struct({"bytes": pa.binary(), "path": pa.string()})))
        elif told["dtype"] != "video":
            kind = pa.from_numpy_dtype(np.dtype(told["dtype"]))
            fields.append(pa.field(name, kind if told["shape"] == [1] else pa.list_(kind, told["shape"][0])))
    return pa.schema(fields)
