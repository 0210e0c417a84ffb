"""A loss on the acceleration of a hand along its track, and its normal equations.

The parts of a moving hand are 17: its 15 joints, its root, and the logarithm of its size in the image.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fitting.hand.rotation import axis_angle_from_matrix
from fitting.objective import State
from fitting.settings import FitSettings
from fitting.tracks.chains import Chain


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Smoothness:
    """The acceleration loss of some tracks of like length.

    With v the mean velocity between two frames, a difference of two velocities that follow each other has, if velocity does a random
    walk with variance q a second, variance q (dt1 + dt2) / 3. The loss is Huber's of its length in such spreads, for each of 17 parts.
    """

    index: Int[Tensor, "k t"]  # of each frame among the states; a shorter track's last one is repeated
    log_size: Float[Tensor, "k t"]  # of the box, log pixels
    time_step: Float[Tensor, "k pairs"]
    tied: Bool[Tensor, "k triples"]
    spread: Float[Tensor, "k triples 17"]
    robust_scale: float

    @classmethod
    def of(cls, chain: Chain, log_size: Float[Tensor, "n"], settings: FitSettings) -> "Smoothness":
        """The loss of a chain whose states are in the order of `chain.member`."""
        index = (chain.there.flatten().cumsum(0) - 1).view(chain.there.shape)
        step = torch.where(chain.there[:, 1:], chain.time_s.diff(dim=1), 1).to(log_size)
        spreads = [settings.finger_spread] * 15 + [settings.root_spread, settings.size_spread]
        part = torch.tensor(spreads).to(log_size)
        return cls(
            index=index,
            log_size=log_size[chain.rows],
            time_step=step,
            tied=chain.there[:, 2:],
            spread=((step[:, :-1] + step[:, 1:]) / 3).sqrt()[..., None] * part,
            robust_scale=settings.smooth_robust_scale,
        )

    def turns(self, state: State) -> Float[Tensor, "k pairs 17 3"]:
        """From each frame to the next: of the joints and the root in axis-angle, and of the log size, first component only."""
        rotations = torch.cat([state.rotations, state.root[:, None]], 1)[self.index]
        turns = axis_angle_from_matrix(rotations[:, :-1].mT @ rotations[:, 1:])
        growth = (state.log_scale[self.index] + self.log_size).diff(dim=1)[..., None, None]
        return torch.cat([turns, torch.nn.functional.pad(growth, (0, 2))], 2)

    def accelerations(self, turns: Float[Tensor, "k pairs 17 3"]) -> Float[Tensor, "k triples 17 3"]:
        """Differences of velocities, in spreads."""
        return (turns / self.time_step[..., None, None]).diff(dim=1) / self.spread[..., None]

    def loss(self, turns: Float[Tensor, "k pairs 17 3"]) -> Float[Tensor, "k triples"]:
        """One value for every three frames that follow each other, from the turns between them (`turns`); 0 where there are none."""
        squared = (self.accelerations(turns) ** 2).sum(-1)
        core = squared < self.robust_scale**2
        length = torch.where(core, torch.ones_like(squared), squared).sqrt()
        robust = torch.where(core, squared / 2, self.robust_scale * (length - self.robust_scale / 2))
        return torch.where(self.tied, robust.sum(-1), 0)

    def equations(self, turns: Float[Tensor, "k pairs 17 3"]) -> tuple[Float[Tensor, "k t 51"], ...]:
        """Gradient, and the Gauss-Newton matrix by its three diagonals: in a frame, with the next one, with the one after that; from
        the turns between frames (`turns`).

        The gradient is exact; the matrix takes turns between frames for small.
        """
        excess = self.accelerations(turns)
        weight = (self.robust_scale / excess.norm(dim=-1).clamp_min(self.robust_scale)) * self.tied[..., None] / self.spread
        pull = weight[..., None] * excess
        factor = _tangent_factor(turns)
        on_first, of_first = _tangents(pull, turns[:, :-1], factor[:, :-1])
        of_last, on_last = _tangents(pull, turns[:, 1:], factor[:, 1:])
        first, last = 1 / self.time_step[:, :-1, None], 1 / self.time_step[:, 1:, None]
        gradient = _by_frame(
            first[..., None] * on_first,
            -first[..., None] * of_first - last[..., None] * of_last,
            last[..., None] * on_last,
        )
        weight = (weight / self.spread)[..., None].expand(excess.shape)
        first, last = first[..., None], last[..., None]
        middle = first + last
        return (
            _unknowns(gradient),
            _unknowns(_by_frame(weight * first**2, weight * middle**2, weight * last**2)),
            _unknowns(_by_frame(-weight * first * middle, -weight * middle * last, torch.zeros_like(weight))),
            _unknowns(_by_frame(weight * first * last, torch.zeros_like(weight), torch.zeros_like(weight))),
        )


def _tangents(
    vector: Float[Tensor, "*batch 3"], turn: Float[Tensor, "*batch 3"], factor: Float[Tensor, "*batch 1"]
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"]]:
    """The inverse right Jacobian of SO(3) at `turn`, applied, and that at -turn, its transpose."""
    once = torch.linalg.cross(turn, vector)
    twice = factor * torch.linalg.cross(turn, once)
    return vector + once / 2 + twice, vector - once / 2 + twice


def _tangent_factor(turn: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
    """Factor of the double cross product turn x (turn x v) in the inverse right Jacobian of SO(3), the same at `turn` and at -turn."""
    squared = (turn**2).sum(-1, keepdim=True)
    half = squared.sqrt() / 2
    series = 1 / 12 + squared / 720
    exact = (1 - half * torch.cos(half) / torch.sin(half).clamp_min(1e-9)) / squared.clamp_min(1e-9)
    return torch.where(squared < 1e-4, series, exact)


def _by_frame(
    first: Float[Tensor, "k triples 17 3"], middle: Float[Tensor, "k triples 17 3"], last: Float[Tensor, "k triples 17 3"]
) -> Float[Tensor, "k t 17 3"]:
    """Add up what falls on each frame as the first, the middle and the last of three."""
    pad = torch.nn.functional.pad
    return pad(first, (0, 0, 0, 0, 0, 2)) + pad(middle, (0, 0, 0, 0, 1, 1)) + pad(last, (0, 0, 0, 0, 2, 0))


def _unknowns(parts: Float[Tensor, "k t 17 3"]) -> Float[Tensor, "k t 51"]:
    """The 51 unknowns of a frame out of its 17 parts; the shift is free."""
    return torch.nn.functional.pad(parts.flatten(2)[..., :49], (0, 2))
