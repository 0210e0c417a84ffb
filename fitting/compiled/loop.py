"""Levenberg-Marquardt on a queue of hands, LANES at a time: a lane whose hand has finished takes the next one at once. Compiled.

The rules are those of `fitting.solver`. A hand's numbers never leave its lane, so its result does not depend on the others.

The three functions that Python calls are kept on disk once compiled; `sources` is `fitting.compiled.layout.SOURCES`.
"""

import logging

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from fitting.compiled.cholesky import damped_factor, solve_step
from fitting.compiled.functions import exponential, turn_right
from fitting.compiled.kernel import kept, kernel
from fitting.compiled.lanes import LANES, Lanes, Rows, everywhere, load, store, where
from fitting.compiled.layout import (
    BETAS,
    HERE,
    MEASURES,
    PARTS,
    POINTS,
    ROOT,
    ROTATIONS,
    SCALE,
    SEEN,
    SHIFT,
    STATE,
    STEP,
    TRIAL,
    TURNS,
    Constants,
)
from fitting.compiled.limits import add_angles, add_bones, add_shape, angle_loss, bone_loss, worst_violation
from fitting.compiled.mesh import Mesh, outline
from fitting.compiled.pose import add_landmarks, landmark_loss, pose, shape_jacobian
from fitting.compiled.prior import prior_loss, set_prior
from fitting.objective import NUM_UNKNOWNS
from fitting.solver import EASED, MAX_DAMPING, MIN_DAMPING, RAISED

_log = logging.getLogger(__name__)

_LONGEST_STEP = 1e6
"""Of the norm of a step, radians and units alike: a longer one is no step but a sign that the equations could not be solved."""

TOTAL, DAMPING, VALUE, LOWERED, LANE_ROWS = 0, 1, 2, 3, 4
"""Rows of what the loop keeps of its lanes."""


@kernel
def losses(w: Rows, at: int, constants: Constants) -> tuple[Lanes, Lanes, Lanes, Lanes, Lanes, Lanes]:
    """Reprojection, bone, angle, prior, shape and depth losses of the state at rows `at`, unweighted."""
    pose(w, at, constants.hand)
    flat, deep = landmark_loss(w, at, constants.weights)
    shape = everywhere(0.0)
    for b in range(10):
        beta = load(w, at + BETAS + b)
        shape = shape + beta * beta
    return flat, bone_loss(w, constants.limits), angle_loss(w, at, constants.limits), prior_loss(w, constants.prior), shape, deep


@kernel
def total_loss(w: Rows, at: int, constants: Constants) -> Lanes:
    """The weighted sum that is minimised."""
    flat, bone, angle, prior, shape, deep = losses(w, at, constants)
    weights = constants.weights
    return flat + weights.bone * bone + weights.angle * angle + weights.prior * prior + weights.shape * shape + weights.depth * deep


@kernel
def normal_equations(w: Rows, constants: Constants, m: Rows) -> Lanes:
    """Lower triangle and, as last row, gradient of the normal equations at the state at rows HERE; returns the weighted sum."""
    weights = constants.weights
    pose(w, HERE, constants.hand)
    flat, deep = landmark_loss(w, HERE, weights)
    prior = prior_loss(w, constants.prior)
    set_prior(w, constants.prior, weights.prior, m)
    shape_jacobian(w, HERE, constants.hand)
    add_landmarks(w, HERE, constants.hand, 3 if weights.depth > 0 else 2, weights.perspective, m)
    bone = bone_loss(w, constants.limits)
    add_bones(w, constants.limits, weights.bone, m)
    angle = add_angles(w, HERE, constants.limits, weights.angle, m)
    shape = add_shape(w, HERE, weights.shape, m)
    return flat + weights.bone * bone + weights.angle * angle + weights.prior * prior + weights.shape * shape + weights.depth * deep


