"""MediaPipe's hand landmark network: presence, side, 21 landmarks and their metric shape in a turned region of a frame."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64

from stages.detectors.mediapipe.crops import Look, Region, cut_all, to_crop, to_frame, upright_angle
from stages.detectors.mediapipe.models import Engine, load
from stages.tables import HAND_KEYPOINTS

SIZE = 224
FEATURES = 150
"""The operator whose 1,152 results all of the network's answers are computed from."""
MAPS = {46: 40, 104: 112, 143: 192}
"""Operators whose maps, of 28 x 28, 14 x 14 and 7 x 7 cells, are read where the landmarks lie, and their channels."""
WRIST, INDEX_KNUCKLE, MIDDLE_KNUCKLE, RING_KNUCKLE = (HAND_KEYPOINTS.index(name) for name in ("wrist", "index1", "middle1", "ring1"))
PALM_AND_KNUCKLES = [k for k, name in enumerate(HAND_KEYPOINTS) if name == "thumb3" or not name.endswith(("3", "4"))]
"""The joints that fix the next region in MediaPipe's tracker (`hand_landmark_landmarks_to_roi`): the fingertips move too much."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Landmarks:
    """One hand as the network sees it in one region."""

    presence: float
    p_right: float
    points: Float64[np.ndarray, "21 2"]  # pixels of the frame
    world: Float64[np.ndarray, "21 3"]  # metres about the hand's centre, camera axes
    said: Float32[np.ndarray, "1278"] | None = None  # features, screen and world landmarks in the look's axes, shares of it and metres
    near: Float32[np.ndarray, "21 344"] | None = None  # of `MAPS`, at each landmark
    turn: Float64[np.ndarray, "2 2"] | None = None  # axes of the look to those of the frame, x and y

    def in_frame(self, points: Float64[np.ndarray, "21 3"]) -> Float64[np.ndarray, "21 3"]:
        """Points in the look's axes in those of the frame."""
        assert self.turn is not None
        return np.concatenate([points[:, :2] @ self.turn.T, points[:, 2:]], 1)


FindLandmarks = Callable[[Sequence[Look]], list[Landmarks]]


def load_hand_landmarks(engine: Engine = "litert", num_threads: int = 1, *, device: str = "cpu") -> FindLandmarks:
    """The network as a function of looks."""
    network = load("hand_landmark_full", engine, num_threads, device=device, taps=(FEATURES, *MAPS))

    def find(looks: Sequence[Look]) -> list[Landmarks]:
        if not looks:
            return []
        return read_all(network(cut_all(looks, SIZE, border="repeat")), looks)

    return find


def read_all(answers: Sequence[np.ndarray], looks: Sequence[Look]) -> list[Landmarks]:
    """What the network's outputs, those of `FEATURES` and `MAPS` the last, say of each look."""
    screen, presence, side, world, features, *maps = answers
    regions = [region for _, region in looks]
    of_looks = zip(screen, presence, side, world, features, zip(*maps, strict=True), regions, strict=True)
    return [_read(*of_look) for of_look in of_looks]


def _read(
    screen: np.ndarray,
    presence: np.ndarray,
    side: np.ndarray,
    world: np.ndarray,
    features: np.ndarray,
    maps: Sequence[np.ndarray],
    region: Region,
) -> Landmarks:
    """What the network's outputs of one look say of its region's frame."""
    points = screen.reshape(21, 3)[:, :2].astype(np.float64) / SIZE
    cos, sin = np.cos(region[3]), np.sin(region[3])
    look = Landmarks(
        presence=float(presence[0]),
        p_right=float(side[0]),
        points=to_frame(points, region),
        world=world.reshape(21, 3).astype(np.float64),
        said=np.concatenate([features.ravel(), screen.ravel() / SIZE - 0.5, world.ravel()]).astype(np.float32),
        near=np.concatenate([at(values, points) for values in maps], 1),
        turn=np.array([[cos, -sin], [sin, cos]]),
    )
    return replace(look, world=look.in_frame(look.world))


def at(values: Float32[np.ndarray, "h w c"], points: Float64[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n c"]:
    """A map between the middles of its cells, bilinearly, at points of the unit square; beyond them as at its border."""
    size = np.array(values.shape[1::-1])
    place = np.clip(points * size - 0.5, 0, size - 1)
    low = np.minimum(place.astype(np.int64), size - 2)
    (x, y), (u, v) = low.T, (place - low).T.astype(np.float32)[..., None]
    upper, lower = ((1 - u) * values[row, x] + u * values[row, x + 1] for row in (y, y + 1))
    return np.asarray((1 - v) * upper + v * lower, np.float32)


def tracked_region(points: Float[np.ndarray, "21 2"], *, scale: float = 2.0) -> Region:
    """Where the hand of these landmarks is looked for again: about the palm and knuckles, moved 10 % towards the fingers."""
    knuckles = (points[INDEX_KNUCKLE] + points[RING_KNUCKLE]) / 2
    angle = upright_angle(points[WRIST], (knuckles + points[MIDDLE_KNUCKLE]) / 2)
    upright = np.array([0.0, 0.0, 1.0, angle], np.float64)
    turned = to_crop(points[PALM_AND_KNUCKLES].astype(np.float64), upright)
    low, high = turned.min(axis=0), turned.max(axis=0)
    middle = (low + high) / 2 + np.array([0.0, -0.1]) * (high[1] - low[1])
    centre = to_frame(middle[None], upright)[0]
    return np.array([*centre, scale * max(*(high - low), 1.0), angle], np.float64)
