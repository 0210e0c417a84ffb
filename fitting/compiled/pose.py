"""Forward kinematics and the landmarks' losses of LANES hands, compiled: WiLoR's eq. 2. Rows are `fitting.compiled.layout`'s."""

import numpy as np
from jaxtyping import Float32

from fitting.compiled.functions import multiply, put_point, turned
from fitting.compiled.kernel import kernel
from fitting.compiled.lanes import TILE, Lanes, Rows, everywhere, load, root, store, where
from fitting.compiled.layout import (
    BETAS,
    BONES,
    COLUMNS,
    CONFIDENCE,
    DEPTH,
    DEPTH_CONFIDENCE,
    GAP,
    JACOBIAN,
    KEYPOINTS,
    NEAR,
    PARTS,
    PERSPECTIVE,
    POINTS,
    PULL,
    ROOT,
    ROTATIONS,
    SCALE,
    SEEN,
    SHAPE,
    SHIFT,
    TURNS,
    Hand,
    Weights,
)
from fitting.compiled.sums import add_products, set_products
from fitting.objective import NEAREST, NUM_UNKNOWNS

_WIDTH = COLUMNS + 1
"""Of the Jacobian's rows, with the residual."""
_COMMON = 4 if TILE > 4 else 2
"""Width of a block of the equations that all fingers share, four high: its sums fit the registers beside their factors."""


@kernel
def pose(w: Rows, at: int, hand: Hand) -> None:
    """Posed points, bone rotations and tip parts of the state at rows `at`."""
    for f in range(5):
        for k in range(3):
            bone, local = BONES + 9 * (3 * f + k), at + ROTATIONS + 9 * (3 * f + k)
            if k == 0:
                for i in range(9):
                    store(w, bone + i, load(w, local + i))
            else:
                multiply(w, bone, bone - 9, local)
            multiply(w, TURNS + 9 * (3 * f + k), at + ROOT, bone)
    for c in range(3):
        store(w, POINTS + c, 0.0)
    for f in range(5):
        _pose_finger(w, at, hand, f)


@kernel
def shaped(w: Rows, at: int, mean: Float32[np.ndarray, "3"], shape: Float32[np.ndarray, "3 10"], c: int) -> Lanes:
    """A length that is affine in the betas."""
    value = everywhere(mean[c])
    for b in range(10):
        value = value + load(w, at + BETAS + b) * shape[c, b]
    return value


@kernel
def _rest_tip(w: Rows, at: int, hand: Hand, f: int) -> tuple[Lanes, Lanes, Lanes]:
    """The tip of a finger before it is posed, with its pose correctives."""
    x, y, z = (
        shaped(w, at, hand.tips[f], hand.tips_shape[f], 0),
        shaped(w, at, hand.tips[f], hand.tips_shape[f], 1),
        shaped(w, at, hand.tips[f], hand.tips_shape[f], 2),
    )
    for k in range(hand.corrective_starts[f], hand.corrective_starts[f + 1]):
        entry = load(w, at + ROTATIONS + hand.corrective_rows[k])
        x, y, z = x + entry * hand.correctives[k, 0], y + entry * hand.correctives[k, 1], z + entry * hand.correctives[k, 2]
    return x, y, z


