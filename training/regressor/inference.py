"""A trained regressor at work: images and boxes in, hands in space out, many images' hands in one batch.

Frames of reference: pixels of the image; camera axes x right, y down, z forward, metres. Hands are of their own side: parameters are
smplx's for a hand of that side (left = right mirrored in x), vertices and joints about the wrist, `transl` the wrist before the camera.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor

from fitting.hand.mano import LEFT
from fitting.hand.rotation import axis_angle_from_matrix
from hands.drawing.space import frame_focal
from stages.settings import with_values
from training.data.samples import FILL, cut, squared
from training.regressor.camera import (
    crop_to_frame,
    frame_translation,
    mirrored_camera,
    mirrored_points,
    mirrored_rotations,
    project_to_crop,
)
from training.regressor.evaluate import CROP_FACTOR
from training.regressor.fastvit import folded
from training.regressor.hand import HandEstimate
from training.regressor.network import Regressor, RegressorSettings
from training.run.checkpoint import Checkpoint, load_weights

SIZE = 256
SHIPPED = Path(__file__).parent / "assets" / "landmarks.pt"
"""The regressor that comes with the project: docs/regressor_landmarks.md."""
_SHARPEST = 2.0
"""Pixels of the image for one of the crop, beyond which they are averaged: bilinear reading would skip some."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ReconstructedHands:
    """One row a hand."""

    rotations: Float32[np.ndarray, "n 16 3 3"]  # global orientation, then MANO's joints
    betas: Float32[np.ndarray, "n 10"]
    camera: Float32[np.ndarray, "n 3"]  # of the square around the box: see `training.regressor.camera`
    square: Float32[np.ndarray, "n 3"]  # that square: its middle and side, pixels
    side: Int[np.ndarray, "n"]  # 0 left, 1 right
    transl: Float32[np.ndarray, "n 3"]
    vertices: Float32[np.ndarray, "n 778 3"]
    joints: Float32[np.ndarray, "n 21 3"]  # OpenPose's order
    vertices_2d: Float32[np.ndarray, "n 778 2"]
    joints_2d: Float32[np.ndarray, "n 21 2"]

    def __len__(self) -> int:
        return len(self.side)

    def parameters(self) -> tuple[Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n 45"]]:
        """global_orient and hand_pose, axis-angle radians."""
        turns = axis_angle_from_matrix(torch.from_numpy(self.rotations)).numpy()
        return turns[:, 0], turns[:, 1:].reshape(-1, 45)

    @classmethod
    def joined(cls, parts: Sequence["ReconstructedHands"]) -> "ReconstructedHands":
        """All rows, in order."""
        return cls(**{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)})


class HandReconstructor:
    """A network ready to be called."""

    def __init__(self, network: Regressor, *, batch_size: int = 64) -> None:
        self.network, self.batch_size = network.eval(), batch_size

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu", *, batch_size: int = 64) -> "HandReconstructor":
        """The averaged weights of a checkpoint. Raises ValueError when it is none of a regressor, or of another hand model."""
        return cls(read(path).to(device), batch_size=batch_size)

    def __call__(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        image: Int[np.ndarray, "n"],
        box: Float[np.ndarray, "n 4"],
        side: Int[np.ndarray, "n"],
        focal_px: float | None = None,
        keypoints: Float[np.ndarray, "n 21 2"] | None = None,
    ) -> ReconstructedHands:
        """The hands in boxes of RGB images of one size; `image` says of which, `keypoints` where their landmarks are, if anybody knows.
        Raises ValueError for a focal length no lens has.

        A box may reach beyond its image or have no area: the answer is then about what the grey around it suggests. See `usable`.
        """
        height, width = images[0].shape[:2] if images else (1, 1)
        focal = frame_focal((width, height), focal_px)
        square = np.zeros((len(box), 3), np.float32)
        crops = np.empty((len(box), SIZE, SIZE, 3), np.uint8)
        for row, (of, around, which) in enumerate(zip(image.tolist(), box, side.tolist(), strict=True)):
            to_input = squared(around, SIZE, CROP_FACTOR)
            crop_of(images[of], to_input, crops[row], mirrored=which == LEFT)
            square[row] = [*(SIZE / 2 - to_input[1:]) / to_input[0], SIZE / to_input[0]]
        points = None
        if keypoints is not None:
            points = (keypoints - square[:, None, :2]) / square[:, None, 2:]
            points = np.where((side == LEFT)[:, None, None], points * [-1, 1], points).astype(np.float32)
        starts = range(0, max(len(box), 1), self.batch_size)
        parts = []
        for part in (slice(k, k + self.batch_size) for k in starts):
            known = None if points is None else points[part]
            parts.append(self._hands(crops[part], square[part], side[part], (width, height), focal, known))
        return ReconstructedHands.joined(parts)

    @torch.inference_mode()
    def _hands(
        self,
        crops: UInt8[np.ndarray, "n 256 256 3"],
        square: Float32[np.ndarray, "n 3"],
        side: Int[np.ndarray, "n"],
        size: tuple[int, int],
        focal: float,
        points: Float32[np.ndarray, "n 21 2"] | None,
    ) -> ReconstructedHands:
        device = next(self.network.parameters()).device
        images = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 255
        prediction = self.network(images, None if points is None else torch.from_numpy(points).to(device))[-1]
        return hands_of(HandEstimate(*(values.float().cpu() for values in prediction)), square, side, size, focal)


