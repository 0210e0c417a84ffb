"""The compiled fit is the torch fit: the same losses, equations and minima, whatever a hand's neighbours."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from fitting import solver
from fitting.compiled import loop as compiled_loop
from fitting.compiled import solver as compiled
from fitting.compiled.functions import angle_of, exponential, half_turn_parts
from fitting.compiled.kernel import kept, kernel
from fitting.compiled.lanes import LANES, empty, load, store
from fitting.compiled.layout import SOURCES
from fitting.fit import Fitter
from fitting.hand.kinematics import FROM_KEYPOINTS
from fitting.hand.mano import HandModel
from fitting.hand.rotation import matrix_from_axis_angle
from fitting.initial import two_tilts
from fitting.measures import measure
from fitting.objective import Landmarks, Objective, State, projected
from fitting.priors.prior import pose_prior
from fitting.settings import FitSettings

Rows = TypeVar("Rows", State, Landmarks)

TERMS = ("bone", "angle", "prior", "shape", "depth")
SETTINGS = FitSettings(depth_weight=0.7)


def objective_of(model: HandModel, settings: FitSettings = SETTINGS, **prior: Any) -> Objective:
    return Objective.of(model, pose_prior(model, **prior), settings)


@pytest.fixture(scope="module")
def exact_objective(exact: HandModel) -> Objective:
    return objective_of(exact)


@pytest.fixture(scope="module")
def objective(model: HandModel) -> Objective:
    return objective_of(model)


def random_hands(objective: Objective, n: int, seed: int = 0) -> tuple[State, Landmarks]:
    """Hands beyond their limits and their landmarks, some unseen, float64."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.as_tensor(rng.normal(size=shape))

    turns = matrix_from_axis_angle(draw(n, 15, 3, scale=0.5)), matrix_from_axis_angle(draw(n, 3))
    state = State(*turns, draw(n, 10, scale=2), draw(n, scale=0.2) + 2, draw(n, 2, scale=0.1))
    joints = objective.joints.to("cpu", torch.float64)
    perspective = torch.as_tensor(0.4 * rng.random(n) * (rng.random(n) > 0.3))
    image = projected(state, joints.pose(state.root, state.rotations, state.betas), perspective)
    confidence, certain = (torch.as_tensor(rng.random((n, 21)) * (rng.random((n, 21)) > 0.2)) for _ in range(2))
    return state, Landmarks(image + draw(n, 21, 2, scale=0.03), confidence, draw(n, 21, scale=0.2), certain, perspective)


def rounded(hands: Rows) -> Rows:
    return type(hands)(*(values.float() for values in hands))


def both_rounded(hands: tuple[State, Landmarks]) -> tuple[State, Landmarks]:
    """Both in float32."""
    return rounded(hands[0]), rounded(hands[1])


def start_of(objective: Objective, hands: Any, depths: bool = False) -> tuple[State, Landmarks]:
    """The fit's own start from a detector's landmarks, in the dtype of the objective."""
    keypoints = torch.as_tensor(hands.keypoints[:, list(FROM_KEYPOINTS)])
    size = torch.as_tensor(hands.size)[:, None]
    points, depth = keypoints[..., :2], torch.as_tensor(hands.joints[:, list(FROM_KEYPOINTS), 2]) * 1000 / size
    unknown = torch.zeros_like(depth)
    certain = 0.5 + unknown if depths else unknown
    seen = Landmarks((points - points.mean(1, keepdim=True)) / size[..., None], keypoints[..., 2], depth, certain, unknown[:, 0])
    seen = Landmarks(*(values.to(objective.joints.bones) for values in seen))
    return two_tilts(objective, seen)[0], seen


