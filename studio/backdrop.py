"""The background: a blurred room or a table of many colours, drifting a little as a hand-held camera does."""

import numpy as np
from jaxtyping import Float32

MARGIN_PX = 40


class Backdrop:
    """One picture, larger than the frame by `MARGIN_PX` on each side, of which `at` cuts the frame's part."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        self._size = (width, height)
        self._picture = _paint(width + 2 * MARGIN_PX, height + 2 * MARGIN_PX, rng)
        self._rate, self._phase = rng.uniform(0.1, 0.5, 2), rng.uniform(0, 2 * np.pi, 2)
        self._reach = rng.uniform(2, 10, 2)

    def at(self, time_s: float) -> Float32[np.ndarray, "height width 3"]:
        """RGB in [0, 255] at one moment."""
        import cv2

        shift = MARGIN_PX + self._reach * np.sin(2 * np.pi * self._rate * time_s + self._phase)
        move = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float32)
        return cv2.warpAffine(self._picture, move, self._size)


def _paint(width: int, height: int, rng: np.random.Generator) -> Float32[np.ndarray, "height width 3"]:
    """Gradient, out-of-focus shapes, a few sharper ones, and a texture: what a photograph's background is made of."""
    import cv2

    y, x = np.mgrid[0:height, 0:width]
    base, slope = rng.uniform(60, 190) + rng.uniform(-35, 35, 3), rng.uniform(-70, 70, 2)
    picture = (base + ((y / height - 0.5) * slope[0] + (x / width - 0.5) * slope[1])[..., None]).astype(np.float32)
    for count, blur in ((22, 7.0), (8, 2.5)):
        for _ in range(count):
            colour = tuple(float(v) for v in 0.5 * rng.uniform(20, 235, 3) + 0.5 * base)
            centre = rng.uniform((0, 0), (width, height)).astype(int)
            size = rng.uniform((15, 15), (width / 4, height / 4)).astype(int)
            if rng.random() < 0.6:
                cv2.rectangle(picture, centre.tolist(), (centre + size).tolist(), colour, -1, cv2.LINE_AA)
            else:
                cv2.ellipse(picture, centre.tolist(), (size // 2).tolist(), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    for cells, strength in ((8, 8.0), (60, 4.0)):
        coarse = rng.normal(0, strength, (cells * height // width + 1, cells)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(picture, 0, 255)
