"""A joint step of whole tracks for CPUs: the twin of `fitting.tracks.solve.PLAIN.step`, float32, a track to a lane, compiled.

Block Cholesky along time, left-looking in tiles whose sums stay in registers. A frame's panel has a column for each of its f own unknowns,
and these rows, one after the other:

- f, the frame's own block S, whose lower triangle becomes L with L L' = S; its diagonal holds inverses
- f, B: what couples it with the next frame, which becomes B L'^-1
- s, C: what couples it with the unknowns that all frames share, which becomes C L'^-1
- 1, the right side g, which becomes g L'^-1
- f, D: what couples it with the frame after the next, diagonal at first; kept while the frame is worked on

A lane beyond its track's end holds identity blocks. No number leaves its lane: a track's step does not hang on the others.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor

from fitting.compiled.kernel import kept, kernel
from fitting.compiled.lanes import LANES, TILE, Lanes, Rows, empty, everywhere, load, root, store, where
from fitting.compiled.layout import HERE, SEEN, SOURCES, Constants, constants
from fitting.compiled.loop import normal_equations, put
from fitting.compiled.solver import packed, room
from fitting.compiled.sums import add_products, divide_row, set_products
from fitting.objective import NUM_UNKNOWNS, Landmarks, Objective, State
from fitting.solver import FLOOR
from fitting.tracks.chains import Chain
from fitting.tracks.solve import own_and_shared

_LEAST_PIVOT = 1e-7
"""Share of its damped diagonal below which a pivot counts as none."""
_SLOPE, _HERE, _AHEAD, _FURTHER, _SMOOTH = 0, 1, 2, 3, 4
"""Places of what the acceleration loss adds to a frame: a gradient and three diagonals; and how many."""


def joint_step(
    objective: Objective,
    state: State,
    seen: Landmarks,
    smooth: tuple[Float[Tensor, "k t 51"], ...],  # weighted: gradient and the three diagonals
    chain: Chain,
    damping: Float[Tensor, "k"],
    active: Bool[Tensor, "k"],
) -> Float[Tensor, "m 61"]:
    """A damped Gauss-Newton step of tracks, CPU tensors; 0 for those that are not `active`, NaN where there is none."""
    states, landmarks = packed(state, seen)
    own, shared = (np.array(some, np.int64) for some in own_and_shared(objective.settings))
    lengths = chain.there.sum(1).numpy()
    first = np.cumsum(lengths) - lengths
    tracks = np.flatnonzero(active.numpy())
    tracks = tracks[np.argsort(-lengths[tracks], kind="stable")]
    fixed = constants(objective, bool(seen.perspective.any()))
    steps = np.zeros((len(states), NUM_UNKNOWNS), np.float32)
    if len(tracks):
        f, s = len(own), len(shared)
        panel = empty(int(lengths[tracks[0]]) * (2 * f + s + 1) * f + f * f)
        slope, here, ahead, further = (np.ascontiguousarray(part.numpy(), np.float32) for part in smooth)
        places = tracks, first, lengths, own, shared
        around = slope, here, ahead, further, damping.float().numpy()
        _track_steps(SOURCES, states, landmarks, fixed, *room(fixed), *places, *around, panel, steps)
    return torch.from_numpy(steps)


@kept(nogil=True)
def _track_steps(
    sources: Shaped[np.ndarray, "0"],
    states: Float32[np.ndarray, "n 157"],
    landmarks: Float32[np.ndarray, "n 106"],
    constants: Constants,
    w: Rows,
    m: Rows,
    tracks: Int64[np.ndarray, "active"],  # longest first
    first: Int64[np.ndarray, "k"],
    lengths: Int64[np.ndarray, "k"],
    own: Int64[np.ndarray, "f"],
    shared: Int64[np.ndarray, "s"],
    slope: Float32[np.ndarray, "k t 51"],
    here: Float32[np.ndarray, "k t 51"],
    ahead: Float32[np.ndarray, "k t 51"],
    further: Float32[np.ndarray, "k t 51"],
    damping: Float32[np.ndarray, "k"],
    panel: Rows,
    steps: Float32[np.ndarray, "n 61"],
) -> None:
    """Steps of tracks, LANES at a time; their rows of states and landmarks follow each other from `first` on."""
    f, s, tied = len(own), len(shared), slope.shape[2]
    size = (2 * f + s + 1) * f
    smooth = np.zeros((_SMOOTH * f, LANES), np.float32)
    common = np.zeros(((s + 1) * s, LANES), np.float32)
    lane = np.zeros((2, LANES), np.float32)  # damping, and whether the track has this frame
    x = np.zeros((3 * f + s, LANES), np.float32)
    floor = np.zeros((max(f, s), LANES), np.float32)
    for begin in range(0, len(tracks), LANES):
        longest = lengths[tracks[begin]]
        far = longest * size  # where D is kept
        panel[: min(2, longest) * size] = 0
        panel[far - size + f * f : far - size + 2 * f * f] = 0
        panel[far : far + f * f] = 0
        common[:] = 0
        sound = everywhere(1.0)
        for t in range(longest):
            for column in range(LANES):
                track = tracks[min(begin + column, len(tracks) - 1)]
                there = t < lengths[track]
                row = first[track] + min(t, lengths[track] - 1)
                put(w, HERE, column, states[row])
                put(w, SEEN, column, landmarks[row])
                lane[0, column], lane[1, column] = damping[track], there
                for i in range(tied):
                    smooth[_SLOPE * f + i, column] = slope[track, t, i] if there else 0
                    smooth[_HERE * f + i, column] = here[track, t, i] if there else 0
                    smooth[_AHEAD * f + i, column] = ahead[track, t, i] if there else 0
                    smooth[_FURTHER * f + i, column] = further[track, t, i] if there else 0
            normal_equations(w, constants, m)
            _add_equations(panel, t * size, common, m, smooth, lane, own, shared, floor)
            for i in range(f):
                store(panel, far + i * f + i, load(smooth, _FURTHER * f + i))
            sound = _factor(panel, t * size, far, f, s, floor, sound)
            _update(panel, t * size, size, far, f, s, longest - 1 - t, common)
        sound = _solve_shared(common, s, x, 3 * f, floor, sound)
        for i in range(3 * f):
            store(x, i, 0.0)
        for t in range(longest - 1, -1, -1):
            for column in range(min(LANES, len(tracks) - begin)):
                track = tracks[begin + column]
                for i in range(tied):
                    smooth[_FURTHER * f + i, column] = further[track, t, i] if t < lengths[track] else 0
            _substitute(panel, t * size, f, s, x, smooth)
            for i in range(f):
                store(x, 2 * f + i, load(x, f + i))
                store(x, f + i, where(sound > 0.0, load(x, i), np.nan))
            for column in range(min(LANES, len(tracks) - begin)):
                track = tracks[begin + column]
                if t < lengths[track]:
                    for i in range(f):
                        steps[first[track] + t, own[i]] = x[f + i, column]
                    for i in range(s):
                        steps[first[track] + t, shared[i]] = x[3 * f + i, column]


@kernel
def _entry(m: Rows, i: int, j: int) -> Lanes:
    """An entry of the normal equations, of which the lower triangle is written."""
    return load(m, max(i, j) * NUM_UNKNOWNS + min(i, j))


@kernel
def _add_equations(p: Rows, at: int, common: Rows, m: Rows, smooth: Rows, lane: Rows, own: Any, shared: Any, floor: Rows) -> None:
    """Add a frame's damped equations to its panel, beside what the frames before have left there, and to those of the shared unknowns."""
    f, s, n = len(own), len(shared), NUM_UNKNOWNS
    damping, there = load(lane, 0), load(lane, 1) > 0.0
    for i in range(f):
        row = at + i * f
        for j in range(i):
            store(p, row + j, load(p, row + j) + where(there, _entry(m, own[i], own[j]), 0.0))
        entry = _entry(m, own[i], own[i]) + load(smooth, _HERE * f + i)
        entry = where(there, entry + (damping * entry + FLOOR), 1.0)
        store(floor, i, _LEAST_PIVOT * entry)
        store(p, row + i, load(p, row + i) + entry)
        place = at + (f + i) * f + i
        store(p, place, load(p, place) + load(smooth, _AHEAD * f + i))
        for j in range(s):
            place = at + (2 * f + j) * f + i
            store(p, place, load(p, place) + where(there, _entry(m, own[i], shared[j]), 0.0))
        place = at + (2 * f + s) * f + i
        pull = 0.0 - (load(m, n * n + own[i]) + load(smooth, _SLOPE * f + i))
        store(p, place, load(p, place) + where(there, pull, 0.0))
    for i in range(s):
        for j in range(i + 1):
            entry = _entry(m, shared[i], shared[j])
            entry = where(there, entry + damping * entry if i == j else entry, 0.0)
            store(common, i * s + j, load(common, i * s + j) + entry)
        store(common, s * s + i, load(common, s * s + i) + where(there, 0.0 - load(m, n * n + shared[i]), 0.0))


