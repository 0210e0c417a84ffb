"""What tracks are worth: studio motion with noisy landmarks, fitted frame by frame and as tracks. No detector, exact truth.

The studio's hands glide between the shapes of its own vocabulary, not the poses behind the prior, before a pinhole camera. Landmarks
are off by a share of the hand's box, either anew in every frame or in a way that lasts (AR(1)), as a detector's errors do.

    python -m benchmarks.tracks
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64

from fitting import anatomy
from fitting.files import STANDIN
from fitting.mano import LEFT, HandModel, load_hand_model, pose_hand
from fitting.rotation import axis_angle_from_matrix
from studio.render import Camera
from studio.scene import MIRROR, Track, make_shot

FRAMES_PER_SECOND = 30.0
"""Of the motion; lower rates take every k-th frame of it."""
MEMORY_S = 0.1
"""Time constant of errors that last: 0.72 from frame to frame at 30 frames/s."""
OUTLIER_SHARE, OUTLIER_SIZE = 0.03, 0.25
"""Of the landmarks, and how far they lie off, in box sides (deviation an axis)."""
FLIP_DEG = 60.0
"""Palms whose normals differ by more are a flip."""
Kind = Literal["fresh", "lasting"]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Motion:
    """Right hands, track by track and in time order."""

    track: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    joints: Float64[np.ndarray, "n 21 3"]  # metres, wrist-centred
    pixels: Float64[np.ndarray, "n 21 2"]

    def every(self, step: int) -> "Motion":
        """Each track's first frame and each `step`-th after it."""
        first = np.searchsorted(self.track, self.track)
        rows = (np.arange(len(self.track)) - first) % step == 0
        return Motion(track=self.track[rows], time_s=self.time_s[rows], joints=self.joints[rows], pixels=self.pixels[rows])


def studio_motion(num_shots: int, seconds: float, seed: int) -> Motion:
    """Both hands of `num_shots` persons, left ones mirrored."""
    model, rng = load_hand_model(STANDIN, dtype=torch.float64), np.random.default_rng(seed)
    num_frames = round(seconds * FRAMES_PER_SECOND)
    shots = [make_shot(("signer", "close")[i % 2], num_frames, FRAMES_PER_SECOND, rng) for i in range(num_shots)]
    joints = [_joints(model, track) for shot in shots for track in shot.tracks]
    wrists = [track.wrist * (MIRROR if track.side == LEFT else 1) for shot in shots for track in shot.tracks]
    return Motion(
        track=np.repeat(np.arange(len(joints)), num_frames),
        time_s=np.tile(np.arange(num_frames) / FRAMES_PER_SECOND, len(joints)),
        joints=np.concatenate(joints),
        pixels=np.concatenate([Camera().project(j + w[:, None]) for j, w in zip(joints, wrists, strict=True)]),
    )


def _joints(model: HandModel, track: Track) -> Float64[np.ndarray, "frames 21 3"]:
    rotations = anatomy.compose(torch.from_numpy(track.angles), anatomy.joint_axes(*model.rest_joints()))
    orient = axis_angle_from_matrix(torch.from_numpy(track.orient))
    betas = torch.from_numpy(track.betas).expand(len(orient), 10)
    joints = pose_hand(model, betas, orient, axis_angle_from_matrix(rotations).flatten(1)).joints
    return (joints - joints[:, :1]).numpy()


def landmarks(motion: Motion, noise: float, kind: Kind, seed: int) -> Float64[np.ndarray, "n 21 3"]:
    """Keypoints with errors of `noise` box sides an axis, and outliers; every error has the same spread at all rates and of both kinds."""
    rng = np.random.default_rng(seed)
    size = np.ptp(motion.pixels, axis=1).max(1)[:, None, None]
    n = len(motion.track)
    keep = np.zeros(n)
    if kind == "lasting":
        same = np.append(False, motion.track[1:] == motion.track[:-1])
        keep[same] = np.exp(-np.diff(motion.time_s, prepend=0)[same] / MEMORY_S)
    error, away = rng.normal(size=(2, n, 21, 2))
    is_far, stays = rng.random((n, 21, 1)) < OUTLIER_SHARE, rng.random((n, 21, 1)) < keep[:, None, None]
    for i in np.flatnonzero(keep):
        error[i] = keep[i] * error[i - 1] + np.sqrt(1 - keep[i] ** 2) * error[i]
        away[i] = np.where(stays[i], away[i - 1], away[i])
        is_far[i] = np.where(stays[i], is_far[i - 1], is_far[i])
    off = noise * error + np.where(is_far, OUTLIER_SIZE * away, 0)
    return np.concatenate([motion.pixels + size * off, np.ones((n, 21, 1))], 2)


def jitter_mm(joints: Float64[np.ndarray, "n 21 3"], track: Int64[np.ndarray, "n"]) -> float:
    """Mean length of the joints' second differences, millimetres a frame squared."""
    second = joints[2:] - 2 * joints[1:-1] + joints[:-2]
    return float(1000 * np.linalg.norm(second[track[2:] == track[:-2]], axis=2).mean())


def flip_share(joints: Float64[np.ndarray, "n 21 3"], true: Float64[np.ndarray, "n 21 3"]) -> float:
    """Share of hands whose palm looks elsewhere."""
    first, second = (np.cross(j[:, 5] - j[:, 0], j[:, 17] - j[:, 0]) for j in (joints, true))
    cosine = (first * second).sum(1) / np.maximum(np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1), 1e-12)
    return float((cosine < np.cos(np.radians(FLIP_DEG))).mean())
