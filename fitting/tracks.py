"""Hands of one track: they share their shape, move smoothly and do not flip from frame to frame.

A track is a row of frames of one hand, in time order and without long gaps. What is minimised over all its frames at once is the sum of
the frames' totals (`fitting.objective`), with one set of betas, plus a loss on the acceleration of joints, root and size: velocity does
a random walk, so that frames far apart in time are hardly tied. It is robust, so that a quick true movement is not flattened.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fitting.banded import Banded, solve_banded
from fitting.chains import Chain
from fitting.objective import NUM_UNKNOWNS, Landmarks, Objective, State
from fitting.smoothness import Smoothness
from fitting.solver import Solution

_BETAS = slice(48, 58)
_OWN = (*range(48), 58, 59, 60)
"""Unknowns of a frame when the betas are its track's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackSettings:
    """How the frames of a track are tied."""

    smooth_weight: float = 0.01
    """Of the acceleration loss; 0 leaves the frames free."""
    share_shape: bool = True
    """One set of betas a track."""
    jump_weight: float = 0.1
    """Of a jump between frames, when a track chooses among its frames' tilts."""
    max_gap_s: float = 0.5
    """A track breaks where its hand is not seen for longer."""
    num_iterations: int = 6
    """Of the joint Levenberg-Marquardt, at most."""
    spread: tuple[float, float, float] = (2.5, 8.0, 0.25)
    """By how much velocity changes in a second: of finger joints (rad/s), the root (rad/s), log size (1/s)."""
    robust_scale: float = 1.0
    """In such spreads: where the acceleration loss turns from squared to linear."""


_STILL_M, _SPEED_M_S = 0.01, 0.5
"""A jump is what is farther than the noise of a fit and than fingers commonly move: mean joint distance, wrist-centred."""


def cheapest_path(
    score: Float[Tensor, "tries n"], points: Float[Tensor, "tries n 21 3"], chain: Chain, jump_weight: float
) -> Int[Tensor, "k t"]:
    """Which of several tries each frame of each track takes, so that scores and jumps cost least together (Viterbi, 1967).

    A jump of mean distance d costs `jump_weight` times log(1 + (d / usual)^2): a true one is paid once, a flipped frame twice.
    """
    unary = score[:, chain.rows].permute(1, 2, 0).double().cpu().numpy()  # k t tries
    there, time_s = chain.there.cpu().numpy(), chain.time_s.cpu().numpy()
    places = points[:, chain.rows].permute(1, 2, 0, 3, 4)
    distance = (places[:, :-1, :, None] - places[:, 1:, None]).norm(dim=-1).mean(-1).double().cpu().numpy()
    usual = _STILL_M + _SPEED_M_S * np.diff(time_s)[..., None, None]
    jump = jump_weight * np.log1p((distance / usual) ** 2) * there[:, 1:, None, None]
    unary = np.where(there[..., None], unary, unary[:, :1] * 0)
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


_FIRST_DAMPING, _FLOOR = 1e-3, 1e-6


