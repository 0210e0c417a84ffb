"""The pose prior of LANES hands, compiled: WiLoR's eq. 4 by the factors of its quadratic form. Rows are `fitting.compiled.layout`'s.

Bone k has the rotation G_k. A turn of joint j by G_j d moves its column u by (G_j d) x u, so that with S = sum of inertia * u v' over
the columns u behind joint i and v behind joint j, the skin's part of the Gauss-Newton block is G_i'(tr(S) I - S')G_j; and a covector e
on the columns pulls on the joint with the torque sum of u x e.
"""

import numpy as np
from jaxtyping import Float32

from fitting.compiled.functions import put_point, turned_back
from fitting.compiled.kernel import kernel
from fitting.compiled.lanes import TILE, Lanes, Rows, everywhere, load, number, store, where
from fitting.compiled.layout import AWAY, BONES, COMPONENT_ROWS, COMPONENTS, MOMENT, RESIDUAL, SLOPE, WIDTH, Prior, Table
from fitting.compiled.sums import add_scaled, set_products
from fitting.objective import NUM_UNKNOWNS


@kernel
def prior_loss(w: Rows, prior: Prior) -> Lanes:
    """The prior's energy of the bone rotations, square metres; and for the equations the residual."""
    total = everywhere(prior.constant)
    for i in range(135):
        away = load(w, BONES + i) - prior.centre[i]
        store(w, AWAY + i, away)
        total = total + away * (2 * prior.linear[i])
    _times(w, prior.residual, AWAY, RESIDUAL)
    x = y = z = everywhere(0.0)
    for i in range(RESIDUAL, RESIDUAL + 135, 3):
        x, y, z = x + load(w, i) * load(w, i), y + load(w, i + 1) * load(w, i + 1), z + load(w, i + 2) * load(w, i + 2)
    total = total + (x + y + z)
    return where(total < 0.0, 0.0, total)


@kernel
def _times(w: Rows, table: Table, at: int, out: int) -> None:
    """Rows out = the table's matrix times the rows from `at` on."""
    for block in range(len(table.starts) - 1):
        row = out + WIDTH * block
        for i in range(WIDTH):
            store(w, row + i, 0.0)
        add_scaled(WIDTH, w, row, table.entries, table.starts[block], table.starts[block + 1], table.columns, at)


@kernel
def set_prior(w: Rows, prior: Prior, weight: float, m: Rows) -> None:
    """Write the prior's part of the normal equations m: the joints' block, lower triangle, and gradient. Needs `prior_loss`."""
    components = prior.explained.shape[0]
    for c in range(components):
        for f in range(5):
            _component_columns(w, prior, c, f)
    n = NUM_UNKNOWNS
    for i in range(0, 45, TILE):
        for j in range(0, i + 1, TILE):
            left, right = (COMPONENTS + i, 1, COMPONENT_ROWS), (COMPONENTS + j, 1, COMPONENT_ROWS)
            set_products(TILE, TILE, m, (i * n + j, n), w, left, w, right, components, -2 * weight)
    for f in range(5):
        for g in range(f + 1):
            if prior.finger_starts[5 * f + g] < prior.finger_starts[5 * f + g + 1]:
                _add_skin(w, prior, f, g, 2 * weight, m)
    _set_slope(w, prior, 2 * weight, m)


@kernel
def _component_columns(w: Rows, prior: Prior, c: int, f: int) -> None:
    """d component c / d turns of a finger's joints."""
    x = y = z = everywhere(0.0)
    for k in range(2, -1, -1):
        bone, place = BONES + 9 * (3 * f + k), 135 * c + 9 * (3 * f + k)
        for a in range(3):
            ux, uy, uz = load(w, bone + a), load(w, bone + 3 + a), load(w, bone + 6 + a)
            ex, ey, ez = number(prior.explained, place + a), number(prior.explained, place + 3 + a), number(prior.explained, place + 6 + a)
            x, y, z = x + uy * ez - uz * ey, y + uz * ex - ux * ez, z + ux * ey - uy * ex
        p, q, r = turned_back(w, bone, x, y, z)
        put_point(w, COMPONENTS + COMPONENT_ROWS * c + 9 * f + 3 * k, p, q, r)


