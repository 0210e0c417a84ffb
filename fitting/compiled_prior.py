"""The pose prior of LANES hands, compiled: WiLoR's eq. 4 by the factors of its quadratic form. Rows are `fitting.compiled_model`'s.

Bone k has the rotation G_k. A turn of joint j by G_j d moves its column u by (G_j d) x u, so that with S = sum of inertia * u v' over
the columns u behind joint i and v behind joint j, the skin's part of the Gauss-Newton block is G_i'(tr(S) I - S')G_j; and a covector e
on the columns pulls on the joint with the torque sum of u x e.
"""

from typing import no_type_check

import numba

from fitting.compiled_functions import turned_back
from fitting.compiled_lanes import TILE, add_products, everywhere, load, store, where
from fitting.compiled_model import AWAY, BONES, COMPONENT_ROWS, COMPONENTS, MOMENT, SLOPE
from fitting.objective import NUM_UNKNOWNS


@numba.njit(cache=True)
@no_type_check
def prior_loss(w, prior):
    """The prior's energy of the bone rotations, square metres; and for the equations the components and half the skin's slope."""
    for i in range(135):
        store(w, AWAY + i, load(w, BONES + i) - prior.centre[i])
        store(w, SLOPE + i, 0.0)
    for k in range(prior.pairs.shape[0]):
        to, of = SLOPE + 9 * prior.pairs[k, 0], AWAY + 9 * prior.pairs[k, 1]
        for i in range(0, 9, 3):
            x, y, z = load(w, of + i), load(w, of + i + 1), load(w, of + i + 2)
            for a in range(3):
                pull = x * prior.inertia[k, a, 0] + y * prior.inertia[k, a, 1] + z * prior.inertia[k, a, 2]
                store(w, to + i + a, load(w, to + i + a) + pull)
    x = y = z = everywhere(0.0)
    for i in range(0, 135, 3):
        x = x + load(w, AWAY + i) * (load(w, SLOPE + i) + 2 * prior.linear[i])
        y = y + load(w, AWAY + i + 1) * (load(w, SLOPE + i + 1) + 2 * prior.linear[i + 1])
        z = z + load(w, AWAY + i + 2) * (load(w, SLOPE + i + 2) + 2 * prior.linear[i + 2])
    total = (x + y) + (z + prior.constant)
    for c in range(prior.explained.shape[0]):
        x = y = z = everywhere(0.0)
        for i in range(0, 135, 3):
            x = x + load(w, AWAY + i) * prior.explained[c, i]
            y = y + load(w, AWAY + i + 1) * prior.explained[c, i + 1]
            z = z + load(w, AWAY + i + 2) * prior.explained[c, i + 2]
        value = x + y + z
        store(w, COMPONENTS + COMPONENT_ROWS * c + 45, value)
        total = total - value * value
    return where(total < 0.0, 0.0, total)


@numba.njit(cache=True)
@no_type_check
def add_prior(w, prior, weight, m):
    """Add the prior's part to the lower triangle of the normal equations m. Needs `prior_loss`."""
    for f in range(5):
        for g in range(f + 1):
            if prior.finger_starts[5 * f + g] < prior.finger_starts[5 * f + g + 1]:
                _add_skin(w, prior, f, g, 2 * weight, m)
    components = prior.explained.shape[0]
    for c in range(components):
        for f in range(5):
            _component_columns(w, prior, c, f)
    n = NUM_UNKNOWNS
    for i in range(0, 45, TILE):
        for j in range(0, i + 1, TILE):
            left, right = (COMPONENTS + i, 1, COMPONENT_ROWS), (COMPONENTS + j, 1, COMPONENT_ROWS)
            add_products(TILE, TILE, m, (i * n + j, n), w, left, w, right, components, -2 * weight)
    _add_slope(w, prior, 2 * weight, m)


