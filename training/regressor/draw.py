"""Estimated hands drawn on images: the shaded mesh, half transparent, left blue, right orange.

Frames of reference: pixels of the image; camera axes x right, y down, z forward, metres.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from fitting.hand.mano import RIGHT, closed_faces, load_hand_model

COLOURS = ((56, 168, 255), (255, 146, 60))
"""Left, right."""
_LIGHT = np.array([-0.35, -0.55, -0.76])
"""Towards the lamp: behind the viewer's left shoulder."""
_OPACITY = 0.65
_SUPERSAMPLE, _SHIFT = 2, 4
"""The mesh is drawn larger and averaged down, with so many binary digits below the pixel: smooth edges, no seams."""


def mesh_faces(side: int) -> Int[np.ndarray, "faces 3"]:
    """Triangles of the hand in use, its wrist closed, that look outward for a hand of this side."""
    return closed_faces(load_hand_model(dtype=torch.float32), side).numpy()


def draw_mesh(
    image: UInt8[np.ndarray, "h w 3"],
    vertices: Float[np.ndarray, "778 3"],
    pixels: Float[np.ndarray, "778 2"],
    faces: Int[np.ndarray, "faces 3"],
    side: int = RIGHT,
) -> None:
    """Onto the image itself, far triangles first. A hand that is not in the image leaves it as it is."""
    low = np.maximum(np.floor(np.nan_to_num(pixels.min(0), nan=np.inf)) - 1, 0)
    high = np.minimum(np.ceil(np.nan_to_num(pixels.max(0), nan=-np.inf)) + 2, image.shape[1::-1])
    if (high <= low).any():
        return
    x, y, right, bottom = np.concatenate([low, high]).astype(int).tolist()
    window = image[y:bottom, x:right]
    corners = vertices[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    light = 0.42 + 0.62 * np.clip(normals @ _LIGHT, 0, 1)
    towards = np.flatnonzero(normals[:, 2] < 0)
    order = towards[np.argsort(-corners[towards, :, 2].mean(1), kind="stable")]
    layer = np.zeros((window.shape[0] * _SUPERSAMPLE, window.shape[1] * _SUPERSAMPLE, 4), np.uint8)
    fixed = np.round(((pixels - [x, y]) * _SUPERSAMPLE - 0.5)[faces] * (1 << _SHIFT)).astype(np.int32)
    for face in order:
        colour = (*np.clip(light[face] * np.array(COLOURS[side]), 0, 255).tolist(), 255)
        cv2.fillConvexPoly(layer, fixed[face], colour, cv2.LINE_8, _SHIFT)
    drawn = cv2.resize(layer, window.shape[1::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    cover = _OPACITY * drawn[..., 3:] / 255
    window[:] = np.round(window * (1 - cover) + drawn[..., :3] * _OPACITY)


def draw_dots(image: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "n 2"]) -> None:
    """White, with a dark rim."""
    for point in np.clip(np.nan_to_num(points), -1e4, 1e4):
        at = (round(float(point[0])), round(float(point[1])))
        cv2.circle(image, at, 3, (16, 18, 24), -1, cv2.LINE_AA)
        cv2.circle(image, at, 2, (250, 250, 252), -1, cv2.LINE_AA)