@kernel
def _factor(p: Rows, at: int, far: int, f: int, s: int, floor: Rows, sound: Lanes) -> Lanes:
    """Factor a frame's own block, and divide the rows below it by the factor."""
    first, ahead, rows = f % TILE, at + f * f, f + s + 1  # B, C and g lie one below the other
    if first > 0:
        sound = _factor_block(p, at, f, 0, 1, floor, sound)
        inverse = load(p, at)
        for row in range(1, f + rows):
            store(p, at + row * f, load(p, at + row * f) * inverse)
        store(p, far, load(p, far) * inverse)
    for start in range(first, f, TILE):
        block = (at + start * f, f, 1)
        for row in range(start, f, TILE):
            add_products(TILE, TILE, p, (at + row * f + start, f), p, (at + row * f, f, 1), p, block, start, -1.0)
        sound = _factor_block(p, at, f, start, start + TILE, floor, sound)
        corner = at + start * f + start
        for row in range(start + TILE, f):
            divide_row(TILE, p, at + row * f + start, corner, f)
        whole = rows - rows % TILE
        for row in range(0, whole, TILE):
            add_products(TILE, TILE, p, (ahead + row * f + start, f), p, (ahead + row * f, f, 1), p, block, start, -1.0)
        for row in range(whole, rows):
            add_products(1, TILE, p, (ahead + row * f + start, f), p, (ahead + row * f, f, 1), p, block, start, -1.0)
        for row in range(rows):
            divide_row(TILE, p, ahead + row * f + start, corner, f)
        if first > 0:
            set_products(1, TILE, p, (far + start, f), p, (far, f, 1), p, block, start, -1.0)
        for row in range(first, start, TILE):  # D's rows begin at their diagonal
            left, right = (far + row * f + row, f, 1), (at + start * f + row, f, 1)
            set_products(TILE, TILE, p, (far + row * f + start, f), p, left, p, right, start - row, -1.0)
        for row in range(start, start + TILE):
            for column in range(start, start + TILE):
                if row != column:
                    store(p, far + row * f + column, 0.0)
        for row in range(start + TILE):
            divide_row(TILE, p, far + row * f + start, corner, f)
    return sound


