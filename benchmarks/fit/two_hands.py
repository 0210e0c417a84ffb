"""Two hands of one person before a known camera: each as it was fitted, and both placed together. The studio's hands, noisy landmarks.

A person's hands have one shape and are 0.06 to 0.4 m apart, at most 0.2 m of that in depth; five frames a pair, tracked, each hand in a
pose of its own. Nothing was chosen by these hands.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float64

from fitting.camera import Camera, looking_at
from fitting.hand import anatomy
from fitting.hand.mano import LEFT, load_hand_model, pose_either_hand
from fitting.hand.rotation import axis_angle_from_matrix, mirror_axis_angle
from stages.cameras.said import ASSUMED, cameras_of
from stages.fit import Fit
from stages.fusion.pairs import WRIST_M, contradiction_m, pairs_of
from stages.tables import Clips, Fits, Hands
from studio.poses import SHAPES, key_angles
from studio.stills import facing

NOISE_SHARE = 0.01
"""Noise of the landmarks: standard deviation an axis, as a share of the box."""
_BETAS_SPREAD = 0.7
_SIZE = (1280, 960)
_HFOV_DEG = 70.0
_FRAMES = 5


def two_hands(num_pairs: int, seed: int = 2031) -> Mapping[str, Mapping[str, float]]:
    """Figures of hands fitted alone and placed together."""
    rng = np.random.default_rng(seed)
    half = np.tan(np.radians(_HFOV_DEG) / 2)
    camera = Camera.pinhole(*_SIZE, _SIZE[0] / 2 / half)
    hands, true = _table(num_pairs, camera, rng)
    cameras = cameras_of(f'{{"from": "manifest", "projection": "rectilinear", "hfov_deg": {_HFOV_DEG}}}', *_SIZE)
    assert cameras.camera_from[0] != ASSUMED
    stages = {name: Fit(pairs=name, landmark_offsets=False) for name in ("apart", "together")}
    return {name: _figures(hands, stage.build()(Clips.empty(), hands, cameras=cameras), true) for name, stage in stages.items()}


def _table(num_pairs: int, camera: Camera, rng: np.random.Generator) -> tuple[Hands, Float64[np.ndarray, "n 21 3"]]:
    """Hands as a detector sees them, and their joints in the camera's axes: pair, frame, side."""
    model = load_hand_model(dtype=torch.float64)
    axes = anatomy.joint_axes(*model.rest_joints())
    betas = np.repeat(_BETAS_SPREAD * rng.normal(size=(num_pairs, 10)).clip(-2, 2), 2 * _FRAMES, 0)
    n = len(betas)
    side = np.tile([0, 1], n // 2)
    drawn = key_angles([str(name) for name in rng.choice(list(SHAPES), 2 * num_pairs)], rng)
    angles = np.repeat(drawn.reshape(num_pairs, 2, 15, 3), _FRAMES, 0)
    pose = axis_angle_from_matrix(anatomy.compose(torch.as_tensor(angles.reshape(n, 15, 3)), axes))
    pose = torch.where(torch.as_tensor(side == LEFT)[:, None, None], mirror_axis_angle(pose), pose).flatten(1)
    orient = np.repeat(np.stack([facing(rng) for _ in range(2 * num_pairs)]).reshape(num_pairs, 2, 3, 3), _FRAMES, 0).reshape(n, 3, 3)
    turns = axis_angle_from_matrix(torch.as_tensor(orient))
    hand = pose_either_hand(model, torch.as_tensor(side), torch.as_tensor(betas), turns, pose)
    wrist = _wrists(num_pairs, camera, rng)
    joints = hand.joints.numpy() + wrist[:, None]
    pixels = camera.project(joints)
    longer = np.ptp(pixels, axis=1).max(1)[:, None, None]
    seen = np.concatenate([pixels + NOISE_SHARE * longer * rng.normal(size=pixels.shape), np.full((n, 21, 1), 0.95)], 2)
    turned = np.einsum("nij,nkj->nki", looking_at(joints.mean(1)), joints)  # as a detector's crop shows it
    world = turned - turned.mean(1, keepdims=True)
    frame = np.arange(n) // 2
    blank = Hands.empty()
    known = {
        "frame": frame,
        "time_s": frame / 5.0,
        "side": side.astype(np.int8),
        "keypoints": seen.astype(np.float32),
        "world": world.astype(np.float32),
        "track": (np.arange(n) // (2 * _FRAMES) * 2 + side).astype(np.int32),
        "width": np.full(n, _SIZE[0], np.int32),
        "height": np.full(n, _SIZE[1], np.int32),
        "score": np.full(n, 0.9, np.float32),
    }
    zeros = {name: np.zeros((n, *c.shape[1:]), c.dtype) if c.dtype != object else np.full(n, "", object) for name, c in vars(blank).items()}
    return Hands(**zeros | known), joints


def _wrists(num_pairs: int, camera: Camera, rng: np.random.Generator) -> Float64[np.ndarray, "n 3"]:
    """Wrists of both hands of every pair, frame by frame, each drifting a little."""
    margin = 0.25
    depth = rng.uniform(0.35, 0.9, num_pairs)
    ray = camera.rays(rng.uniform(margin, 1 - margin, (num_pairs, 2)) * _SIZE)
    middle = ray / ray[:, 2:] * depth[:, None]
    way = rng.normal(size=(num_pairs, 3)) * (1, 1, 0.6)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    half = way * rng.uniform(0.03, 0.2, (num_pairs, 1))
    half[:, 2] = half[:, 2].clip(-0.1, 0.1)
    both = np.stack([middle - half, middle + half], 1)[:, None] + 0.004 * np.arange(_FRAMES)[None, :, None, None]
    return both.reshape(-1, 3)


def _figures(hands: Hands, fits: Fits, joints: Float64[np.ndarray, "n 21 3"]) -> dict[str, float]:
    wrist = joints[:, 0]
    place = fits.transl.astype(np.float64)
    first, second = pairs_of(hands, fits).T
    vector, true = place[first] - place[second], wrist[first] - wrist[second]
    clear = np.abs(true[:, 2]) > 0.01
    error = np.linalg.norm(fits.joints_3d - (joints - joints[:, :1]), axis=2).mean(1)
    return {
        "between_wrists_mm": float(1000 * np.median(np.linalg.norm(vector - true, axis=1))),
        "place_error_share": float(np.median(np.linalg.norm(place - wrist, axis=1) / np.linalg.norm(wrist, axis=1))),
        "root_relative_mm": float(1000 * error.mean()),
        "error_px": float(fits.error_px.mean()),
        "depth_order_right": float((np.sign(vector[clear, 2]) == np.sign(true[clear, 2])).mean()),
        "wrists_within_each_other": float((np.linalg.norm(vector, axis=1) < 2 * WRIST_M - 1e-4).mean()),
        "contradiction_mm": float(1000 * np.nanmean(contradiction_m(hands, fits))),
    }
