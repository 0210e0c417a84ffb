"""The peers of the fit: Adam through smplx's mesh or through the joints alone, minimising the very losses that the fit minimises.

Every peer starts where the fit starts: at the mean pose, with the palm laid over the landmarks in closed form, tilted the better way of
the two. float32 throughout. What autograd would compute twice is computed once: the prior by its quadratic form, as in the fit.
"""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout

import torch
from jaxtyping import Float
from torch import Tensor

from fitting.hand.anatomy import TIP_VERTICES
from fitting.hand.kinematics import FROM_KEYPOINTS
from fitting.hand.mano import OPENPOSE_ORDER, HandModel
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from fitting.initial import two_tilts
from fitting.losses import bone_length_loss, joint_angle_loss, prior_loss, reprojection_loss
from fitting.objective import NUM_UNKNOWNS, Landmarks, Losses, Objective, State

LEARNING_RATE = 0.05
Timed = tuple[State, float]
"""Where it ended, and the seconds that all iterations take."""


def smplx_mano(model: HandModel, batch_size: int) -> torch.nn.Module:
    """`smplx.MANO` over the arrays of a hand model, without a file."""
    import smplx
    from smplx.utils import Struct

    options = {"use_pca": False, "flat_hand_mean": True, "is_rhand": True, "batch_size": batch_size}
    with redirect_stdout(io.StringIO()):  # it prints a warning that MANO is MANO
        hand: torch.nn.Module = smplx.MANO("unused/MANO_RIGHT.pkl", data_struct=Struct(**model.for_smplx()), **options)
    return hand.to(model.v_template).requires_grad_(False)


def better_tilt(objective: Objective, seen: Landmarks) -> State:
    """Where the fit starts, with the tilt of the lower objective: hand by hand."""
    first, second = two_tilts(objective, seen)
    totals = [objective.total(objective.losses(state, seen)[0]) for state in (first, second)]
    first.put(torch.nonzero(totals[1] < totals[0])[:, 0], second.take(totals[1] < totals[0]))
    return first


def adam(
    parameters: list[Tensor], total: Callable[[], Float[Tensor, "n"]], num_iterations: int, *, num_timed: int | None, cosine: bool
) -> float:
    """Minimise a sum over hands in place and return its seconds; with `num_timed`, run only so many iterations and scale their time."""
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_iterations) if cosine else None
    num_run = num_timed or num_iterations
    began = time.perf_counter()
    for _ in range(num_run):
        optimizer.zero_grad(set_to_none=True)
        value = total().sum()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if schedule:
            schedule.step()
    value.item()  # waits for a GPU
    return (time.perf_counter() - began) * num_iterations / num_run


def by_smplx(
    objective: Objective, model: HandModel, begin: State, seen: Landmarks, *, num_iterations: int = 300, num_timed: int | None = None
) -> Timed:
    """Adam on smplx's parameters; the joints and tips come from the mesh of `smplx.MANO`."""
    n = len(seen.keypoints)
    hand = smplx_mano(model, n)
    pose = torch.cat([begin.rotations, begin.root[:, None]], 1)
    free = [axis_angle_from_matrix(pose).flatten(1), begin.betas, begin.log_scale, begin.shift]
    pose, betas, log_scale, shift = (values.detach().clone().requires_grad_() for values in free)

    def state() -> State:
        turns = matrix_from_axis_angle(pose.reshape(n, 16, 3))
        return State(turns[:, :15], turns[:, 15], betas, log_scale, shift)

    def total() -> Float[Tensor, "n"]:
        out = hand(betas=betas, global_orient=pose[:, 45:], hand_pose=pose[:, :45])
        points = torch.cat([out.joints, out.vertices[:, list(TIP_VERTICES)]], 1)[:, list(OPENPOSE_ORDER)][:, list(FROM_KEYPOINTS)]
        return mesh_total(objective, state(), points - points[:, :1], seen)

    seconds = adam([pose, betas, log_scale, shift], total, num_iterations, num_timed=num_timed, cosine=False)
    with torch.no_grad():
        return state(), seconds


def mesh_total(objective: Objective, state: State, points: Float[Tensor, "n 21 3"], seen: Landmarks) -> Float[Tensor, "n"]:
    """`Objective.total` of joints that another forward pass has found."""
    image = state.log_scale.exp()[:, None, None] * points[..., :2] + state.shift[:, None]
    losses = Losses(
        reprojection=reprojection_loss(image, seen.keypoints, seen.confidence, objective.settings.robust_scale),
        bone=bone_length_loss(points, objective.length_limits),
        angle=joint_angle_loss(state.rotations, objective.axes, objective.twist_limits, objective.hulls),
        prior=prior_loss(state.rotations, objective.prior),
        shape=(state.betas**2).sum(1),
        depth=torch.zeros_like(state.log_scale),  # no landmarks in space are given
    )
    return objective.total(losses)


def by_joints(objective: Objective, begin: State, seen: Landmarks, *, num_iterations: int = 2400, num_timed: int | None = None) -> Timed:
    """Adam on perturbations of the start; forward kinematics of the 21 joints, no mesh. The learning rate falls as a cosine."""
    step = torch.zeros(len(seen.keypoints), NUM_UNKNOWNS).to(begin.betas).requires_grad_()

    def total() -> Float[Tensor, "n"]:
        return objective.total(objective.losses(begin.moved(step), seen)[0])

    seconds = adam([step], total, num_iterations, num_timed=num_timed, cosine=True)
    with torch.no_grad():
        return begin.moved(step), seconds
