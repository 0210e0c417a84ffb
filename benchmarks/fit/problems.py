"""Random hands with exact truth, for measuring fits of them in their own objective, in pixels and in millimetres.

Hands are the studio's shapes and random moments of the movements between them, which is another generator than the prior's training
poses; any orientation, betas N(0, 1) cut at 2, the longer side of the box 200 px, Gaussian noise of 2 % of it on every landmark.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation, Slerp

from fitting.fit import HandFits
from fitting.hand import anatomy
from fitting.hand.kinematics import FROM_KEYPOINTS
from fitting.hand.rotation import matrix_from_axis_angle
from fitting.objective import Landmarks, Objective, State, projected
from pipeline.evaluate.studio_truth import pa_mpjpe_mm
from studio.poses import SHAPES, glide, key_angles

SIDE_PX, NOISE_SHARE = 200.0, 0.02
TO_KEYPOINTS = np.argsort(FROM_KEYPOINTS)

Judged = dict[str, Float64[np.ndarray, "n"]]
"""One value a hand, by name."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Problems:
    """Right hands and what a detector would say of them."""

    keypoints: Float64[np.ndarray, "n 21 3"]  # pixels and confidence 1, OpenPose's order
    pixels: Float64[np.ndarray, "n 21 2"]  # without noise
    joints: Float64[np.ndarray, "n 21 3"]  # metres, wrist-centred

    def take(self, num_hands: int) -> "Problems":
        """The first hands."""
        return Problems(keypoints=self.keypoints[:num_hands], pixels=self.pixels[:num_hands], joints=self.joints[:num_hands])

    @property
    def box(self) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n"]]:
        """Centre and longer side of the landmarks' boxes, pixels."""
        low, high = self.keypoints[..., :2].min(1), self.keypoints[..., :2].max(1)
        return (low + high) / 2, (high - low).max(1)

    def landmarks(self, objective: Objective) -> Landmarks:
        """Landmarks of the hands in units of the box, which the objective takes."""
        centre, side = self.box
        points = (self.keypoints[:, list(FROM_KEYPOINTS), :2] - centre[:, None]) / side[:, None, None]
        keypoints = torch.as_tensor(points).to(objective.axes)
        ones = torch.ones_like(keypoints[..., 0])
        return Landmarks(keypoints=keypoints, confidence=ones, depth=0 * ones, depth_confidence=0 * ones, perspective=0 * ones[:, 0])


def invent(exact: Objective, num_hands: int, seed: int = 5) -> Problems:
    """Random hands on the objective's hand model."""
    rng = np.random.default_rng(seed)
    keys = key_angles([str(name) for name in rng.choice(list(SHAPES), num_hands + 1)], rng)
    angles = glide(keys, np.arange(num_hands + 1.0), np.arange(num_hands) + rng.uniform(size=num_hands))
    root = torch.as_tensor(Rotation.random(num_hands, rng).as_matrix())
    betas = torch.as_tensor(rng.normal(size=(num_hands, 10)).clip(-2, 2))
    rotations = anatomy.compose(torch.as_tensor(angles), exact.axes)
    joints = exact.joints.pose(root, rotations, betas).points.numpy()[:, TO_KEYPOINTS]
    size = np.ptp(joints[..., :2], axis=1).max(1)
    return _seen(joints, SIDE_PX / size, rng.uniform(300, 900, (num_hands, 2)), rng)


def invent_track(exact: Objective, time_s: Float64[np.ndarray, "n"], seed: int) -> Problems:
    """One hand in motion: another shape every second, another orientation and place every two."""
    rng = np.random.default_rng(seed)
    end = max(2.0, np.ceil(time_s[-1] / 2) * 2)
    seconds, turns = np.arange(0, end + 1), np.arange(0, end + 1, 2)
    angles = glide(key_angles([str(name) for name in rng.choice(list(SHAPES), len(seconds))], rng), seconds, time_s)
    root = torch.as_tensor(Slerp(turns, Rotation.random(len(turns), rng))(time_s).as_matrix())
    betas = torch.as_tensor(rng.normal(size=(1, 10)).clip(-2, 2)).expand(len(time_s), 10)
    rotations = anatomy.compose(torch.as_tensor(angles), exact.axes)
    joints = exact.joints.pose(root, rotations, betas).points.numpy()[:, TO_KEYPOINTS]
    place = glide(rng.uniform(300, 900, (len(turns), 2)), turns, time_s)
    return _seen(joints, np.full(len(time_s), SIDE_PX / 0.18), place, rng)


def _seen(
    joints: Float64[np.ndarray, "n 21 3"],
    scale: Float64[np.ndarray, "n"],  # pixels a metre
    place: Float64[np.ndarray, "n 2"],
    rng: np.random.Generator,
) -> Problems:
    pixels = scale[:, None, None] * joints[..., :2] + place[:, None]
    side = np.ptp(pixels, axis=1).max(1)
    seen = pixels + NOISE_SHARE * side[:, None, None] * rng.normal(size=pixels.shape)
    return Problems(keypoints=np.concatenate([seen, np.ones((len(joints), 21, 1))], 2), pixels=pixels, joints=joints)


def judge(exact: Objective, state: State, problems: Problems) -> Judged:
    """One value a hand, in float64: the objective, pixels to the given and to the true landmarks, and PA-MPJPE."""
    state = State(*(values.detach().to("cpu", torch.float64) for values in state))
    losses, posed = exact.losses(state, problems.landmarks(exact))
    centre, side = problems.box
    image = projected(state, posed).numpy()[:, TO_KEYPOINTS] * side[:, None, None] + centre[:, None]
    return {
        "objective": exact.total(losses).numpy(),
        "error_px": np.linalg.norm(image - problems.keypoints[..., :2], axis=2).mean(1),
        "truth_px": np.linalg.norm(image - problems.pixels, axis=2).mean(1),
        "pa_mpjpe_mm": pa_mpjpe_mm(posed.points.numpy()[:, TO_KEYPOINTS], problems.joints),
    }


def state_of(fits: HandFits, problems: Problems) -> State:
    """The unknowns behind the columns of a fit."""
    centre, side = (torch.as_tensor(values) for values in problems.box)
    pose = fits.hand_pose.double().reshape(-1, 15, 3)
    camera = fits.camera.double()
    return State(
        matrix_from_axis_angle(pose),
        matrix_from_axis_angle(fits.global_orient.double()),
        fits.betas.double(),
        (camera[:, 0] / side).log(),
        (camera[:, 1:] - centre) / side[:, None],
    )