@kernel
def _move(w: Rows, sound: Lanes) -> None:
    """Rows TRIAL: the state after the step, or the same state in lanes without a sound one."""
    for j in range(16):
        matrix, step = ROTATIONS + 9 * j if j < 15 else ROOT, STEP + 3 * j
        turn_right(w, TRIAL + matrix, HERE + matrix, _kept(w, step, sound), _kept(w, step + 1, sound), _kept(w, step + 2, sound))
    for b in range(10):
        store(w, TRIAL + BETAS + b, load(w, HERE + BETAS + b) + _kept(w, STEP + 48 + b, sound))
    growth = _kept(w, STEP + 58, sound)
    growth = where(growth < -1.0, -1.0, where(growth > 1.0, 1.0, growth))
    store(w, TRIAL + SCALE, load(w, HERE + SCALE) * exponential(growth))
    for c in range(2):
        store(w, TRIAL + SHIFT + c, load(w, HERE + SHIFT + c) + _kept(w, STEP + 59 + c, sound))


@kernel
def _kept(w: Rows, row: int, sound: Lanes) -> Lanes:
    return where(sound > 0.0, load(w, row), 0.0)


@kernel
def _step(w: Rows, m: Rows, lane: Rows, constants: Constants) -> None:
    """One damped step of every lane: state, row VALUE (total of the trial) and row LOWERED."""
    sound = damped_factor(m, load(lane, DAMPING))
    solve_step(w, m)
    squared = everywhere(0.0)
    for i in range(NUM_UNKNOWNS):
        squared = squared + load(w, STEP + i) * load(w, STEP + i)
    sound = where(squared < _LONGEST_STEP * _LONGEST_STEP, sound, 0.0)
    _move(w, sound)
    value = total_loss(w, TRIAL, constants)
    lowered = (sound > 0.0) & (value < load(lane, TOTAL))
    for i in range(STATE):
        store(w, HERE + i, where(lowered, load(w, TRIAL + i), load(w, HERE + i)))
    store(lane, VALUE, value)
    store(lane, LOWERED, where(lowered, 1.0, 0.0))


@kernel
def put(w: Rows, at: int, column: int, values: Float32[np.ndarray, "n"]) -> None:
    """Write one hand's values into a column of rows."""
    for i in range(values.shape[0]):
        w[at + i, column] = values[i]


@kept(nogil=True)
def solve_queue(
    sources: Shaped[np.ndarray, "0"],
    states: Float32[np.ndarray, "n 157"],
    landmarks: Float32[np.ndarray, "n 106"],
    damping: Float32[np.ndarray, "n"],
    constants: Constants,
    w: Rows,
    m: Rows,
    lane: Rows,
    num_iterations: int,
    tolerance: float,
    total: Float32[np.ndarray, "n"],
    converged: Bool[np.ndarray, "n"],
    used: Int64[np.ndarray, "n"],
) -> None:
    """Fit hands, one row each of states [n, 157], landmarks [n, 106] and damping [n], in place; total, converged, used [n] are written."""
    waiting, busy = 0, 0
    hand = np.full(LANES, -1)
    fresh = np.zeros(LANES, np.bool_)
    for column in range(LANES):
        row = min(column, len(states) - 1)  # a lane without a hand computes what another does
        put(w, HERE, column, states[row])
        put(w, SEEN, column, landmarks[row])
        lane[DAMPING, column] = damping[row]
        if column < len(states):
            hand[column], fresh[column] = column, True
            waiting, busy = waiting + 1, busy + 1
    while busy:
        store(lane, VALUE, normal_equations(w, constants, m))
        for column in range(LANES):
            if fresh[column]:
                lane[TOTAL, column], fresh[column] = lane[VALUE, column], False
        _step(w, m, lane, constants)
        for column in range(LANES):
            row = hand[column]
            if row < 0:
                continue
            before, lowered = lane[TOTAL, column], lane[LOWERED, column] > 0
            grown = max(lane[DAMPING, column] * (EASED if lowered else RAISED), MIN_DAMPING)
            lane[DAMPING, column] = grown
            used[row] += 1
            done = grown > MAX_DAMPING
            if lowered:
                lane[TOTAL, column] = lane[VALUE, column]
                done = done or (before - lane[VALUE, column]) < tolerance * max(before, 1e-12)
            if not done and used[row] < num_iterations:
                continue
            converged[row], total[row], damping[row] = done, lane[TOTAL, column], grown
            for i in range(STATE):
                states[row, i] = w[HERE + i, column]
            if waiting < len(states):
                put(w, HERE, column, states[waiting])
                put(w, SEEN, column, landmarks[waiting])
                lane[DAMPING, column] = damping[waiting]
                hand[column], fresh[column] = waiting, True
                waiting += 1
            else:
                hand[column] = -1
                busy -= 1


