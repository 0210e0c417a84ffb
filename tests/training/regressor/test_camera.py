"""Crop and frame agree on where a hand is, to a thousandth of a pixel, both ways, for any focal length and for left hands."""

import math
from typing import Any

import pytest
import torch

from fitting.hand.mano import LEFT, RIGHT, load_hand_model, pose_either_hand, pose_rotations
from fitting.hand.rotation import matrix_from_axis_angle, mirror_axis_angle
from hands.drawing.space import frame_focal
from training.regressor.camera import (
    crop_to_frame,
    crop_translation,
    frame_translation,
    mirrored_camera,
    mirrored_points,
    mirrored_rotations,
    project_to_crop,
)

SIZE = (1280, 720)
CAMERA = torch.tensor([[5.2, 0.03, -0.04], [9.0, -0.05, 0.02], [3.1, 0.1, 0.1]], dtype=torch.float64)
BOX = torch.tensor([[900.0, 200.0, 240.0], [40.0, 700.0, 81.5], [640.0, 360.0, 700.0]], dtype=torch.float64)
"""The second hand hangs over the frame's border."""
WRIST = torch.zeros(3, 1, 3, dtype=torch.float64)
FLAT = torch.tensor([[0.05, -0.08, 0.0], [-0.03, 0.02, 0.0]], dtype=torch.float64).expand(3, 2, 3)
DEEP = FLAT + torch.tensor([0.0, 0.0, 0.05], dtype=torch.float64)
THOUSANDTH: dict[str, Any] = {"atol": 1e-3, "rtol": 0.0}


def project_to_frame(points: torch.Tensor, translation: torch.Tensor, focal: float) -> torch.Tensor:
    """Points about the wrist to pixels of the frame, by a pinhole on the frame's axis."""
    seen = points + translation[:, None]
    return focal * seen[..., :2] / seen[..., 2:] + points.new_tensor(SIZE) / 2


def test_hand_worked() -> None:
    """A scale of 5: the crop is 0.4 m wide. A wrist 0.1 m right of the middle is a quarter of the crop away, whatever the box."""
    camera, box = torch.tensor([[5.0, 0.1, 0.0]]), torch.tensor([[500.0, 300.0, 200.0]])
    assert project_to_crop(torch.zeros(1, 1, 3), camera)[0, 0].tolist() == pytest.approx([0.25, 0.0])
    assert crop_to_frame(torch.tensor([[[0.25, 0.0]]]), box)[0, 0].tolist() == [550, 300]
    assert frame_translation(camera, box, (1000, 600), 1000.0)[0].tolist() == pytest.approx([0.1, 0.0, 2.0], abs=1e-6)
    assert crop_translation(torch.tensor([[2.0, 0.0, 0.0]]))[0, 2] == pytest.approx(5000 / 256)


@pytest.mark.parametrize("known", [None, 300.0, 1000.0, 4000.0, 90000.0])
def test_the_wrists_depth_falls_on_the_same_pixels_in_crop_and_frame(known: float | None) -> None:
    focal = frame_focal(SIZE, known)
    by_crop = crop_to_frame(project_to_crop(FLAT, CAMERA), BOX)
    by_frame = project_to_frame(FLAT, frame_translation(CAMERA, BOX, SIZE, focal), focal)
    torch.testing.assert_close(by_frame, by_crop, **THOUSANDTH)


def test_in_the_middle_and_with_the_crops_own_focal_every_point_falls_on_the_same_pixels() -> None:
    box = torch.tensor([[640.0, 360.0, 500.0]], dtype=torch.float64)
    focal = 5000 / 256 * 500
    by_crop = crop_to_frame(project_to_crop(DEEP[:1], CAMERA[:1]), box)
    by_frame = project_to_frame(DEEP[:1], frame_translation(CAMERA[:1], box, SIZE, focal), focal)
    torch.testing.assert_close(by_frame, by_crop, **THOUSANDTH)


def test_the_unknown_focal_is_the_releases() -> None:
    """5000 pixels of 256, and its formula for the translation (WiLoR, cam_crop_to_full)."""
    focal = frame_focal(SIZE)
    assert focal == 5000 / 256 * 1280
    s, tx, ty = CAMERA[0].tolist()
    cx, cy, b = BOX[0].tolist()
    wanted = [tx + 2 * (cx - 640) / (b * s), ty + 2 * (cy - 360) / (b * s), 2 * focal / (b * s)]
    assert frame_translation(CAMERA[:1], BOX[:1], SIZE, focal)[0].tolist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("absurd", [0.0, -900.0, 3.0, 1e7, math.nan, math.inf])
def test_an_absurd_focal_is_refused_with_what_would_do(absurd: float) -> None:
    with pytest.raises(ValueError, match="for a frame of 1280 x 720: expected 256 to 128000, in pixels of this frame; leave it out"):
        frame_focal(SIZE, absurd)


def test_a_known_focal_is_taken_as_it_is() -> None:
    assert frame_focal(SIZE, 1100.0) == 1100.0


def test_the_corners_of_the_crop_are_the_corners_of_the_box() -> None:
    corners = torch.tensor([[[-0.5, -0.5], [0.5, 0.5]]], dtype=torch.float64)
    assert crop_to_frame(corners, BOX[:1])[0].tolist() == [[780, 80], [1020, 320]]


def test_a_left_hand_is_where_it_was_before_the_image_was_mirrored() -> None:
    """A left hand of the frame is mirrored with its crop, estimated as a right one, and taken back: pixels and parameters are the same."""
    torch.manual_seed(0)
    model = load_hand_model(dtype=torch.float64)
    orient, pose, betas = torch.randn(2, 3).double(), torch.randn(2, 45).double() * 0.3, torch.randn(2, 10).double()
    side = torch.tensor([LEFT, RIGHT])
    left = side == LEFT
    true = pose_either_hand(model, side, betas, orient, pose)
    in_crop = project_to_crop(true.vertices, CAMERA[:2])
    angles = torch.cat([orient, pose], 1).reshape(2, 16, 3)
    seen = torch.where(left[:, None, None], mirror_axis_angle(angles), angles)
    hand = pose_rotations(model, betas, matrix_from_axis_angle(seen))
    right_hand, camera = hand.vertices - hand.joints[:, :1], mirrored_camera(CAMERA[:2], left)
    seen_points = project_to_crop(right_hand, camera)
    torch.testing.assert_close(mirrored_points(seen_points, left), in_crop)
    torch.testing.assert_close(mirrored_points(right_hand, left), true.vertices)
    torch.testing.assert_close(mirrored_rotations(matrix_from_axis_angle(seen), left), matrix_from_axis_angle(angles))
    focal = frame_focal(SIZE, 1500.0)
    wrist = mirrored_points(right_hand[:, :1] * 0, left)
    shift = frame_translation(mirrored_camera(camera, left), BOX[:2], SIZE, focal)
    by_crop = crop_to_frame(project_to_crop(wrist, CAMERA[:2]), BOX[:2])
    torch.testing.assert_close(project_to_frame(wrist, shift, focal), by_crop, **THOUSANDTH)


def test_gradient_of_the_projection_is_right() -> None:
    points, camera = DEEP.clone().requires_grad_(), CAMERA.clone().requires_grad_()
    assert torch.autograd.gradcheck(project_to_crop, (points, camera))
