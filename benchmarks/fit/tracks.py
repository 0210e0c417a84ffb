"""The worth of tracks: studio motion with noisy landmarks, fitted frame by frame and as tracks. No detector, exact truth.

The studio's hands glide between the shapes of its own vocabulary, not the poses behind the prior, before a pinhole camera. Landmarks
are off by a share of the hand's box, either anew in every frame or in a way that lasts (AR(1)), as a detector's errors do.

    python -m benchmarks.fit.tracks
"""

import json
import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64

from fitting.files import STANDIN
from fitting.fit import Fitter
from fitting.hand import anatomy
from fitting.hand.mano import LEFT, HandModel, load_hand_model, pose_hand
from fitting.hand.rotation import axis_angle_from_matrix
from pipeline.evaluate.studio_truth import pa_mpjpe_mm
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


def measure(fitter: Fitter, motion: Motion, keypoints: Float64[np.ndarray, "n 21 3"], *, tied: bool) -> dict[str, float]:
    """Figures of one fit, frame by frame or as tracks."""
    started = time.process_time()
    fits = fitter.fit(keypoints, track=motion.track, time_s=motion.time_s) if tied else fitter.fit(keypoints)
    seconds = time.process_time() - started
    joints = fits.joints_3d.numpy().astype(np.float64)
    return {
        "jitter_mm": jitter_mm(joints, motion.track),
        "jitter_error_mm": jitter_mm(joints - motion.joints, motion.track),
        "pa_mpjpe_mm": float(pa_mpjpe_mm(joints, motion.joints).mean()),
        "flip_rate": flip_share(joints, motion.joints),
        "hands_per_core_s": len(joints) / seconds,
    }


def tracks(num_shots: int = 8, seconds: float = 6.0) -> dict[str, Any]:
    """Each rate, noise and kind of error: figures of both fits; and over those at 30 frames/s the worst ratios of tracks to frames.

    At lower rates the hand's own movement between frames is most of the jitter, and `jitter_error_mm` says what the fit adds to it.
    """
    fitter, motion = Fitter(load_hand_model(STANDIN)), studio_motion(num_shots, seconds, seed=100)
    fitter.fit(landmarks(motion, 0.01, "fresh", seed=0)[:64], track=motion.track[:64], time_s=motion.time_s[:64])  # compile
    rows = []
    for step in (1, 3, 6):
        some = motion.every(step)
        for noise in (0.01, 0.03):
            for kind in get_args(Kind):
                keypoints = landmarks(some, noise, kind, seed=1)
                frames, tied = (measure(fitter, some, keypoints, tied=t) for t in (False, True))
                case = {"frames_per_second": FRAMES_PER_SECOND / step, "noise": noise, "errors": kind, "num_hands": len(keypoints)}
                rows.append({**case, "true_jitter_mm": jitter_mm(some.joints, some.track), "frames": frames, "tracks": tied})

    def worst(name: str, rate: float = FRAMES_PER_SECOND) -> float:
        return max(row["tracks"][name] / row["frames"][name] for row in rows if row["frames_per_second"] == rate)

    return {
        "jitter_ratio": worst("jitter_mm"),
        "jitter_error_ratio": max(worst("jitter_error_mm", FRAMES_PER_SECOND / step) for step in (1, 3, 6)),
        "pa_mpjpe_ratio": max(worst("pa_mpjpe_mm", FRAMES_PER_SECOND / step) for step in (1, 3, 6)),
        "flip_rate": float(np.mean([row["tracks"]["flip_rate"] for row in rows])),
        "flip_rate_of_frames": float(np.mean([row["frames"]["flip_rate"] for row in rows])),
        "hands_per_core_s": float(np.median([row["tracks"]["hands_per_core_s"] for row in rows])),
        "rows": rows,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(tracks(), indent=1))
