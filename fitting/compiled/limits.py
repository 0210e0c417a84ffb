"""The losses of bone lengths, joint angles and shape of LANES hands, compiled: WiLoR's eq. 3. Rows are `fitting.compiled.layout`'s."""

import numpy as np
from jaxtyping import Float32

from fitting.compiled.functions import angle_of
from fitting.compiled.kernel import kernel
from fitting.compiled.lanes import Lanes, Rows, everywhere, load, root, size, store, where
from fitting.compiled.layout import BETAS, EXCESS, POINTS, ROTATIONS, SHAPE, Limits
from fitting.compiled.sums import add_products
from fitting.objective import NUM_UNKNOWNS

_FIRST_BETA = 48
_LENGTH_EXCESS = EXCESS + 200


@kernel
def _bone(w: Rows, limits: Limits, p: int) -> tuple[Lanes, Lanes, Lanes, Lanes, Lanes]:
    """Vector and length of the bone that ends at point p, and by which share the length is beyond its limits."""
    start, end = POINTS if p % 4 == 1 else POINTS + 3 * (p - 1), POINTS + 3 * p
    x, y, z = load(w, end) - load(w, start), load(w, end + 1) - load(w, start + 1), load(w, end + 2) - load(w, start + 2)
    squared = x * x + y * y + z * z
    length = root(where(squared > 1e-18, squared, 1e-18))
    low, high = limits.lengths[p - 1, 0], limits.lengths[p - 1, 1]
    excess = where(length > high, length - high, 0.0) - where(length < low, low - length, 0.0)
    return x, y, z, length, excess * limits.lengths[p - 1, 2]


@kernel
def bone_loss(w: Rows, limits: Limits) -> Lanes:
    """L_BL of posed points."""
    total = everywhere(0.0)
    for p in range(1, 21):
        _, _, _, _, excess = _bone(w, limits, p)
        total = total + excess * excess
    return total * (1 / 20)


@kernel
def add_bones(w: Rows, limits: Limits, weight: float, m: Rows) -> None:
    """Add L_BL's part to the normal equations: it touches the betas alone. Needs `shape_jacobian`."""
    n = NUM_UNKNOWNS
    for p in range(1, 21):
        x, y, z, length, excess = _bone(w, limits, p)
        share = where(size(excess) > 0.0, limits.lengths[p - 1, 2] / length, 0.0)
        for b in range(10):
            end, start = SHAPE + 30 * (p - 1) + b, SHAPE + 30 * (p - 2) + b
            along = x * load(w, end) + y * load(w, end + 10) + z * load(w, end + 20)
            if p % 4 != 1:
                along = along - (x * load(w, start) + y * load(w, start + 10) + z * load(w, start + 20))
            store(w, EXCESS + 10 * (p - 1) + b, along * share)
        store(w, _LENGTH_EXCESS + p - 1, excess)
    factor = 2 * weight / 20
    for i in range(0, 10, 5):
        column = _FIRST_BETA + i
        left = (EXCESS + i, 1, 10)
        for j in range(0, i + 1, 5):
            add_products(5, 5, m, (column * n + _FIRST_BETA + j, n), w, left, w, (EXCESS + j, 1, 10), 20, factor)
        add_products(1, 5, m, (n * n + column, n), w, (_LENGTH_EXCESS, 0, 1), w, left, 20, factor)


@kernel
def _seen_along(w: Rows, matrix: int, a: Float32[np.ndarray, "3"], b: Float32[np.ndarray, "3"]) -> Lanes:
    """a'(matrix b) for the matrix at rows `matrix`."""
    total = everywhere(0.0)
    for i in range(3):
        row = matrix + 3 * i
        total = total + (load(w, row) * b[0] + load(w, row + 1) * b[1] + load(w, row + 2) * b[2]) * a[i]
    return total


