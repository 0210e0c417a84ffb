"""Cameras against OpenCV's, and hands fitted by true rays against hands that are known."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fitting.camera import Camera, looking_at
from fitting.fit import Fitter
from fitting.hand import anatomy
from fitting.hand.kinematics import FROM_KEYPOINTS, JointModel
from fitting.hand.mano import load_hand_model
from fitting.lens import Lens
from fitting.settings import FitSettings

LENS = (-0.2, 0.05, 0.001, -0.002, 0.01)
KANNALA = (0.02, -0.01, 0.003, -0.0005)
CAMERAS = {
    "rectilinear": Camera(projection="rectilinear", width=1280, height=720, focal_px=(800, 810), principal=(640.5, 360.5), distortion=LENS),
    "fisheye": Camera(projection="fisheye", width=1280, height=720, focal_px=(300, 310), principal=(640.5, 360.5), distortion=KANNALA),
    "equirectangular": Camera.sphere(2000, 1000),
}


def points_before(reach: float, seed: int = 0) -> Any:
    """Points at up to `reach` radians off the axis."""
    rng = np.random.default_rng(seed)
    angle, way = reach * np.sqrt(rng.random(500)), rng.uniform(0, 2 * np.pi, 500)
    rays = np.stack([np.sin(angle) * np.cos(way), np.sin(angle) * np.sin(way), np.cos(angle)], 1)
    return rays * rng.uniform(0.2, 3, (500, 1))


def test_points_fall_where_opencv_has_them() -> None:
    for name, project, reach in (("rectilinear", cv2.projectPoints, 0.7), ("fisheye", cv2.fisheye.projectPoints, 1.4)):
        camera, points = CAMERAS[name], points_before(reach)
        matrix = np.array(
            [[camera.focal_px[0], 0, camera.principal[0] - 0.5], [0, camera.focal_px[1], camera.principal[1] - 0.5], [0, 0, 1]]
        )
        pixels, _ = project(points[:, None], np.zeros(3), np.zeros(3), matrix, np.array(camera.distortion))
        np.testing.assert_allclose(camera.project(points) - 0.5, pixels[:, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "reach"), [("rectilinear", 0.7), ("fisheye", 1.8), ("equirectangular", np.pi)])
def test_a_pixels_ray_leads_back_to_it(name: str, reach: float) -> None:
    camera, points = CAMERAS[name], points_before(reach)
    rays = camera.rays(camera.project(points))
    np.testing.assert_allclose(rays, points / np.linalg.norm(points, axis=1, keepdims=True), atol=1e-7)
    turned = np.einsum("nij,nj->ni", looking_at(rays), rays)
    np.testing.assert_allclose(turned, np.broadcast_to([0, 0, 1], turned.shape), atol=1e-12)


def test_what_no_pixel_shows_is_nowhere() -> None:
    assert np.isnan(Camera.pinhole(640, 480, 500).project(np.array([[0, 0, -1.0]]))).all()
    folded = Camera(projection="fisheye", width=640, height=480, focal_px=(100, 100), principal=(320, 240), distortion=(-0.3, 0, 0, 0))
    assert np.isnan(folded.rays(np.array([[0.0, 0.0]]))).all()


def hands_before_a_camera(hfov_deg: float, num_hands: int = 64, seed: int = 3) -> tuple[Camera, Any, Any]:
    """Mean-shaped right hands anywhere in view, half a metre away: the camera, their joints in its axes, and their pixels."""
    model, rng = load_hand_model(dtype=torch.float64), np.random.default_rng(seed)
    camera = Camera.pinhole(1280, 960, 640 / np.tan(np.radians(hfov_deg) / 2))
    rotations = anatomy.compose(torch.as_tensor(anatomy.sample_angles(num_hands, rng)), anatomy.joint_axes(*model.rest_joints()))
    turns = np.linalg.qr(rng.normal(size=(num_hands, 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[:, None, None]
    posed = JointModel.of(model).pose(torch.as_tensor(turns), rotations, torch.zeros(num_hands, 10, dtype=torch.float64))
    joints = posed.points.numpy()[:, np.argsort(FROM_KEYPOINTS)]
    middle = camera.rays(rng.uniform((150, 150), (1130, 810), (num_hands, 2)))
    joints = joints - joints.mean(1, keepdims=True) + (middle * 0.5 / middle[:, 2:])[:, None]
    return camera, joints, camera.project(joints)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_known_camera_places_hands_in_metres(backend: Any) -> None:
    camera, joints, pixels = hands_before_a_camera(100.0)
    seen = np.concatenate([pixels, np.ones((len(pixels), 21, 1))], 2)
    world = joints - joints.mean(1, keepdims=True)
    fitter = Fitter(load_hand_model(), FitSettings(backend=backend))
    lens = Lens(np.full(len(seen), camera.focal_px[0]), np.tile(camera.principal, (len(seen), 1)))
    known, assumed = fitter.fit(seen, world, lens=lens), fitter.fit(seen, world)

    def errors_mm(fits: Any) -> Any:
        true = joints - joints[:, :1]
        return 1000 * np.linalg.norm(fits.joints_3d.numpy() - true, axis=2).mean(1)

    assert np.median(errors_mm(known)) < 0.5 * np.median(errors_mm(assumed))
    away = np.linalg.norm(known.transl.numpy() - joints[:, 0], axis=1) / np.linalg.norm(joints[:, 0], axis=1)
    assert np.median(away) < 0.02
    found = known.joints_3d.numpy() + known.transl.numpy()[:, None]
    np.testing.assert_allclose(camera.project(found), known.joints_2d.numpy(), atol=0.05)
    assert (known.box[:, :2].numpy() < known.joints_2d.numpy().min(1) + 1).all()
    assert (assumed.transl == 0).all()


def test_a_far_camera_is_weak_perspective() -> None:
    _, _, pixels = hands_before_a_camera(20.0, num_hands=16)
    seen = np.concatenate([pixels, np.ones((16, 21, 1))], 2)
    fitter = Fitter(load_hand_model())
    far = fitter.fit(seen, lens=Lens(np.full(16, 1e6), np.tile([640.0, 480.0], (16, 1))))
    torch.testing.assert_close(far.joints_3d, fitter.fit(seen).joints_3d, atol=5e-3, rtol=0)
