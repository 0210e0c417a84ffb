"""A known camera beside an assumed one: the studio's hands anywhere in views of 40 to 110 degrees, with noisy landmarks."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float64

from fitting.camera import Camera, looking_at
from fitting.fit import Fitter, HandFits
from fitting.hand import anatomy
from fitting.hand.kinematics import FROM_KEYPOINTS, JointModel
from fitting.hand.mano import load_hand_model
from fitting.lens import Lens
from studio.poses import SHAPES, key_angles
from studio.stills import facing

VIEWS_DEG = (40.0, 60.0, 80.0, 110.0)
NOISE_SHARE = 0.01
"""Noise of the landmarks: standard deviation an axis, as a share of the box."""
ASSUMED_SIDES = 5000 / 256
"""Focal length in longer sides of the image where nobody tells it: `Fit.focal_share`."""
_BETAS_SPREAD = 0.7
_SIZE = (1280, 960)


def cameras(num_hands: int, seed: int = 2027) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Figures by view and by what is known of the camera: millimetres about the wrist, and how far off the wrist is, as a share."""
    fitter, rng = Fitter(load_hand_model()), np.random.default_rng(seed)
    found: dict[str, Mapping[str, Mapping[str, float]]] = {}
    for degrees in VIEWS_DEG:
        camera = Camera.pinhole(*_SIZE, _SIZE[0] / 2 / np.tan(np.radians(degrees) / 2))
        joints = _hands(camera, num_hands, rng)
        pixels = camera.project(joints)
        side = np.ptp(pixels, axis=1).max(1)[:, None, None]
        seen = np.concatenate([pixels + NOISE_SHARE * side * rng.normal(size=pixels.shape), np.ones((num_hands, 21, 1))], 2)
        ray = joints.mean(1) / np.linalg.norm(joints.mean(1), axis=1, keepdims=True)
        turned = np.einsum("nij,nkj->nki", looking_at(ray), joints)  # as a detector's crop shows it
        world = turned - turned.mean(1, keepdims=True)
        lens = Lens(np.full(num_hands, camera.focal_px[0]), np.tile(camera.principal, (num_hands, 1)))
        fits = {"known": fitter.fit(seen, world, lens=lens), "assumed": fitter.fit(seen, world)}
        found[f"{degrees:g}"] = {name: _figures(fit, joints) for name, fit in fits.items()}
    return found


def _hands(camera: Camera, num_hands: int, rng: np.random.Generator) -> Float64[np.ndarray, "n 21 3"]:
    """Joints of hands wholly in view, 0.3 to 0.9 m away, palm or back towards the camera more often than not."""
    model = load_hand_model(dtype=torch.float64)
    angles = key_angles([str(name) for name in rng.choice(list(SHAPES), num_hands)], rng)
    rotations = anatomy.compose(torch.as_tensor(angles), anatomy.joint_axes(*model.rest_joints()))
    turns = torch.as_tensor(np.stack([facing(rng) for _ in range(num_hands)]))
    betas = torch.as_tensor(_BETAS_SPREAD * rng.normal(size=(num_hands, 10)).clip(-2, 2))
    joints = JointModel.of(model).pose(turns, rotations, betas).points.numpy()[:, np.argsort(FROM_KEYPOINTS)]
    margin = 0.15
    middle = camera.rays(rng.uniform(margin, 1 - margin, (num_hands, 2)) * _SIZE)
    away = rng.uniform(0.3, 0.9, (num_hands, 1))
    return np.asarray(joints - joints.mean(1, keepdims=True) + (middle / middle[:, 2:] * away)[:, None])


def _figures(fits: HandFits, joints: Float64[np.ndarray, "n 21 3"]) -> dict[str, float]:
    found, wrist = fits.joints_3d.double().numpy(), joints[:, 0]
    error_mm = 1000 * np.linalg.norm(found - (joints - joints[:, :1]), axis=2).mean(1)
    place = fits.transl.double().numpy()
    if not place.any():
        scale, pixel = fits.camera[:, :1].double().numpy(), fits.camera[:, 1:].double().numpy()
        focal = ASSUMED_SIDES * max(_SIZE)
        place = np.concatenate([(pixel - np.array(_SIZE) / 2) / scale, focal / scale], 1)
    share = np.linalg.norm(place - wrist, axis=1) / np.linalg.norm(wrist, axis=1)
    return {
        "root_relative_mm": float(error_mm.mean()),
        "place_error_share": float(np.median(share)),
        "absolute_mm": float(np.median(1000 * np.linalg.norm(found + place[:, None] - joints, axis=2).mean(1))),
    }
