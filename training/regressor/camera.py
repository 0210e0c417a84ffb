"""The weak-perspective camera of a crop as a pinhole camera, of the crop and of the whole frame, both ways (WiLoR's conventions).

Frames of reference. Space: metres, camera axes x right, y down, z forward; a hand's points are about its wrist. The crop: units of its
side, (0, 0) its middle, spanning [-0.5, 0.5]. The frame: pixels, (0, 0) the corner of the first pixel, whose middle is (0.5, 0.5). A box
is [centre x, centre y, side] of the square that was cut out, pixels of the frame.

*Convention.* camera = (s, tx, ty): the crop is 2 / s metres wide where the wrist is, and (tx, ty), metres, is the wrist from the crop's
middle. The crop is seen by a pinhole of focal length 5000 pixels of 256 on the crop's own axis, which is all but weak perspective; the
frame by one on the axis of the frame, where points in the wrist's depth fall on the same pixels, those before and behind it nearly.
A left hand is estimated in a mirrored crop: `mirrored` takes it back before anything is said of the frame.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hands.drawing.space import CROP_FOCAL


def crop_translation(camera: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Place of the wrist before the pinhole of the crop, metres."""
    return torch.cat([camera[:, 1:], 2 * CROP_FOCAL / (camera[:, :1] + 1e-9)], 1)


def project_to_crop(points: Float[Tensor, "n points 3"], camera: Float[Tensor, "n 3"]) -> Float[Tensor, "n points 2"]:
    """Points about the wrist to the crop, crop units."""
    seen = points + crop_translation(camera)[:, None]
    return CROP_FOCAL * seen[..., :2] / seen[..., 2:]


def crop_to_frame(points: Float[Tensor, "n points 2"], box: Float[Tensor, "n 3"]) -> Float[Tensor, "n points 2"]:
    """Points of crops in pixels of the frame."""
    return box[:, None, :2] + box[:, None, 2:] * points


def frame_translation(camera: Float[Tensor, "n 3"], box: Float[Tensor, "n 3"], size: tuple[int, int], focal: float) -> Float[Tensor, "n 3"]:
    """Place of the wrist before the pinhole of the frame, metres; the frame's middle is its axis."""
    metres = 2 / (camera[:, :1] + 1e-9)  # the crop's side, where the wrist is
    off_axis = (box[:, :2] - box.new_tensor(size) / 2) / box[:, 2:] * metres
    return torch.cat([camera[:, 1:] + off_axis, focal * metres / box[:, 2:]], 1)


def mirrored_points(points: Float[Tensor, "n points axes"], left: Bool[Tensor, "n"]) -> Float[Tensor, "n points axes"]:
    """Points of a mirrored crop, in space or in the crop, as the left hands that they are; those of right hands as they are."""
    return torch.cat([torch.where(left[:, None, None], -points[..., :1], points[..., :1]), points[..., 1:]], -1)


def mirrored_rotations(rotations: Float[Tensor, "n joints 3 3"], left: Bool[Tensor, "n"]) -> Float[Tensor, "n joints 3 3"]:
    """Rotations as they are seen in a mirror across x, which is what the tables hold of a left hand."""
    sign = rotations.new_tensor([-1.0, 1.0, 1.0])
    return torch.where(left[:, None, None, None], rotations * sign[:, None] * sign, rotations)


def mirrored_camera(camera: Float[Tensor, "n 3"], left: Bool[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    """The camera of the crop before it was mirrored."""
    return torch.where(left[:, None], camera * camera.new_tensor([1.0, -1.0, 1.0]), camera)
