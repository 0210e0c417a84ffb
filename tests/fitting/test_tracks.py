"""Hands of one track share their shape, move smoothly, do not flip, and leave other tracks alone."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.fit.tracks import flip_share, jitter_mm, landmarks, studio_motion
from fitting.backend import computer
from fitting.compiled.banded import joint_step as joint_step_compiled
from fitting.fit import Fitter, Outcome
from fitting.hand.kinematics import FROM_KEYPOINTS
from fitting.hand.mano import HandModel
from fitting.hand.rotation import matrix_from_axis_angle
from fitting.initial import two_tilts
from fitting.objective import Landmarks, State
from fitting.settings import FitSettings
from fitting.solver import solve
from fitting.tracks.banded import Banded, solve_banded
from fitting.tracks.chains import chains, segments, whole_tracks
from fitting.tracks.paths import cheapest_path, mend_jumps
from fitting.tracks.smoothness import Smoothness
from fitting.tracks.solve import joint_step, solve_tracks, step_by_length
from pipeline.evaluate.studio_truth import pa_mpjpe_mm

# Which rows belong together


def test_a_gap_a_second_row_at_one_time_and_no_track_break_a_segment() -> None:
    track = np.array([1, 0, 1, 1, 0, 0, -1, -1, 1])
    time_s = np.array([0.2, 0.0, 0.0, 0.1, 0.1, 0.1, 0.0, 0.1, 1.2])
    number = segments(track, time_s, max_gap_s=0.5)
    together = {frozenset(np.flatnonzero(number == n).tolist()) for n in np.unique(number)}
    assert together == {frozenset(rows) for rows in ([0, 2, 3], [1, 4], [5], [6], [7], [8])}
    assert segments(track[:0], time_s[:0], 0.5).shape == (0,)


def test_batches_hold_whole_tracks() -> None:
    segment = np.array([3, 1, 1, 3, 1, 2, 5, 5, 5, 5, 5, 5, -1, -1])
    batches = [segment[rows].tolist() for rows in whole_tracks(segment, 4)]
    assert sorted(row for batch in batches for row in batch) == sorted(segment.tolist())
    assert all(len(batch) <= 4 or set(batch) == {5} for batch in batches)
    for number in (1, 3, 5):
        assert sum(number in batch for batch in batches) == 1
    assert list(whole_tracks(segment[:0], 4)) == []


def test_chains_are_in_time_order_and_hold_every_row_of_a_track_once() -> None:
    segment, time_s = np.array([0, 1, 0, 2, 1, 1, 0, 1, 1, 1]), np.array([3.0, 0, 1, 0, 5, 4, 2, 3, 2, 1])
    rows = [chain.rows[chain.there].tolist() for chain in chains(segment, time_s)]
    assert rows == [[1, 9, 8, 7, 5, 4], [2, 6, 0]]
    long = np.repeat(np.arange(3), (9, 3, 4))
    found = chains(long, np.arange(16.0))
    assert [tuple(chain.rows.shape) for chain in found] == [(1, 9), (2, 4)]


# The acceleration loss


def moving(num_frames: int, seed: int = 0, dtype: Any = torch.float64) -> State:
    """Hands that move at random, far from smoothly."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: Any, scale: Any = 0.4) -> Any:
        return scale * torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return State(
        matrix_from_axis_angle(draw(num_frames, 15, 3)),
        matrix_from_axis_angle(draw(num_frames, 3)),
        draw(num_frames, 10),
        2 + draw(num_frames, scale=0.1),
        draw(num_frames, 2),
    )


def smoothness(time_s: np.ndarray, segment: np.ndarray | None = None, robust_scale: float = 1.0) -> Smoothness:
    chain = chains(np.zeros(len(time_s), np.int64) if segment is None else segment, time_s)[0]
    log_size = torch.linspace(4, 5, len(time_s), dtype=torch.float64)
    spreads: dict[str, Any] = {"finger_spread": 2.5, "root_spread": 8.0, "size_spread": 0.25}
    return Smoothness.of(chain, log_size, FitSettings(**spreads, smooth_robust_scale=robust_scale))