def solve_tracks(
    objective: Objective,
    start: State,
    seen: Landmarks,
    log_size: Float[Tensor, "n"],
    chain: Chain,
    settings: TrackSettings,
    tolerance: float,
) -> tuple[Int[Tensor, "m"], Solution, Float[Tensor, "m"]]:
    """Minimise over whole tracks from states found frame by frame: rows, where their iterations ended, and their acceleration loss.

    Levenberg-Marquardt with one damping a track; the total of a track never rises.
    """
    rows, track, place = chain.member()
    k = len(chain.rows)
    state, seen = start.take(rows), seen.take(rows)
    smoothness = Smoothness.of(chain, log_size, spread=settings.spread, robust_scale=settings.robust_scale)
    if settings.share_shape:
        state = _one_shape(objective, state, track, k)

    def totals(state: State) -> Float[Tensor, "k"]:
        frames = objective.total(objective.losses(state, seen)[0]).double()
        together = torch.zeros(k, dtype=torch.float64, device=frames.device).index_add_(0, track, frames)
        return together + settings.smooth_weight * smoothness.loss(state).double().sum(1)

    total = totals(state)
    damping = torch.full_like(total, _FIRST_DAMPING)
    converged = torch.zeros_like(total, dtype=torch.bool)
    used = torch.zeros(k, dtype=torch.int64, device=total.device)
    for _ in range(settings.num_iterations):
        step = _joint_step(objective, state, seen, smoothness, settings, track, place, damping)
        sound = torch.isfinite(step).flatten(1).all(1)
        trial = state.moved(torch.where(sound[:, None], step, 0))
        value = totals(trial)
        lowered = (value < total) & ~converged
        used += ~converged
        drop = (total - value) / total.clamp_min(1e-12)
        damping = torch.where(lowered, damping * 0.3, damping * 6).clamp(1e-6, 1e5)
        converged |= lowered & (drop < tolerance)
        total = torch.where(lowered, value, total)
        better = torch.nonzero(lowered[track])[:, 0]
        state.put(better, trial.take(better))
        if converged.all():
            break
    centred = torch.nn.functional.pad(smoothness.loss(state), (1, 1))[track, place]
    return rows, Solution(state, total[track], converged[track], damping[track], used[track]), centred


def _one_shape(objective: Objective, state: State, track: Int[Tensor, "n"], num_tracks: int) -> State:
    """The same states with each track's mean betas, scaled so that the hand is as large in the image as it was."""
    ones = torch.ones_like(state.log_scale)
    count = torch.zeros(num_tracks).to(ones).index_add_(0, track, ones)
    betas = torch.zeros(num_tracks, 10).to(ones).index_add_(0, track, state.betas) / count[:, None]
    shared = state._replace(betas=betas[track])
    size, new = (objective.joints.pose(s.root, s.rotations, s.betas).points.flatten(1).norm(dim=1) for s in (state, shared))
    return shared._replace(log_scale=state.log_scale + (size / new).log())


def _joint_step(
    objective: Objective,
    state: State,
    seen: Landmarks,
    smoothness: Smoothness,
    settings: TrackSettings,
    track: Int[Tensor, "n"],
    place: Int[Tensor, "n"],
    damping: Float[Tensor, "k"],
) -> Float[Tensor, "n 61"]:
    """One damped Gauss-Newton step of all tracks."""
    own = list(_OWN) if settings.share_shape else [*_OWN, *range(48, 58)]
    common = list(range(48, 58)) if settings.share_shape else []
    (k, t), f, s = smoothness.index.shape, len(own), len(common)
    posed = objective.joints.pose(state.root, state.rotations, state.betas)
    matrix, gradient = (values.double() for values in objective.normal_equations(state, seen, posed))
    blocks = torch.eye(f).to(matrix).repeat(k, t, 1, 1)
    blocks[track, place] = matrix[:, own][:, :, own]
    border, right = matrix.new_zeros(k, t, f, s), matrix.new_zeros(k, t, f)
    border[track, place] = matrix[:, own][:, :, common]
    right[track, place] = -gradient[:, own]
    shared = matrix.new_zeros(k, s, s).index_add_(0, track, matrix[:, common][:, :, common])
    right_shared = matrix.new_zeros(k, s).index_add_(0, track, -gradient[:, common])
    slope, *diagonals = (torch.nn.functional.pad(settings.smooth_weight * v.double(), (0, f - 51)) for v in smoothness.equations(state))
    here, ahead, further = diagonals
    for block, extra in ((blocks, here), (shared, None)):
        diagonal = block.diagonal(dim1=-2, dim2=-1)
        if extra is not None:
            diagonal += extra
        diagonal += damping.view(-1, *[1] * (diagonal.dim() - 1)) * diagonal + _FLOOR
    frames, together = solve_banded(Banded(blocks, ahead, further, border, shared, right - slope, right_shared))
    step = gradient.new_zeros(len(track), NUM_UNKNOWNS)
    step[:, own] = frames[track, place]
    step[:, common] = together[track]
    return step.to(state.betas)