@kernel
def _local(w: Rows, at: int, axes: Float32[np.ndarray, "15 3 3"], j: int) -> tuple[Lanes, Lanes, Lanes, Lanes, Lanes]:
    """The entries that the angles are read from, of a joint's rotation in its own axes: 00, 01, 02, 11 and 21."""
    rotation, twist, bend, splay = at + ROTATIONS + 9 * j, axes[j, :, 0], axes[j, :, 1], axes[j, :, 2]
    return (
        _seen_along(w, rotation, twist, twist),
        _seen_along(w, rotation, twist, bend),
        _seen_along(w, rotation, twist, splay),
        _seen_along(w, rotation, bend, bend),
        _seen_along(w, rotation, splay, bend),
    )


@kernel
def _outside(hull: Float32[np.ndarray, "corners 5"], x: Lanes, y: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """From the nearest point of a polygon, zero inside; and whether that point is a corner: `fitting.losses.outside_hulls`."""
    inside = everywhere(0.0) == 0.0
    nearest, best_x, best_y = everywhere(1e30), everywhere(0.0), everywhere(0.0)
    corner = everywhere(0.0)
    for k in range(hull.shape[0]):
        gap_x, gap_y = x - hull[k, 0], y - hull[k, 1]
        edge_x, edge_y = hull[k, 2], hull[k, 3]
        inside = inside & (gap_y * edge_x - gap_x * edge_y >= 0.0)
        share = (gap_x * edge_x + gap_y * edge_y) * hull[k, 4]
        share = where(share < 0.0, 0.0, where(share > 1.0, 1.0, share))
        away_x, away_y = gap_x - share * edge_x, gap_y - share * edge_y
        squared = away_x * away_x + away_y * away_y
        nearer = squared < nearest
        nearest, best_x, best_y = where(nearer, squared, nearest), where(nearer, away_x, best_x), where(nearer, away_y, best_y)
        corner = where(nearer, where((share == 0.0) | (share == 1.0), 1.0, 0.0), corner)
    return where(inside, 0.0, best_x), where(inside, 0.0, best_y), where(inside, 0.0, corner)


@kernel
def _angle_excess(limits: Limits, j: int, local: tuple[Lanes, Lanes, Lanes, Lanes, Lanes]) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """Excess by which twist, bend and splay leave their limits, radians, signed; and whether a polygon's corner is nearest."""
    m00, m01, m02, m11, m21 = local
    twist, bend = angle_of(m21, m11), angle_of(m02, m00)
    splay = angle_of(0.0 - m01, root(m00 * m00 + m02 * m02 + 1e-12))
    low, high = limits.twist[j, 0], limits.twist[j, 1]
    beyond = where(twist > high, twist - high, 0.0) - where(twist < low, low - twist, 0.0)
    out_bend, out_splay, corner = _outside(limits.hulls[j], bend, splay)
    return beyond, out_bend, out_splay, corner


@kernel
def angle_loss(w: Rows, at: int, limits: Limits) -> Lanes:
    """L_A of the state at rows `at`."""
    total = everywhere(0.0)
    for j in range(15):
        twist, bend, splay, _ = _angle_excess(limits, j, _local(w, at, limits.axes, j))
        total = total + twist * twist + bend * bend + splay * splay
    return total * (1 / 15)


@kernel
def worst_violation(w: Rows, at: int, limits: Limits) -> Lanes:
    """Greatest excess of twist, or of bend and splay, over the limits of all joints, radians."""
    worst = everywhere(0.0)
    for j in range(15):
        twist, bend, splay, _ = _angle_excess(limits, j, _local(w, at, limits.axes, j))
        twist, flexion = size(twist), root(bend * bend + splay * splay)
        worst = where(twist > worst, twist, worst)
        worst = where(flexion > worst, flexion, worst)
    return worst


@kernel
def _rates(local: tuple[Lanes, Lanes, Lanes, Lanes, Lanes]) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """cos and sin of bend, cos and tan of splay, which the angles' Jacobian is made of; cos(splay) is at least 0.05."""
    m00, m01, m02, _, _ = local
    flat = m00 * m00 + m02 * m02
    length = root(where(flat < 1e-10, 1.0, flat))
    cos_bend, sin_bend = where(flat < 1e-10, 1.0, m00) / length, where(flat < 1e-10, 0.0, m02) / length
    whole = root(flat + 1e-12 + m01 * m01)
    cos_splay = root(flat + 1e-12) / whole
    cos_splay = where(cos_splay < 0.05, 0.05, cos_splay)
    return cos_bend, sin_bend, cos_splay, 0.0 - m01 / (whole * cos_splay)


@kernel
def _add_row(m: Rows, j: int, x: Lanes, y: Lanes, z: Lanes, excess: Lanes, factor: float) -> None:
    """Add to a joint's block of the normal equations factor * row'row, and to its gradient factor * excess * row."""
    n, first = NUM_UNKNOWNS, 3 * j
    row = (x, y, z)
    for a in range(3):
        for b in range(a + 1):
            entry = (first + a) * n + first + b
            store(m, entry, load(m, entry) + factor * row[a] * row[b])
        entry = n * n + first + a
        store(m, entry, load(m, entry) + factor * excess * row[a])


@kernel
def add_angles(w: Rows, at: int, limits: Limits, weight: float, m: Rows) -> Lanes:
    """Add L_A's part to the normal equations, and return L_A. On a polygon's side only the way out counts, at a corner both directions."""
    total, zero = everywhere(0.0), everywhere(0.0)
    factor = 2 * weight / 15
    for j in range(15):
        axes, local = limits.axes[j], _local(w, at, limits.axes, j)
        twist, bend, splay, corner = _angle_excess(limits, j, local)
        squared = bend * bend + splay * splay
        total = total + twist * twist + squared
        cos_bend, sin_bend, cos_splay, slope = _rates(local)
        beyond = where(size(twist) > 0.0, 1.0 / cos_splay, 0.0)
        _add_turned(m, j, axes, beyond * cos_bend, zero, beyond * sin_bend, twist, factor)
        distance = root(squared)
        length = where(distance > 0.0, distance, 1.0)
        both = corner > 0.0
        p, q = where(both, 1.0, bend / length), where(both, 0.0, splay / length)  # the way out, or bend alone
        excess = where(both, bend, distance)
        _add_turned(m, j, axes, p * slope * cos_bend - q * sin_bend, p, p * slope * sin_bend + q * cos_bend, excess, factor)
        q = where(both, 1.0, 0.0)  # splay alone
        _add_turned(m, j, axes, zero - q * sin_bend, zero, q * cos_bend, splay, factor)
    return total * (1 / 15)


@kernel
def _add_turned(m: Rows, j: int, axes: Float32[np.ndarray, "3 3"], x: Lanes, y: Lanes, z: Lanes, excess: Lanes, factor: float) -> None:
    """`_add_row` of a row given in the joint's own axes."""
    _add_row(
        m,
        j,
        x * axes[0, 0] + y * axes[0, 1] + z * axes[0, 2],
        x * axes[1, 0] + y * axes[1, 1] + z * axes[1, 2],
        x * axes[2, 0] + y * axes[2, 1] + z * axes[2, 2],
        excess,
        factor,
    )


@kernel
def add_shape(w: Rows, at: int, weight: float, m: Rows) -> Lanes:
    """Add the squared betas' part to the normal equations, and return their sum."""
    n, total = NUM_UNKNOWNS, everywhere(0.0)
    for column in range(_FIRST_BETA, _FIRST_BETA + 10):
        beta = load(w, at + BETAS + column - _FIRST_BETA)
        total = total + beta * beta
        store(m, column * n + column, load(m, column * n + column) + everywhere(2 * weight))
        store(m, n * n + column, load(m, n * n + column) + 2 * weight * beta)
    return total