def test_acceleration_loss_is_the_value_worked_by_hand() -> None:
    """The root turns by 0.1 and then 0.4 rad about x, 0.1 s each; the box grows so that the hand's size does not change."""
    turn = matrix_from_axis_angle(torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.5, 0, 0]], dtype=torch.float64))
    state = moving(3)._replace(root=turn, log_scale=-torch.linspace(4, 5, 3, dtype=torch.float64))
    state = state._replace(rotations=state.rotations[:1].expand(3, 15, 3, 3))
    change = 4.0 - 1.0  # of velocity, rad/s
    spread = 8 * np.sqrt(0.2 / 3)
    both = (smoothness(np.array([0.0, 0.1, 0.2]), robust_scale=s) for s in (10.0, 0.5))
    ours = [one.loss(one.turns(state)).item() for one in both]
    assert ours[0] == pytest.approx((change / spread) ** 2 / 2)
    assert ours[1] == pytest.approx(0.5 * (change / spread - 0.25))


def test_frames_far_apart_are_hardly_tied() -> None:
    state = moving(3)
    both = (smoothness(np.array([0.0, dt, 2 * dt]), robust_scale=1e9) for dt in (1 / 30, 0.2))
    near, far = (one.loss(one.turns(state)).item() for one in both)
    assert near / far == pytest.approx(6**3)


def test_gradient_is_that_of_autograd_at_uneven_times_and_large_turns() -> None:
    state, time_s = moving(7), np.array([0.0, 0.03, 0.1, 0.13, 0.3, 0.33, 0.5])
    loss = smoothness(time_s)
    step = torch.zeros(7, 61, dtype=torch.float64, requires_grad=True)
    loss.loss(loss.turns(state.moved(step))).sum().backward()
    gradient, *_ = loss.equations(loss.turns(state))
    assert step.grad is not None
    torch.testing.assert_close(gradient[0, :, :48], step.grad[:, :48], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gradient[0, :, 48], step.grad[:, 58], rtol=1e-7, atol=1e-9)
    assert step.grad[:, 48:58].abs().max() == step.grad[:, 59:].abs().max() == 0 == gradient[..., 49:].abs().max()


def test_matrix_is_the_hessian_of_small_movements() -> Any:
    state = moving(6)
    rest = State(*(values[:1].expand(6, *values.shape[1:]) for values in state))._replace(log_scale=-torch.linspace(4, 5, 6).double())
    loss = smoothness(np.array([0.0, 0.1, 0.2, 0.25, 0.3, 0.6]))
    own = [*range(48), 58]

    def gradient(frame: int, unknown: int, size: float) -> torch.Tensor:
        step = torch.zeros(6, 61, dtype=torch.float64)
        step[frame, unknown] = size
        return loss.equations(loss.turns(rest.moved(step)))[0][0, :, :49]

    columns = [[(gradient(t, u, 1e-5) - gradient(t, u, -1e-5)) / 2e-5 for u in own] for t in range(6)]
    hessian = torch.stack([torch.stack(column) for column in columns])
    _, here, ahead, further = (part[0, :, :49] for part in loss.equations(loss.turns(rest)))
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
    for t in range(6):
        torch.testing.assert_close(hessian[t, :, t], torch.diag(here[t]), **close)
        if t < 5:
            torch.testing.assert_close(hessian[t, :, t + 1], torch.diag(ahead[t]), **close)
        if t < 4:
            torch.testing.assert_close(hessian[t, :, t + 2], torch.diag(further[t]), **close)
        if t < 3:
            assert hessian[t, :, t + 3 :].abs().max() == 0


def test_two_tracks_of_unlike_length_do_not_meet() -> None:
    state, segment = moving(8), np.array([0, 0, 0, 0, 0, 1, 1, 1])
    time_s = np.arange(8) / 30
    both = smoothness(time_s, segment)
    alone = smoothness(time_s[5:])
    member = chains(segment, time_s)[0].member()[0]
    turns = both.turns(state.take(member))
    losses = both.loss(turns)
    torch.testing.assert_close(losses[1, 0], alone.loss(alone.turns(state.take(torch.arange(5, 8))))[0, 0])
    assert losses[1, 1:].abs().max() == 0
    assert all(part[1, 3:].abs().max() == 0 for part in both.equations(turns))


# The linear system


