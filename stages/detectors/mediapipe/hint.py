"""Where a hand's joints lie in space, by the landmark network's own features: better depths than its 3D landmarks, and how sure they are.

A small network of ours reads what the landmark network says of a look, its last features and its landmarks, and says the hand model's 21
joints in the look's axes, of a hand of either side, with a deviation of each. Several looks at one hand are averaged, the surer ones
weighing more. See docs/regressor_landmarks.md.

Frame of reference: metres about the wrist, camera axes x right, y down, z forward; OpenPose's order.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from fitting.files import read_arrays, weights_folder
from stages.detectors.mediapipe.hand_landmarks import Landmarks

SHIPPED = Path(__file__).parent / "assets" / "hint.npz"
NAME = "hint.npz"
"""Among the weights: what was trained here, which is taken in place of what ships."""

NUM_INPUTS, NUM_LAYERS = 1152 + 2 * 63, 3
STEP_M, DEVIATION_M = 0.01, 0.01
"""Metres that 1 of the last layer stands for, and the deviation that its 0 does."""

FindHints = Callable[[Sequence[Sequence[Landmarks]]], Float32[np.ndarray, "n 21 4"]]
"""All looks at each of n hands in, joints and the deviation of each out."""


def hint_file() -> Path:
    """The hint network in use."""
    learned = weights_folder() / NAME
    return learned if learned.exists() else SHIPPED


def load_hint(path: Path | None = None) -> FindHints:
    """The hint network of a file (default: `hint_file()`). Raises ValueError where the file holds something else."""
    path = path or hint_file()
    arrays = read_arrays(path, ("mean", "scale", *(f"{part}{k}" for k in range(NUM_LAYERS) for part in ("weight", "bias"))))
    try:
        mean, scale = (arrays[name].astype(np.float32) for name in ("mean", "scale"))
        layers = [tuple(arrays[f"{part}{k}"].astype(np.float32) for part in ("weight", "bias")) for k in range(NUM_LAYERS)]
    except KeyError as error:
        raise ValueError(f"{path} holds no hint network ({error} is missing): train it anew by whim train landmarks") from error
    if [len(mean), *(len(bias) for _, bias in layers)] != [NUM_INPUTS, *(weight.shape[1] for weight, _ in layers[1:]), 84]:
        raise ValueError(f"{path} holds a hint network of another shape: train it anew by whim train landmarks")

    def find(looks: Sequence[Sequence[Landmarks]]) -> Float32[np.ndarray, "n 21 4"]:
        if not looks:
            return np.zeros((0, 21, 4), np.float32)
        every = [look for of_hand in looks for look in of_hand]
        said = np.stack([look.said for look in every if look.said is not None])
        values = (said - mean) / scale
        for number, (weight, bias) in enumerate(layers):
            values = values @ weight.T + bias
            values = np.maximum(values, 0) if number + 1 < len(layers) else values
        joints, deviation = joints_of(values, said)
        in_frame = [one.in_frame(points) for one, points in zip(every, joints, strict=True)]
        ends = np.cumsum([len(of_hand) for of_hand in looks])[:-1]
        parts = zip(np.split(np.stack(in_frame), ends), np.split(deviation, ends), strict=True)
        return np.stack([agreed(points, apart) for points, apart in parts]).astype(np.float32)

    return find


def joints_of(
    values: Float32[np.ndarray, "n 84"], said: Float32[np.ndarray, "n inputs"]
) -> tuple[Float64[np.ndarray, "n 21 3"], Float64[np.ndarray, "n 21"]]:
    """Joints in the look's axes and deviations of their depths, from the last layer: what is to be added to the 3D landmarks."""
    world = said[:, -63:].reshape(-1, 21, 3).astype(np.float64)
    joints = world - world[:, :1] + STEP_M * values[:, :63].reshape(-1, 21, 3)
    return joints - joints[:, :1], DEVIATION_M * np.exp(np.clip(values[:, 63:].astype(np.float64), -3, 3))


def agreed(joints: Float64[np.ndarray, "looks 21 3"], deviation: Float64[np.ndarray, "looks 21"]) -> Float64[np.ndarray, "21 4"]:
    """The looks' mean, each joint weighed by its inverse variance, and its deviation: what looks say of theirs and how far they part."""
    weight = deviation**-2
    share = (weight / weight.sum(0))[..., None]
    mean = (share * joints).sum(0)
    apart = (share[..., 0] * (joints[..., 2] - mean[:, 2]) ** 2).sum(0)
    return np.column_stack([mean, np.sqrt(len(joints) / weight.sum(0) + apart)])
