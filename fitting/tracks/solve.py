"""Hands of one track: they share their shape, move smoothly and do not flip from frame to frame.

A track is a row of frames of one hand, in time order and without long gaps. What is minimised over all its frames at once is the sum of
the frames' totals (`fitting.objective`), with one set of betas, plus a loss on the acceleration of joints, root and size: velocity does
a random walk, so that frames far apart in time are hardly tied. It is robust, so that a quick true movement is not flattened.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fitting.hand.kinematics import Points
from fitting.objective import Landmarks, Losses, Objective, State
from fitting.settings import FitSettings
from fitting.solver import EASED, FLOOR, MAX_DAMPING, MIN_DAMPING, RAISED, Solution
from fitting.tracks.banded import Banded, solve_banded
from fitting.tracks.chains import Chain
from fitting.tracks.smoothness import Smoothness

_BETAS = slice(48, 58)
_OWN = (*range(48), 58, 59, 60)
"""Unknowns of a frame when the betas are its track's."""


_FIRST_DAMPING = 1e-3


Step = Callable[[Objective, State, Landmarks, tuple[Tensor, ...], Chain, Tensor, Tensor], Tensor]
"""A damped step of tracks: see `joint_step`."""


class Arithmetic(NamedTuple):
    """The functions that compute the parts of a joint step: `PLAIN` in float64, or their compiled twins."""

    losses: Callable[[Objective, State, Landmarks], tuple[Losses, Points]]
    step: Step


Equations = Callable[[Objective, State, Landmarks], tuple[Tensor, Tensor]]
"""Gauss-Newton matrix and gradient of each hand."""


def _equations(objective: Objective, state: State, seen: Landmarks) -> tuple[Tensor, Tensor]:
    return objective.normal_equations(state, seen, objective.joints.pose(state.root, state.rotations, state.betas))


def joint_step(
    objective: Objective,
    state: State,
    seen: Landmarks,
    smooth: tuple[Float[Tensor, "k t 51"], ...],  # weighted: gradient and the three diagonals
    chain: Chain,
    damping: Float[Tensor, "k"],
    active: Bool[Tensor, "k"],
    *,
    equations: Equations = _equations,
) -> Float[Tensor, "m 61"]:
    """A damped Gauss-Newton step of tracks, in float64; 0 for those that are not `active`, not finite where there is none."""
    own, shared = own_and_shared(objective.settings)
    _, track, place = chain.member()
    matrix, gradient = equations(objective, state, seen)
    frames, together = solve_banded(_system(matrix.double(), gradient.double(), smooth, chain, objective.settings, damping))
    step = torch.zeros_like(gradient)
    step[:, list(own)] = frames[track, place].to(step)
    if shared:
        step[:, list(shared)] = together[track].to(step)
    return torch.where(active[track][:, None], step, 0)


def step_by_length(short: Step, long: Step, most_frames: int) -> Step:
    """A joint step that takes tracks of more than `most_frames` by `long`, one after another, and the others by `short`."""

    def step(
        objective: Objective,
        state: State,
        seen: Landmarks,
        smooth: tuple[Tensor, ...],
        chain: Chain,
        damping: Float[Tensor, "k"],
        active: Bool[Tensor, "k"],
    ) -> Float[Tensor, "m 61"]:
        length = chain.there.sum(1)
        found = short(objective, state, seen, smooth, chain, damping, active & (length <= most_frames))
        _, track, _ = chain.member()
        for number in torch.nonzero(active & (length > most_frames))[:, 0]:
            rows, one = torch.nonzero(track == number)[:, 0], torch.arange(len(length)) == number
            of_track = tuple(part[one] for part in smooth)
            found[rows] = long(objective, state.take(rows), seen.take(rows), of_track, chain.only(one), damping[one], active[one])
        return found

    return step


PLAIN = Arithmetic(Objective.losses, joint_step)