def random_system(k: int, t: int, f: int, s: int) -> Banded:
    g = torch.Generator().manual_seed(0)

    def draw(*shape: Any) -> Any:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    blocks = draw(k, t, f, f)
    blocks = blocks @ blocks.mT + 8 * torch.eye(f, dtype=torch.float64)
    shared = (20 * t * torch.eye(s, dtype=torch.float64)).repeat(k, 1, 1)
    return Banded(blocks, draw(k, t, f), draw(k, t, f), draw(k, t, f, s), shared, draw(k, t, f), draw(k, s))


def dense(system: Banded) -> tuple[torch.Tensor, torch.Tensor]:
    k, t, f = system.right.shape
    n = t * f
    matrix = torch.zeros(k, n + system.shared.shape[1], n + system.shared.shape[1], dtype=torch.float64)
    for i in range(t):
        here = slice(i * f, i * f + f)
        matrix[:, here, here] = system.blocks[:, i]
        matrix[:, here, n:], matrix[:, n:, here] = system.border[:, i], system.border[:, i].mT
        for diagonal, ahead in ((system.next, 1), (system.second, 2)):
            if i + ahead < t:
                there = slice((i + ahead) * f, (i + ahead + 1) * f)
                matrix[:, here, there] = matrix[:, there, here] = torch.diag_embed(diagonal[:, i])
    matrix[:, n:, n:] = system.shared
    return matrix, torch.cat([system.right.flatten(1), system.right_shared], 1)


@pytest.mark.parametrize(("t", "f", "s"), [(9, 5, 3), (1, 4, 2), (2, 4, 2), (30, 51, 10), (6, 13, 0)])
def test_banded_solution_is_the_dense_one(t: Any, f: Any, s: Any) -> None:
    system = random_system(3, t, f, s)
    matrix, right = dense(system)
    exact = torch.from_numpy(np.linalg.solve(matrix.numpy(), right.numpy()[..., None])[..., 0])  # torch's once lost its pivots
    frames, shared = solve_banded(system)
    torch.testing.assert_close(torch.cat([frames.flatten(1), shared], 1), exact)


def test_a_system_that_is_not_positive_definite_gives_nan_for_its_track_alone() -> None:
    system = random_system(3, 6, 5, 2)
    system.blocks[1, 3] -= 100 * torch.eye(5)
    frames, _ = solve_banded(system)
    assert torch.isfinite(frames[[0, 2]]).all()
    assert frames[1].isnan().all()


def steps_of_tracks(
    fitter: Fitter, lengths: Any, *, step: Any = joint_step_compiled, damping: Any = 1e-2, active: Any = None, seed: int = 0
) -> Any:
    """A step of each of some tracks far from their end, by one of the twins."""
    segment = np.repeat(np.arange(len(lengths)), lengths)
    time_s = np.concatenate([np.arange(length) / 30 for length in lengths])
    n = len(segment)
    (chain,) = chains(segment, time_s)
    generator = torch.Generator().manual_seed(seed)
    state = moving(n, seed, torch.float32)
    points = fitter.objective.joints.pose(state.root, state.rotations, state.betas).points[..., :2]
    keypoints = state.log_scale.exp()[:, None, None] * points + 0.05 * torch.randn(n, 21, 2, generator=generator)
    ones = torch.ones(n, 21)
    rows, track, _ = chain.member()
    seen = Landmarks(keypoints, ones, 0 * ones, 0 * ones, torch.zeros(n)).take(rows)
    state = state.take(rows)
    settings = fitter.settings
    smoothness = Smoothness.of(chain, torch.zeros(n), settings)
    smooth = tuple(settings.smooth_weight * part for part in smoothness.equations(smoothness.turns(state)))
    k = len(chain.rows)
    damped = torch.as_tensor(damping, dtype=torch.float64).expand(k).clone()
    moves = torch.ones(k, dtype=torch.bool) if active is None else torch.as_tensor(active)
    return step(fitter.objective, state, seen, smooth, chain, damped, moves), track


@pytest.mark.parametrize("share_shape", [True, False])
def test_both_joint_steps_are_one(model: HandModel, share_shape: bool) -> None:
    fitter = Fitter(model, FitSettings(share_shape=share_shape, smooth_weight=0.5))
    exact, _ = steps_of_tracks(fitter, [7, 9, 5, 6], step=joint_step)
    step, _ = steps_of_tracks(fitter, [7, 9, 5, 6])
    assert (step - exact).norm() < 1e-3 * exact.norm()
    torch.testing.assert_close(step, exact.float(), rtol=0.02, atol=2e-3)