@kernel
def _factor_block(p: Rows, at: int, f: int, start: int, stop: int, floor: Rows, sound: Lanes) -> Lanes:
    """Factor a block of the diagonal, from which the products with earlier columns have been taken."""
    for i in range(start, stop):
        pivot = load(p, at + i * f + i)
        for k in range(start, i):
            pivot = pivot - load(p, at + i * f + k) * load(p, at + i * f + k)
        positive = pivot > load(floor, i)
        sound = where(positive, sound, 0.0)
        inverse = 1.0 / root(where(positive, pivot, 1.0))
        store(p, at + i * f + i, inverse)
        for j in range(i + 1, stop):
            value = load(p, at + j * f + i)
            for k in range(start, i):
                value = value - load(p, at + j * f + k) * load(p, at + i * f + k)
            store(p, at + j * f + i, value * inverse)
    return sound


@kernel
def _update(p: Rows, at: int, size: int, far: int, f: int, s: int, after: int, common: Rows) -> None:
    """Take what a factored frame says from the frames after it, of which there are `after`, and from the shared unknowns."""
    first, b, c = f % TILE, at + f * f, at + 2 * f * f
    for r in range(s + 1):
        for q in range(min(r + 1, s)):
            place = (r * s + q, s)
            add_products(1, 1, common, place, p, (c + r * f, f, 1), p, (c + q * f, f, 1), f, -1.0)
    if after < 1:
        return
    one = at + size
    if first > 0:
        add_products(1, 1, p, (one, f), p, (b, f, 1), p, (b, f, 1), f, -1.0)
        for i in range(first, f, TILE):
            add_products(TILE, 1, p, (one + i * f, f), p, (b + i * f, f, 1), p, (b, f, 1), f, -1.0)
    for i in range(first, f, TILE):
        for j in range(first, i + 1, TILE):
            add_products(TILE, TILE, p, (one + i * f + j, f), p, (b + i * f, f, 1), p, (b + j * f, f, 1), f, -1.0)
    _add_rows(p, one + 2 * f * f, c, b, f, s + 1)
    if after < 2:
        return
    two, coupled = one + size, one + f * f
    if first > 0:
        set_products(1, 1, p, (two, f), p, (far, f, 1), p, (far, f, 1), f, -1.0)
        set_products(1, 1, p, (coupled, f), p, (far, f, 1), p, (b, f, 1), f, -1.0)
        for i in range(first, f, TILE):
            left = (far + i * f + i, f, 1)
            set_products(TILE, 1, p, (two + i * f, f), p, left, p, (far + i, f, 1), f - i, -1.0)
            set_products(TILE, 1, p, (coupled + i * f, f), p, left, p, (b + i, f, 1), f - i, -1.0)
            set_products(1, TILE, p, (coupled + i, f), p, (far, f, 1), p, (b + i * f, f, 1), f, -1.0)
    for i in range(first, f, TILE):
        left = (far + i * f + i, f, 1)
        for j in range(first, i + 1, TILE):
            set_products(TILE, TILE, p, (two + i * f + j, f), p, left, p, (far + j * f + i, f, 1), f - i, -1.0)
        for j in range(first, f, TILE):
            set_products(TILE, TILE, p, (coupled + i * f + j, f), p, left, p, (b + j * f + i, f, 1), f - i, -1.0)
    for r in range(s + 1):
        out = two + (2 * f + r) * f
        if first > 0:
            set_products(1, 1, p, (out, f), p, (c + r * f, f, 1), p, (far, f, 1), f, -1.0)
        for j in range(first, f, TILE):
            set_products(1, TILE, p, (out + j, f), p, (c + r * f + j, f, 1), p, (far + j * f + j, f, 1), f - j, -1.0)