@kernel
def _get(w: Rows, at: int, column: int, values: Float32[np.ndarray, "n"]) -> None:
    """Read one hand's values from a column of rows."""
    for i in range(values.shape[0]):
        values[i] = w[at + i, column]


@kept(nogil=True)
def evaluate(
    sources: Shaped[np.ndarray, "0"],
    states: Float32[np.ndarray, "n 157"],
    landmarks: Float32[np.ndarray, "n 106"],
    constants: Constants,
    w: Rows,
    m: Rows,
    matrix: Float32[np.ndarray, "m 61 61"],
    gradient: Float32[np.ndarray, "m 61"],
    values: Float32[np.ndarray, "n 6"],
    points: Float32[np.ndarray, "n 63"],
    turns: Float32[np.ndarray, "n 135"],
    parts: Float32[np.ndarray, "n 60"],
) -> None:
    """Normal equations (where `matrix` has rows), the six losses (values [n, 6]) and the posed joints of hands, one row each."""
    for first in range(0, len(states), LANES):
        for column in range(LANES):
            row = min(first + column, len(states) - 1)
            put(w, HERE, column, states[row])
            put(w, SEEN, column, landmarks[row])
        if len(matrix):
            normal_equations(w, constants, m)
            for column in range(min(LANES, len(states) - first)):
                _get_equations(m, column, matrix[first + column], gradient[first + column])
        for k, value in enumerate(losses(w, HERE, constants)):
            store(w, STEP + k, value)
        for column in range(min(LANES, len(states) - first)):
            row = first + column
            _get(w, STEP, column, values[row])
            _get(w, POINTS, column, points[row])
            _get(w, TURNS, column, turns[row])
            _get(w, PARTS, column, parts[row])


@kept(nogil=True)
def measure(
    sources: Shaped[np.ndarray, "0"],
    states: Float32[np.ndarray, "n 157"],
    landmarks: Float32[np.ndarray, "n 106"],
    constants: Constants,
    mesh: Mesh,
    w: Rows,
    joints: Float32[np.ndarray, "n 63"],
    values: Float32[np.ndarray, "n 11"],
) -> None:
    """Joints [n, 21, 3] of hands, one row each, and into values [n, 11] the losses, the box (box sides) and the worst violation."""
    for first in range(0, len(states), LANES):
        for column in range(LANES):
            row = min(first + column, len(states) - 1)
            put(w, HERE, column, states[row])
            put(w, SEEN, column, landmarks[row])
        for k, value in enumerate(losses(w, HERE, constants)):
            store(w, MEASURES + k, value)
        scale = load(w, HERE + SCALE)
        for k, edge in enumerate(outline(w, HERE, constants.hand, mesh)):
            store(w, MEASURES + 6 + k, edge * scale + load(w, HERE + SHIFT + k % 2))
        store(w, MEASURES + 10, worst_violation(w, HERE, constants.limits))
        for column in range(min(LANES, len(states) - first)):
            _get(w, POINTS, column, joints[first + column])
            _get(w, MEASURES, column, values[first + column])


@kernel
def _get_equations(m: Rows, column: int, matrix: Float32[np.ndarray, "61 61"], gradient: Float32[np.ndarray, "61"]) -> None:
    n = NUM_UNKNOWNS
    for i in range(n):
        gradient[i] = m[n * n + i, column]
        for j in range(i + 1):
            matrix[i, j] = matrix[j, i] = m[i * n + j, column]
