"""Who computes a fit: plain torch, or its compiled twins, which take float32 on the CPU. Chosen here and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fitting.compiled import machine_code
from fitting.hand.mano import HandModel
from fitting.measures import Measures, measure
from fitting.objective import Landmarks, Objective, State
from fitting.settings import Backend
from fitting.solver import Solution, solve
from fitting.tracks.solve import PLAIN, Arithmetic, joint_step, step_by_length

MOST_FRAMES = 640
"""The longest track that is solved in a lane: a frame of all lanes takes 0.4 MB, however few tracks there are."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Computer:
    """The functions that a fit calls, of one backend."""

    solve: Callable[..., Solution]
    measure: Callable[[HandModel, Objective, State, Landmarks], Measures]
    tracks: Arithmetic


def computer(backend: Backend, like: Tensor, num_threads: int = 1) -> Computer:
    """The functions for tensors like this one; "auto" takes the compiled ones for float32 on the CPU.

    ValueError for "compiled" with tensors elsewhere.
    """
    fits = like.device.type == "cpu" and like.dtype == torch.float32
    if backend == "compiled" and not fits:
        raise ValueError(f"the compiled fit takes float32 on the CPU, got {like.dtype} on {like.device}: take the backend auto or torch")
    if backend == "torch" or not fits:
        return Computer(solve=solve, measure=measure, tracks=PLAIN)
    from fitting.compiled import banded, solver  # numba, which the plain fit does not need

    long = partial(joint_step, equations=solver.normal_equations)
    folder = code_folder()
    if folder is not None:
        machine_code.wait_until_made(folder)
    return Computer(
        solve=partial(solver.solve, num_threads=num_threads),
        measure=solver.measure,
        tracks=Arithmetic(solver.losses, step_by_length(banded.joint_step, long, MOST_FRAMES)),
    )


def code_folder() -> Path | None:
    """Where machine code is kept; None where no folder can be written."""
    from fitting.compiled import loop

    found: str | None = loop.solve_queue.stats.cache_path  # type: ignore[attr-defined]
    return Path(found) if found else None