def solve_tracks(
    objective: Objective,
    start: State,
    seen: Landmarks,
    log_size: Float[Tensor, "n"],
    chain: Chain,
    settings: FitSettings,
    arithmetic: Arithmetic,
) -> tuple[Int[Tensor, "m"], Solution, Float[Tensor, "m"]]:
    """Minimise over whole tracks from states found frame by frame: rows, where their iterations ended, and their acceleration loss.

    Levenberg-Marquardt with one damping a track; the total of a track never rises.
    """
    rows, track, place = chain.member()
    k = len(chain.rows)
    state, seen = start.take(rows), seen.take(rows)
    smoothness = Smoothness.of(chain, log_size, settings)
    if settings.share_shape:
        state = _one_shape(objective, state, track, k)
    of_triple = torch.arange(k, device=track.device).repeat_interleave(max(chain.rows.shape[1] - 2, 0))
    """Added one after the other: a sum over a row of the rectangle would round by how long the other tracks are."""

    def totals(state: State, turns: Float[Tensor, "k pairs 17 3"]) -> Float[Tensor, "k"]:
        frames = objective.total(arithmetic.losses(objective, state, seen)[0]).double()
        bends = smoothness.loss(turns).double()
        together = torch.zeros(k, dtype=torch.float64, device=frames.device).index_add_(0, track, frames)
        return together.index_add_(0, of_triple, settings.smooth_weight * bends.flatten())

    turns = smoothness.turns(state)
    total = totals(state, turns)
    damping = torch.full_like(total, _FIRST_DAMPING)
    converged = torch.zeros_like(total, dtype=torch.bool)
    used = torch.zeros(k, dtype=torch.int64, device=total.device)
    for _ in range(settings.track_iterations):
        smooth = tuple(settings.smooth_weight * part for part in smoothness.equations(turns))
        step = arithmetic.step(objective, state, seen, smooth, chain, damping, ~converged)
        sound = torch.isfinite(step).all(1)
        trial = state.moved(torch.where(sound[:, None], step, 0))
        tried = smoothness.turns(trial)
        value = totals(trial, tried)
        lowered = (value < total) & ~converged
        used += ~converged
        drop = (total - value) / total.clamp_min(1e-12)
        damping = torch.where(lowered, damping * EASED, damping * RAISED).clamp(MIN_DAMPING, MAX_DAMPING)
        converged |= lowered & (drop < settings.track_tolerance)
        total = torch.where(lowered, value, total)
        better = torch.nonzero(lowered[track])[:, 0]
        state.put(better, trial.take(better))
        turns = torch.where(lowered[:, None, None, None], tried, turns)
        if converged.all():
            break
    centred = torch.nn.functional.pad(smoothness.loss(turns), (1, 1))[track, place]
    return rows, Solution(state, total[track], converged[track], damping[track], used[track]), centred


def _one_shape(objective: Objective, state: State, track: Int[Tensor, "n"], num_tracks: int) -> State:
    """States with each track's mean betas, scaled so that the hand is as large in the image as it was."""
    ones = torch.ones_like(state.log_scale)
    count = torch.zeros(num_tracks).to(ones).index_add_(0, track, ones)
    betas = torch.zeros(num_tracks, 10).to(ones).index_add_(0, track, state.betas) / count[:, None]
    shared = state._replace(betas=betas[track])
    size, new = (objective.joints.pose(s.root, s.rotations, s.betas).points.flatten(1).norm(dim=1) for s in (state, shared))
    return shared._replace(log_scale=state.log_scale + (size / new).log())


def own_and_shared(settings: FitSettings) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Unknowns that each frame has for itself, those of `Smoothness.equations` first, and those that are its track's."""
    betas = tuple(range(_BETAS.start, _BETAS.stop))
    return (_OWN, betas) if settings.share_shape else ((*_OWN, *betas), ())


def _system(
    matrix: Float[Tensor, "n 61 61"],
    gradient: Float[Tensor, "n 61"],
    smooth: tuple[Float[Tensor, "k t 51"], ...],
    chain: Chain,
    settings: FitSettings,
    damping: Float[Tensor, "k"],
) -> Banded:
    """The damped equations of all tracks; identity blocks beyond a track's end."""
    _, track, place = chain.member()
    own, common = map(list, own_and_shared(settings))
    (k, t), f, s = chain.rows.shape, len(own), len(common)
    damping = damping.to(matrix)
    slope, here, ahead, further = (torch.nn.functional.pad(part.to(matrix), (0, f - part.shape[2])) for part in smooth)
    blocks, border, right = matrix.new_zeros(k, t, f, f), matrix.new_zeros(k, t, f, s), matrix.new_zeros(k, t, f)
    blocks.diagonal(dim1=2, dim2=3)[~chain.there] = 1
    rows = matrix[:, own]
    blocks[track, place] = rows[:, :, own]
    border[track, place] = rows[:, :, common]
    right[track, place] = -gradient[:, own]
    rows, lean = matrix[:, common], -gradient[:, common]
    shared = matrix.new_zeros(k, s, s).index_add_(0, track, rows[:, :, common])
    blocks.diagonal(dim1=2, dim2=3).add_(here)
    for diagonal, share in ((blocks.diagonal(dim1=2, dim2=3), damping[:, None, None]), (shared.diagonal(dim1=1, dim2=2), damping[:, None])):
        diagonal.add_(share * diagonal + FLOOR)
    return Banded(blocks, ahead, further, border, shared, right - slope, matrix.new_zeros(k, s).index_add_(0, track, lean))