@pytest.mark.parametrize("n", [1, LANES + 3])
def test_every_loss_is_torchs(objective: Objective, exact_objective: Objective, n: int) -> None:
    state, seen = random_hands(exact_objective, n)
    wanted, posed = exact_objective.losses(state, seen)
    found, points = compiled.losses(objective, rounded(state), rounded(seen))
    for name, value in wanted._asdict().items():
        torch.testing.assert_close(getattr(found, name).double(), value, rtol=1e-4, atol=1e-5, msg=name)
        assert value.max() > 0
    for mine, theirs in zip(points, posed, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("only", ["reprojection", *TERMS, "all"])
def test_every_matrix_and_gradient_is_torchs(model: HandModel, exact: HandModel, only: str) -> None:
    weights: dict[str, Any] = {f"{name}_weight": float(name == only) for name in TERMS}
    settings = SETTINGS if only == "all" else FitSettings(**weights)
    mine, theirs = objective_of(model, settings), objective_of(exact, settings)
    state, seen = random_hands(theirs, 21)
    if only not in ("reprojection", "all"):
        seen = seen._replace(confidence=torch.zeros_like(seen.confidence))
    for found, wanted in zip(
        compiled.normal_equations(mine, rounded(state), rounded(seen)),
        theirs.normal_equations(state, seen, theirs.losses(state, seen)[1]),
        strict=True,
    ):
        size = wanted.abs().flatten(1).amax(1).reshape(-1, *[1] * (wanted.dim() - 1))
        assert size.max() > 0
        assert ((found - wanted).abs() <= 1e-4 * size + 1e-8).all()


@pytest.mark.parametrize(("components", "noise"), [(1, 0.0), (7, 1e-6), (45, 0.0)])
def test_any_number_of_components_and_corners(model: HandModel, exact: HandModel, components: int, noise: float) -> None:
    pair = [objective_of(m, num_components=components, noise=noise) for m in (model, exact)]
    mine, theirs = (replace(o, hulls=torch.cat([o.hulls, o.hulls[:, -1:]], 1)) for o in pair)
    state, seen = random_hands(theirs, 9)
    found, wanted = compiled.losses(mine, rounded(state), rounded(seen))[0], theirs.losses(state, seen)[0]
    torch.testing.assert_close(mine.total(found).double(), theirs.total(wanted), rtol=1e-4, atol=0)
    matrix = compiled.normal_equations(mine, rounded(state), rounded(seen))[0]
    reference = theirs.normal_equations(state, seen, theirs.losses(state, seen)[1])[0]
    assert (matrix - reference).abs().max() < 1e-4 * reference.abs().max()


@pytest.mark.parametrize("dense", [False, True], ids=["stand-in", "no weight and no corrective is zero"])
def test_outline_joints_and_violation_are_the_meshs(model: HandModel, exact: HandModel, dense: bool) -> None:
    if dense:
        generator = torch.Generator().manual_seed(0)
        correctives = 1e-3 * torch.randn(exact.posedirs.shape, generator=generator, dtype=torch.float64)
        weights = exact.weights + 0.05 * torch.rand(exact.weights.shape, generator=generator, dtype=torch.float64)
        exact = replace(exact, posedirs=correctives, weights=weights / weights.sum(1, keepdim=True))
        model = exact.to(dtype=torch.float32)
    mine, theirs = objective_of(model), objective_of(exact)
    state, seen = random_hands(theirs, 2 * LANES + 1)
    found, wanted = compiled.measure(model, mine, rounded(state), rounded(seen)), measure(exact, theirs, state, seen)
    torch.testing.assert_close(found.joints.double(), wanted.joints, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.box.double(), wanted.box, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.violation.double(), wanted.violation, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs.total(found.losses).double(), theirs.total(wanted.losses), rtol=1e-4, atol=0)
    assert wanted.violation.min() > 0.01


@pytest.mark.parametrize(
    ("noise", "outliers", "hidden", "depths"),
    [(0.0, 0.0, 0.0, False), (0.02, 0.0, 0.0, False), (0.02, 0.1, 0.0, False), (0.02, 0.0, 0.3, False), (0.02, 0.0, 0.0, True)],
    ids=["exact", "noisy", "outliers", "points left out", "depths"],
)
def test_minima_are_torchs(
    objective: Objective, exact_objective: Objective, invent: Callable[..., Any], noise: float, outliers: float, hidden: float, depths: bool
) -> None:
    hands = invent(96, noise=noise, outliers=outliers)
    hands.keypoints[..., 2] = np.random.default_rng(1).random((96, 21)) >= hidden
    limits: dict[str, Any] = {"num_iterations": 60, "tolerance": 1e-6}
    found = compiled.solve(objective, *start_of(objective, hands, depths), **limits)
    wanted = solver.solve(exact_objective, *start_of(exact_objective, hands, depths), **limits)
    gap = found.total / wanted.total - 1
    assert gap.abs().median() < 1e-4
    assert (gap.abs() < 1e-3).double().mean() > 0.9  # the others ended in another valley, in either direction
    assert abs(found.total.mean() / wanted.total.mean() - 1) < 0.01
    held = exact_objective.total(
        exact_objective.losses(State(*(v.double() for v in found.state)), start_of(exact_objective, hands, depths)[1])[0]
    )
    torch.testing.assert_close(found.total.double(), held, rtol=1e-4, atol=1e-6)


def test_totals_do_not_flicker(objective: Objective, exact_objective: Objective, invent: Callable[..., Any]) -> None:
    """The prior is a small difference of large numbers: by its parts float32 would be off by more than a step near the end gains."""
    start, seen = start_of(objective, invent(64))
    end = compiled.solve(objective, start, seen, num_iterations=20, tolerance=1e-3)
    found = compiled.losses(objective, end.state, seen)[0].prior
    wanted = exact_objective.losses(State(*(v.double() for v in end.state)), Landmarks(*(v.double() for v in seen)))[0].prior
    assert SETTINGS.prior_weight * (found - wanted).abs().max() < 1e-5


def test_a_step_is_torchs(objective: Objective, exact_objective: Objective) -> None:
    state, seen = random_hands(exact_objective, 40)
    found = compiled.solve(objective, rounded(state), rounded(seen), num_iterations=1, tolerance=1e-3)
    wanted = solver.solve(exact_objective, state, seen, num_iterations=1, tolerance=1e-3)
    torch.testing.assert_close(found.total.double(), wanted.total, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.damping.double(), wanted.damping, rtol=1e-5, atol=0)
    for mine, theirs in zip(found.state, wanted.state, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=2e-3)
    assert (found.num_iterations == 1).all()


@pytest.mark.parametrize("n", [1, LANES - 1, LANES, 3 * LANES + 5])
def test_a_hand_does_not_see_its_neighbours(objective: Objective, exact_objective: Objective, n: int) -> None:
    """Lanes refill at different times; every bit is the same as for each hand alone, in any order, on any number of threads."""
    state, seen = both_rounded(random_hands(exact_objective, n))
    limits: dict[str, Any] = {"num_iterations": 15, "tolerance": 1e-3}
    whole = compiled.solve(objective, state, seen, **limits)
    order = torch.as_tensor(np.random.default_rng(0).permutation(n))
    shuffled = compiled.solve(objective, state.take(order), seen.take(order), **limits)
    threads = compiled.solve(objective, state, seen, **limits, num_threads=3)
    for row in range(min(n, 5)):
        alone = compiled.solve(objective, state.take(torch.tensor([row])), seen.take(torch.tensor([row])), **limits)
        assert torch.equal(alone.total[0], whole.total[row])
    assert torch.equal(shuffled.total, whole.total[order])
    for a, b in zip((*whole.state, *whole[1:]), (*threads.state, *threads[1:]), strict=True):
        assert torch.equal(a, b)
    assert n < 2 * LANES or len(whole.num_iterations.unique()) > 2


def test_totals_never_rise_and_damping_carries_on(objective: Objective, exact_objective: Objective) -> None:
    state, seen = both_rounded(random_hands(exact_objective, 30))
    total = objective.total(compiled.losses(objective, state, seen)[0])
    once = compiled.solve(objective, state, seen, num_iterations=12, tolerance=1e-9)
    damping = None
    for _ in range(4):
        part = compiled.solve(objective, state, seen, num_iterations=3, tolerance=1e-9, damping=damping)
        assert (part.total <= total * (1 + 1e-5)).all()
        state, damping, total = part.state, part.damping, part.total
    torch.testing.assert_close(total, once.total, rtol=1e-3, atol=0)


def test_no_hands_and_no_iterations(objective: Objective, exact_objective: Objective) -> None:
    state, seen = both_rounded(random_hands(exact_objective, 3))
    none = torch.zeros(0, dtype=torch.int64)
    empty_solution = compiled.solve(objective, state.take(none), seen.take(none), num_iterations=5, tolerance=1e-3)
    assert empty_solution.state.rotations.shape == (0, 15, 3, 3)
    still = compiled.solve(objective, state, seen, num_iterations=0, tolerance=1e-3)
    torch.testing.assert_close(still.state.betas, state.betas)
    torch.testing.assert_close(still.total, objective.total(objective.losses(state, seen)[0]), rtol=1e-4, atol=0)
    assert not still.converged.any()
    assert (still.num_iterations == 0).all()


def test_what_cannot_be_computed_ends_and_harms_no_other(objective: Objective, exact_objective: Objective) -> None:
    state, seen = both_rounded(random_hands(exact_objective, 8))
    clean = compiled.solve(objective, state, seen, num_iterations=30, tolerance=1e-3)
    seen.keypoints[2] = torch.nan
    seen.keypoints[5] = 1e30
    state.betas[6] = torch.inf
    spoilt = compiled.solve(objective, state, seen, num_iterations=30, tolerance=1e-3)
    whole = torch.tensor([0, 1, 3, 4, 7])
    assert torch.equal(spoilt.total[whole], clean.total[whole])
    assert torch.isfinite(spoilt.state.rotations).all()
    assert not (spoilt.total[2] < torch.inf)
    assert spoilt.converged[2]


def test_hands_of_one_line_or_one_point_stay_finite(objective: Objective, exact_objective: Objective) -> None:
    state, seen = both_rounded(random_hands(exact_objective, 3))
    seen.keypoints[0] = 0
    seen.keypoints[1, :, 1] = 0
    seen.confidence[2] = 0
    solution = compiled.solve(objective, state, seen, num_iterations=50, tolerance=1e-4)
    assert all(torch.isfinite(values).all() for values in (*solution.state, solution.total))


def test_kept_machine_code_is_known_by_all_its_sources() -> None:
    """Not by the file of the function alone that Python calls: an edit of a function that it calls would go unnoticed."""
    (name,) = SOURCES.dtype.names or ()
    folder = Path(compiled.__file__).parent
    called = sorted([*folder.glob("*.py"), folder.parent / "objective.py", folder.parent / "solver.py"])
    assert name == f"sources_{hashlib.sha256(b''.join(path.read_bytes() for path in called)).hexdigest()}"
    signatures = [str(kind) for kind in compiled_loop.solve_queue.signatures]  # type: ignore[attr-defined]
    assert all(name in kind for kind in signatures)


def test_where_nothing_can_be_kept_it_is_compiled_anew(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    assert kept(nogil=True)(_twice)(3) == 6
    assert "set NUMBA_CACHE_DIR" in caplog.text


def _twice(x: Any) -> Any:
    return x + x


def test_a_fitter_takes_the_backend_it_is_told(model: HandModel, exact: HandModel, invent: Callable[..., Any]) -> None:
    hands = invent(64, noise=0.02)
    fast, slow = (Fitter(model, FitSettings(backend=name)).fit(hands.keypoints) for name in ("auto", "torch"))
    assert (fast.outcome == slow.outcome).mean() > 0.9
    assert (fast.joints_3d - slow.joints_3d).norm(dim=2).mean(1).median() < 2e-4
    assert Fitter(exact).fit(hands.keypoints[:4]).betas.dtype == torch.float32
    with pytest.raises(ValueError, match="takes float32 on the CPU, got"):
        Fitter(exact, FitSettings(backend="compiled"))


# Functions of lanes


@kernel
def _apply(kind: Any, a: Any, b: Any, out: Any) -> None:
    for i in range(a.shape[0]):
        if kind == 0:
            store(out, i, angle_of(load(a, i), load(b, i)))
        elif kind == 1:
            store(out, i, exponential(load(a, i)))
        else:
            linear, quadratic = half_turn_parts(load(a, i))
            store(out, i, linear if kind == 2 else quadratic)


def applied(kind: int, a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    rows = len(a) // LANES
    left, right, out = empty(rows), empty(rows), empty(rows)
    left[:], right[:] = a.reshape(rows, LANES), (a if b is None else b).reshape(rows, LANES)
    _apply(kind, left, right, out)
    return out.ravel()


def test_functions_are_right_to_a_millionth() -> None:
    rng = np.random.default_rng(0)
    n = LANES * 1000
    y, x = ((rng.normal(size=n) * 10 ** rng.uniform(-4, 4, n)).astype(np.float32) for _ in range(2))
    y[:4], x[:4] = [0, 0, 1, -1], [1, -1, 0, 0]
    np.testing.assert_allclose(applied(0, y, x), np.arctan2(np.float64(y), x), atol=1e-6, rtol=0)
    assert applied(0, np.zeros(LANES, np.float32)).max() == 0  # no angle at the origin, as in torch
    small = rng.uniform(-1, 1, n).astype(np.float32)
    np.testing.assert_allclose(applied(1, small), np.exp(np.float64(small)), rtol=5e-7)
    angle = 10 ** rng.uniform(-8, 2, n)
    squared = (angle**2).astype(np.float32)
    angle = np.sqrt(np.float64(squared))
    np.testing.assert_allclose(applied(2, squared), np.sin(angle) / angle, atol=1e-6)
    np.testing.assert_allclose(applied(3, squared), 2 * np.sin(angle / 2) ** 2 / angle**2, atol=1e-6)