def hands_of(
    prediction: HandEstimate, square: Float32[np.ndarray, "n 3"], side: Int[np.ndarray, "n"], size: tuple[int, int], focal: float
) -> ReconstructedHands:
    """Right hands of crops, left ones mirrored, as the hands of the image that they are."""
    left, box = torch.from_numpy(side == LEFT), torch.from_numpy(square)
    camera = mirrored_camera(prediction.camera, left)
    vertices, joints = mirrored_points(prediction.vertices, left), mirrored_points(prediction.joints, left)
    return ReconstructedHands(
        rotations=mirrored_rotations(prediction.rotations, left).numpy(),
        betas=prediction.betas.numpy(),
        camera=camera.numpy(),
        square=square,
        side=side,
        transl=frame_translation(camera, box, size, focal).numpy(),
        vertices=vertices.numpy(),
        joints=joints.numpy(),
        vertices_2d=_seen(vertices, camera, box),
        joints_2d=_seen(joints, camera, box),
    )


def usable(box: Float[np.ndarray, "n 4"], width: int, height: int) -> Bool[np.ndarray, "n"]:
    """Boxes of finite numbers with some area, a part of which lies in the image: of others nothing can be said."""
    low, high = np.maximum(box[:, :2], 0), np.minimum(box[:, 2:], [width, height])
    return np.isfinite(box).all(1) & ((box[:, 2:] - box[:, :2]) > 0).all(1) & ((high - low) > 0).all(1)


def crop_of(
    image: UInt8[np.ndarray, "h w 3"], to_input: Float32[np.ndarray, "3"], out: UInt8[np.ndarray, "256 256 3"], *, mirrored: bool
) -> None:
    """Write the square that `squared` chose, averaging what shrinks by more than half; of a vast one only the image's part is read."""
    scale, shift = float(to_input[0]), to_input[1:].astype(np.float64)
    if scale * _SHARPEST >= 1:
        cut(image, image.shape[1::-1], to_input, out, mirrored=mirrored)
        return
    low = np.maximum(np.round(-shift / scale), 0).astype(int)
    high = np.minimum(np.round((SIZE - shift) / scale), image.shape[1::-1]).astype(int)
    (u0, v0), (u1, v1) = np.round(low * scale + shift).astype(int), np.round(high * scale + shift).astype(int)
    out[:] = FILL
    if u1 > u0 and v1 > v0:
        part = image[low[1] : high[1], low[0] : high[0]]
        out[v0:v1, u0:u1] = cv2.resize(part, (u1 - u0, v1 - v0), interpolation=cv2.INTER_AREA)
    if mirrored:
        cv2.flip(out, 1, dst=out)


def read(path: Path) -> Regressor:
    """The network of a checkpoint with its averaged weights, convolutions folded. Raises ValueError when it is none of a regressor."""
    saved = Checkpoint.load(path, "regressor")
    try:
        settings = with_values(RegressorSettings(), saved.settings, "regressor")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a regressor that this version cannot build: {error}") from error
    network = Regressor(settings)
    load_weights(network, saved.ema, path)
    folded(network)
    return network.eval()


def _seen(points: Float[Tensor, "n points 3"], camera: Float[Tensor, "n 3"], square: Float[Tensor, "n 3"]) -> np.ndarray:
    return crop_to_frame(project_to_crop(points, camera), square).numpy()
