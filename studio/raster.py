"""The inner loops of the renderer: a z-buffer, and the light on every covered sample. Compiled once by numba, then cached.

Frame of reference: sample (column x, row y) lies at pixel coordinate (x, y); depth grows away from the camera. The loops run in a
fixed order or independently by row, so the same input gives the same bytes on one kind of processor, whatever the number of threads.
"""

import numba
import numpy as np
from jaxtyping import Float, Float32, Int, Int32

from fitting.compiled.kernel import kept

GRAIN_CELLS = 64
"""Side of the periodic noise volume that gives skin and cloth their grain."""

NEAR_M = 0.05
"""Triangles that come nearer to the camera are not drawn."""


@kept()
def fill(
    points: Float[np.ndarray, "n 2"],
    depth: Float[np.ndarray, "n"],
    faces: Int[np.ndarray, "f 3"],
    face_at: Int32[np.ndarray, "h w"],
    depth_at: Float32[np.ndarray, "h w"],
) -> None:
    """Draw triangles into a z-buffer: the nearest face of each sample, and its depth.

    points [n, 2] samples, depth [n] > 0, faces [f, 3]; face_at [h, w] (-1 where nothing) and depth_at [h, w] (inf) are written.
    Depth is interpolated through its inverse, which is exact under perspective.
    """
    height, width = face_at.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if min(depth[a], depth[b], depth[c]) < NEAR_M:
            continue
        ax, ay, bx, by, cx, cy = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(area) < 1e-9:
            continue
        inverse = 1 / area
        x0, x1 = max(int(np.ceil(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), width - 1)
        y0, y1 = max(int(np.ceil(min(ay, by, cy))), 0), min(int(np.floor(max(ay, by, cy))), height - 1)
        za, zb, zc = 1 / depth[a], 1 / depth[b], 1 / depth[c]
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                wb = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) * inverse
                wc = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) * inverse
                wa = 1 - wb - wc
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                z = 1 / (wa * za + wb * zb + wc * zc)
                if z < depth_at[y, x]:
                    depth_at[y, x] = z
                    face_at[y, x] = f


@kept(inline="always")
def _noise(volume: Float[np.ndarray, "n n n"], x: float, y: float, z: float) -> float:
    """Trilinear look-up in the periodic noise volume, coordinates in cells."""
    n = GRAIN_CELLS
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    u, v, w = x - fx, y - fy, z - fz
    i, j, k = int(fx) % n, int(fy) % n, int(fz) % n
    i2, j2, k2 = (i + 1) % n, (j + 1) % n, (k + 1) % n
    low = (volume[i, j, k] * (1 - u) + volume[i2, j, k] * u) * (1 - v) + (volume[i, j2, k] * (1 - u) + volume[i2, j2, k] * u) * v
    high = (volume[i, j, k2] * (1 - u) + volume[i2, j, k2] * u) * (1 - v) + (volume[i, j2, k2] * (1 - u) + volume[i2, j2, k2] * u) * v
    return low * (1 - w) + high * w


@kept()
def _palm_line(x: float, z: float) -> float:
    """Depth in [0, 1] of the three long creases of the palm at a place of the resting hand, metres (fingers towards -x, thumb +z)."""
    deepest = 0.0
    if z < 0.034 and x < 0.085:  # around the ball of the thumb
        away = np.sqrt((x - 0.056) ** 2 + (z - 0.040) ** 2) - 0.040
        deepest = max(deepest, np.exp(-((away / 0.0013) ** 2)))
    if -0.030 < z < 0.032:  # across the middle
        away = x - (0.008 + 0.40 * (0.032 - z))
        deepest = max(deepest, 0.9 * np.exp(-((away / 0.0013) ** 2)))
    if -0.046 < z < 0.014:  # below the fingers
        away = x - (0.004 + 0.011 * (0.014 - z) / 0.060 * (1 + (0.014 - z) / 0.060))
        deepest = max(deepest, 0.9 * np.exp(-((away / 0.0013) ** 2)))
    return deepest


