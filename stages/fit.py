"""Fit the hand model to the landmarks of every hand of a clip (WiLoR, section 3, eq. 2-4)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from fitting.camera import Camera
from fitting.compiled import machine_code
from fitting.files import model_file, prior_file, sha256_of
from fitting.landmarks.offsets import Offsets, corrected, load_offsets, offsets_file
from fitting.settings import FitSettings
from stages.cameras.path import world_from_view
from stages.cameras.said import camera_in
from stages.fusion.pairs import contradiction_m
from stages.fusion.together import together
from stages.stage import DEVICES, Key, Resources, check_settings, setting
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE, CameraPoses, Cameras, Clips, Fits, Hands, Table, Verdicts
from stages.verdicts import ON_SIDES, with_sides

if TYPE_CHECKING:
    from fitting.fit import Fitter, HandFits


_SHAPE_IS_KNOWN = 15.0
"""Weight of the squared betas where the shape is known: a thousand times what leaves it free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """MANO parameters for each hand before its camera, by the three losses of the paper: true rays where the camera is known, else the
    paper's weak perspective.

    Left hands are mirrored, fitted as right ones and mirrored back. The hands of a track are fitted together: one shape, smooth in time.
    A hand of unknown side is fitted as both, and the better fit's side is told; one that a person put on a side is fitted as that.
    A hand that cannot be fitted keeps its row: `outcome` says why and its numbers are NaN.
    """

    name: ClassVar[str] = "fit"
    version: ClassVar[int] = 8
    camera_version: ClassVar[int] = 6
    """Version of what is made where the camera is known."""
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Clips, Hands, Verdicts, Cameras, CameraPoses)
    honours: ClassVar[tuple[str, ...]] = ON_SIDES
    writes: ClassVar[type[Table]] = Fits
    detector: ClassVar[str] = ""
    at_once: ClassVar[int] = 16
    """Clips whose tracks fill the lanes of the compiled fit."""

    settings: FitSettings = setting(FitSettings(), group=True)
    """How the hand model is fitted: weights, prior, iterations, tracks. Each can be given as a setting of this stage."""
    landmark_offsets: bool = True
    """Move a detector's landmarks onto the model's joints first, where its offsets are known. Ours; worth 1.4 of 8.1 mm."""
    focal_share: float = setting(5000 / 256, above=0)
    """Focal length that turns the weak-perspective camera into `transl`, in longer sides of the frame. As in HaMeR and WiLoR's code."""
    hint: bool = setting(True, later=True)
    """Take depths from the joints that `hint` tells, where it does, in place of the detector's own 3D landmarks."""
    camera: str = setting("known", choices=("known", "weak"), later=True)
    """known: perspective by true rays where list or file tell the focal length. weak: the paper's weak perspective everywhere, a known
    focal length then only places the hand."""
    pairs: str = setting("together", choices=("together", "apart"), later=True)
    """together: the two hands of a person before a known camera have one shape, and their wrists are not within each other. Ours.
    apart: each as it was fitted, and as it is by weak perspective."""
    gpus: float = setting(0.0, least=0, identity=False)
    """Share of a GPU that a worker holds; 0 fits on the CPU."""
    device: str = setting("auto", choices=DEVICES, identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""

    def __post_init__(self) -> None:
        """Refuse settings under which no fit makes sense: ValueError that names the field."""
        check_settings(self)

    @property
    def resources(self) -> Resources:
        """One core, and the share of a GPU that was asked for."""
        return Resources(cpus=1, gpus=self.gpus)

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the hand model in use, of the poses behind the prior and of the detectors' landmark offsets."""
        return {
            "hand_model": sha256_of(model_file()),
            "pose_prior": sha256_of(prior_file()),
            "landmark_offsets": sha256_of(offsets_file()),
        }

    def prepare(self) -> str:
        """Have the fit compiled beside the stages before it, once a machine."""
        on_cpu = self.device == "cpu" or not self.gpus
        if self.settings.backend == "torch" or not on_cpu or not machine_code.start_making():
            return ""
        return "the fit is compiled for this machine beside detection: once, about a minute (make setup does it ahead)"

    def build(self) -> "FitClips":
        """Load the hand model and its prior; the returned function fits the hands of one clip, or of many at once."""
        import torch

        from fitting.fit import Fitter
        from fitting.hand.mano import load_hand_model

        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        with _one_thread():
            fitter = Fitter(load_hand_model(device=device), self.settings)
        return FitClips(stage=self, fitter=fitter, offsets=load_offsets() if self.landmark_offsets else {})


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FitClips:
    """Fits the hands of clips: a `stages.stage.AtOnce`."""

    stage: Fit
    fitter: "Fitter"
    offsets: Mapping[str, Offsets]

    def __call__(
        self,
        clips: Clips,
        hands: Hands,
        verdicts: Verdicts | None = None,
        cameras: Cameras | None = None,
        poses: CameraPoses | None = None,
    ) -> Fits:
        """Fits of the hands of one clip."""
        return self.many([(clips, hands, verdicts, cameras, poses)])[0]

    def many(self, items: Sequence[tuple[Any, ...]]) -> list[Fits]:
        """Fits of the hands of several clips, solved together: those of each are what they are alone, to the bit."""
        with _one_thread():
            clips = [_Clip(*given) for given in items]
            seen = [on_joints(with_sides(self._told(clip.hands), clip.verdicts), self.offsets) for clip in clips]
            cameras, weak = [clip.cameras for clip in clips], self.stage.camera == "weak"
            fitted = fit_clips(self.fitter, seen, self.stage.focal_share, cameras, weak=weak)
            return [self._placed(*one) for one in zip(clips, seen, fitted, strict=True)]

    def _told(self, hands: Hands) -> Hands:
        return hands if self.stage.hint else replace(hands, hint=np.full_like(hands.hint, np.nan))

    def _placed(self, clip: "_Clip", seen: Hands, fits: Fits) -> Fits:
        """Fits with what the hands of a person, and a camera's path, add to them."""
        hands, cameras, poses = clip.hands, clip.cameras, clip.poses
        fits = replace(fits, contradiction_m=contradiction_m(hands, fits))
        sight = Sight.of(hands, cameras)
        if sight is not None and self.stage.pairs == "together" and self.stage.camera != "weak":
            fits = together(self.fitter.model, seen, fits, partial(of_known_shape, self.fitter, cameras), sight.project)
        return fits if poses is None or not len(poses) or cameras is None else in_world(fits, hands, cameras, poses)


class _Clip(NamedTuple):
    """What the fit reads of a clip, in the order of `Fit.reads`."""

    clips: Clips
    hands: Hands
    verdicts: Verdicts | None = None
    cameras: Cameras | None = None
    poses: CameraPoses | None = None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch sum in one order, as on a worker of one core: a run in this process then gives the bytes of one on Ray."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_joints(hands: Hands, offsets: Mapping[str, Offsets]) -> Hands:
    """Hands whose landmarks are moved onto the model's joints, by the offsets of the detectors they are from.

    A landmark that is the mean of several detectors' takes its part of each one's offset; 3D landmarks are one detector's.
    """
    keypoints, world = hands.keypoints.copy(), hands.world.copy()
    joined = np.maximum(np.bitwise_count(hands.keypoint_sources), 1)
    for name, known in offsets.items():
        bit = np.array([[*sources].index(name) if name in sources else -1 for sources in hands.sources], np.int16)
        rows = np.flatnonzero(bit >= 0)
        moved, world[rows] = corrected(hands.keypoints[rows], hands.world[rows], known)
        part = (hands.keypoint_sources[rows] >> bit[rows, None] & 1) / joined[rows]
        keypoints[rows] += part[..., None].astype(np.float32) * (moved - hands.keypoints[rows])
    return replace(hands, keypoints=keypoints, world=world)


def fit_hands(fitter: "Fitter", hands: Hands, focal_share: float, cameras: Cameras | None = None, *, weak: bool = False) -> Fits:
    """One row of `Fits` for each row of `Hands`, in its order; a hand of unknown side is fitted as both, and the better one is told.

    `cameras`: of the clip, None where nobody knows. `weak`: fit by weak perspective all the same.
    """
    return fit_clips(fitter, [hands], focal_share, [cameras], weak=weak)[0]


def fit_clips(
    fitter: "Fitter", clips: Sequence[Hands], focal_share: float, cameras: Sequence[Cameras | None], *, weak: bool = False
) -> list[Fits]:
    """`fit_hands` of several clips, in one batch those that a known camera sees, and in one the others."""
    sights = [Sight.of(hands, known) for hands, known in zip(clips, cameras, strict=True)]
    tries = [_with_both_sides(hands, sight) for hands, sight in zip(clips, sights, strict=True)]
    fitted = [Fits.empty()] * len(clips)
    for known in (False, True):
        some = [k for k, hands in enumerate(clips) if len(hands) and (sights[k] is not None) == known]
        for k, fits in zip(some, _fit_sided(fitter, [tries[k] for k in some], focal_share, weak), strict=True):
            fitted[k] = _of_better_side(clips[k], fits, fitter.settings)
    return fitted


def _with_both_sides(hands: Hands, sight: "Sight | None") -> "tuple[Hands, Sight | None]":
    """Hands, those of unknown side as left ones and, after all the others, once more as right ones."""
    unknown = np.flatnonzero(hands.side == UNKNOWN_SIDE)
    if not len(unknown):
        return hands, sight
    apart = np.where((hands.side == UNKNOWN_SIDE) & (hands.track >= 0), hands.track + hands.track.max() + 1, hands.track)
    as_left = replace(hands, side=np.where(hands.side == UNKNOWN_SIDE, LEFT, hands.side).astype(np.int8), track=apart.astype(np.int32))
    as_right = replace(as_left.take(unknown), side=np.full(len(unknown), RIGHT, np.int8))
    seen_by = None if sight is None else sight.take(np.append(np.arange(len(hands)), unknown))
    return Hands.concat([as_left, as_right]), seen_by


def _of_better_side(hands: Hands, both: Fits, settings: FitSettings) -> Fits:
    """One of the fits of each hand that `_with_both_sides` had fitted as both."""
    unknown = np.flatnonzero(hands.side == UNKNOWN_SIDE)
    if not len(unknown):
        return both
    row, second = np.arange(len(hands)), np.arange(len(hands), len(both))
    cost = np.nan_to_num(_total(both, settings), nan=np.inf)
    row[unknown] = np.where(cost[second] < cost[unknown], second, unknown)
    return both.take(row)


def of_known_shape(fitter: "Fitter", cameras: Cameras | None, hands: Hands, betas: Float64[np.ndarray, "10"]) -> Fits:
    """Fits of hands of one shape, before a known camera; what their betas add to it is next to nothing."""
    import torch

    from fitting.fit import Fitter

    model = fitter.model.shaped(torch.as_tensor(betas))
    known = Fitter(model, replace(fitter.settings, shape_weight=_SHAPE_IS_KNOWN))
    known.batch_size = fitter.batch_size  # what was found to fit the memory
    return fit_hands(known, hands, 1.0, cameras)


def in_world(fits: Fits, hands: Hands, cameras: Cameras, poses: CameraPoses) -> Fits:
    """Fits with their orientation and place in the world, on the frames of which a pose of the camera is known."""
    from scipy.spatial.transform import Rotation

    pose = world_from_view(poses, cameras, hands.frame, hands.time_s, hands.view)
    known = np.isfinite(pose).all((1, 2)) & np.isfinite(fits.transl).all(1) & np.isfinite(fits.focal_px)
    turn, shift = pose[known, :, :3], pose[known, :, 3]
    place, orient = np.full_like(fits.transl, np.nan), np.full_like(fits.global_orient, np.nan)
    place[known] = (turn @ fits.transl[known, :, None].astype(np.float64))[..., 0] + shift
    orient[known] = (Rotation.from_matrix(turn) * Rotation.from_rotvec(fits.global_orient[known].astype(np.float64))).as_rotvec()
    return replace(fits, transl_world=place, global_orient_world=orient)


def _total(fits: Fits, settings: FitSettings) -> Float64[np.ndarray, "n"]:
    """What the fit of each hand costs: the losses that know a hand from its mirror image."""
    total = fits.loss_reprojection.astype(np.float64)
    for name in ("bone", "angle", "prior", "shape", "depth"):
        total += getattr(settings, f"{name}_weight") * getattr(fits, f"loss_{name}").astype(np.float64)
    return total


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sight:
    """The known camera that each hand is seen by, as a pinhole of square pixels without distortion at the same place."""

    cameras: tuple[Camera, ...]
    which: Int64[np.ndarray, "n"]  # of `cameras`
    camera_from: str
    keypoints: Float32[np.ndarray, "n 21 3"]  # pixels of the pinhole

    @classmethod
    def of(cls, hands: Hands, cameras: Cameras | None) -> "Sight | None":
        """The cameras of hands; None where nobody knows."""
        if cameras is None or not len(cameras) or not np.isfinite(cameras.focal_px).all():
            return None
        rows = np.flatnonzero(cameras.view >= 0)
        known = tuple(camera_in(cameras, row) for row in rows.tolist())
        which = np.searchsorted(cameras.view[rows], hands.view)
        keypoints = hands.keypoints.copy()
        for number, camera in enumerate(known):
            here = which == number
            if camera != _straight(camera):
                keypoints[here, :, :2] = _straight(camera).project(camera.rays(hands.keypoints[here, :, :2]))
        return cls(cameras=known, which=which, camera_from=str(cameras.camera_from[0]), keypoints=keypoints)

    def take(self, rows: Int64[np.ndarray, "m"]) -> "Sight":
        return replace(self, which=self.which[rows], keypoints=self.keypoints[rows])

    @property
    def focal_px(self) -> Float64[np.ndarray, "n"]:
        return np.array([camera.focal_px[0] for camera in self.cameras])[self.which]

    @property
    def principal(self) -> Float64[np.ndarray, "n 2"]:
        return np.array([camera.principal for camera in self.cameras])[self.which]

    def project(self, rows: Int64[np.ndarray, "m"], points: Float64[np.ndarray, "m points 3"]) -> Float64[np.ndarray, "m points 2"]:
        """Pixels, in the images, of points in the axes of the cameras of some hands."""
        pixels = np.full((*points.shape[:2], 2), np.nan)
        for number, camera in enumerate(self.cameras):
            here = self.which[rows] == number
            pixels[here] = camera.project(points[here])
        return pixels

    def bent(self, columns: dict[str, np.ndarray]) -> None:
        """Bring what was found in pixels of the pinhole into those of the image."""
        for number, camera in enumerate(self.cameras):
            here = np.flatnonzero(self.which == number)
            straight = _straight(camera)
            if camera != straight and len(here):
                for name in ("joints_2d", "box"):
                    points = columns[name][here].reshape(len(here), -1, 2)
                    columns[name][here] = camera.project(straight.rays(points)).reshape(columns[name][here].shape)
                columns["camera"][here, 1:] = camera.project(straight.rays(columns["camera"][here, 1:]))


def _straight(camera: Camera) -> Camera:
    """The camera without distortion, its pixels square."""
    return replace(camera, distortion=(), focal_px=(camera.focal_px[0],) * 2)


def _fit_sided(fitter: "Fitter", clips: Sequence[tuple[Hands, Sight | None]], focal_share: float, weak: bool) -> list[Fits]:
    """Fits of hands whose sides are known, of clips that known cameras see, or of clips that none does."""
    if not clips:
        return []
    asked = [_Asked.of(hands, sight, weak) for hands, sight in clips]
    ends = np.cumsum([len(hands) for hands, _ in clips])
    fitted = _Asked.concat(asked).fit(fitter)
    of_clips = [fitted.take(slice(end - len(hands), end)) for end, (hands, _) in zip(ends.tolist(), clips, strict=True)]
    return [_as_table(*one, focal_share, weak) for one in zip(of_clips, clips, strict=True)]


class _Asked(NamedTuple):
    """What a `Fitter` is asked, of right hands."""

    keypoints: Float32[np.ndarray, "n 21 3"]
    world: Float32[np.ndarray, "n 21 3"]
    deviation: Float32[np.ndarray, "n 21"]
    track: Int64[np.ndarray, "n"]
    time_s: Float64[np.ndarray, "n"]
    focal_px: Float64[np.ndarray, "n"]
    """0 where projection is weak perspective, of all hands."""
    principal: Float64[np.ndarray, "n 2"]

    @classmethod
    def of(cls, hands: Hands, sight: Sight | None, weak: bool) -> "_Asked":
        """Hands of a clip, left ones mirrored."""
        mirror = _mirror(hands)[:, None]
        track = np.where(hands.track < 0, -1, 2 * hands.track.astype(np.int64) + hands.side)
        track += np.where(track < 0, 0, hands.view * (track.max() + 1))  # axes are a view's own
        keypoints, focal, principal = hands.keypoints, np.zeros(len(hands)), np.zeros((len(hands), 2))
        if sight is not None:
            keypoints = sight.keypoints
            if not weak:
                focal, principal = sight.focal_px, sight.principal * mirror[:, 0, :2].astype(np.float64)
        hinted = np.isfinite(hands.hint).all((1, 2)) & (hands.hint[..., 3] > 0).all(1)
        world = np.where(hinted[:, None, None], hands.hint[..., :3], hands.world)
        deviation = hands.hint[..., 3] * np.where(hinted, np.float32(1), np.float32(np.nan))[:, None]
        return cls(keypoints * mirror, world * mirror, deviation, track, hands.time_s, focal, principal)

    @classmethod
    def concat(cls, clips: Sequence["_Asked"]) -> "_Asked":
        """Hands of several clips, none of one in a track of another's."""
        if len(clips) == 1:
            return clips[0]
        ends = np.cumsum([int(clip.track.max()) + 1 for clip in clips])
        apart = [np.where(one.track < 0, -1, one.track + before) for one, before in zip(clips, (0, *ends[:-1]), strict=True)]
        return cls(*(np.concatenate(columns) for columns in zip(*clips, strict=True)))._replace(track=np.concatenate(apart))

    def fit(self, fitter: "Fitter") -> "HandFits":
        from fitting.lens import Lens

        lens = Lens(self.focal_px, self.principal) if self.focal_px.any() else None
        return fitter.fit(self.keypoints, self.world, deviation=self.deviation, track=self.track, time_s=self.time_s, lens=lens)


def _mirror(hands: Hands) -> Float32[np.ndarray, "n 3"]:
    """What turns the axes of a hand into those of a right one."""
    sign = np.where(hands.side == LEFT, -1, 1).astype(np.float32)
    return np.stack([sign, np.ones_like(sign), np.ones_like(sign)], 1)


def _as_table(fitted: "HandFits", of_clip: tuple[Hands, Sight | None], focal_share: float, weak: bool) -> Fits:
    """The fits of a clip's hands as its table."""
    hands, sight = of_clip
    return Fits(
        **{name: getattr(hands, name) for name in ("video", "frame", "time_s", "hand", "side")},
        outcome=np.array([str(outcome) for outcome in fitted.outcome], dtype=object),
        num_points=fitted.num_points.numpy().astype(np.int16),
        **_unknown_where_unfitted(_columns(fitted, hands, _mirror(hands), focal_share, sight, weak), fitted.outcome),
        **_camera_columns(sight),
    )


def _camera_columns(sight: Sight | None) -> dict[str, np.ndarray]:
    """The columns that name a hand's camera; of one that nobody knows they say so by themselves."""
    if sight is None:
        return {}
    origin = np.full(len(sight.which), sight.camera_from, object)
    return {"camera_from": origin, "focal_px": sight.focal_px.astype(np.float32), "principal": sight.principal.astype(np.float32)}


def _columns(
    fitted: "HandFits", hands: Hands, mirror: Float32[np.ndarray, "n 3"], focal_share: float, sight: Sight | None, weak: bool
) -> dict[str, np.ndarray]:
    """The number columns of `Fits`, mirrored back to each hand's side."""
    names = {field.name for field in fields(fitted)} & {field.name for field in fields(Fits)} - {"outcome", "num_points"}
    columns: dict[str, Any] = {name: getattr(fitted, name).numpy().astype(np.float32) for name in names}
    flip = mirror[:, :1]
    axis_angle = np.concatenate([np.ones_like(flip), flip, flip], 1)
    columns["global_orient"] = columns["global_orient"] * axis_angle
    columns["hand_pose"] = columns["hand_pose"] * np.tile(axis_angle, 15)
    columns["camera"] = columns["camera"] * np.concatenate([np.ones_like(flip), flip, np.ones_like(flip)], 1)
    columns["joints_3d"] = columns["joints_3d"] * mirror[:, None]
    columns["joints_2d"] = columns["joints_2d"] * mirror[:, None, :2]
    corners = columns["box"].reshape(-1, 2, 2) * mirror[:, None, :2]
    columns["box"] = np.concatenate([corners.min(1), corners.max(1)], 1)
    if sight is None:
        focal = focal_share * np.maximum(hands.width, hands.height)
        columns["transl"] = _translation(columns["camera"], focal, np.stack([hands.width, hands.height], 1) / 2)
    elif weak:
        columns["transl"] = _translation(columns["camera"], sight.focal_px, sight.principal)
    else:
        columns["transl"] = columns["transl"] * mirror
    if sight is not None:
        sight.bent(columns)
    return columns


def _translation(
    camera: Float32[np.ndarray, "n 3"], focal: Float64[np.ndarray, "n"], centre: Float64[np.ndarray, "n 2"]
) -> Float32[np.ndarray, "n 3"]:
    """Where the wrist stands, metres, before a pinhole that shows it as large as `camera` does."""
    scale, focal = np.maximum(camera[:, :1], 1e-6), focal[:, None]
    return np.concatenate([(camera[:, 1:] - centre) / scale, focal / scale], 1).astype(np.float32)


def _unknown_where_unfitted(columns: dict[str, np.ndarray], outcome: np.ndarray) -> dict[str, np.ndarray]:
    from fitting.fit import Outcome

    unfitted = ~np.isin(outcome, (Outcome.CONVERGED, Outcome.STALLED))
    for values in columns.values():
        values[unfitted] = np.nan
    return columns
