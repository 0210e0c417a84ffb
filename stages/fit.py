"""Fit the hand model to the landmarks of every hand of a clip (WiLoR, section 3, eq. 2-4)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float32

from fitting.files import model_file, prior_file, sha256_of
from fitting.landmarks.offsets import LANDMARK_OFFSETS, Offsets, corrected, load_offsets
from stages.stage import Key, Resources, setting
from stages.tables import LEFT, Clips, Fits, Hands, Table

if TYPE_CHECKING:
    from fitting.fit import Fitter, HandFits

_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """MANO parameters and a weak-perspective camera for each hand, by the three losses of the paper.

    Left hands are mirrored, fitted as right ones and mirrored back. The hands of a track are fitted together: one shape, smooth in time.
    A hand that cannot be fitted keeps its row: `outcome` says why and its numbers are NaN.
    """

    name: ClassVar[str] = "fit"
    version: ClassVar[int] = 5
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Clips, Hands)
    writes: ClassVar[type[Table]] = Fits
    detector: ClassVar[str] = ""

    bone_weight: float = 10.0
    """Of L_BL in eq. 3, shares squared, beside a reprojection loss (eq. 2) in units of the hand's box. Ours."""
    angle_weight: float = 40.0
    """Of L_A in eq. 3, radians squared. Ours."""
    prior_weight: float = 300.0
    """Of eq. 4, square metres summed over the vertices. Ours; the paper does not say."""
    prior_noise: float = 2e-5
    """Square metres by which a mesh strays from its components: makes rare poses dearer than common ones (Tipping and Bishop 1999); 0 is
    eq. 4 as printed. Ours: worth 1.2 of 6.4 mm PA-MPJPE under landmark noise of 3 % of the box."""
    shape_weight: float = 0.015
    """Of the squared betas, without which weak perspective cannot tell a small hand from a far one. Ours."""
    robust_scale: float = 0.02
    """Share of the box at which the reprojection loss turns from squared to the L1 of eq. 2. Ours."""
    num_components: int = 30
    """Of the pose PCA, d in eq. 4. Ours: 36 to 64 are as exact, 20 is 0.2 mm worse; the paper does not say."""
    num_iterations: int = 40
    """Of Levenberg-Marquardt, six of them from both tilts of the palm. Ours."""
    tolerance: float = 1e-4
    """A hand has converged when a step lowers its total by less than this share. Ours: 0.2 % lower totals than 1e-3, a fifth slower."""
    world_weight: float = 2.0
    """Of the detector's 3D landmarks in the choice between the two tilts; 0 leaves it to the losses. Ours."""
    landmark_offsets: bool = True
    """Move a detector's landmarks onto the model's joints first, where its offsets are known. Ours; worth 1.4 of 8.1 mm."""
    depth_weight: float = 0.03
    """Of the detector's 3D landmarks as depths behind the wrist. Ours; of 2,365 rendered hands the mean PA-MPJPE falls by 0.1 to 6.8 mm
    and the 95th percentile by 0.5 to 12.9; 0.2 is worse than none."""
    smooth_weight: float = 0.05
    """Of the accelerations of joints, root and size along a track; 0 leaves the frames free. Ours, by fingers hidden on real clips."""
    share_shape: bool = True
    """One set of betas a track. Ours."""
    jump_weight: float = 0.3
    """Of a jump between two frames, where a track chooses among its frames' tilts. Ours."""
    max_gap_s: float = 0.5
    """A track breaks for the fit where its hand is not seen for longer, seconds, or changes its side. Ours."""
    focal_share: float = 5000 / 256
    """Focal length that turns the weak-perspective camera into `transl`, in longer sides of the frame. As in HaMeR and WiLoR's code."""
    gpus: float = setting(0.0, identity=False)
    """Share of a GPU that a worker holds; 0 fits on the CPU."""
    device: str = setting("auto", identity=False)
    """auto (a GPU if the worker has one), cpu or cuda."""
    batch_size: int = setting(2048, identity=False)
    """Hands solved at once."""

    def __post_init__(self) -> None:
        """Refuse settings under which no fit makes sense: ValueError that names the field."""
        for name in (*(field.name for field in fields(self) if field.name.endswith("_weight")), "prior_noise", "gpus"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"fit.{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("robust_scale", "tolerance", "max_gap_s", "focal_share"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"fit.{name} must be more than 0, got {getattr(self, name)}")
        for name, most in (("num_components", 135), ("num_iterations", 10_000), ("batch_size", 1 << 20)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"fit.{name} must lie in [1, {most}], got {getattr(self, name)}")
        if self.device not in _DEVICES:
            raise ValueError(f"fit.device must be one of {', '.join(_DEVICES)}, got {self.device!r}")

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
            "landmark_offsets": sha256_of(LANDMARK_OFFSETS),
        }

    def build(self) -> Callable[[Clips, Hands], Fits]:
        """Load the hand model and its prior; the returned function fits the hands of one clip."""
        import torch

        from fitting.fit import FitSettings, Fitter
        from fitting.hand.mano import load_hand_model
        from fitting.objective import LossWeights
        from fitting.tracks.solve import TrackSettings

        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        loss_weights = LossWeights(
            bone=self.bone_weight,
            angle=self.angle_weight,
            prior=self.prior_weight,
            shape=self.shape_weight,
            depth=self.depth_weight,
            robust_scale=self.robust_scale,
        )
        settings = FitSettings(
            weights=loss_weights,
            tracks=TrackSettings(
                smooth_weight=self.smooth_weight, share_shape=self.share_shape, jump_weight=self.jump_weight, max_gap_s=self.max_gap_s
            ),
            num_components=self.num_components,
            prior_noise=self.prior_noise,
            num_iterations=self.num_iterations,
            tolerance=self.tolerance,
            world_weight=self.world_weight,
            batch_size=self.batch_size,
        )
        fitter = Fitter(load_hand_model(device=device), settings)
        offsets = load_offsets() if self.landmark_offsets else {}

        def run(clips: Clips, hands: Hands) -> Fits:
            return fit_hands(fitter, on_joints(hands, offsets), self.focal_share)

        return run


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


