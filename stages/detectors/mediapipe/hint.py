"""Where a hand's joints lie in space, by what the landmark network computed: better than its 3D landmarks, and how sure each depth is.

A function of ours, learned from hands whose joints are known, reads what the network says of a look and its maps where the landmarks lie,
and says the hand model's 21 joints in the look's axes, with a deviation of each. It knows looks that show an upright right hand, a mirrored
left one among them. See docs/regressor_landmarks.md.

Frame of reference: metres about the wrist, camera axes x right, y down, z forward; OpenPose's order.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from fitting.files import weights_folder
from stages.detectors.mediapipe.hand_landmarks import MAPS, MIDDLE_KNUCKLE, WRIST, Landmarks
from stages.detectors.mediapipe.kernel import read_learned

SHIPPED = Path(__file__).parent / "assets" / "hint.npz"
NAME = "hint.npz"
"""Among the weights: what was trained here, which is taken in place of what ships."""

NUM_SAID = 1152 + 2 * 63
NUM_INPUTS, NUM_OUTPUTS = NUM_SAID + 21 * sum(MAPS.values()), 63 + 21
"""What the network says of a look and its maps at the landmarks; joints, and logarithms of the deviations of their depths."""
NUM_ASKED, MOST_LEAN_RAD = 2, 0.3
"""Looks at a hand whose hints are averaged, and how far the second may lean. Ours: of 573 hands found in rendered albums the hint is 9.5 mm
off with a second one, 9.7 without; one that leans by 0.4 is 12.6 off alone."""
LEAST_M, MOST_M = 0.0005, 0.2
"""Between these lie deviations."""

FindHints = Callable[[Sequence[Sequence[Landmarks]]], Float32[np.ndarray, "n 21 4"]]
"""All looks at each of n hands in, joints and the deviation of each out; NaN where no look shows a right one."""


def hint_file() -> Path:
    """The file in use."""
    learned = weights_folder() / NAME
    return learned if learned.exists() else SHIPPED


def load_hint(path: Path | None = None) -> FindHints:
    """The function of a file (default: `hint_file()`). Raises ValueError where the file holds something else."""
    say = read_learned(path or hint_file(), NUM_INPUTS, NUM_OUTPUTS).ready()

    def find(looks: Sequence[Sequence[Landmarks]]) -> Float32[np.ndarray, "n 21 4"]:
        hints = np.full((len(looks), 21, 4), np.nan, np.float32)
        chosen = [asked(of_hand) for of_hand in looks]
        every = [look for of_hand in chosen for look in of_hand]
        num = np.array([len(of_hand) for of_hand in chosen])
        if every:
            said = np.stack([look.said for look in every if look.said is not None])
            near = np.stack([look.near for look in every if look.near is not None])
            joints, deviation = joints_of(say(inputs_of(said, near)), said)
            in_frame = np.stack([look.in_frame(points) for look, points in zip(every, joints, strict=True)])
            told = np.concatenate([in_frame, deviation[..., None]], 2)
            found = num > 0
            hints[found] = np.add.reduceat(told, (np.cumsum(num) - num)[found]) / num[found, None, None]
        return hints

    return find


def asked(looks: Sequence[Landmarks]) -> list[Landmarks]:
    """The looks at one hand that its hint is the mean of: of those that show a right one, plain ones of a right hand or mirrored ones of a
    left, the one in which the knuckles are straightest above the wrist, and the next where it leans little. What was learned says
    nothing of others."""
    is_right = is_right_hand(looks)
    shown = [look for look in looks if look.turn is not None and (np.linalg.det(look.turn) > 0) == is_right]
    best = sorted(shown, key=_uprightness, reverse=True)[:NUM_ASKED]
    return best[:1] + [look for look in best[1:] if _uprightness(look) >= np.cos(MOST_LEAN_RAD)]


def is_right_hand(looks: Sequence[Landmarks]) -> bool:
    """What all looks at a hand say together."""
    return bool(np.mean([look.p_right for look in looks]) >= 0.5)


def _uprightness(look: Landmarks) -> float:
    """Cosine of the angle by which the hand leans in the look."""
    assert look.said is not None
    screen = look.said[1152 : 1152 + 63].reshape(21, 3)[:, :2]
    up = screen[MIDDLE_KNUCKLE] - screen[WRIST]
    return float(-up[1] / max(np.linalg.norm(up), 1e-9))


def inputs_of(said: Float32[np.ndarray, "n 1278"], near: Float32[np.ndarray, "n 21 344"]) -> Float32[np.ndarray, "n inputs"]:
    """One row of numbers a look: what is said, then each map at the landmarks."""
    ends = np.cumsum([*MAPS.values()])[:-1]
    return np.concatenate([said, *(values.reshape(len(said), -1) for values in np.split(near, ends, 2))], 1).astype(np.float32)


def joints_of(
    values: Float32[np.ndarray, "n 84"], said: Float32[np.ndarray, "n 1278"]
) -> tuple[Float64[np.ndarray, "n 21 3"], Float64[np.ndarray, "n 21"]]:
    """Joints in the look's axes and deviations of their depths, from what is to be added to the 3D landmarks."""
    world = said[:, -63:].reshape(-1, 21, 3).astype(np.float64)
    joints = world + values[:, :63].reshape(-1, 21, 3)
    return joints - joints[:, :1], np.clip(np.exp(values[:, 63:].astype(np.float64)), LEAST_M, MOST_M)