@kernel
def _pose_finger(w: Rows, at: int, hand: Hand, f: int) -> None:
    tip_x, tip_y, tip_z = _rest_tip(w, at, hand, f)
    x = y = z = everywhere(0.0)  # of the joint, posed
    turn = at + ROOT
    out_x, out_y, out_z = turned(w, turn, tip_x, tip_y, tip_z)
    put_point(w, PARTS + 12 * f, out_x, out_y, out_z)
    share = hand.tip_weights[f, 0]
    out_x, out_y, out_z = out_x * share, out_y * share, out_z * share
    for k in range(3):
        mean, shape = hand.bones[f, k], hand.bones_shape[f, k]
        bone_x, bone_y, bone_z = shaped(w, at, mean, shape, 0), shaped(w, at, mean, shape, 1), shaped(w, at, mean, shape, 2)
        move_x, move_y, move_z = turned(w, turn, bone_x, bone_y, bone_z)
        x, y, z = x + move_x, y + move_y, z + move_z
        put_point(w, POINTS + 3 * (1 + 4 * f + k), x, y, z)
        tip_x, tip_y, tip_z = tip_x - bone_x, tip_y - bone_y, tip_z - bone_z
        turn = TURNS + 9 * (3 * f + k)
        move_x, move_y, move_z = turned(w, turn, tip_x, tip_y, tip_z)
        part_x, part_y, part_z = x + move_x, y + move_y, z + move_z
        put_point(w, PARTS + 12 * f + 3 * (k + 1), part_x, part_y, part_z)
        share = hand.tip_weights[f, k + 1]
        out_x, out_y, out_z = out_x + part_x * share, out_y + part_y * share, out_z + part_z * share
    put_point(w, POINTS + 3 * (4 + 4 * f), out_x, out_y, out_z)


@kernel
def _robust(squared: Lanes, scale: float) -> tuple[Lanes, Lanes]:
    """Robust form of a squared distance: the distance, linear beyond `scale`, and the weight of its square."""
    distance = root(squared)
    far = distance > scale
    return where(far, distance - 0.5 * scale, squared * (0.5 / scale)), 1.0 / where(far, distance, scale)


@kernel
def _gap_in_perspective(w: Rows, at: int, p: int) -> tuple[Lanes, Lanes]:
    """Projected minus seen of a point by true rays; and its rows of NEAR."""
    scale, perspective = load(w, at + SCALE), load(w, SEEN + PERSPECTIVE)
    depth = 1.0 + perspective * (scale * load(w, POINTS + 3 * p + 2))
    near = 1.0 / where(depth > NEAREST, depth, NEAREST)
    image_x = near * (scale * load(w, POINTS + 3 * p) + load(w, at + SHIFT))
    image_y = near * (scale * load(w, POINTS + 3 * p + 1) + load(w, at + SHIFT + 1))
    put_point(w, NEAR + 3 * p, near, perspective * image_x, perspective * image_y)
    return image_x - load(w, SEEN + KEYPOINTS + 2 * p), image_y - load(w, SEEN + KEYPOINTS + 2 * p + 1)


@kernel
def landmark_loss(w: Rows, at: int, weights: Weights) -> tuple[Lanes, Lanes]:
    """Reprojection and depth losses, and for the equations residuals and the roots of their weights."""
    scale = load(w, at + SCALE)
    flat = deep = everywhere(0.0)
    for p in range(21):
        if weights.perspective:
            gap_x, gap_y = _gap_in_perspective(w, at, p)
        else:
            gap_x = scale * load(w, POINTS + 3 * p) + load(w, at + SHIFT) - load(w, SEEN + KEYPOINTS + 2 * p)
            gap_y = scale * load(w, POINTS + 3 * p + 1) + load(w, at + SHIFT + 1) - load(w, SEEN + KEYPOINTS + 2 * p + 1)
        gap_z = scale * load(w, POINTS + 3 * p + 2) - load(w, SEEN + DEPTH + p)
        loss, weight = _robust(gap_x * gap_x + gap_y * gap_y, weights.robust_scale)
        confidence = load(w, SEEN + CONFIDENCE + p)
        flat = flat + confidence * loss
        store(w, PULL + p, root(confidence * weight))
        loss, weight = _robust(gap_z * gap_z, weights.depth_scale)
        confidence = load(w, SEEN + DEPTH_CONFIDENCE + p)
        deep = deep + confidence * loss
        store(w, PULL + 21 + p, root(weights.depth * confidence * weight))
        store(w, GAP + p, gap_x)
        store(w, GAP + 21 + p, gap_y)
        store(w, GAP + 42 + p, gap_z)
    return flat, deep


