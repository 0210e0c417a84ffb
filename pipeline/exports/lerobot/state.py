"""The two hands of a frame as numbers, in pixels of the stored image, and that image."""

from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.exports.glb import place
from pipeline.exports.lerobot.features import SIDES, STATE, of_hand
from pipeline.exports.lerobot.plan import Plan
from pipeline.exports.source import Frame, seen

GREY = 114


def fitted(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "rows columns 3"], float, np.ndarray]:
    """An image of this width and height, with the scale and shift (pixels) that took its points there."""
    height, width = image.shape[:2]
    if (width - width % 2, height - height % 2) == size:
        return np.ascontiguousarray(image[: size[1], : size[0]]), 1.0, np.zeros(2)
    import cv2

    scale = min(size[0] / width, size[1] / height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size[0] - wide) // 2, (size[1] - high) // 2
    whole = np.full((size[1], size[0], 3), GREY, np.uint8)
    whole[top : top + high, left : left + wide] = cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA)
    return whole, scale, np.array([left, top], np.float64)


def state(frame: Frame, plan: Plan, scale: float, shift: np.ndarray) -> dict[str, Any]:
    """The two hands of a frame, and the vector of both."""
    row: dict[str, Any] = {}
    known = of_hand(plan)
    vector: list[np.ndarray] = []
    for name, side in SIDES.items():
        track = plan.tracks.get((frame.clip, side))
        of = np.flatnonzero((frame.hands["side"] == side) & (frame.hands["track"] == track))
        hand = _hand(frame, int(of[0]), plan, scale, shift) if len(of) else {key: np.zeros(len(names)) for key, names in known.items()}
        row |= {f"observation.{name}_hand.{key}": hand[key].astype(np.float32) for key in known}
        vector += [hand[key].astype(np.float32) for key in STATE]
    return row | {"observation.state": np.concatenate(vector)}


def _hand(frame: Frame, row: int, plan: Plan, scale: float, shift: np.ndarray) -> dict[str, Float32[np.ndarray, "k"]]:
    """A hand's numbers in pixels of the stored image; what is unknown is 0."""
    hands = {name: values[row].astype(np.float64) for name, values in frame.hands.items() if values.dtype.kind == "f"}
    points = hands["keypoints"].copy()
    points[:, :2] = points[:, :2] * scale + shift
    points = np.where(seen(hands["keypoints"])[:, None], np.nan_to_num(points), 0)
    camera = np.concatenate([hands["camera"][:1] * scale, hands["camera"][1:] * scale + shift])
    told_place = hands["focal_px"] > 0 and np.isfinite(hands["transl"]).all()
    wrist = hands["transl"] if told_place else place(camera[None], np.array([plan.size], np.float64))[0]
    in_world = np.isfinite(hands["transl_world"]).all() and np.isfinite(hands["global_orient_world"]).all()
    told = {
        "present": np.ones(1),
        "quality": np.atleast_1d(hands["quality"]),
        "box": (hands["box"].reshape(2, 2) * scale + shift).ravel(),
        "keypoints": points.ravel(),
        "wrist": wrist,
        "camera": camera,
        "in_world": np.full(1, in_world),
        "wrist_world": hands["transl_world"] * (1 if in_world else np.nan),
        "global_orient_world": hands["global_orient_world"] * (1 if in_world else np.nan),
        **{name: hands[name].ravel() for name in ("global_orient", "hand_pose", "betas", "joints_3d")},
    }
    return {name: np.nan_to_num(told[name]).astype(np.float32) for name in of_hand(plan)}
