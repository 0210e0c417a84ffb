"""Linear systems of tracks: one block a frame, diagonal coupling with the next two frames, and unknowns that all frames share.

Solved by block Cholesky along time with the shared unknowns as a Schur complement, all tracks at once, in memory that grows with the
number of frames only.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Banded(NamedTuple):
    """A symmetric positive definite system: of each of k tracks, t frames of f unknowns and s shared ones. Shorter tracks are filled
    up with identity blocks."""

    blocks: Float[Tensor, "k t f f"]
    next: Float[Tensor, "k t f"]  # diagonal of the block that couples a frame with the one after it
    second: Float[Tensor, "k t f"]  # and with the one after that
    border: Float[Tensor, "k t f s"]  # frames with shared
    shared: Float[Tensor, "k s s"]
    right: Float[Tensor, "k t f"]
    right_shared: Float[Tensor, "k s"]


def solve_banded(system: Banded) -> tuple[Float[Tensor, "k t f"], Float[Tensor, "k s"]]:
    """The unknowns of the frames and the shared ones; NaN for a track whose system is not positive definite."""
    k, t, f = system.right.shape
    blocks = [block.clone() for block in system.blocks.unbind(1)]
    sides = [side.clone() for side in torch.cat([system.border, system.right[..., None]], 3).unbind(1)]
    ahead, further = torch.diag_embed(system.next).unbind(1), system.second.unbind(1)
    coupling, bad = ahead[0], torch.zeros(k, dtype=torch.bool, device=system.right.device)
    schur, right_shared = system.shared.clone(), system.right_shared.clone()
    solved: list[Tensor] = []
    for i in range(t):
        factor, failed = torch.linalg.cholesky_ex(blocks[i])
        bad |= failed != 0
        # columns: this block's inverse times what couples it with the next frame, the one after, the shared unknowns and the right side
        columns = torch.cholesky_solve(torch.cat([coupling, torch.diag_embed(further[i]), sides[i]], 2), factor)
        solved.append(columns)
        to_next, to_second, rest = columns[..., :f], columns[..., f : 2 * f], columns[..., 2 * f :]
        if i + 1 < t:
            update = coupling.mT @ torch.cat([to_next, rest], 2)
            blocks[i + 1] -= update[..., :f]
            sides[i + 1] -= update[..., f:]
        if i + 2 < t:
            blocks[i + 2] -= further[i][..., None] * to_second
            sides[i + 2] -= further[i][..., None] * rest
            coupling = ahead[i + 1] - coupling.mT @ to_second
        update = sides[i][..., :-1].mT @ rest
        schur -= update[..., :-1]
        right_shared -= update[..., -1]
    shared = _shared(schur, right_shared)
    frames = torch.empty_like(system.right)
    later = further_on = torch.zeros_like(frames[:, 0])
    for i in range(t - 1, -1, -1):
        to_next, to_second, border, right = solved[i].tensor_split((f, 2 * f, 2 * f + shared.shape[1]), 2)
        here = right[..., 0] - _times(to_next, later) - _times(to_second, further_on) - _times(border, shared)
        frames[:, i] = here
        later, further_on = here, later
    frames[bad] = torch.nan
    return frames, shared


def _shared(matrix: Float[Tensor, "k s s"], right: Float[Tensor, "k s"]) -> Float[Tensor, "k s"]:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    solution: Tensor = torch.cholesky_solve(right[..., None], factor)[..., 0]
    return torch.where((failed == 0)[:, None], solution, torch.nan)


def _times(matrix: Float[Tensor, "k f g"], vector: Float[Tensor, "k g"]) -> Float[Tensor, "k f"]:
    product: Tensor = (matrix @ vector[..., None])[..., 0]
    return product
