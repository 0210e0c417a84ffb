"""The fit's solver for CPUs: the same mathematics and rules as `fitting.solver`, in float32, many hands to a SIMD register, by numba.

Numba compiles once, for about half a minute, and keeps the result beside the modules (or where NUMBA_CACHE_DIR says).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from fitting.compiled import loop as compiled_loop
from fitting.compiled.lanes import empty
from fitting.compiled.layout import BETAS, COMPONENT_ROWS, COMPONENTS, ROOT, SCALE, SHIFT, SOURCES, Constants, constants
from fitting.compiled.loop import LANE_ROWS
from fitting.compiled.mesh import mesh_of
from fitting.hand.kinematics import FROM_KEYPOINTS, Points
from fitting.hand.mano import HandModel
from fitting.measures import Measures
from fitting.objective import NUM_UNKNOWNS, Landmarks, Losses, Objective, State
from fitting.solver import FIRST_DAMPING, Solution

_TO_OPENPOSE = np.argsort(FROM_KEYPOINTS)


def solve(
    objective: Objective,
    start: State,
    seen: Landmarks,
    *,
    num_iterations: int,
    tolerance: float,
    damping: Float[Tensor, "n"] | None = None,
    num_threads: int = 1,
) -> Solution:
    """Twin of `fitting.solver.solve` on CPU tensors; a step longer than a million radians or units counts as one that cannot be taken."""
    states, landmarks = packed(start, seen)
    n = len(states)
    damped = np.full(n, FIRST_DAMPING, np.float32) if damping is None else damping.float().numpy().copy()
    total, converged, used = np.zeros(n, np.float32), np.zeros(n, np.bool_), np.zeros(n, np.int64)
    fixed = constants(objective, bool(seen.perspective.any()))
    if num_iterations < 1:
        total = objective.total(losses(objective, start, seen)[0]).numpy()
    else:

        def work(rows: slice) -> None:
            hands, results = (states[rows], landmarks[rows], damped[rows]), (total[rows], converged[rows], used[rows])
            compiled_loop.solve_queue(SOURCES, *hands, fixed, *room(fixed), empty(LANE_ROWS), num_iterations, tolerance, *results)

        _in_threads(work, n, num_threads)
    return Solution(_unpacked(states), *(torch.as_tensor(values) for values in (total, converged, damped, used)))


def losses(objective: Objective, state: State, seen: Landmarks) -> tuple[Losses, Points]:
    """Twin of `Objective.losses` on CPU tensors."""
    return _evaluated(objective, state, seen, 0)[2:]


def normal_equations(objective: Objective, state: State, seen: Landmarks) -> tuple[Float[Tensor, "n 61 61"], Float[Tensor, "n 61"]]:
    """Twin of `Objective.normal_equations` on CPU tensors."""
    matrix, gradient, _, _ = _evaluated(objective, state, seen, len(seen.keypoints))
    return matrix, gradient


def measure(model: HandModel, objective: Objective, state: State, seen: Landmarks) -> Measures:
    """Twin of `fitting.measures.measure` on CPU tensors, without keeping the mesh."""
    states, landmarks = packed(state, seen)
    fixed = constants(objective, bool(seen.perspective.any()))
    points = np.empty((len(states), 63), np.float32)
    values = np.empty((len(states), len(Losses._fields) + 5), np.float32)
    compiled_loop.measure(SOURCES, states, landmarks, fixed, mesh_of(model), room(fixed)[0], points, values)
    columns = torch.as_tensor(values)
    joints = torch.as_tensor(points).reshape(-1, 21, 3)[:, _TO_OPENPOSE]
    return Measures(Losses(*columns[:, :6].unbind(1)), joints, columns[:, 6:10], columns[:, 10])


def _evaluated(
    objective: Objective, state: State, seen: Landmarks, num_equations: int
) -> tuple[Float[Tensor, "m 61 61"], Float[Tensor, "m 61"], Losses, Points]:
    states, landmarks = packed(state, seen)
    fixed = constants(objective, bool(seen.perspective.any()))
    matrix = np.empty((num_equations, NUM_UNKNOWNS, NUM_UNKNOWNS), np.float32)
    gradient = np.empty((num_equations, NUM_UNKNOWNS), np.float32)
    values = np.empty((len(states), len(Losses._fields)), np.float32)
    posed = [np.empty((len(states), *shape), np.float32) for shape in ((21, 3), (5, 3, 3, 3), (5, 4, 3))]
    flat = [part.reshape(len(states), -1) for part in posed]
    compiled_loop.evaluate(SOURCES, states, landmarks, fixed, *room(fixed), matrix, gradient, values, *flat)
    whole = Losses(*torch.as_tensor(values).unbind(1)), Points(*(torch.as_tensor(part) for part in posed))
    return torch.as_tensor(matrix), torch.as_tensor(gradient), *whole


def packed(state: State, seen: Landmarks) -> tuple[Float32[np.ndarray, "n 157"], Float32[np.ndarray, "n 106"]]:
    """Hands as rows, in the order of `fitting.compiled.layout`."""
    scale = state.log_scale.exp()[:, None]
    states = torch.cat([state.rotations.flatten(1), state.root.flatten(1), state.betas, scale, state.shift], 1)
    marks = [seen.keypoints.flatten(1), seen.confidence, seen.depth, seen.depth_confidence, seen.perspective[:, None]]
    landmarks = torch.cat(marks, 1)
    return np.ascontiguousarray(states.float().numpy()), np.ascontiguousarray(landmarks.float().numpy())


def _unpacked(states: Float32[np.ndarray, "n 157"]) -> State:
    rows = torch.as_tensor(states)
    return State(
        rotations=rows[:, :ROOT].reshape(-1, 15, 3, 3),
        root=rows[:, ROOT:BETAS].reshape(-1, 3, 3),
        betas=rows[:, BETAS:SCALE],
        log_scale=rows[:, SCALE].log(),
        shift=rows[:, SHIFT:],
    )


def room(fixed: Constants) -> tuple[Float32[np.ndarray, "rows lanes"], Float32[np.ndarray, "entries lanes"]]:
    """A work array, and one for the normal equations."""
    return empty(COMPONENTS + COMPONENT_ROWS * len(fixed.prior.explained)), empty((NUM_UNKNOWNS + 1) * NUM_UNKNOWNS)


def _in_threads(work: Callable[[slice], None], num_hands: int, num_threads: int) -> None:
    """Share hands out evenly; what runs holds no lock."""
    ends = [num_hands * k // num_threads for k in range(num_threads + 1)]
    slices = [slice(a, b) for a, b in pairwise(ends) if a < b]
    if len(slices) == 1:
        work(slices[0])
    elif slices:
        with ThreadPoolExecutor(len(slices)) as pool:
            list(pool.map(work, slices))