def test_a_tracks_step_is_the_same_to_the_bit_beside_any_others(fitter: Fitter) -> None:
    lengths = [9, 12, 7, 12, 8, 11, 7, 10, 7, 12, 9, 8, 7, 11, 10, 7, 12, 9, 7, 8]  # more than there are lanes
    whole, track = steps_of_tracks(fitter, lengths)
    for other in (range(0, 20, 2), [3]):
        active = np.isin(np.arange(20), other)
        some, _ = steps_of_tracks(fitter, lengths, active=active)
        moved = torch.as_tensor(active)[track]
        assert torch.equal(some[moved], whole[moved])
        assert (some[~moved] == 0).all()


def test_long_tracks_are_stepped_without_lanes_and_alike(fitter: Fitter) -> None:
    """Lanes of a long track would take gigabytes."""
    lengths = [9, 12, 7, 12, 8]
    lanes, track = steps_of_tracks(fitter, lengths)
    taken: list[int] = []

    def long(*args: Any) -> torch.Tensor:
        taken.append(len(args[1].root))
        return joint_step(*args)

    step, _ = steps_of_tracks(fitter, lengths, step=step_by_length(joint_step_compiled, long, 9))
    assert taken == [12, 12]
    short = torch.isin(track, torch.tensor([k for k, length in enumerate(sorted(lengths, reverse=True)) if length <= 9]))
    assert torch.equal(step[short], lanes[short])
    torch.testing.assert_close(step, lanes, rtol=0.02, atol=2e-3)
    assert fitter._arithmetic.step is not joint_step_compiled


def test_a_track_without_a_step_gives_nan_for_itself_alone(fitter: Fitter) -> None:
    lengths = [6, 9, 8, 7]
    good, track = steps_of_tracks(fitter, lengths)
    step, _ = steps_of_tracks(fitter, lengths, damping=[1e-2, -5.0, 1e-2, 1e-2])
    assert step[track == 1].isnan().all()
    assert torch.equal(step[track != 1], good[track != 1])


# The joint solve


@pytest.fixture(scope="module")
def fitter(model: HandModel) -> Fitter:
    return Fitter(model)


@pytest.fixture(scope="module")
def motion() -> Any:
    return studio_motion(1, 2.0, seed=3)


@pytest.fixture(scope="module")
def noisy(motion: Any) -> Any:
    return landmarks(motion, 0.02, "fresh", seed=0)


@pytest.fixture(scope="module")
def fitted(fitter: Fitter, motion: Any, noisy: np.ndarray) -> Any:
    return fitter.fit(noisy, track=motion.track, time_s=motion.time_s)


def test_jitter_falls_and_the_error_with_it(fitter: Fitter, motion: Any, noisy: np.ndarray, fitted: Any) -> None:
    alone = fitter.fit(noisy)
    joints, single = fitted.joints_3d.double().numpy(), alone.joints_3d.double().numpy()
    assert jitter_mm(joints, motion.track) < 0.5 * jitter_mm(single, motion.track)
    assert jitter_mm(joints - motion.joints, motion.track) < 0.5 * jitter_mm(single - motion.joints, motion.track)
    assert pa_mpjpe_mm(joints, motion.joints).mean() < 0.95 * pa_mpjpe_mm(single, motion.joints).mean()
    assert flip_share(joints, motion.joints) == 0
    assert (fitted.loss_smooth > 0).float().mean() > 0.9
    assert (alone.loss_smooth == 0).all()


def test_shape_is_shared_within_a_track_and_not_across(motion: Any, fitted: Any) -> None:
    betas = [fitted.betas[motion.track == t] for t in (0, 1)]
    for own in betas:
        torch.testing.assert_close(own, own[:1].expand_as(own))
    assert (betas[0][0] - betas[1][0]).abs().max() > 1e-3


def test_nothing_is_tied_when_settings_say_so(model: HandModel, motion: Any, noisy: np.ndarray) -> None:
    free = Fitter(model, FitSettings(smooth_weight=0, share_shape=False, jump_weight=0))
    tied, alone = free.fit(noisy, track=motion.track, time_s=motion.time_s), free.fit(noisy)
    assert (tied.joints_3d - alone.joints_3d).norm(dim=2).mean(1).median() < 1e-3
    assert tied.betas[motion.track == 0].std(0).min() > 0.01


