"""The scene before the camera: two hands of one person, their arms, and now and then the person, shot by shot.

Frame of reference: camera axes x right, y down, z forward, metres. Movement is made for a right hand; a left hand's is the same made
for its mirror image and mirrored in x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64

from fitting.hand.mano import LEFT, RIGHT
from fitting.hand.rotation import matrix_from_axis_angle
from studio.hand import CLOTHS, SKINS, Dress
from studio.poses import SHAPES, glide, key_angles, key_times

Kind = Literal["signer", "close"]

SHOULDER = np.array([-0.19, 0.09, 1.48])
"""Of a right arm: the person faces the camera, so their right is the picture's left."""
UPPER_ARM_M, FOREARM_M = 0.29, 0.25
MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Track:
    """One hand's movement through one shot, in camera axes."""

    side: int
    dress: Dress
    betas: Float64[np.ndarray, "10"]
    angles: Float64[np.ndarray, "frames 15 3"]  # twist, bend, splay of a right hand
    orient: Float64[np.ndarray, "frames 3 3"]  # of a right hand; the left's is its mirror image
    wrist: Float64[np.ndarray, "frames 3"]
    elbow: Float64[np.ndarray, "frames 3"]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Shot:
    """One stretch between two cuts."""

    kind: Kind
    num_frames: int
    skin: tuple[float, float, float]
    cloth: tuple[float, float, float]
    tracks: Sequence[Track]


def make_shot(kind: Kind, num_frames: int, frames_per_second: float, rng: np.random.Generator) -> Shot:
    """A right and a left hand of one person. In a close shot either may be on either side of the picture."""
    skin, cloth = SKINS[int(rng.integers(len(SKINS)))], CLOTHS[int(rng.integers(len(CLOTHS)))]
    times = np.arange(num_frames) / frames_per_second
    crossed = kind == "close" and rng.random() < 0.5
    betas = np.clip(rng.normal(0, 0.8, 10), -1.6, 1.6)
    sleeve_m = float(rng.uniform(0.015, 0.09))
    tracks = []
    for side in (RIGHT, LEFT):
        dress = Dress(skin=skin, cloth=cloth, sleeve_m=sleeve_m)
        leaves = side == LEFT and rng.random() < 0.8
        wrist = _wrist(kind, times, leaves, crossed, rng) + np.array([0, 0, 0.05 if side == RIGHT else -0.05])
        if kind == "signer":
            wrist, elbow = _reach(wrist)
        else:
            elbow = wrist + _forearm(times, rng)
        orient = _orient(wrist, elbow, times, rng)
        moments = key_times(times[-1], (0.7, 1.5), rng)
        angles = glide(key_angles(_names(len(moments), rng), rng), moments, times)
        flip = MIRROR if side == LEFT else np.ones(3)
        tracks.append(Track(side=side, dress=dress, betas=betas, angles=angles, orient=orient, wrist=wrist * flip, elbow=elbow * flip))
    return Shot(kind=kind, num_frames=num_frames, skin=skin, cloth=cloth, tracks=tracks)


def _names(count: int, rng: np.random.Generator) -> list[str]:
    """Shapes in an order without repetition, open hands more often than others."""
    names = list(SHAPES)
    weights = np.array([3.0 if name in ("open", "flat", "relaxed") else 1.0 for name in names])
    chosen: list[str] = []
    while len(chosen) < count:
        name = str(rng.choice(names, p=weights / weights.sum()))
        if not chosen or name != chosen[-1]:
            chosen.append(name)
    return chosen


def _sway(times: Float64[np.ndarray, "frames"], size: float, rng: np.random.Generator) -> Float64[np.ndarray, "frames 3"]:
    """The small unrest of a living hand: three slow sines an axis."""
    rate, phase = rng.uniform(0.4, 2.2, (3, 3)), rng.uniform(0, 2 * np.pi, (3, 3))
    return size * np.sin(2 * np.pi * rate * times[:, None, None] + phase).mean(1)