@kernel
def _add_rows(p: Rows, out: int, left: int, right: int, f: int, count: int) -> None:
    """Take the products of `count` rows from `left` on with f rows from `right` on, all f long, from as many rows from `out` on."""
    first, whole = f % TILE, count - count % TILE
    for j in range(first):
        for r in range(count):
            add_products(1, 1, p, (out + r * f + j, f), p, (left + r * f, f, 1), p, (right + j * f, f, 1), f, -1.0)
    for j in range(first, f, TILE):
        for r in range(0, whole, TILE):
            add_products(TILE, TILE, p, (out + r * f + j, f), p, (left + r * f, f, 1), p, (right + j * f, f, 1), f, -1.0)
        for r in range(whole, count):
            add_products(1, TILE, p, (out + r * f + j, f), p, (left + r * f, f, 1), p, (right + j * f, f, 1), f, -1.0)


@kernel
def _solve_shared(common: Rows, s: int, x: Rows, at: int, floor: Rows, sound: Lanes) -> Lanes:
    """Rows `at` of x: the shared unknowns, by what all frames have left of their equations."""
    for i in range(s):
        store(common, i * s + i, load(common, i * s + i) + FLOOR)
        store(floor, i, 0.0)
    sound = _factor_block(common, 0, s, 0, s, floor, sound)
    for i in range(s):
        value = load(common, s * s + i)
        for k in range(i):
            value = value - load(common, i * s + k) * load(x, at + k)
        store(x, at + i, value * load(common, i * s + i))
    for i in range(s - 1, -1, -1):
        value = load(x, at + i)
        for k in range(i + 1, s):
            value = value - load(common, k * s + i) * load(x, at + k)
        store(x, at + i, where(sound > 0.0, value * load(common, i * s + i), np.nan))
    return sound


@kernel
def _substitute(p: Rows, at: int, f: int, s: int, x: Rows, smooth: Rows) -> None:
    """Rows 0 of x: a frame's unknowns, by those of the next frame at rows f, of the one after it at 2 f, and the shared ones at 3 f."""
    for i in range(f):  # L^-1 D of the frame after the next
        value = load(smooth, _FURTHER * f + i) * load(x, 2 * f + i)
        for k in range(i):
            value = value - load(p, at + i * f + k) * load(x, k)
        store(x, i, value * load(p, at + i * f + i))
    for i in range(f):
        store(x, i, load(p, at + (2 * f + s) * f + i) - load(x, i))
    for row in range(f + s):
        value = load(x, f + row) if row < f else load(x, 2 * f + row)
        for i in range(f):
            store(x, i, load(x, i) - load(p, at + (f + row) * f + i) * value)
    for i in range(f - 1, -1, -1):
        value = load(x, i) * load(p, at + i * f + i)
        store(x, i, value)
        for k in range(i):
            store(x, k, load(x, k) - load(p, at + i * f + k) * value)