def test_hands_without_a_track_are_fitted_as_before(fitter: Fitter, noisy: np.ndarray) -> None:
    alone, tracked = fitter.fit(noisy[:20]), fitter.fit(noisy[:20], track=np.full(20, -1), time_s=np.arange(20) / 30)
    torch.testing.assert_close(tracked.joints_3d, alone.joints_3d)
    single = fitter.fit(noisy[:20], track=np.arange(20), time_s=np.arange(20) / 30)
    torch.testing.assert_close(single.joints_3d, alone.joints_3d)


def test_both_backends_fit_tracks_alike(model: HandModel, motion: Any, noisy: np.ndarray, fitted: Any) -> None:
    plain = Fitter(model, FitSettings(backend="torch")).fit(noisy, track=motion.track, time_s=motion.time_s)
    apart = (plain.joints_3d - fitted.joints_3d).norm(dim=2).mean(1)
    assert apart.median() < 1e-4
    assert (apart < 1e-3).float().mean() > 0.95


def test_order_of_rows_changes_nothing(fitter: Fitter, motion: Any, noisy: np.ndarray, fitted: Any) -> None:
    order = np.random.default_rng(0).permutation(len(noisy))
    shuffled = fitter.fit(noisy[order], track=motion.track[order], time_s=motion.time_s[order])
    torch.testing.assert_close(shuffled.joints_3d, fitted.joints_3d[order], atol=1e-4, rtol=0)


def test_a_broken_track_is_not_smoothed_across_the_break(fitter: Fitter, motion: Any, noisy: np.ndarray) -> None:
    half = np.flatnonzero(motion.track == 0)
    later = motion.time_s[half] + np.where(np.arange(len(half)) < 30, 0, 1.0)
    whole = fitter.fit(noisy[half], track=np.zeros(len(half), int), time_s=later)
    parts = [fitter.fit(noisy[half][rows], track=np.zeros(30, int), time_s=later[rows]) for rows in (slice(0, 30), slice(30, 60))]
    torch.testing.assert_close(whole.joints_3d, torch.cat([part.joints_3d for part in parts]), atol=1e-4, rtol=0)
    assert (whole.betas[0] - whole.betas[-1]).abs().max() > 1e-4


def test_a_failed_frame_keeps_its_outcome_and_its_neighbours_bridge_it(fitter: Fitter, motion: Any, noisy: np.ndarray, fitted: Any) -> None:
    lost = noisy.copy()
    lost[[20, 21]] = np.nan
    fits = fitter.fit(lost, track=motion.track, time_s=motion.time_s)
    assert (fits.outcome[[20, 21]] == Outcome.TOO_FEW_POINTS).all()
    assert (fits.betas[[20, 21]] == 0).all()
    torch.testing.assert_close(fits.betas[19], fits.betas[22])
    assert (fits.joints_3d[[19, 22]] - fitted.joints_3d[[19, 22]]).norm(dim=2).mean() < 0.003
    assert (fits.loss_smooth[[19, 22]] > 0).all()


@pytest.mark.parametrize("lost", [[70], [10, 70]])
def test_a_frame_whose_numbers_ran_away_spoils_no_other(model: HandModel, motion: Any, noisy: np.ndarray, lost: Any) -> Any:
    fitter = Fitter(model)
    minimise = fitter._minimise

    def spoiled(*args: Any, **settings: Any) -> Any:
        found = minimise(*args, **settings)
        if len(found.total) == len(noisy):
            found.total[lost] = found.state.root[lost] = torch.nan
        return found

    fitter._minimise = spoiled
    fits = fitter.fit(noisy, track=motion.track, time_s=motion.time_s)
    assert np.flatnonzero(fits.outcome == Outcome.NOT_FINITE).tolist() == lost
    for column in (fits.betas, fits.joints_3d, fits.loss_smooth):
        assert torch.isfinite(column).all()
    assert (fits.loss_smooth[motion.track == 1] == 0).all()
    assert (fits.loss_smooth[motion.track == 0] > 0).any() == (len(lost) == 1)


