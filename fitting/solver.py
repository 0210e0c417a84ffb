"""Levenberg-Marquardt on a batch of hands, each with a damping and an end of its own; finished hands leave the batch."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fitting.objective import Landmarks, Objective, State

FIRST_DAMPING, MIN_DAMPING, MAX_DAMPING = 1e-2, 1e-6, 1e5
EASED, RAISED = 0.3, 6.0
"""What a step that lowers the total, and one that does not, multiply the damping by."""
FLOOR = 1e-6
"""Added to the diagonal of the normal equations, for hands whose landmarks leave a direction unseen."""


class Solution(NamedTuple):
    """Where the iterations ended."""

    state: State
    total: Float[Tensor, "n"]  # the weighted sum of the losses
    converged: Bool[Tensor, "n"]
    damping: Float[Tensor, "n"]
    num_iterations: Int[Tensor, "n"]


def solve(
    objective: Objective,
    start: State,
    seen: Landmarks,
    *,
    num_iterations: int,
    tolerance: float,
    damping: Float[Tensor, "n"] | None = None,
) -> Solution:
    """Minimise `objective.total` from `start`; a hand has converged when a step lowers it by less than the share `tolerance`.

    A hand at which no step of any length helps has converged too. The total never rises.
    """
    n = len(seen.keypoints)
    state = State(*(values.clone() for values in start))
    total = objective.total(objective.losses(state, seen)[0])
    damping = torch.full_like(total, FIRST_DAMPING) if damping is None else damping.clone()
    converged = torch.zeros(n, dtype=torch.bool, device=total.device)
    used = torch.zeros(n, dtype=torch.int64, device=total.device)
    for _ in range(num_iterations):
        rows = torch.nonzero(~converged)[:, 0]
        if not len(rows):
            break
        here, marks = state.take(rows), seen.take(rows)
        trial, value, lowered = _step(objective, here, marks, total[rows], damping[rows])
        used[rows] += 1
        drop = (total[rows] - value) / total[rows].clamp_min(1e-12)
        damping[rows] = torch.where(lowered, damping[rows] * EASED, damping[rows] * RAISED).clamp_min(MIN_DAMPING)
        converged[rows] = (lowered & (drop < tolerance)) | (damping[rows] > MAX_DAMPING)
        better = rows[lowered]
        state.put(better, trial.take(lowered))
        total[better] = value[lowered]
    return Solution(state, total, converged, damping, used)


def _step(
    objective: Objective, state: State, seen: Landmarks, total: Float[Tensor, "n"], damping: Float[Tensor, "n"]
) -> tuple[State, Float[Tensor, "n"], Bool[Tensor, "n"]]:
    """One damped Gauss-Newton step: the trial state, its total, and whether it is lower."""
    _, posed = objective.losses(state, seen)
    matrix, gradient = objective.normal_equations(state, seen, posed)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal += damping[:, None] * diagonal + FLOOR
    factor, failed = torch.linalg.cholesky_ex(matrix)
    step = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    sound = (failed == 0) & torch.isfinite(step).all(1)
    trial = state.moved(torch.where(sound[:, None], step, 0))
    value = objective.total(objective.losses(trial, seen)[0])
    return trial, value, sound & (value < total)
