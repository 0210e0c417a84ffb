"""Two hands of one person before a known camera: each as it was fitted, and both placed together. The studio's hands, noisy landmarks.

A person's hands have one shape and are 0.06 to 0.4 m apart, at most 0.2 m of that in depth; five frames a pair, tracked, each hand in a
pose of its own; and hands that touch: brought together along a line until the skin of one is `TOUCH_M` from the other's. Nothing was
chosen by these hands.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial import cKDTree

from fitting.camera import Camera, looking_at
from fitting.hand import anatomy
from fitting.hand.mano import LEFT, RIGHT, load_hand_model, pose_either_hand
from fitting.hand.rotation import axis_angle_from_matrix, mirror_axis_angle
from pipeline.evaluate.studio_truth import pa_mpjpe_mm
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
TOUCH_M = 0.004
"""Between nearest vertices of hands that touch: their mesh is 5 mm wide."""
FAR_M, STEP_M = 0.45, 0.002
"""No two hands whose wrists are so far apart touch; steps on the way to where they do."""
DEEPEST_M = 0.02
"""Nothing within a hand is farther from its skin."""


def two_hands(num_pairs: int, seed: int = 2031) -> Mapping[str, Mapping[str, float]]:
    """Figures of hands fitted alone and placed together, and of hands that touch."""
    half = np.tan(np.radians(_HFOV_DEG) / 2)
    camera = Camera.pinhole(*_SIZE, _SIZE[0] / 2 / half)
    cameras = cameras_of(f'{{"from": "manifest", "projection": "rectilinear", "hfov_deg": {_HFOV_DEG}}}', *_SIZE)
    assert cameras.camera_from[0] != ASSUMED
    stages = {name: Fit(pairs=name, landmark_offsets=False).build() for name in ("apart", "together")}
    found: dict[str, Mapping[str, float]] = {}
    for kind, touching in (("", False), ("touching_", True)):
        hands, true = _table(num_pairs, camera, np.random.default_rng(seed), touching)
        for name, run in stages.items():
            found[kind + name] = _figures(hands, run(Clips.empty(), hands, cameras=cameras), true)
    return found


def _table(num_pairs: int, camera: Camera, rng: np.random.Generator, touching: bool) -> tuple[Hands, Float64[np.ndarray, "n 21 3"]]:
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
    if touching:
        wrist = _brought_together(wrist, hand.vertices.numpy())
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


def _brought_together(wrist: Float64[np.ndarray, "n 3"], vertices: Float64[np.ndarray, "n 778 3"]) -> Float64[np.ndarray, "n 3"]:
    """Wrists of pairs nearer to each other along their line, until hands touch; frames of a pair only drift."""
    moved = wrist.copy()
    for first in range(0, len(wrist), 2 * _FRAMES):
        middle, half = (wrist[first] + wrist[first + 1]) / 2, (wrist[first] - wrist[first + 1]) / 2
        way = half / np.linalg.norm(half)
        tree, distance = cKDTree(vertices[first + 1]), FAR_M
        while tree.query(vertices[first] + (distance - STEP_M) * way)[0].min() >= TOUCH_M:
            distance -= STEP_M
        rows = slice(first, first + 2 * _FRAMES)
        drift = wrist[rows].reshape(_FRAMES, 2, 3).mean(1) - middle
        both = np.stack([middle + distance / 2 * way, middle - distance / 2 * way])
        moved[rows] = (both + drift[:, None]).reshape(-1, 3)
    return moved


def penetration_m(one: Float64[np.ndarray, "n 3"], other: Float64[np.ndarray, "778 3"], faces: np.ndarray) -> float:
    """How deep a vertex of one mesh lies within another at most: from the nearest of its vertices' planes, 0 where none is inside."""
    distance, nearest = cKDTree(other).query(one, distance_upper_bound=DEEPEST_M)
    close = np.flatnonzero(np.isfinite(distance))
    close = close[~_rim(faces)[nearest[close]]]  # beyond the open wrist begins the arm
    close = close[winding(one[close], other[faces]) > 0.5]
    if not len(close):
        return 0.0
    corners, normals = other[faces], np.zeros_like(other)
    np.add.at(normals, faces.ravel(), np.repeat(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), 3, 0))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    depth = -((one[close] - other[nearest[close]]) * normals[nearest[close]]).sum(1)
    return float(depth.clip(0).max())