def fit_hands(fitter: "Fitter", hands: Hands, focal_share: float) -> Fits:
    """One row of `Fits` for each row of `Hands`, in its order."""
    if not len(hands):
        return Fits.empty()
    sign = np.where(hands.side == LEFT, -1, 1).astype(np.float32)[:, None, None]
    mirror = np.concatenate([sign, np.ones_like(sign), np.ones_like(sign)], 2)
    track = np.where(hands.track < 0, -1, 2 * hands.track.astype(np.int64) + hands.side)
    fitted = fitter.fit(hands.keypoints * mirror, hands.world * mirror, track=track, time_s=hands.time_s)
    return Fits(
        **{name: getattr(hands, name) for name in ("video", "frame", "time_s", "hand", "side")},
        outcome=np.array([str(outcome) for outcome in fitted.outcome], dtype=object),
        num_points=fitted.num_points.numpy().astype(np.int16),
        **_unknown_where_unfitted(_columns(fitted, hands, mirror[:, 0], focal_share), fitted.outcome),
    )


def _columns(fitted: "HandFits", hands: Hands, mirror: Float32[np.ndarray, "n 3"], focal_share: float) -> dict[str, np.ndarray]:
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
    columns["transl"] = _translation(columns["camera"], hands, focal_share)
    return columns


def _translation(camera: Float32[np.ndarray, "n 3"], hands: Hands, focal_share: float) -> Float32[np.ndarray, "n 3"]:
    """Where the wrist stands, metres, before a pinhole at the frame's centre that shows it as large as `camera` does."""
    scale = np.maximum(camera[:, :1], 1e-6)
    centre = np.stack([hands.width, hands.height], 1) / 2
    focal = focal_share * np.maximum(hands.width, hands.height)[:, None]
    return np.concatenate([(camera[:, 1:] - centre) / scale, focal / scale], 1).astype(np.float32)


def _unknown_where_unfitted(columns: dict[str, np.ndarray], outcome: np.ndarray) -> dict[str, np.ndarray]:
    from fitting.fit import Outcome

    unfitted = ~np.isin(outcome, (Outcome.CONVERGED, Outcome.STALLED))
    for values in columns.values():
        values[unfitted] = np.nan
    return columns
