"""Hands drawn on images: the shaded mesh, the 21 keypoints with coloured fingers, the box and a label; left blue, right orange.

Frames of reference: pixels of the canvas, whole numbers in the middle of a pixel; camera axes x right, y down, z forward, metres.
Everything takes arrays and draws onto the canvas it is given; a `View` is a region of an image, scaled to a canvas.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from fitting.hand.mano import closed_faces, load_hand_model
from stages.tables import HAND_KEYPOINTS, LEFT, RIGHT, UNKNOWN_SIDE

Image = UInt8[np.ndarray, "height width 3"]
Canvas = UInt8[np.ndarray, "rows columns 3"]
Colour = tuple[int, int, int]

SIDE_COLOURS: tuple[Colour, Colour] = ((56, 168, 255), (255, 146, 60))
"""Left blue, right orange."""
_LETTERS = {LEFT: "L", RIGHT: "R", UNKNOWN_SIDE: "?"}
DROPPED_COLOUR: Colour = (168, 174, 186)
TARGET_COLOUR: Colour = (250, 250, 252)
"""Labels and other targets, beside predictions in the colours of their sides."""
DARK: Colour = (16, 18, 24)
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
_OPACITY = 0.62


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A region of an image (xyxy pixels) and the height in pixels it is drawn at."""

    region: tuple[int, int, int, int]
    height: int

    @property
    def scale(self) -> float:
        """Pixels of the canvas for one of the image."""
        return self.height / (self.region[3] - self.region[1])

    @property
    def width(self) -> int:
        """Pixels of the canvas."""
        return max(1, round((self.region[2] - self.region[0]) * self.scale))

    def points(self, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Image pixels to pixels of the canvas; the middle of a pixel stays the middle of a pixel."""
        return (points - np.asarray(self.region[:2], np.float32) + 0.5) * self.scale - 0.5

    def shows(self, box: Float[np.ndarray, "4"]) -> bool:
        """Whether any part of a box (image pixels) lies in the view."""
        low, high = np.array(self.region[:2]), np.array(self.region[2:])
        return bool((box[2:] > low).all() and (box[:2] < high).all())

    def canvas(self, image: Image) -> Canvas:
        """The region of an image, resampled: what to draw on."""
        x0, y0, x1, y1 = self.region
        how = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image[y0:y1, x0:x1], (self.width, self.height), interpolation=how))


def whole(image: Image, height: int) -> View:
    """All of an image."""
    return View(region=(0, 0, image.shape[1], image.shape[0]), height=height)


def around(image: Image, box: Float[np.ndarray, "4"], height: int, *, margin: float = 1.9) -> View:
    """A square about a box, `margin` times its longer side, moved into the image and cut where it is larger than it."""
    rows, columns = image.shape[:2]
    side = max(48.0, margin * float((box[2:] - box[:2]).max()))
    size = np.minimum(round(side), [columns, rows])
    low = np.clip(np.round((box[:2] + box[2:] - size) / 2), 0, [columns, rows] - size)
    x0, y0, x1, y1 = np.concatenate([low, low + size]).astype(int).tolist()
    return View(region=(x0, y0, x1, y1), height=height)


def outline(canvas: Canvas, view: View, inner: View) -> None:
    """Mark where `inner` lies in the canvas of `view`."""
    corners = view.points(np.array(inner.region, np.float32).reshape(2, 2))
    draw_box(canvas, np.clip(corners, 1, [view.width - 2, view.height - 2]).ravel(), TARGET_COLOUR, width=1)


def line_width(canvas: Canvas) -> int:
    """Pixels of a line that is well seen on a canvas of this size."""
    return max(1, round(max(canvas.shape[:2]) / 400))


def mesh_faces(side: int) -> Int[np.ndarray, "faces 3"]:
    """Triangles of the hand model in use, its wrist closed, that look outward for a hand of this side."""
    return closed_faces(load_hand_model(), side).numpy()


def draw_mesh(
    canvas: Canvas,
    vertices: Float[np.ndarray, "778 3"],  # metres, camera axes
    pixels: Float[np.ndarray, "778 2"],  # where they fall on the canvas
    faces: Int[np.ndarray, "faces 3"],
    side: int,
) -> None:
    """Blend in the visible faces of one hand, shaded, far ones first. A hand beyond the canvas leaves it as it is."""
    low = np.maximum(np.floor(np.nan_to_num(pixels.min(0), nan=np.inf)) - 1, 0)
    high = np.minimum(np.ceil(np.nan_to_num(pixels.max(0), nan=-np.inf)) + 2, canvas.shape[1::-1])
    if (high <= low).any():
        return
    x, y, right, bottom = np.concatenate([low, high]).astype(int).tolist()
    window = canvas[y:bottom, x:right]
    mesh, cover = _shade(vertices[faces], pixels[faces] - [x, y], SIDE_COLOURS[side], window.shape[1::-1])
    window[:] = (window * (1 - cover[..., None] * _OPACITY) + mesh * _OPACITY).round().astype(np.uint8)


def _shade(
    corners: Float[np.ndarray, "faces 3 3"], pixels: Float[np.ndarray, "faces 3 2"], colour: Colour, size: tuple[int, ...]
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Colour (times cover) and cover in [0, 1] of every pixel of a window, `size` its width and height."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    light = 0.42 + 0.62 * np.clip(normals @ _LIGHT, 0, 1)
    towards = np.flatnonzero(normals[:, 2] < 0)
    order = towards[np.argsort(-corners[towards, :, 2].mean(1), kind="stable")]
    layer = np.zeros((size[1] * _SUPERSAMPLE, size[0] * _SUPERSAMPLE, 4), np.uint8)
    fixed = np.round(((pixels + 0.5) * _SUPERSAMPLE - 0.5) * (1 << _SHIFT)).astype(np.int32)
    shades = np.clip(light[:, None] * np.array(colour), 0, 255).astype(int).tolist()
    for face in order:
        cv2.fillConvexPoly(layer, fixed[face], (*shades[face], 255), cv2.LINE_8, _SHIFT)
    drawn = cv2.resize(layer, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return drawn[..., :3], drawn[..., 3] / 255


def draw_hands(
    canvas: Canvas,
    side: Int[np.ndarray, "n"],
    box: Float[np.ndarray, "n 4"],
    score: Float[np.ndarray, "n"],
    keypoints: Float[np.ndarray, "n 21 3"],  # x, y, confidence; 0 leaves a keypoint out
    *,
    dropped: Bool[np.ndarray, "n"] | None = None,
    labels: bool = True,
) -> None:
    """Skeletons, then boxes and, on request, labels; hands that are `dropped` have a grey, dashed box."""
    for points in keypoints:
        draw_skeleton(canvas, points[:, :2], points[:, 2])
    for row in range(len(side)):
        out = dropped is not None and bool(dropped[row])
        colour = DROPPED_COLOUR if out or side[row] == UNKNOWN_SIDE else SIDE_COLOURS[int(side[row])]
        draw_box(canvas, box[row], colour, dashed=out)
        if labels:
            draw_label(canvas, box[row, :2], f"{_LETTERS[int(side[row])]} {score[row]:.2f}", colour)


def draw_skeleton(canvas: Canvas, points: Float[np.ndarray, "21 2"], confidence: Float[np.ndarray, "21"]) -> None:
    """Bones over a dark outline, then keypoints. Those without confidence are left out."""
    width = line_width(canvas)
    seen = np.isfinite(points).all(1) & (confidence > 0)
    bones = [(colour, a, b) for colour, chain in FINGERS for a, b in pairwise(chain) if seen[a] and seen[b]]
    for _, a, b in bones:
        cv2.line(canvas, _fixed(points[a]), _fixed(points[b]), DARK, width + 2, cv2.LINE_AA, _SHIFT)
    for colour, a, b in bones:
        cv2.line(canvas, _fixed(points[a]), _fixed(points[b]), colour, width, cv2.LINE_AA, _SHIFT)
    for colour, chain in FINGERS:
        for point in points[chain[1:]][seen[chain[1:]]]:
            _draw_dot(canvas, point, width + 1.0, DARK)
            _draw_dot(canvas, point, width + 0.3, colour)
    if seen[0]:
        _draw_dot(canvas, points[0], width + 1.0, TARGET_COLOUR)


def draw_targets(canvas: Canvas, points: Float[np.ndarray, "n 2"]) -> None:
    """Where points should be: white dots with a dark rim."""
    for point in points[np.isfinite(points).all(1)]:
        _draw_dot(canvas, point, 3.0, DARK)
        _draw_dot(canvas, point, 2.0, TARGET_COLOUR)


def draw_box(canvas: Canvas, box: Float[np.ndarray, "4"], colour: Colour, *, dashed: bool = False, width: int | None = None) -> None:
    """The outline of a box (xyxy)."""
    width = width or line_width(canvas)
    x0, y0, x1, y1 = np.clip(box, -1e4, 1e4).tolist()
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    for a, b in pairwise(corners):
        length = float(np.abs(b - a).max())
        num_dashes = max(1, round(length / 9)) if dashed else 1
        for d in range(num_dashes):
            start, end = a + (b - a) * d / num_dashes, a + (b - a) * (d + (0.55 if dashed else 1)) / num_dashes
            cv2.line(canvas, _fixed(start), _fixed(end), colour, width, cv2.LINE_AA, _SHIFT)


def draw_label(canvas: Canvas, corner: Float[np.ndarray, "2"], text: str, colour: Colour) -> None:
    """A filled tag on a box's upper left corner, moved into the canvas."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 0.36, 1)
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width - 6)))
    y = int(np.clip(corner[1] - height - 6, 0, max(0, canvas.shape[0] - height - 6)))
    cv2.rectangle(canvas, (x, y), (x + width + 6, y + height + 6), colour, -1)
    cv2.putText(canvas, text, (x + 3, y + height + 3), cv2.FONT_HERSHEY_DUPLEX, 0.36, DARK, 1, cv2.LINE_AA)


def _draw_dot(canvas: Canvas, at: Float[np.ndarray, "2"], radius: float, colour: Colour) -> None:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    rim = np.clip(at, -1e4, 1e4) + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    cv2.fillConvexPoly(canvas, np.round(rim * (1 << _SHIFT)).astype(np.int32), colour, cv2.LINE_AA, _SHIFT)


def _fixed(point: Float[np.ndarray, "2"]) -> tuple[int, int]:
    x, y = np.round(np.clip(point, -1e4, 1e4) * (1 << _SHIFT)).astype(int).tolist()
    return x, y