@kernel
def shape_jacobian(w: Rows, at: int, hand: Hand) -> None:
    """d points / d betas, metres a unit, of the 20 finger points."""
    for f in range(5):
        for b in range(10):
            x = y = z = everywhere(0.0)
            turn = at + ROOT
            part = hand.tips_carried[f, 0]
            tip_x, tip_y, tip_z = turned(w, turn, part[0, b], part[1, b], part[2, b])
            for k in range(3):
                bone = hand.bones_shape[f, k]
                move_x, move_y, move_z = turned(w, turn, bone[0, b], bone[1, b], bone[2, b])
                x, y, z = x + move_x, y + move_y, z + move_z
                row = SHAPE + 30 * (4 * f + k) + b
                store(w, row, x)
                store(w, row + 10, y)
                store(w, row + 20, z)
                turn = TURNS + 9 * (3 * f + k)
                part = hand.tips_carried[f, k + 1]
                move_x, move_y, move_z = turned(w, turn, part[0, b], part[1, b], part[2, b])
                share = hand.tip_weights[f, k + 1]
                tip_x, tip_y, tip_z = tip_x + move_x + x * share, tip_y + move_y + y * share, tip_z + move_z + z * share
            row = SHAPE + 30 * (4 * f + 3) + b
            store(w, row, tip_x)
            store(w, row + 10, tip_y)
            store(w, row + 20, tip_z)


@kernel
def _lever(w: Rows, hand: Hand, f: int, k: int, j: int) -> tuple[Lanes, Lanes, Lanes]:
    """From joint j of a finger to its point k, weighted: what a turn of the joint moves."""
    origin = POINTS + 3 * (1 + 4 * f + j)
    if k < 3:
        point = POINTS + 3 * (1 + 4 * f + k)
        return load(w, point) - load(w, origin), load(w, point + 1) - load(w, origin + 1), load(w, point + 2) - load(w, origin + 2)
    x = y = z = everywhere(0.0)
    for m in range(j + 1, 4):
        part, share = PARTS + 12 * f + 3 * m, hand.tip_weights[f, m]
        x = x + (load(w, part) - load(w, origin)) * share
        y = y + (load(w, part + 1) - load(w, origin + 1)) * share
        z = z + (load(w, part + 2) - load(w, origin + 2)) * share
    return x, y, z


@kernel
def _turn_columns(w: Rows, near: int, turn: int, row: int, column: int, x: Lanes, y: Lanes, z: Lanes, pull: Lanes, pull_z: Lanes) -> None:
    """Three columns of the Jacobian: (turn e_m) x lever, weighted; rows x, y, z lie four apart. `near`: the point's rows in NEAR, or -1."""
    for m in range(3):
        a, b, c = load(w, turn + m), load(w, turn + 3 + m), load(w, turn + 6 + m)
        if near < 0:
            store(w, row + column + m, (b * z - c * y) * pull)
            store(w, row + 4 * _WIDTH + column + m, (c * x - a * z) * pull)
        else:
            deep = a * y - b * x
            store(w, row + column + m, ((b * z - c * y) - load(w, near + 1) * deep) * pull)
            store(w, row + 4 * _WIDTH + column + m, ((c * x - a * z) - load(w, near + 2) * deep) * pull)
        store(w, row + 8 * _WIDTH + column + m, (a * y - b * x) * pull_z)


@kernel
def _point_rows(w: Rows, at: int, hand: Hand, f: int, k: int, perspective: bool) -> None:
    """The three rows of point k of a finger, and their residuals, both times the root of the weight."""
    p, row = 1 + 4 * f + k, JACOBIAN + k * _WIDTH
    flat, deep, near = load(w, PULL + p), load(w, PULL + 21 + p), -1
    if perspective:
        near = NEAR + 3 * p
        flat = flat * load(w, near)
    scale = load(w, at + SCALE)
    pull, pull_z = scale * flat, scale * deep
    for j in range(3):
        if j < k:
            x, y, z = _lever(w, hand, f, k, j)
            _turn_columns(w, near, TURNS + 9 * (3 * f + j), row, 3 * j, x, y, z, pull, pull_z)
        else:
            zero = everywhere(0.0)
            _turn_columns(w, near, TURNS, row, 3 * j, zero, zero, zero, zero, zero)
    point = POINTS + 3 * p
    _turn_columns(w, near, at + ROOT, row, 9, load(w, point), load(w, point + 1), load(w, point + 2), pull, pull_z)
    for c in range(3):
        along = row + 4 * c * _WIDTH
        weight = flat if c < 2 else deep
        for b in range(10):
            store(w, along + 12 + b, load(w, SHAPE + 30 * (p - 1) + 10 * c + b) * scale * weight)
        store(w, along + 22, load(w, point + c) * scale * weight)
        store(w, along + 23, flat if c == 0 else everywhere(0.0))
        store(w, along + 24, flat if c == 1 else everywhere(0.0))
        store(w, along + COLUMNS, load(w, GAP + 21 * c + p) * weight)
    if perspective:
        _fall(w, row, p, scale * flat)


