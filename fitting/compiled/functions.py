"""Functions of lanes without branches: arc tangent, exponential, rotations, all right to about 1e-7; and 3 x 3 matrices."""

import math

from fitting.compiled.kernel import kernel
from fitting.compiled.lanes import Lanes, Rows, everywhere, load, root, rounded, size, store, where

_ARC_TANGENT = (
    0.999999985, -0.333330733, 0.199926194, -0.142036443, 0.106409332, -0.0750429274, 0.042691498, -0.0160686158, 0.00284988632
)  # fmt: skip
"""Of atan(x) / x in powers of x^2 on [0, 1], least relative error 1.5e-8."""
_EXPONENTIAL = tuple(1 / math.factorial(k) for k in range(11))
_SINE = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(7))
_COSINE = tuple((-1) ** k / math.factorial(2 * k) for k in range(8))
_PI_HIGH, _PI_LOW = 3.140625, math.pi - 3.140625


@kernel
def _polynomial(coefficients: tuple[float, ...], x: Lanes) -> Lanes:
    total = everywhere(coefficients[-1])
    for k in range(1, len(coefficients)):
        total = total * x + coefficients[-1 - k]
    return total


@kernel
def angle_of(y: Lanes, x: Lanes) -> Lanes:
    """atan2(y, x); 0 where x^2 + y^2 < 1e-10, as `fitting.hand.anatomy.decompose` has it."""
    tall, wide = size(y), size(x)
    steep = tall > wide
    longer = where(steep, tall, wide)
    ratio = where(steep, wide, tall) / where(longer > 0.0, longer, 1.0)
    angle = ratio * _polynomial(_ARC_TANGENT, ratio * ratio)
    angle = where(steep, math.pi / 2 - angle, angle)
    angle = where(x < 0.0, math.pi - angle, angle)
    angle = where(y < 0.0, 0.0 - angle, angle)
    return where(x * x + y * y < 1e-10, 0.0, angle)


@kernel
def exponential(x: Lanes) -> Lanes:
    """e to the power x in [-1, 1]."""
    return _polynomial(_EXPONENTIAL, x)


@kernel
def half_turn_parts(squared: Lanes) -> tuple[Lanes, Lanes]:
    """sin(a) / a and (1 - cos(a)) / a^2 of an angle's square, by the sine and cosine of its half: the factors of Rodrigues' formula.

    Their products do not notice that the half is reduced to [-pi/2, pi/2], where only the sign of both changes.
    """
    half = 0.5 * root(squared)
    turns = rounded(half * (1 / math.pi))
    reduced = (half - turns * _PI_HIGH) - turns * _PI_LOW
    square = reduced * reduced
    share = _polynomial(_SINE, square)
    share = where(turns == 0.0, share, share * reduced / where(turns == 0.0, 1.0, half))
    return share * _polynomial(_COSINE, square), 0.5 * share * share


@kernel
def turn_right(w: Rows, out: int, matrix: int, x: Lanes, y: Lanes, z: Lanes) -> None:
    """Rows out: the rotation at rows `matrix`, turned on its right by the vector (x, y, z), radians."""
    a, b = half_turn_parts(x * x + y * y + z * z)
    e00, e01, e02 = 1.0 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y
    e10, e11, e12 = b * x * y + a * z, 1.0 - b * (x * x + z * z), b * y * z - a * x
    e20, e21, e22 = b * x * z - a * y, b * y * z + a * x, 1.0 - b * (x * x + y * y)
    for i in range(0, 9, 3):
        r0, r1, r2 = load(w, matrix + i), load(w, matrix + i + 1), load(w, matrix + i + 2)
        store(w, out + i, r0 * e00 + r1 * e10 + r2 * e20)
        store(w, out + i + 1, r0 * e01 + r1 * e11 + r2 * e21)
        store(w, out + i + 2, r0 * e02 + r1 * e12 + r2 * e22)


@kernel
def multiply(w: Rows, out: int, left: int, right: int) -> None:
    """Rows out = the matrix at rows `left` times that at rows `right`."""
    for i in range(0, 9, 3):
        a, b, c = load(w, left + i), load(w, left + i + 1), load(w, left + i + 2)
        for j in range(3):
            store(w, out + i + j, a * load(w, right + j) + b * load(w, right + 3 + j) + c * load(w, right + 6 + j))


@kernel
def turned(w: Rows, matrix: int, x: Lanes, y: Lanes, z: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """The matrix at rows `matrix` times a vector."""
    return (
        load(w, matrix) * x + load(w, matrix + 1) * y + load(w, matrix + 2) * z,
        load(w, matrix + 3) * x + load(w, matrix + 4) * y + load(w, matrix + 5) * z,
        load(w, matrix + 6) * x + load(w, matrix + 7) * y + load(w, matrix + 8) * z,
    )


@kernel
def turned_back(w: Rows, matrix: int, x: Lanes, y: Lanes, z: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """The transposed matrix at rows `matrix` times a vector."""
    return (
        load(w, matrix) * x + load(w, matrix + 3) * y + load(w, matrix + 6) * z,
        load(w, matrix + 1) * x + load(w, matrix + 4) * y + load(w, matrix + 7) * z,
        load(w, matrix + 2) * x + load(w, matrix + 5) * y + load(w, matrix + 8) * z,
    )


@kernel
def put_point(w: Rows, row: int, x: Lanes, y: Lanes, z: Lanes) -> None:
    """Write three rows."""
    store(w, row, x)
    store(w, row + 1, y)
    store(w, row + 2, z)