@kept(inline="always")
def _colour(
    a: Float[np.ndarray, "14"],
    volume: Float[np.ndarray, "n n n"],
    open_: float,
    light: Float[np.ndarray, "3"],
    half: Float[np.ndarray, "3"],
) -> tuple[float, float, float]:
    """Red, green and blue in [0, 255] of one sample from its interpolated attributes; see `shade`."""
    grain, gloss, soft = a[11], a[12], a[13]
    fine = _noise(volume, a[6] * 700, a[7] * 700, a[8] * 700)
    broad = _noise(volume, a[6] * 110, a[7] * 110, a[8] * 110)
    tint = 1 + grain * (0.07 * fine + 0.05 * broad)
    flush = grain * soft * 0.03 * broad  # blood under the skin: redder and paler patches
    red, green, blue = a[3], a[4], a[5]
    along, back = a[9], a[10]
    if along > 1.6:
        near = along - np.floor(along + 0.5)
        if along < 3.4:  # creases inside, wrinkles outside the two outer joints
            depth = 0.20 if back < 0 else 0.12
            tint *= 1 - depth * np.exp(-((near / 0.05) ** 2)) * min(abs(back) * 2.0, 1.0)
        nail = min(max((along - 3.28) / 0.08, 0.0), 1.0) * min(max((back - 0.30) / 0.15, 0.0), 1.0)
        nail *= 0.6 * min(max((3.98 - along) / 0.04, 0.0), 1.0)
        red, green, blue = red + nail * (0.93 - red), green + nail * (0.74 - green), blue + nail * (0.68 - blue)
        gloss += nail
    elif back < -0.25:
        tint *= 1 - 0.22 * _palm_line(a[6], a[8]) * min(-1.5 * back, 1.0)
    if 1.2 < along < 1.7 and back < 0:  # where the fingers leave the palm
        tint *= 1 - 0.22 * np.exp(-(((along - 1.46) / 0.05) ** 2))
    norm = np.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2]) + 1e-12
    norm = -norm if a[2] > 0 else norm
    bump = grain * 0.10 * fine
    nx, ny, nz = a[0] / norm + bump, a[1] / norm - bump, a[2] / norm
    direct = max((nx * light[0] + ny * light[1] + nz * light[2] + 0.35 * soft) / (1 + 0.35 * soft), 0.0)
    lit = (0.38 - 0.08 * ny) * open_ + 0.74 * direct * (0.35 + 0.65 * open_)
    shine = 0.0
    if gloss > 0:
        shine = max(nx * half[0] + ny * half[1] + nz * half[2], 0.0) ** 22 * gloss * 0.16 * open_
    edge = 1 - min(max(-nz, 0.0), 1.0)
    bleed = soft * 0.10 * (1 - direct) * (1 - edge * edge * edge)  # light that comes through the skin is red
    red = min(((tint + flush) * red * lit + red * bleed + shine) * 255, 255.0)
    green = min((tint * green * lit + green * bleed * 0.25 + shine) * 255, 255.0)
    blue = min((tint * blue * lit + blue * bleed * 0.2 + shine) * 255, 255.0)
    return red, green, blue


@kept(parallel=True)
def shade(
    face_at: Int32[np.ndarray, "h w"],
    depth_at: Float32[np.ndarray, "h w"],
    points: Float[np.ndarray, "n 2"],
    faces: Int[np.ndarray, "f 3"],
    attributes: Float[np.ndarray, "n 14"],
    volume: Float[np.ndarray, "n n n"],
    openness: Float[np.ndarray, "height width"],
    light: Float[np.ndarray, "3"],
    supersample: int,
    image: Float32[np.ndarray, "height width 3"],
) -> None:
    """Light the covered samples and average them into pixels over `image`, in place.

    attributes [n, 14]: normal (3, camera axes), albedo (3), texture coordinate (3, metres at rest), place along the finger
    (0 outside fingers, 1 first joint, 2, 3, 4 the tip), share that faces the back of the hand (-1 to 1), grain, gloss, softness.
    openness [h, w] in [0, 1]: how much sky a pixel sees. light [3]: unit, towards the lamp. image [h, w, 3] float32 in [0, 255].
    A pixel whose samples lie on one smooth surface is lit once.
    """
    height, width = image.shape[0], image.shape[1]
    samples = supersample * supersample
    half = np.array([light[0], light[1], light[2] - 1.0])
    half /= np.sqrt((half**2).sum())
    for y in numba.prange(height):
        a = np.empty(14)
        for x in range(width):
            low, high, count = np.inf, 0.0, 0
            for sy in range(y * supersample, (y + 1) * supersample):
                for sx in range(x * supersample, (x + 1) * supersample):
                    if face_at[sy, sx] >= 0:
                        low, high, count = min(low, depth_at[sy, sx]), max(high, depth_at[sy, sx]), count + 1
            if count == 0:
                continue
            once = high - low < 0.002
            red = green = blue = 0.0
            lit = 0
            for sy in range(y * supersample, (y + 1) * supersample):
                for sx in range(x * supersample, (x + 1) * supersample):
                    f = face_at[sy, sx]
                    if f < 0 or (once and lit > 0):
                        continue
                    i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
                    ex, ey = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1]
                    gx, gy = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1]
                    px, py = sx - points[i, 0], sy - points[i, 1]
                    area = ex * gy - gx * ey
                    wj, wk = (px * gy - gx * py) / area, (ex * py - px * ey) / area
                    for c in range(14):
                        a[c] = attributes[i, c] * (1 - wj - wk) + attributes[j, c] * wj + attributes[k, c] * wk
                    r, g, b = _colour(a, volume, openness[y, x], light, half)
                    red, green, blue, lit = red + r, green + g, blue + b, lit + 1
            share = count / samples
            image[y, x, 0] += share * (red / lit - image[y, x, 0])
            image[y, x, 1] += share * (green / lit - image[y, x, 1])
            image[y, x, 2] += share * (blue / lit - image[y, x, 2])