def test_a_single_frame_that_flips_is_repaired(fitter: Fitter) -> None:
    """One frame of a still hand scores a little better by the other tilt, as noise will have it."""
    n = 9
    score = torch.tensor([[1.0] * n, [1.2] * n])
    score[0, 4] = 1.3
    points = torch.stack([torch.zeros(n, 21, 3), torch.full((n, 21, 3), 0.05)])
    chain = chains(np.zeros(n, np.int64), np.arange(n) / 30)[0]
    assert cheapest_path(score, points, chain, jump_weight=0.0)[0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert cheapest_path(score, points, chain, jump_weight=0.1)[0].tolist() == [0] * n
    score[1, 4:] = 0.2
    assert cheapest_path(score, points, chain, jump_weight=0.1)[0].tolist() == [0] * 4 + [1] * 5


def test_a_frame_that_fell_into_another_minimum_is_fetched_by_its_neighbours(fitter: Fitter, motion: Any) -> None:
    rows = slice(20, 29)
    keypoints = torch.as_tensor(motion.pixels[rows][:, list(FROM_KEYPOINTS)]).float()
    size = (keypoints.amax(1) - keypoints.amin(1)).amax(1)
    points = (keypoints - keypoints.mean(1, keepdim=True)) / size[:, None, None]
    blank = torch.zeros(9, 21)
    seen = Landmarks(points, blank + 1, blank, blank, blank[:, 0])
    minimise = partial(solve, fitter.objective, num_iterations=20, tolerance=1e-4)
    tilts = [minimise(start, seen) for start in two_tilts(fitter.objective, seen)]
    found = tilts[int(tilts[1].total.mean() < tilts[0].total.mean())]
    good = found.state.take(torch.arange(9))
    half_turn = matrix_from_axis_angle(torch.tensor([0.0, np.pi, 0.0]))
    found.state.root[4] = half_turn @ found.state.root[4]
    fallen = fitter.objective.total(fitter.objective.losses(found.state, seen)[0])[4]
    found.total[4] = fallen
    chain = chains(np.zeros(9, np.int64), motion.time_s[rows])[0]
    mend_jumps(fitter.objective, minimise, found, seen, chain, jump_weight=0.3)
    apart = (found.state.root.mT @ good.root).diagonal(dim1=1, dim2=2).sum(1)
    assert (apart > 1 + 2 * np.cos(0.2)).all()
    assert found.total[4] < 0.5 * fallen


@pytest.mark.parametrize("share_shape", [True, False])
def test_total_of_a_track_never_rises_and_both_arithmetics_agree(
    model: HandModel, exact: HandModel, noisy: np.ndarray, share_shape: bool
) -> None:
    """Twins: float64 definitions and compiled float32 parts go the same way."""
    totals: dict[str, Any] = {}
    for name, hand in (("plain", exact), ("compiled", model)):
        fitter, arithmetic = Fitter(hand), computer("auto", hand.v_template).tracks
        state = near_the_mean_pose(moving(30, dtype=hand.v_template.dtype), fitter)
        keypoints = torch.as_tensor(noisy[:30, :, :2]).to(hand.v_template)
        size = (keypoints.amax(1) - keypoints.amin(1)).amax(1)
        seen = (keypoints - keypoints.mean(1, keepdim=True)) / size[:, None, None]
        blank = torch.zeros(30, 21).to(seen)
        marks = Landmarks(seen, blank + 1, blank, blank, blank[:, 0])
        chain = chains(np.repeat([0, 1], (18, 12)), np.arange(30) / 30)[0]
        totals[name] = []
        for count in range(7):
            settings = FitSettings(track_iterations=count, share_shape=share_shape, track_tolerance=0)
            _, end, _ = solve_tracks(fitter.objective, state, marks, size.log(), chain, settings, arithmetic)
            totals[name].append(end.total[[0, 29]])
    plain, compiled = (torch.stack(totals[name]) for name in ("plain", "compiled"))
    for values in (plain, compiled):
        assert (values.diff(dim=0) <= 0).all()
        assert (values[-1] < 0.3 * values[0]).all()
    torch.testing.assert_close(plain[:4], compiled[:4], rtol=5e-3, atol=0)


def near_the_mean_pose(state: State, fitter: Fitter) -> State:
    """Hands near the mean pose, each a little off."""
    mean = fitter.objective.prior.mean_rotations
    off = 0.1 * torch.randn(len(state.root), 15, 3, generator=torch.Generator().manual_seed(1))
    return state._replace(rotations=mean @ matrix_from_axis_angle(off.to(mean)))
