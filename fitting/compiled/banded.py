"""`fitting.tracks.banded.solve_banded` for CPUs: float32, compiled, one track after the other, each no longer than it is."""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from fitting.compiled.kernel import kept
from fitting.tracks.banded import Banded

_PANEL = 12
"""Rows eliminated one by one before the rest is updated at once: fastest of 8 to 26."""
_LEAST_PIVOT = 1e-7
"""Of a block whose diagonal was scaled to ones."""


def solve_banded(system: Banded) -> tuple[Float[Tensor, "k t f"], Float[Tensor, "k s"]]:
    """Solve as `fitting.tracks.banded.solve_banded` does, CPU tensors; what lies beyond a track's end is 0."""
    arrays = [np.ascontiguousarray(values.numpy(), np.float32) for values in system[:-1]]
    frames, shared = np.zeros_like(arrays[5]), np.zeros_like(arrays[6])
    for track, length in enumerate(system.lengths.tolist()):
        if length:
            blocks, ahead, further, border, common, right, right_common = (values[track] for values in arrays)
            own = frames[track], shared[track]
            _solve_track(blocks, ahead, further, border, common, right, right_common, length, *own)
    return torch.from_numpy(frames), torch.from_numpy(shared)


@kept(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _solve_track(
    blocks: Float32[np.ndarray, "t f f"],
    ahead: Float32[np.ndarray, "t f"],
    further: Float32[np.ndarray, "t f"],
    border: Float32[np.ndarray, "t f s"],
    common: Float32[np.ndarray, "s s"],
    right: Float32[np.ndarray, "t f"],
    right_common: Float32[np.ndarray, "s"],
    length: int,
    frames: Float32[np.ndarray, "t f"],
    shared: Float32[np.ndarray, "s"],
) -> None:
    """Rows of `work` hold [S | D | B | C | g]: a frame's block, what couples it with the second frame after it, with the next one, with
    the shared unknowns, and the right side. Elimination leaves [L' | L^-1 D | L^-1 B | L^-1 C | L^-1 g]."""
    f, s = right.shape[1], len(right_common)
    width = 3 * f + s + 1
    work = np.zeros((length, f, width), np.float32)
    schur = np.zeros((s, s + 1), np.float32)
    schur[:, :s], schur[:, s] = common, right_common
    scale, scale_common = np.empty((length, f), np.float32), np.empty(s, np.float32)
    for i in range(s):
        scale_common[i] = 1 / np.sqrt(common[i, i])
    for t in range(length):
        for i in range(f):
            scale[t, i] = 1 / np.sqrt(blocks[t, i, i])
    for t in range(length):
        for i in range(f):
            own = scale[t, i]
            for j in range(f):
                work[t, i, j] = own * blocks[t, i, j] * scale[t, j]
            if t + 2 < length:
                work[t, i, f + i] = own * further[t, i] * scale[t + 2, i]
            if t + 1 < length:
                work[t, i, 2 * f + i] = own * ahead[t, i] * scale[t + 1, i]
            for j in range(s):
                work[t, i, 3 * f + j] = own * border[t, i, j] * scale_common[j]
            work[t, i, width - 1] = own * right[t, i]
    for i in range(s):
        for j in range(s):
            schur[i, j] *= scale_common[i] * scale_common[j]
        schur[i, s] *= scale_common[i]
    for t in range(length):
        here = work[t]
        if not _eliminate(here):
            frames[:] = np.nan
            return
        later = here[:, f:].copy()
        next_rows, second_rows = here[:, 2 * f : 3 * f].copy(), here[:, f : 2 * f].copy()
        if t + 1 < length:
            update = np.dot(next_rows.T, later)  # with D, B, C and g
            for i in range(f):
                for j in range(f):
                    work[t + 1, i, 2 * f + j] -= update[i, j]
                    work[t + 1, i, j] -= update[i, f + j]
                for j in range(s + 1):
                    work[t + 1, i, 3 * f + j] -= update[i, 2 * f + j]
        if t + 2 < length:
            update = np.dot(second_rows.T, later)
            for i in range(f):
                for j in range(f):
                    work[t + 2, i, j] -= update[i, j]
                for j in range(s + 1):
                    work[t + 2, i, 3 * f + j] -= update[i, 2 * f + j]
        for i in range(f):
            for j in range(s):
                for k in range(s + 1):
                    schur[j, k] -= here[i, 3 * f + j] * here[i, 3 * f + k]
    if not _eliminate(schur):
        frames[:] = np.nan
        return
    unknown = np.zeros(width - 1 - f, np.float32)  # the second frame after, the next one, the shared ones
    solution = np.zeros(s, np.float32)
    _substitute(schur, schur[:, s], solution)
    unknown[2 * f :] = solution
    shared[:] = solution * scale_common
    answer, rest = np.zeros(f, np.float32), np.empty(f, np.float32)
    for t in range(length - 1, -1, -1):
        for i in range(f):
            rest[i] = work[t, i, width - 1] - np.sum(work[t, i, f : width - 1] * unknown)
        _substitute(work[t], rest, answer)
        frames[t] = answer * scale[t]
        unknown[:f] = unknown[f : 2 * f]
        unknown[f : 2 * f] = answer


@kept(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _eliminate(rows: Float32[np.ndarray, "n width"]) -> bool:
    """Cholesky of the leading square in place, the upper factor, and the inverse of its transpose times the columns beyond."""
    n, width = rows.shape
    for start in range(0, n, _PANEL):
        end = min(start + _PANEL, n)
        for j in range(start, end):
            pivot = rows[j, j]
            if not pivot > _LEAST_PIVOT:
                return False
            inverse = np.float32(1) / np.sqrt(pivot)
            for k in range(j, width):
                rows[j, k] *= inverse
            for i in range(j + 1, end):
                factor = rows[j, i]
                for k in range(i, width):
                    rows[i, k] -= factor * rows[j, k]
        if end < n:
            update = np.dot(rows[start:end, end:n].copy().T, rows[start:end])
            for i in range(end, n):
                for k in range(i, width):
                    rows[i, k] -= update[i - end, k]
    return True


@kept(nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _substitute(upper: Float32[np.ndarray, "n width"], right: Float32[np.ndarray, "n"], solution: Float32[np.ndarray, "n"]) -> None:
    """Solve with an upper triangle."""
    for i in range(len(solution) - 1, -1, -1):
        value = right[i]
        for j in range(i + 1, len(solution)):
            value -= upper[i, j] * solution[j]
        solution[i] = value / upper[i, i]
