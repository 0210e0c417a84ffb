"""Hands that the chain's own detector and fusion find in the studio's pictures, beside where their joints truly are.

Pictures are stills of one hand (palm or back, turned to all sides) and single frames of the studio's films (two hands of one person).
Nothing is tracked: every picture is looked at alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from fitting.hand.mano import LEFT
from fitting.landmarks.learn_offsets import LabelledHands
from hands.metrics.labels import LabelledFrame, match_hands
from stages.detect_hands_mediapipe import DetectHands
from stages.fuse_hands import FuseHands, accepted, candidates
from stages.fusion.calibration import calibrated
from stages.media.frames import Frames
from stages.tables import Hands, People
from studio.backdrop import Backdrop
from studio.hand import CLOTHS, SKINS, Dress, studio_model
from studio.render import Camera, Renderer
from studio.scene import MIRROR, Track
from studio.stills import between_shapes, facing, turn
from studio.truth import CLEAR_VISIBLE
from studio.video import NOISE_LEVEL, Film, pose_track, render_film

Kind = Literal["still", "film", "mixed"]
"""`still`: a shape between two of the studio's vocabulary. `mixed`: a still on which every finger has two shapes of its own, harder."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Scene:
    """One picture and every hand in it."""

    image: UInt8[np.ndarray, "height width 3"]
    box: Float64[np.ndarray, "k 4"]
    side: Int64[np.ndarray, "k"]
    clear: Bool[np.ndarray, "k"]  # seen well enough to be scored
    joints_2d: Float64[np.ndarray, "k 21 2"]
    joints_3d: Float64[np.ndarray, "k 21 3"]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class RenderedHands:
    """Clearly seen hands that were found."""

    labelled: LabelledHands
    hint: Float64[np.ndarray, "n 21 4"]  # as `Hands.hint`
    side: Int64[np.ndarray, "n"]  # as the detector says
    true_side: Int64[np.ndarray, "n"]
    num_clear: int  # found or not


def render(kind: Kind, seed: int) -> Iterator[Scene]:
    """Pictures without end; the same seed gives the same ones."""
    return _film_frames(seed) if kind == "film" else _stills(kind, np.random.default_rng(seed))


def find(
    scenes: Iterator[Scene], num_hands: int, onlooker: Callable[[Scene, Hands, Int64[np.ndarray, "k"]], None] | None = None
) -> RenderedHands:
    """Pictures are taken until they show `num_hands` hands clearly; each such hand that overlaps a found one is a row.

    `onlooker` is shown every picture with its found hands, in the rows' order, and which of its true hands each is.
    """
    detect, fusion = DetectHands().build(), FuseHands()
    rows: dict[str, list] = {name: [] for name in ("detector", "keypoints", "world", "hint", "joints_2d", "joints_3d", "side", "true_side")}
    num_clear = 0
    while num_clear < num_hands:
        scene = next(scenes)
        num_clear += int(scene.clear.sum())
        height, width = scene.image.shape[:2]
        frames = Frames(video="studio", frame=np.zeros(1, np.int64), time_s=np.zeros(1), images=[scene.image])
        detections = detect(frames, People.empty())
        if not len(detections):
            continue
        hands = accepted(candidates(fusion, calibrated(detections, {}), People.empty(), width, height))
        found = match_hands(_label(scene, width, height), hands.box, hands.score).found
        true = np.flatnonzero(scene.clear & (found >= 0))
        mine = hands.take(found[true])
        if onlooker is not None:
            onlooker(scene, mine, true)
        for name in ("keypoints", "world", "hint", "side"):
            rows[name].extend(getattr(mine, name))
        rows["detector"] += [sources[0] for sources in mine.sources]
        rows["true_side"].extend(scene.side[true])
        for name in ("joints_2d", "joints_3d"):
            rows[name].extend(getattr(scene, name)[true])
    table = {name: np.array(values) for name, values in rows.items()}
    side, true_side = (table.pop(name).astype(np.int64) for name in ("side", "true_side"))
    hint = table.pop("hint").astype(np.float64)
    columns = {name: values if name == "detector" else values.astype(np.float64) for name, values in table.items()}
    return RenderedHands(labelled=LabelledHands(**columns), hint=hint, side=side, true_side=true_side, num_clear=num_clear)


def _label(scene: Scene, width: int, height: int) -> LabelledFrame:
    inside = np.clip(scene.box, 0, [width, height, width, height])
    return LabelledFrame(
        name="", video="", frame=0, image="", width=width, height=height, box=inside, side=scene.side, ignore=np.zeros((0, 4))
    )


def _stills(kind: Kind, rng: np.random.Generator) -> Iterator[Scene]:
    """One hand a picture, right and left in turn, each with a shape, skin, sleeve and background of its own."""
    model, camera = studio_model(), Camera()
    for number in count():
        track = _random_track(number % 2, between_shapes(5 if kind == "mixed" else 1, rng), rng)
        posed = pose_track(model, track)
        mesh = posed.hand.mesh(posed.vertices[0], track.elbow[0])
        noise = rng.normal(0, NOISE_LEVEL, (camera.height, camera.width, 3)).astype(np.float32)
        picture = Renderer(camera, rng).draw(mesh, Backdrop(camera.width, camera.height, rng).at(0), noise)
        outline = camera.project(posed.vertices[0])
        yield Scene(
            image=picture.image,
            box=np.concatenate([outline.min(0), outline.max(0)])[None],
            side=np.array([track.side]),
            clear=np.array([True]),
            joints_2d=camera.project(posed.joints),
            joints_3d=posed.joints - posed.joints[:, :1],
        )


def _random_track(side: int, angles: Float64[np.ndarray, "15 3"], rng: np.random.Generator) -> Track:
    """One hand at one moment."""
    orient = facing(rng)
    wrist = np.array([*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.6, 1.0)]) + 0.09 * orient[:, 0]  # the knuckles about the middle
    bend = turn("x", rng.uniform(-0.4, 0.4)) @ turn("z", rng.uniform(-0.3, 0.3))
    elbow = wrist + 0.25 * bend @ orient[:, 0]
    flip = MIRROR if side == LEFT else np.ones(3)
    skin, cloth = SKINS[int(rng.integers(len(SKINS)))], CLOTHS[int(rng.integers(len(CLOTHS)))]
    return Track(
        side=side,
        dress=Dress(skin=skin, cloth=cloth, sleeve_m=float(rng.uniform(0.015, 0.09))),
        betas=np.clip(rng.normal(0, 0.8, 10), -1.6, 1.6),
        angles=angles[None],
        orient=orient[None],
        wrist=(wrist * flip)[None],
        elbow=(elbow * flip)[None],
    )


def _film_frames(seed: int) -> Iterator[Scene]:
    """One frame a second of films of 8 s, each with other people."""
    for number in count(seed):
        for picture, rows in render_film(Film(seed=number, seconds=8, frames_per_second=1.0)):
            truth = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            yield Scene(
                image=picture.image,
                box=truth["box"].astype(np.float64),
                side=truth["side"].astype(np.int64),
                clear=truth["visible"] >= CLEAR_VISIBLE,
                joints_2d=truth["keypoints"],
                joints_3d=truth["joints_3d"],
            )
