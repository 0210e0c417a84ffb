"""Fit the hand model to 21 landmarks of each of many right hands at once (WiLoR, section 3, eq. 2-4).

Frame: landmarks in pixels, x right, y down; results in camera axes, metres. Left hands are mirrored by the caller first (x -> -x).
Where the camera is known (`fitting.lens`) projection is perspective with true rays, else weak perspective as in the paper.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fitting.backend import computer
from fitting.batches import in_batches
from fitting.hand.kinematics import FROM_KEYPOINTS
from fitting.hand.mano import HandModel, project
from fitting.hand.rotation import axis_angle_from_matrix
from fitting.initial import rebent, two_tilts
from fitting.landmarks.depth_cue import HINT_MISFIT, MOST_MISFIT, depth_cue, mended, trust_in
from fitting.lens import Lens, Turned
from fitting.objective import Landmarks, Objective, State
from fitting.priors.prior import pose_prior
from fitting.settings import FitSettings
from fitting.solver import Solution
from fitting.tracks.chains import Chain, chains, segments, whole_tracks
from fitting.tracks.paths import cheapest_path, mend_jumps
from fitting.tracks.solve import solve_tracks

MIN_POINTS = 6
"""Landmarks below which a hand is not fitted: palm and one finger leave most of the 61 unknowns to the priors. Ours."""
_FIRST_ITERATIONS = 6
"""With both tilts, before the worse one is given up."""
_DEAR = 0.3
"""Objective above which a hand is tried from other bends of its fingers: where a finger is caught, it is dear. No share of a batch, whose
hands would decide over each other. Ours; of rendered hands 13 % are dearer with a hint, 40 % without, of real ones half."""
_INLIER = 3.0
"""Robust scales within which a landmark agrees with its joint: 6 % of the box by default, twice a detector's typical error. Ours."""
_SAME_HAND_M = 0.01
"""Mean joint distance below which both tilts led to one hand, metres: so they do for 7 hands of 8. Ours."""


