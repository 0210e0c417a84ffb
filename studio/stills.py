"""Single pictures of hands, as many as a network needs to learn from: an album is one person before one wall, every picture another pose.

Frame of reference: camera axes x right, y down, z forward, metres. Poses are made for a right hand; a left hand's is its mirror image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from fitting.hand.anatomy import sample_angles
from fitting.hand.mano import LEFT
from fitting.hand.rotation import matrix_from_axis_angle
from studio.backdrop import Backdrop
from studio.hand import CLOTHS, SKINS, Dress, studio_model
from studio.poses import SHAPES, key_angles
from studio.render import Camera, Picture, Renderer, join
from studio.scene import MIRROR, Track
from studio.video import NOISE_LEVEL, pose_track, truth_row

HAND_M = 0.09
"""From the wrist to the knuckles, which lie about the picture's middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Album:
    """What to render."""

    seed: int = 0
    num_pictures: int = 24
    size: int = 256
    """Side of the pictures, pixels."""
    two_hands: float = 0.3
    """Share of the albums that show both hands of the person, one often before the other."""
    distance_m: tuple[float, float] = (0.75, 1.2)
    """Of the wrist. A focal length of three sides makes an open hand 115 to 185 of 256 pixels long."""
    sampled: float = 0.4
    """Share of the pictures whose pose is `fitting.hand.anatomy.sample_angles`'; of the others each finger is between two named shapes."""

    def __post_init__(self) -> None:
        if self.size % 4 or self.size < 64:
            raise ValueError(f"album.size must be a multiple of 4 and at least 64, got {self.size}")
        if self.num_pictures < 1:
            raise ValueError(f"album.num_pictures must be at least 1, got {self.num_pictures}")


def render_album(album: Album) -> Iterator[tuple[Picture, list[dict[str, np.ndarray]]]]:
    """Pictures in order, each with one row of truth a hand (see `studio.truth.TRUTH`; without the video's name)."""
    rng = np.random.default_rng([album.seed, 1])
    size, count = album.size, album.num_pictures
    camera = Camera(width=size, height=size, focal_px=3.0 * size)
    posed = [pose_track(studio_model(), track) for track in _tracks(album, rng)]
    lamp = rng.normal(size=3) * [0.7, 0.4, 0.2] - [0, 0.6, 0.64]
    renderer, wall = Renderer(camera, rng, lamp.tolist()), Backdrop(2 * size, 2 * size, rng).at(0)
    grain = rng.normal(0, NOISE_LEVEL, (size + 64, size + 64, 3)).astype(np.float32)
    for frame in range(count):
        (row, column), (down, right) = rng.integers(0, 64, 2), rng.integers(0, size, 2)
        background = wall[down : down + size, right : right + size][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
        mesh = join([p.hand.mesh(p.vertices[frame], p.track.elbow[frame]) for p in posed])
        picture = renderer.draw(mesh, np.ascontiguousarray(background), grain[row : row + size, column : column + size])
        place = {"frame": np.int64(frame), "time_s": np.float64(frame), "shot": np.int16(frame)}
        yield picture, [{name: np.asarray(v) for name, v in (place | truth_row(p, frame, camera, picture)).items()} for p in posed]


def between_shapes(num_pairs: int, rng: np.random.Generator) -> Float64[np.ndarray, "15 3"]:
    """Fingers on the way from one of the studio's shapes to another: all between the same two, or, with 5 pairs, each between its own."""
    names = [str(name) for _ in range(num_pairs) for name in rng.choice(list(SHAPES), 2, replace=False)]
    shapes = key_angles(names, rng).reshape(num_pairs, 2, 5, 3, 3)
    share = rng.uniform(size=num_pairs)[:, None, None, None]
    between = (1 - share) * shapes[:, 0] + share * shapes[:, 1]
    return between[np.arange(5) % num_pairs, np.arange(5)].reshape(15, 3)


def facing(rng: np.random.Generator) -> Float64[np.ndarray, "3 3"]:
    """Palm or back of a right hand to the camera, fingers up, then rolled and yawed by up to 0.9 and pitched by 0.7 radians."""
    towards = rng.choice([-1.0, 1.0])
    upright = np.array([[0, 0, -towards], [1, 0, 0], [0, -towards, 0]])
    roll, yaw, pitch = (turn(axis, rng.uniform(-most, most)) for axis, most in (("z", 0.9), ("y", 0.9), ("x", 0.7)))
    return roll @ yaw @ pitch @ upright


def turn(axis: str, angle_rad: float) -> Float64[np.ndarray, "3 3"]:
    """A rotation about one axis of the camera."""
    return matrix_from_axis_angle(torch.as_tensor(angle_rad * np.eye(3)["xyz".index(axis)])).numpy()


def _tracks(album: Album, rng: np.random.Generator) -> list[Track]:
    """One hand of a person or both, moment by moment as if they had nothing to do with each other."""
    both, first = rng.random() < album.two_hands, int(rng.integers(2))
    betas = np.clip(rng.normal(0, 0.8, 10), -1.6, 1.6)
    skin, cloth = SKINS[int(rng.integers(len(SKINS)))], CLOTHS[int(rng.integers(len(CLOTHS)))]
    dress = Dress(skin=skin, cloth=cloth, sleeve_m=float(rng.uniform(0.015, 0.09)))
    count = album.num_pictures
    middle = np.stack([*rng.uniform(-0.03, 0.03, (2, count)), rng.uniform(*album.distance_m, count)], 1)
    apart = np.stack([rng.uniform(0.05, 0.10, count), rng.uniform(-0.04, 0.04, count), np.full(count, 0.05)], 1) * rng.choice([-1, 1])
    tracks = []
    for side, away in ((first, apart * both), (1 - first, -apart))[: 1 + both]:
        orient = np.stack([facing(rng) for _ in range(count)])
        poses = np.stack([between_shapes(int(rng.choice([1, 5])), rng) for _ in range(count)])
        sampled = rng.random(count) < album.sampled
        poses[sampled] = sample_angles(int(sampled.sum()), rng)
        flip = MIRROR if side == LEFT else np.ones(3)
        wrist = middle + away * flip + HAND_M * orient[:, :, 0]
        bend = np.stack([turn("x", rng.uniform(-0.4, 0.4)) @ turn("z", rng.uniform(-0.3, 0.3)) for _ in range(count)])
        elbow = wrist + 0.25 * (bend @ orient[:, :, :1])[..., 0]
        tracks.append(Track(side=side, dress=dress, betas=betas, angles=poses, orient=orient, wrist=wrist * flip, elbow=elbow * flip))
    return tracks