@numba.njit(cache=True)
@no_type_check
def _component_columns(w, prior, c, f):
    """d component c / d turns of a finger's joints."""
    x = y = z = everywhere(0.0)
    for k in range(2, -1, -1):
        bone, column = BONES + 9 * (3 * f + k), 9 * (3 * f + k)
        for a in range(3):
            ux, uy, uz = load(w, bone + a), load(w, bone + 3 + a), load(w, bone + 6 + a)
            ex, ey, ez = prior.explained[c, column + a], prior.explained[c, column + 3 + a], prior.explained[c, column + 6 + a]
            x, y, z = x + uy * ez - uz * ey, y + uz * ex - ux * ez, z + ux * ey - uy * ex
        p, q, r = turned_back(w, bone, x, y, z)
        row = COMPONENTS + COMPONENT_ROWS * c + 9 * f + 3 * k
        store(w, row, p)
        store(w, row + 1, q)
        store(w, row + 2, r)


@numba.njit(cache=True)
@no_type_check
def _add_slope(w, prior, factor, m):
    """The gradient, from the torques of the slope in the bones' columns."""
    for i in range(135):
        x, y = load(w, SLOPE + i) + prior.linear[i], everywhere(0.0)
        for c in range(0, prior.explained.shape[0] - 1, 2):
            x = x - load(w, COMPONENTS + COMPONENT_ROWS * c + 45) * prior.explained[c, i]
            y = y - load(w, COMPONENTS + COMPONENT_ROWS * (c + 1) + 45) * prior.explained[c + 1, i]
        if prior.explained.shape[0] % 2:
            c = prior.explained.shape[0] - 1
            x = x - load(w, COMPONENTS + COMPONENT_ROWS * c + 45) * prior.explained[c, i]
        store(w, SLOPE + i, x + y)
    for f in range(5):
        x = y = z = everywhere(0.0)
        for k in range(2, -1, -1):
            bone, slope = BONES + 9 * (3 * f + k), SLOPE + 9 * (3 * f + k)
            for a in range(3):
                ux, uy, uz = load(w, bone + a), load(w, bone + 3 + a), load(w, bone + 6 + a)
                ex, ey, ez = load(w, slope + a), load(w, slope + 3 + a), load(w, slope + 6 + a)
                x, y, z = x + uy * ez - uz * ey, y + uz * ex - ux * ez, z + ux * ey - uy * ex
            p, q, r = turned_back(w, bone, x, y, z)
            row = NUM_UNKNOWNS * NUM_UNKNOWNS + 9 * f + 3 * k
            store(m, row, load(m, row) + factor * p)
            store(m, row + 1, load(m, row + 1) + factor * q)
            store(m, row + 2, load(m, row + 2) + factor * r)


@numba.njit(cache=True)
@no_type_check
def _add_skin(w, prior, f, g, factor, m):
    """The skin's blocks of fingers f >= g: moments of the bones behind every pair of joints, then what turns make of them."""
    for i in range(81):
        store(w, MOMENT + i, 0.0)
    for k in range(prior.finger_starts[5 * f + g], prior.finger_starts[5 * f + g + 1]):
        _add_moment(w, prior.inertia[k], prior.pairs[k, 0], prior.pairs[k, 1])
    for i in range(prior.reach[f, g]):
        for j in range(prior.reach[g, f] if f != g else i + 1):
            _add_turned_moment(w, MOMENT + 9 * (3 * i + j), 3 * f + i, 3 * g + j, factor, m)


@numba.njit(cache=True)
@no_type_check
def _add_moment(w, inertia, bone, other):
    """Add the moment of the skin shared by two bones to those of all pairs of joints that carry them."""
    left, right = BONES + 9 * bone, BONES + 9 * other
    for r in range(3):
        a, b, c = load(w, left + 3 * r), load(w, left + 3 * r + 1), load(w, left + 3 * r + 2)
        x = a * inertia[0, 0] + b * inertia[1, 0] + c * inertia[2, 0]
        y = a * inertia[0, 1] + b * inertia[1, 1] + c * inertia[2, 1]
        z = a * inertia[0, 2] + b * inertia[1, 2] + c * inertia[2, 2]
        for s in range(3):
            value = x * load(w, right + 3 * s) + y * load(w, right + 3 * s + 1) + z * load(w, right + 3 * s + 2)
            for i in range(bone % 3 + 1):
                for j in range(other % 3 + 1):
                    row = MOMENT + 9 * (3 * i + j) + 3 * r + s
                    store(w, row, load(w, row) + value)


@numba.njit(cache=True)
@no_type_check
def _add_turned_moment(w, moment, joint, other, factor, m):
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
