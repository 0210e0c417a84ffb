"""Single frames that flip: of several tries for each frame, a track takes those that go together."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fitting.objective import Landmarks, Objective, State
from fitting.solver import Solution
from fitting.tracks.chains import Chain

_STILL_M, _SPEED_M_S = 0.01, 0.5
"""A jump is what is farther than the noise of a fit and than fingers commonly move: mean joint distance, wrist-centred."""


def cheapest_path(
    score: Float[Tensor, "tries n"], points: Float[Tensor, "tries n 21 3"], chain: Chain, jump_weight: float
) -> Int[Tensor, "k t"]:
    """Which of several tries each frame of each track takes, so that scores and jumps cost least together (Viterbi, 1967).

    A jump of mean distance d costs `jump_weight` times log(1 + (d / usual)^2): a true one is paid once, a flipped frame twice. A try that
    was not made has an infinite score.
    """
    there = chain.there.cpu().numpy()
    unary = score[:, chain.rows].permute(1, 2, 0).double().cpu().numpy()  # k t tries
    unary = np.where(there[..., None], unary, 0)
    jump = jump_weight * np.log1p(_jumps(points, chain).cpu().numpy() ** 2) * there[:, 1:, None, None]
    cost, came_from = unary[:, 0], np.zeros(unary.shape, np.int64)
    for t in range(1, unary.shape[1]):
        reached = cost[:, :, None] + jump[:, t - 1]
        came_from[:, t] = reached.argmin(1)
        cost = reached.min(1) + unary[:, t]
    path = np.empty(there.shape, np.int64)
    path[:, -1] = cost.argmin(1)
    for t in range(there.shape[1] - 1, 0, -1):
        path[:, t - 1] = np.take_along_axis(came_from[:, t], path[:, t, None], 1)[:, 0]
    return torch.from_numpy(path).to(score.device)


def _jumps(points: Float[Tensor, "tries n 21 3"], chain: Chain) -> Float[Tensor, "k pairs tries tries"]:
    """Mean joint distance from each frame to the next, of every try to every other, as a share of the usual one."""
    places = points[:, chain.rows].permute(1, 2, 0, 3, 4)
    distance = (places[:, :-1, :, None] - places[:, 1:, None]).norm(dim=-1).mean(-1)
    usual = _STILL_M + _SPEED_M_S * chain.time_s.diff(dim=1)
    return distance.double() / usual[..., None, None]


def mend_jumps(
    objective: Objective,
    minimise: Callable[[State, Landmarks], Solution],
    found: Solution,
    seen: Landmarks,
    chain: Chain,
    jump_weight: float,
) -> None:
    """Frames at a jump are tried again from both neighbours' states, and take what the track likes best; `found` is changed in place."""
    n, t = len(found.total), chain.rows.shape[1]
    state = found.state
    points = objective.joints.pose(state.root, state.rotations, state.betas).points[None]
    jump = (_jumps(points, chain)[..., 0, 0] > 1) & chain.there[:, 1:]
    pad = torch.nn.functional.pad
    track, place = torch.nonzero(pad(jump, (1, 0)) | pad(jump, (0, 1)), as_tuple=True)
    rows = chain.rows[track, place]
    if not len(rows):
        return
    before, after = (chain.rows[track, (place + way).clamp(0, t - 1)] for way in (-1, 1))
    tries = minimise(state.take(torch.cat([before, after])), seen.take(torch.cat([rows, rows])))
    posed = objective.joints.pose(tries.state.root, tries.state.rotations, tries.state.betas).points
    score, places = torch.full((3, n), torch.inf).to(found.total), points.repeat(3, 1, 1, 1)
    score[0] = found.total
    score[1:, rows], places[1:, rows] = tries.total.view(2, -1), posed.view(2, -1, 21, 3)
    choice = torch.zeros(n, dtype=torch.int64, device=score.device)
    choice[chain.rows[chain.there]] = cheapest_path(score, places, chain, jump_weight)[chain.there]
    for number in (1, 2):
        taken = torch.nonzero(choice[rows] == number)[:, 0]
        for mine, theirs in zip((*state, *found[1:]), (*tries.state, *tries[1:]), strict=True):
            mine[rows[taken]] = theirs[taken + (number - 1) * len(rows)]
