"""Invented hands with exact truth, for the tests of the geometry."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fitting.files import STANDIN
from fitting.hand import anatomy
from fitting.hand.mano import HandModel, load_hand_model, pose_hand
from fitting.hand.rotation import axis_angle_from_matrix

torch.set_num_threads(1)


@dataclass(frozen=True)
class Invented:
    """Right hands and their images: what was posed, and what a detector would say."""

    keypoints: np.ndarray  # n 21 3, pixels and confidence
    joints: np.ndarray  # n 21 3, metres, wrist-centred
    pixels: np.ndarray  # n 21 2, without noise
    size: np.ndarray  # n, longer side of the box of joints, pixels


@pytest.fixture(scope="session")
def model() -> HandModel:
    """The stand-in in float32, as the fit uses it."""
    return load_hand_model(STANDIN)


@pytest.fixture(scope="session")
def exact() -> HandModel:
    """The stand-in in float64, for gradients and exact comparisons."""
    return load_hand_model(STANDIN, dtype=torch.float64)


@pytest.fixture(scope="session")
def invent(exact: HandModel) -> Callable[..., Invented]:
    """Makes n hands: plausible fingers, any orientation, any shape, 80 to 250 pixels large."""

    def make(n: int, *, seed: int = 11, noise: float = 0.0, outliers: float = 0.0) -> Invented:
        rng = np.random.default_rng(seed)
        rotations = anatomy.sample_poses(n, anatomy.joint_axes(*exact.rest_joints()), rng)
        betas = 0.7 * torch.as_tensor(rng.normal(size=(n, 10)).clip(-2, 2))
        direction = rng.normal(size=(n, 3))
        turn = torch.as_tensor(direction / np.linalg.norm(direction, axis=1, keepdims=True) * rng.uniform(0, np.pi, (n, 1)))
        posed = pose_hand(exact, betas, turn, axis_angle_from_matrix(rotations).flatten(1)).joints
        joints = (posed - posed[:, :1]).numpy()
        pixels = rng.uniform(700, 1300, (n, 1, 1)) * joints[..., :2] + rng.uniform(300, 900, (n, 1, 2))
        size = np.ptp(pixels, axis=1).max(1)
        seen = pixels + noise * size[:, None, None] * rng.normal(size=pixels.shape)
        far = rng.random((n, 21, 1)) < outliers
        seen = np.where(far, seen + 0.25 * size[:, None, None] * rng.normal(size=pixels.shape), seen)
        return Invented(np.concatenate([seen, np.ones((n, 21, 1))], 2), joints, pixels, size)

    return make