class Outcome(StrEnum):
    """How the fit of one hand ended."""

    CONVERGED = "converged"
    STALLED = "stalled"
    """The losses were still falling: `num_iterations` is too small for this hand."""
    TOO_FEW_POINTS = "too_few_points"
    """Fewer than `MIN_POINTS` landmarks with confidence."""
    NO_EXTENT = "no_extent"
    """All landmarks lie on one point."""
    NOT_FINITE = "not_finite"
    """The numbers ran away."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class HandFits:
    """Right hands, one row each, on the CPU. A hand that was not fitted has zeros and says why in `outcome`; nothing is NaN."""

    outcome: Shaped[np.ndarray, "n"]  # of Outcome
    betas: Float[Tensor, "n 10"]
    global_orient: Float[Tensor, "n 3"]
    hand_pose: Float[Tensor, "n 45"]  # flat_hand_mean
    camera: Float[Tensor, "n 3"]  # pixels a metre, at the wrist's depth, then the wrist's pixel
    transl: Float[Tensor, "n 3"]  # the wrist before a known camera, metres; 0 where it is not known
    joints_3d: Float[Tensor, "n 21 3"]  # wrist-centred
    joints_2d: Float[Tensor, "n 21 2"]
    box: Float[Tensor, "n 4"]  # of the projected 778 vertices
    loss_reprojection: Float[Tensor, "n"]  # box-normalised, as all losses: unweighted
    loss_bone: Float[Tensor, "n"]
    loss_angle: Float[Tensor, "n"]
    loss_prior: Float[Tensor, "n"]
    loss_shape: Float[Tensor, "n"]
    loss_depth: Float[Tensor, "n"]
    loss_smooth: Float[Tensor, "n"]  # of the track's acceleration here; 0 at its ends and without one
    error_px: Float[Tensor, "n"]  # confidence-weighted mean distance
    error_share: Float[Tensor, "n"]  # error_px over the longer side of `box`
    inlier_ratio: Float[Tensor, "n"]  # share of the landmarks used that lie within `_INLIER` robust scales of their joints
    flip_margin: Float[Tensor, "n"]  # see `flip_margin`
    violation_deg: Float[Tensor, "n"]  # worst joint angle beyond its limit
    num_points: Int[Tensor, "n"]
    num_iterations: Int[Tensor, "n"]

    def take(self, rows: slice) -> "HandFits":
        """The rows of a slice."""
        return HandFits(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})

    @classmethod
    def unfitted(cls, num_hands: int, num_points: Int[Tensor, "n"]) -> "HandFits":
        """Zeros for every hand."""
        shapes = {
            "betas": (10,),
            "global_orient": (3,),
            "hand_pose": (45,),
            "camera": (3,),
            "transl": (3,),
            "joints_3d": (21, 3),
            "joints_2d": (21, 2),
        }
        columns: dict[str, Any] = {
            f.name: torch.zeros(num_hands, *shapes.get(f.name, (4,) if f.name == "box" else ()))
            for f in fields(cls)
            if f.name not in ("outcome", "num_points", "num_iterations")
        }
        outcome = np.full(num_hands, Outcome.NOT_FINITE, dtype=object)
        return cls(outcome=outcome, num_points=num_points, num_iterations=torch.zeros(num_hands, dtype=torch.int64), **columns)


class Fitter:
    """The fit on one hand model with one choice of settings; the model's device and dtype decide where and how it computes."""

    def __init__(self, model: HandModel, settings: FitSettings | None = None) -> None:
        self.model = model
        self.settings = settings or FitSettings()
        self.batch_size = self.settings.batch_size  # or what of it fits the memory
        prior = pose_prior(model, self.settings.num_components, self.settings.prior_noise)
        self.objective = Objective.of(model, prior, self.settings)
        chosen = computer(self.settings.backend, model.v_template, self.settings.num_threads)
        self._minimise, self._measure, self._arithmetic = chosen.solve, chosen.measure, chosen.tracks

    @torch.no_grad()
    def fit(
        self,
        keypoints: Float[np.ndarray, "n 21 3"],
        world: Float[np.ndarray, "n 21 3"] | None = None,
        *,
        deviation: Float[np.ndarray, "n 21"] | None = None,
        track: Int[np.ndarray, "n"] | None = None,
        time_s: Float[np.ndarray, "n"] | None = None,
        lens: Lens | None = None,
    ) -> HandFits:
        """Fit n right hands; OpenPose's order, pixels and confidence; a point that is not finite or has no confidence is not used.

        `world`, a detector's own 3D landmarks in metres and camera axes (rows of NaN where unknown), chooses between the two tilts that
        the image cannot tell apart, and gives the depth loss its depths. Where it is a hint, the model's own joints with the `deviation` of
        each depth, metres (rows of NaN elsewhere), depths count by that, and the landmarks are moved towards it. Rows with the same `track`
        (-1: none) are one hand at the moments `time_s`, in any order, and are fitted together. With a `lens` projection is perspective, by
        true rays. Never raises for a bad hand: `outcome` says what was wrong with it.
        """
        points = torch.as_tensor(np.asarray(keypoints[..., :2], dtype=np.float64))
        confidence = torch.as_tensor(np.asarray(keypoints[..., 2], dtype=np.float64))
        used = torch.isfinite(points).all(-1) & (points.abs() < 1e9).all(-1) & torch.isfinite(confidence) & (confidence > 0)
        image, turned = points, None
        if lens is not None:
            turned = Turned.towards(lens, points, used)
            points = turned.see(points)
            used = used & torch.isfinite(points).all(-1)
        confidence = torch.where(used, confidence, 0).clamp(max=1)
        low = torch.where(used[..., None], points, torch.inf).amin(1)
        high = torch.where(used[..., None], points, -torch.inf).amax(1)
        side = (high - low).amax(-1)
        enough = used.sum(1) >= MIN_POINTS
        usable = torch.nonzero(enough & (side > 1e-3))[:, 0]

        fits = HandFits.unfitted(len(points), used.sum(1))
        fits.outcome[(~enough).numpy()] = Outcome.TOO_FEW_POINTS
        fits.outcome[(enough & (side <= 1e-3)).numpy()] = Outcome.NO_EXTENT
        hint = torch.full_like(points[..., :1], torch.nan).expand(-1, -1, 3) if world is None else torch.as_tensor(np.asarray(world))
        unsure = torch.as_tensor(np.full(confidence.shape, np.nan) if deviation is None else np.asarray(deviation, dtype=np.float64))

        moment = np.zeros(len(points)) if time_s is None else np.asarray(time_s, dtype=np.float64)
        segment = np.full(len(points), -1)
        if track is not None:
            segment[usable.numpy()] = segments(np.asarray(track)[usable.numpy()], moment[usable.numpy()], self.settings.max_gap_s)

        def fit_rows(rows: Int[Tensor, "m"]) -> None:
            centre = (low[rows] + high[rows]) / 2 if turned is None else torch.zeros_like(low[rows])
            pixels = torch.where(used[rows][..., None], points[rows], centre[:, None])
            tied = chains(segment[rows.numpy()], moment[rows.numpy()]) if track is not None else []
            lenses = None if turned is None else turned.take(rows)
            self._fit_batch(fits, rows, pixels, image[rows], confidence[rows], centre, side[rows], hint[rows], unsure[rows], tied, lenses)

        for rows in whole_tracks(segment[usable.numpy()], self.batch_size):
            fitting = in_batches(fit_rows, usable[rows], max(len(rows), 1))
            if fitting < len(rows):
                self.batch_size = min(self.batch_size, fitting)
        return fits

    def _fit_batch(
        self,
        fits: HandFits,
        rows: Int[Tensor, "m"],
        pixels: Float[Tensor, "m 21 2"],
        image: Float[Tensor, "m 21 2"],  # the same before any camera was turned
        confidence: Float[Tensor, "m 21"],
        centre: Float[Tensor, "m 2"],
        side: Float[Tensor, "m"],
        hint: Float[Tensor, "m 21 3"],
        deviation: Float[Tensor, "m 21"],
        tied: list[Chain],
        turned: Turned | None,
    ) -> None:
        """Fit one batch of usable hands and write its rows."""
        like, order = self.model.v_template, list(FROM_KEYPOINTS)
        normalised = ((pixels - centre[:, None]) / side[:, None, None]).to(like)[:, order]
        hint, seen_confidence = hint.to(like)[:, order], confidence.to(like)[:, order]
        hinted = torch.isfinite(deviation).all(1).to(like.device)
        share = self.settings.hint_share * hinted.to(like)
        perspective = (torch.zeros_like(side) if turned is None else side / turned.focal).to(like)
        rays = None if turned is None else perspective
        normalised = mended(normalised, seen_confidence, hint, share, rays)
        most_misfit = torch.where(hinted, HINT_MISFIT, MOST_MISFIT).to(like)
        deep = depth_cue(normalised, seen_confidence, hint, trust_in(deviation, self.settings).to(like)[:, order], rays, most_misfit)
        seen = Landmarks(normalised, seen_confidence, *deep, perspective)
        tied = [Chain(*(values.to(like.device) for values in chain)) for chain in tied]
        best, margin, smooth = self._solve(seen, hint, side.log().to(like), tied)
        fitted = self._columns(best.state, seen, centre.to(like), side.to(like))
        fitted["num_iterations"] = best.num_iterations.cpu()
        fitted["flip_margin"], fitted["loss_smooth"] = margin.cpu(), smooth.cpu()
        if turned is not None:
            fitted, pixels = turned.back(self.model, fitted), torch.where(confidence[..., None] > 0, image, 0)
        fitted |= self._agreement((fitted["joints_2d"] - pixels).norm(dim=-1), confidence, side, fitted["box"])
        sound = torch.stack([torch.isfinite(values).reshape(len(rows), -1).all(1) for values in fitted.values()]).all(0)
        for name, values in fitted.items():
            column = getattr(fits, name)
            column[rows[sound]] = values[sound].to(column.dtype)
        outcome = np.where(best.converged.cpu().numpy(), Outcome.CONVERGED, Outcome.STALLED).astype(object)
        outcome[~sound.numpy()] = Outcome.NOT_FINITE
        fits.outcome[rows.numpy()] = outcome

    def _solve(
        self, seen: Landmarks, hint: Float[Tensor, "m 21 3"], log_size: Float[Tensor, "m"], tied: list[Chain]
    ) -> tuple[Solution, Float[Tensor, "m"], Float[Tensor, "m"]]:
        """A few steps from both tilts, the better one to its end, and tracks together; the margin of the choice; the acceleration loss."""
        n, settings = len(seen.keypoints), self.settings
        starts = two_tilts(self.objective, seen)
        both = State(*(torch.cat(pair) for pair in zip(*starts, strict=True)))
        twice = Landmarks(*(torch.cat([values, values]) for values in seen))
        first_iterations = min(_FIRST_ITERATIONS, settings.num_iterations)
        early = self._minimise(self.objective, both, twice, num_iterations=first_iterations, tolerance=settings.tolerance)
        _, posed = self._arithmetic.losses(self.objective, early.state, twice)
        score = (early.total + settings.world_weight * disagreement(posed.points, torch.cat([hint, hint]))).view(2, n)
        points = posed.points.view(2, n, 21, 3)
        second = score[1] < score[0]
        for chain in tied:
            path = cheapest_path(score, points, chain, settings.jump_weight)
            second[chain.rows[chain.there]] = path[chain.there] == 1
        margin = flip_margin(score, points, second)
        chosen = torch.arange(n, device=score.device) + n * second
        last = settings.num_iterations - first_iterations
        start, damping = early.state.take(chosen), early.damping[chosen]
        end = self._minimise(self.objective, start, seen, num_iterations=last, tolerance=settings.tolerance, damping=damping)
        end.converged.logical_or_(early.converged[chosen])
        end.num_iterations.add_(early.num_iterations[:n] + early.num_iterations[n:])
        self._second_chance(end, seen)
        smooth = torch.zeros_like(end.total)
        again = partial(self._minimise, self.objective, num_iterations=last, tolerance=settings.tolerance)
        finite = [chain.only(torch.isfinite(end.total[chain.rows]).all(1)) for chain in tied]
        for chain in (some for some in finite if len(some.rows)):
            mend_jumps(self.objective, again, end, seen, chain, settings.jump_weight)
            rows, joint, loss = solve_tracks(self.objective, end.state, seen, log_size, chain, settings, self._arithmetic)
            end.state.put(rows, joint.state)
            end.converged[rows] = joint.converged
            end.num_iterations[rows] += joint.num_iterations
            smooth[rows] = loss
        return end, margin, smooth

    def _second_chance(self, end: Solution, seen: Landmarks) -> None:
        """Dear hands again, each finger from the bends that suit the palm as it was found; kept in place where that is better."""
        rows = torch.nonzero(torch.isfinite(end.total) & (end.total > _DEAR))[:, 0]
        if not len(rows):
            return
        here, marks = end.state.take(rows), seen.take(rows)
        start, settings = rebent(self.objective, marks, here), self.settings
        again = self._minimise(self.objective, start, marks, num_iterations=settings.num_iterations, tolerance=settings.tolerance)
        end.num_iterations[rows] += again.num_iterations
        better = again.total < end.total[rows]
        end.state.put(rows[better], again.state.take(better))
        for mine, theirs in ((end.total, again.total), (end.converged, again.converged), (end.damping, again.damping)):
            mine[rows[better]] = theirs[better]

    def _columns(
        self, state: State, seen: Landmarks, centre: Float[Tensor, "m 2"], side: Float[Tensor, "m"]
    ) -> dict[str, Shaped[Tensor, "m ..."]]:
        """Columns of the result from the whole mesh, in pixels of the image."""
        scale = state.log_scale.exp() * side
        camera = torch.cat([scale[:, None], centre + state.shift * side[:, None]], 1)
        losses, joints, box, violation = self._measure(self.model, self.objective, state, seen)
        columns = {
            "betas": state.betas,
            "global_orient": axis_angle_from_matrix(state.root),
            "hand_pose": axis_angle_from_matrix(state.rotations).flatten(1),
            "camera": camera,
            "joints_3d": joints,
            "joints_2d": project(joints, camera),
            "box": box * side[:, None] + centre.repeat(1, 2),
            "loss_reprojection": losses.reprojection,
            "loss_bone": losses.bone,
            "loss_angle": losses.angle,
            "loss_prior": losses.prior,
            "loss_shape": losses.shape,
            "loss_depth": losses.depth,
            "violation_deg": violation.rad2deg(),
        }
        return {name: values.cpu() for name, values in columns.items()}

    def _agreement(
        self, gap: Float[Tensor, "m 21"], confidence: Float[Tensor, "m 21"], side: Float[Tensor, "m"], box: Float[Tensor, "m 4"]
    ) -> dict[str, Float[Tensor, "m"]]:
        """Columns on how well the joints meet the landmarks, from their distances in pixels."""
        error_px = (confidence * gap).sum(1) / confidence.sum(1)
        near = gap < _INLIER * self.settings.robust_scale * side[:, None]
        used = confidence > 0
        return {
            "error_px": error_px,
            "error_share": error_px / (box[:, 2:] - box[:, :2]).amax(1).clamp_min(1e-6),
            "inlier_ratio": (near & used).sum(1) / used.sum(1),
        }