def _wrist(
    kind: Kind, times: Float64[np.ndarray, "frames"], leaves: bool, crossed: bool, rng: np.random.Generator
) -> Float64[np.ndarray, "frames 3"]:
    """Where a right hand's wrist goes: from place to place on its own half, once below the picture if it leaves."""
    moments = key_times(times[-1], (0.8, 1.6), rng)
    low, high = ((-0.27, 0.06, 1.20), (-0.07, 0.22, 1.30)) if kind == "signer" else ((-0.22, 0.06, 0.74), (-0.07, 0.15, 0.93))
    keys = rng.uniform(low, high, (len(moments), 3))
    if kind == "close" and crossed:
        keys[:, 0] *= -1
    if leaves:
        inner = max(int((moments < times[-1] - 0.3).sum()), 2)
        keys[rng.integers(1, inner), 1:] = 0.70, high[2]
    return glide(keys, moments, times) + _sway(times, 0.012, rng)


def _reach(wrist: Float64[np.ndarray, "frames 3"]) -> tuple[Float64[np.ndarray, "frames 3"], Float64[np.ndarray, "frames 3"]]:
    """Wrist within the arm's reach and the elbow that leads there: two bones, the elbow hanging down and out."""
    arm = wrist - SHOULDER
    length = np.linalg.norm(arm, axis=1, keepdims=True)
    axis = arm / length
    length = np.clip(length, abs(UPPER_ARM_M - FOREARM_M) + 0.02, 0.97 * (UPPER_ARM_M + FOREARM_M))
    share = (UPPER_ARM_M**2 - FOREARM_M**2 + length**2) / (2 * length)
    pole = np.array([-0.55, 1.0, 0.25])
    pole = pole - (axis @ pole)[:, None] * axis
    pole /= np.linalg.norm(pole, axis=1, keepdims=True)
    elbow = SHOULDER + share * axis + np.sqrt(np.maximum(UPPER_ARM_M**2 - share**2, 0)) * pole
    return SHOULDER + length * axis, elbow


def _forearm(times: Float64[np.ndarray, "frames"], rng: np.random.Generator) -> Float64[np.ndarray, "frames 3"]:
    """From the wrist to the elbow, below the picture: the hand leans up to 35 degrees to either side."""
    moments = key_times(times[-1], (1.0, 2.0), rng)
    lean = glide(np.radians(rng.uniform(-35, 35, len(moments))), moments, times)
    away = glide(rng.uniform(-0.15, 0.35, len(moments)), moments, times)
    return 0.36 * np.stack([np.sin(lean), np.cos(lean), away], axis=1)


def _orient(
    wrist: Float64[np.ndarray, "frames 3"],
    elbow: Float64[np.ndarray, "frames 3"],
    times: Float64[np.ndarray, "frames"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, "frames 3 3"]:
    """The hand goes on where the forearm points, turned about it to show palm or back, and bent a little at the wrist."""
    fingers = wrist - elbow
    fingers /= np.linalg.norm(fingers, axis=1, keepdims=True)
    to_camera = -wrist / np.linalg.norm(wrist, axis=1, keepdims=True)
    palm = to_camera - (to_camera * fingers).sum(1, keepdims=True) * fingers
    palm /= np.linalg.norm(palm, axis=1, keepdims=True)
    moments = key_times(times[-1], (0.9, 1.8), rng)
    shows_back = np.cumsum(rng.random(len(moments)) < 0.35) % 2
    turn = glide(np.pi * shows_back + rng.uniform(-0.5, 0.5, len(moments)), moments, times)[:, None]
    palm = np.cos(turn) * palm + np.sin(turn) * np.cross(fingers, palm)
    base = np.stack([-fingers, -palm, np.cross(fingers, palm)], axis=2)
    flex = glide(np.radians(rng.uniform([-25, -12], [30, 12], (len(moments), 2))), moments, times)
    wave = 0.35 * np.sin(2 * np.pi * 1.8 * times) * (rng.random() < 0.3)
    return base @ _turn(flex[:, 0], (0, 0, 1)) @ _turn(flex[:, 1] + wave, (0, 1, 0))


def _turn(angle: Float64[np.ndarray, "n"], axis: Sequence[int]) -> Float64[np.ndarray, "n 3 3"]:
    return matrix_from_axis_angle(torch.from_numpy(angle[:, None] * np.array(axis))).numpy()
