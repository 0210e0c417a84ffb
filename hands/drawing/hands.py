"""Draw hands on an image: the projected mesh, the 21 keypoints with coloured fingers, the box and a label.

Frame of reference: pixels of the given image; drawing happens in a view of it, a region scaled to a size.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from fitting.hand.mano import HandModel, closed_faces, load_hand_model, pose_either_hand, project
from stages.tables import HAND_KEYPOINTS, LEFT, Fits, Hands, Reviews

Image = UInt8[np.ndarray, "height width 3"]
Canvas = UInt8[np.ndarray, "rows columns 3"]
Colour = tuple[int, int, int]

SIDE_COLOURS: tuple[Colour, Colour] = ((56, 168, 255), (255, 146, 60))
"""Left blue, right orange."""
DROPPED_COLOUR: Colour = (168, 174, 186)
FINGER_COLOURS: dict[str, Colour] = {
    "thumb": (255, 82, 96),
    "index": (255, 204, 51),
    "middle": (88, 214, 110),
    "ring": (64, 156, 255),
    "little": (214, 92, 255),
}
"""Rainbow from the thumb to the little finger, as OpenPose draws them."""
FINGERS: list[tuple[Colour, list[int]]] = [
    (colour, [k for k, name in enumerate(HAND_KEYPOINTS) if name == "wrist" or name.startswith(finger)])
    for finger, colour in FINGER_COLOURS.items()
]
"""Colour and keypoints of each finger, from the wrist to its tip."""

_SHIFT = 4
"""Binary digits below the pixel that OpenCV draws with."""
_SUPERSAMPLE = 2
"""The mesh is drawn this much larger and averaged down: smooth edges without seams between its triangles."""
_LIGHT = np.array([-0.35, -0.55, -0.76], np.float32)
"""Towards the light, camera axes: from behind the viewer's left shoulder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A region of an image (xyxy pixels) and the height in pixels it is drawn at."""

    region: tuple[int, int, int, int]
    height: int

    @property
    def scale(self) -> float:
        return self.height / (self.region[3] - self.region[1])

    @property
    def width(self) -> int:
        return max(1, round((self.region[2] - self.region[0]) * self.scale))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Image pixels to pixels of the view; the middle of a pixel stays the middle of a pixel."""
        return (points - np.asarray(self.region[:2], np.float32) + 0.5) * self.scale - 0.5

    def shows(self, box: Float32[np.ndarray, "4"]) -> bool:
        """Whether any part of a box (image pixels) lies in the view."""
        low, high = np.array(self.region[:2]), np.array(self.region[2:])
        return bool((box[2:] > low).all() and (box[:2] < high).all())

    def picture(self, image: Image) -> Canvas:
        """The region, resampled."""
        x0, y0, x1, y1 = self.region
        how = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image[y0:y1, x0:x1], (self.width, self.height), interpolation=how))


def whole(image: Image, height: int) -> View:
    """All of an image."""
    return View(region=(0, 0, image.shape[1], image.shape[0]), height=height)


def around(image: Image, box: Float32[np.ndarray, "4"], height: int, *, margin: float = 1.9) -> View:
    """A square about a box, `margin` times its longer side, moved into the image and cut where it is larger than it."""
    rows, columns = image.shape[:2]
    side = max(48.0, margin * float((box[2:] - box[:2]).max()))
    size = np.minimum(round(side), [columns, rows])
    low = np.clip(np.round((box[:2] + box[2:] - size) / 2), 0, [columns, rows] - size)
    x0, y0, x1, y1 = np.concatenate([low, low + size]).astype(int).tolist()
    return View(region=(x0, y0, x1, y1), height=height)


def draw_hands(image: Image, hands: Hands, fits: Fits, reviews: Reviews, *, view: View | None = None, labels: bool = True) -> Canvas:
    """The view of an image (default: all of it at its own size) with the hands on it; rows of the three tables belong together.

    Hands that were not fitted lack a mesh. Dropped ones have a grey, dashed box.
    """
    view = view or whole(image, image.shape[0])
    canvas = view.picture(image)
    shown = [row for row in range(len(hands)) if view.shows(hands.box[row])]
    fitted = np.isfinite(np.concatenate([fits.camera, fits.hand_pose, fits.global_orient, fits.betas], 1)).all(1)
    for row in shown:
        if fitted[row]:
            canvas = _draw_mesh(canvas, fits.take(slice(row, row + 1)), view)
    width = max(1, round(view.height / 220))
    for row in shown:
        _draw_skeleton(canvas, view.points(hands.keypoints[row, :, :2]), hands.keypoints[row, :, 2], width)
    for row in shown:
        dropped = not reviews.keep[row]
        colour = DROPPED_COLOUR if dropped else SIDE_COLOURS[hands.side[row]]
        box = view.points(hands.box[row].reshape(2, 2))
        _draw_box(canvas, box, colour, width, dashed=dropped)
        if labels:
            _draw_label(canvas, box[0], f"{'L' if hands.side[row] == LEFT else 'R'} {hands.score[row]:.2f}", colour)
    return canvas


def outline(canvas: Image, view: View, inner: View) -> None:
    """Mark where `inner` lies in the image of `view`."""
    corners = view.points(np.array(inner.region, np.float32).reshape(2, 2))
    _draw_box(canvas, np.clip(corners, 1, [view.width - 2, view.height - 2]), (250, 250, 252), 1, dashed=False)


@cache
def _hand_model() -> HandModel:
    return load_hand_model()


def _draw_mesh(canvas: Image, fit: Fits, view: View) -> Image:
    """Blend in the shaded, visible faces of one fitted hand, far ones first."""
    model, side = _hand_model(), int(fit.side[0])
    parameters = (torch.tensor(p) for p in (fit.betas, fit.global_orient, fit.hand_pose))
    vertices = pose_either_hand(model, torch.tensor([side]), *parameters).vertices
    pixels = view.points(project(vertices, torch.tensor(fit.camera))[0].numpy())
    low, high = np.floor(pixels.min(0)).astype(int) - 1, np.ceil(pixels.max(0)).astype(int) + 2
    low, high = np.maximum(low, 0), np.minimum(high, canvas.shape[1::-1])
    if (high <= low).any():
        return canvas
    window = canvas[low[1] : high[1], low[0] : high[0]]
    mesh, cover = _shade(vertices[0].numpy(), closed_faces(model, side).numpy(), pixels - low, SIDE_COLOURS[side], window.shape[:2])
    mixed = canvas.copy()
    alpha = cover[..., None] * 0.62
    mixed[low[1] : high[1], low[0] : high[0]] = (window * (1 - alpha) + mesh * 0.62).round().astype(np.uint8)
    return mixed


def _shade(
    vertices: Float32[np.ndarray, "778 3"],
    faces: Int64[np.ndarray, "faces 3"],
    pixels: np.ndarray,
    colour: Colour,
    shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (times cover) and cover in [0, 1] of every pixel of a window."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    light = 0.42 + 0.62 * np.clip(normals @ _LIGHT, 0, 1)
    towards = np.flatnonzero(normals[:, 2] < 0)
    order = towards[np.argsort(-corners[towards, :, 2].mean(1), kind="stable")]
    size = (shape[0] * _SUPERSAMPLE, shape[1] * _SUPERSAMPLE)
    layer, mask = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    fixed = np.round(((pixels + 0.5) * _SUPERSAMPLE - 0.5)[faces] * (1 << _SHIFT)).astype(np.int32)
    shades = np.clip(light[:, None] * np.array(colour), 0, 255).astype(int).tolist()
    for face in order:
        cv2.fillConvexPoly(layer, fixed[face], shades[face], cv2.LINE_8, _SHIFT)
        cv2.fillConvexPoly(mask, fixed[face], 255, cv2.LINE_8, _SHIFT)
    small = (shape[1], shape[0])
    mesh = cv2.resize(layer, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    return mesh, cv2.resize(mask, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _fixed(point: np.ndarray) -> tuple[int, int]:
    x, y = np.round(np.clip(point, -1e4, 1e4) * (1 << _SHIFT)).astype(int).tolist()
    return x, y


def _draw_skeleton(canvas: Image, points: np.ndarray, confidence: np.ndarray, width: int) -> None:
    """Bones over a dark outline, then joints. Points without confidence are left out."""
    seen = np.isfinite(points).all(1) & (confidence > 0)
    bones = [(colour, a, b) for colour, chain in FINGERS for a, b in pairwise(chain) if seen[a] and seen[b]]
    for _, a, b in bones:
        cv2.line(canvas, _fixed(points[a]), _fixed(points[b]), (16, 18, 24), width + 2, cv2.LINE_AA, _SHIFT)
    for colour, a, b in bones:
        cv2.line(canvas, _fixed(points[a]), _fixed(points[b]), colour, width, cv2.LINE_AA, _SHIFT)
    for colour, chain in FINGERS:
        for joint in chain[1:]:
            if seen[joint]:
                _draw_dot(canvas, points[joint], width + 1.0, (16, 18, 24))
                _draw_dot(canvas, points[joint], width + 0.3, colour)
    if seen[0]:
        _draw_dot(canvas, points[0], width + 1.0, (250, 250, 252))


def _draw_dot(canvas: Image, at: np.ndarray, radius: float, colour: Colour) -> None:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    rim = np.clip(at, -1e4, 1e4) + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    cv2.fillConvexPoly(canvas, np.round(rim * (1 << _SHIFT)).astype(np.int32), colour, cv2.LINE_AA, _SHIFT)


def _draw_box(canvas: Image, box: np.ndarray, colour: Colour, width: int, *, dashed: bool) -> None:
    (x0, y0), (x1, y1) = np.clip(box, -1e4, 1e4).tolist()
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    for a, b in pairwise(corners):
        length = float(np.abs(b - a).max())
        num_dashes = max(1, round(length / 9)) if dashed else 1
        for d in range(num_dashes):
            start, end = a + (b - a) * d / num_dashes, a + (b - a) * (d + (0.55 if dashed else 1)) / num_dashes
            cv2.line(canvas, _fixed(start), _fixed(end), colour, width, cv2.LINE_AA, _SHIFT)


def _draw_label(canvas: Image, corner: np.ndarray, text: str, colour: Colour) -> None:
    """A filled tag on the box's upper left corner, moved inside the image."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 0.36, 1)
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width - 6)))
    y = int(np.clip(corner[1] - height - 6, 0, max(0, canvas.shape[0] - height - 6)))
    cv2.rectangle(canvas, (x, y), (x + width + 6, y + height + 6), colour, -1)
    cv2.putText(canvas, text, (x + 3, y + height + 3), cv2.FONT_HERSHEY_DUPLEX, 0.36, (16, 18, 24), 1, cv2.LINE_AA)