def _rim(faces: np.ndarray) -> np.ndarray:
    """Vertices at the open end of the wrist: of edges of one face."""
    edges = np.sort(np.concatenate([faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), 1)
    edge, count = np.unique(edges, axis=0, return_counts=True)
    return np.isin(np.arange(faces.max() + 1), edge[count == 1])


def winding(points: Float64[np.ndarray, "n 3"], triangles: Float64[np.ndarray, "f 3 3"]) -> Float64[np.ndarray, "n"]:
    """How often a mesh winds about points, about 1 inside and 0 outside, hole or not (Jacobson et al., 2013): solid angles (Van Oosterom
    and Strackee, 1983) over a sphere's."""
    a, b, c = (triangles[None, :, k] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(side, axis=2) for side in (a, b, c))
    above = (a * np.cross(b, c)).sum(2)
    below = la * lb * lc + (a * b).sum(2) * lc + (b * c).sum(2) * la + (c * a).sum(2) * lb
    return np.asarray(np.arctan2(above, below).sum(1) / (2 * np.pi))


def _meshes(fits: Fits) -> tuple[Float64[np.ndarray, "n 778 3"], np.ndarray, np.ndarray]:
    """Fitted hands in the camera's axes, and the faces of right and of left ones."""
    model = load_hand_model(dtype=torch.float64)
    told = [torch.as_tensor(getattr(fits, name)).double() for name in ("betas", "global_orient", "hand_pose")]
    hand = pose_either_hand(model, torch.as_tensor(fits.side.astype(np.int64)), *told)
    faces = model.faces.numpy()
    return hand.vertices.numpy() + fits.transl[:, None].astype(np.float64), faces, faces[:, ::-1]


def _penetrations_m(fits: Fits, pairs: np.ndarray) -> Float64[np.ndarray, "k"]:
    """Deeper reach of the two hands of each pair."""
    vertices, right, left = _meshes(fits)
    faces = {RIGHT: right, LEFT: left}

    def deep(one: int, other: int) -> float:
        return penetration_m(vertices[one], vertices[other], faces[int(fits.side[other])])

    return np.array([max(deep(a, b), deep(b, a)) for a, b in pairs.tolist()])


def _figures(hands: Hands, fits: Fits, joints: Float64[np.ndarray, "n 21 3"]) -> dict[str, float]:
    wrist = joints[:, 0]
    place = fits.transl.astype(np.float64)
    first, second = pairs_of(hands, fits).T
    vector, true = place[first] - place[second], wrist[first] - wrist[second]
    clear = np.abs(true[:, 2]) > 0.01
    deep = 1000 * _penetrations_m(fits, np.stack([first, second], 1)[::_FRAMES])  # the frames of a pair are nearly alike
    error = np.linalg.norm(fits.joints_3d - (joints - joints[:, :1]), axis=2).mean(1)
    return {
        "between_wrists_mm": float(1000 * np.median(np.linalg.norm(vector - true, axis=1))),
        "place_error_share": float(np.median(np.linalg.norm(place - wrist, axis=1) / np.linalg.norm(wrist, axis=1))),
        "root_relative_mm": float(1000 * error.mean()),
        "pa_mpjpe_mm": float(pa_mpjpe_mm(fits.joints_3d.astype(np.float64), joints - joints[:, :1]).mean()),
        "penetration_mm": float(deep.mean()),
        "penetrating_over_1_mm": float((deep > 1).mean()),
        "error_px": float(fits.error_px.mean()),
        "depth_order_right": float((np.sign(vector[clear, 2]) == np.sign(true[clear, 2])).mean()),
        "wrists_within_each_other": float((np.linalg.norm(vector, axis=1) < 2 * WRIST_M - 1e-4).mean()),
        "contradiction_mm": float(1000 * np.nanmean(contradiction_m(hands, fits))),
    }