def flip_margin(score: Float[Tensor, "2 m"], points: Float[Tensor, "2 m 21 3"], second: Bool[Tensor, "m"]) -> Float[Tensor, "m"]:
    """What the other tilt would have cost more, as a share of the chosen one's score when they were compared; in [-1, 1].

    1 too where both led to the same hand, as nothing is left to confuse it with; below 0 where a track chose the dearer one.
    """
    best, other = torch.where(second, score.flip(0), score)
    apart = (points[0] - points[1]).norm(dim=-1).mean(-1)
    margin = (other / best.clamp_min(1e-9) - 1).clamp(-1, 1)
    return torch.where(apart < _SAME_HAND_M, 1, margin)


def disagreement(points: Float[Tensor, "n 21 3"], hint: Float[Tensor, "n 21 3"]) -> Float[Tensor, "n"]:
    """Mean squared distance of two hands after centring and scaling each to unit size, not turned; 0 where the hint is not finite."""

    def normalised(hand: Float[Tensor, "n 21 3"]) -> Float[Tensor, "n 21 3"]:
        centred = hand - hand.mean(1, keepdim=True)
        return centred / (centred**2).sum((1, 2), keepdim=True).sqrt().clamp_min(1e-9)

    known = torch.isfinite(hint).all(-1).all(-1)
    gap = ((normalised(points) - normalised(hint)) ** 2).sum((1, 2))
    return torch.where(known, gap, 0)