@kernel
def _set_slope(w: Rows, prior: Prior, factor: float, m: Rows) -> None:
    """The gradient, from the torques of the slope in the bones' columns."""
    _times(w, prior.slope, RESIDUAL, SLOPE)
    for i in range(135):
        store(w, SLOPE + i, load(w, SLOPE + i) + prior.linear[i])
    for f in range(5):
        x = y = z = everywhere(0.0)
        for k in range(2, -1, -1):
            bone, slope = BONES + 9 * (3 * f + k), SLOPE + 9 * (3 * f + k)
            for a in range(3):
                ux, uy, uz = load(w, bone + a), load(w, bone + 3 + a), load(w, bone + 6 + a)
                ex, ey, ez = load(w, slope + a), load(w, slope + 3 + a), load(w, slope + 6 + a)
                x, y, z = x + uy * ez - uz * ey, y + uz * ex - ux * ez, z + ux * ey - uy * ex
            p, q, r = turned_back(w, bone, x, y, z)
            put_point(m, NUM_UNKNOWNS * NUM_UNKNOWNS + 9 * f + 3 * k, p * factor, q * factor, r * factor)


@kernel
def _add_skin(w: Rows, prior: Prior, f: int, g: int, factor: float, m: Rows) -> None:
    """The skin's blocks of fingers f >= g: moments of the bones behind every pair of joints, then what turns make of them."""
    rows, columns = prior.reach[f, g], prior.reach[g, f]
    for i in range(81):
        store(w, MOMENT + i, 0.0)
    for k in range(prior.finger_starts[5 * f + g], prior.finger_starts[5 * f + g + 1]):
        bone, other = prior.pairs[k, 0], prior.pairs[k, 1]
        _put_moment(w, prior.inertia, 9 * k, bone, other, MOMENT + 9 * (3 * (bone - 3 * f) + other - 3 * g))
    for i in range(rows - 2, -1, -1):  # from the moments of bones to those of all that a joint carries
        for k in range(27):
            _add_row(w, MOMENT + 27 * i + k, MOMENT + 27 * (i + 1) + k)
    for j in range(columns - 2, -1, -1):
        for i in range(rows):
            for k in range(9):
                _add_row(w, MOMENT + 27 * i + 9 * j + k, MOMENT + 27 * i + 9 * (j + 1) + k)
    for i in range(rows):
        for j in range(columns if f != g else i + 1):
            _add_turned_moment(w, MOMENT + 9 * (3 * i + j), 3 * f + i, 3 * g + j, factor, m)


@kernel
def _add_row(w: Rows, to: int, of: int) -> None:
    store(w, to, load(w, to) + load(w, of))


@kernel
def _put_moment(w: Rows, inertia: Float32[np.ndarray, "couplings 3 3"], place: int, bone: int, other: int, moment: int) -> None:
    """Rows `moment`: of the skin shared by two bones, the sum of inertia * u v' over their columns."""
    left, right = BONES + 9 * bone, BONES + 9 * other
    for r in range(3):
        a, b, c = load(w, left + 3 * r), load(w, left + 3 * r + 1), load(w, left + 3 * r + 2)
        x = a * number(inertia, place) + b * number(inertia, place + 3) + c * number(inertia, place + 6)
        y = a * number(inertia, place + 1) + b * number(inertia, place + 4) + c * number(inertia, place + 7)
        z = a * number(inertia, place + 2) + b * number(inertia, place + 5) + c * number(inertia, place + 8)
        for s in range(3):
            value = x * load(w, right + 3 * s) + y * load(w, right + 3 * s + 1) + z * load(w, right + 3 * s + 2)
            store(w, moment + 3 * r + s, value)


@kernel
def _add_turned_moment(w: Rows, moment: int, joint: int, other: int, factor: float, m: Rows) -> None:
    """Add factor * G_i'(tr(S) I - S')G_j, with S at rows `moment`."""
    n = NUM_UNKNOWNS
    trace = load(w, moment) + load(w, moment + 4) + load(w, moment + 8)
    left, right = BONES + 9 * joint, BONES + 9 * other
    for b in range(3):
        ux, uy, uz = load(w, right + b), load(w, right + 3 + b), load(w, right + 6 + b)
        x, y, z = turned_back(w, moment, ux, uy, uz)
        x, y, z = turned_back(w, left, trace * ux - x, trace * uy - y, trace * uz - z)
        entry = 3 * joint * n + 3 * other + b
        store(m, entry, load(m, entry) + factor * x)
        store(m, entry + n, load(m, entry + n) + factor * y)
        store(m, entry + 2 * n, load(m, entry + 2 * n) + factor * z)