@kernel
def _fall(w: Rows, row: int, p: int, pull: Lanes) -> None:
    """Make the rows x and y of a point those of perspective, where it is not done: what its depth takes of its image, and the residual."""
    for c in range(2):
        along, falls = row + 4 * c * _WIDTH, load(w, NEAR + 3 * p + 1 + c) * pull
        for b in range(10):
            store(w, along + 12 + b, load(w, along + 12 + b) - falls * load(w, SHAPE + 30 * (p - 1) + 20 + b))
        store(w, along + 22, load(w, along + 22) - falls * load(w, POINTS + 3 * p + 2))
        store(w, along + COLUMNS, load(w, GAP + 21 * c + p) * load(w, PULL + p))


@kernel
def add_landmarks(w: Rows, at: int, hand: Hand, num_axes: int, perspective: bool, m: Rows) -> None:
    """Add the landmarks' part to the joints' blocks and gradient of the normal equations m, and write all other rows.

    The gradient is m's last row; only the lower triangle counts. `num_axes` is 2, or 3 with depths. Needs `landmark_loss` and
    `shape_jacobian`.
    """
    n = NUM_UNKNOWNS
    for f in range(5):
        for k in range(4):
            _point_rows(w, at, hand, f, k, perspective)
        for i in range(0, 9, 3):
            for j in range(0, i + 1, 3):
                place = (9 * f + i) * n + 9 * f + j
                add_products(3, 3, m, (place, n), w, _column(i), w, _column(j), 4 * num_axes, 1.0)
            add_products(1, 3, m, (n * n + 9 * f + i, n), w, _column(COLUMNS), w, _column(i), 4 * num_axes, 1.0)
            for j in range(0, 16, 4):
                set_products(4, 3, m, ((45 + j) * n + 9 * f + i, n), w, _column(9 + j), w, _column(i), 4 * num_axes, 1.0)
        _add_common(w, f == 0, 4 * num_axes, m)
    for c in range(2):  # the wrist lies at the origin and moves with the shift alone
        pull, column = load(w, PULL), NUM_UNKNOWNS - 2 + c
        store(m, column * n + column, load(m, column * n + column) + pull * pull)
        store(m, n * n + column, load(m, n * n + column) + pull * pull * load(w, GAP + 21 * c))


@kernel
def _column(k: int) -> tuple[int, int, int]:
    """Place of a column of a finger's Jacobian, for sums of products; the residuals are the last one."""
    return JACOBIAN + k, 1, _WIDTH


@kernel
def _add_common(w: Rows, first: bool, count: int, m: Rows) -> None:
    """Add a finger's part to the equations of the unknowns that all fingers share; the first finger's writes them."""
    n = NUM_UNKNOWNS
    for i in range(0, 16, 4):
        for j in range(0, i + 4, _COMMON):
            place = (45 + i) * n + 45 + j
            if first:
                set_products(4, _COMMON, m, (place, n), w, _column(9 + i), w, _column(9 + j), count, 1.0)
            else:
                add_products(4, _COMMON, m, (place, n), w, _column(9 + i), w, _column(9 + j), count, 1.0)
        if first:
            set_products(1, 4, m, (n * n + 45 + i, n), w, _column(COLUMNS), w, _column(9 + i), count, 1.0)
        else:
            add_products(1, 4, m, (n * n + 45 + i, n), w, _column(COLUMNS), w, _column(9 + i), count, 1.0)
