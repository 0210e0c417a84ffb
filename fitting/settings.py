"""Every setting of the fit, once, with its unit and its source; imports no torch, so that planners can read it."""

from dataclasses import dataclass, field
from typing import Literal

Backend = Literal["auto", "torch", "compiled"]


# What is known of a field besides its type: bounds (`least`, `above`, `most`), whether it decides the result, whether it is younger
# than data folders and so counts among their settings only where it differs from its default. Stages read it: `stages.stage.bounds_of`.
_NOT_NEGATIVE = {"least": 0}
_POSITIVE = {"above": 0}
_LATER = {"later": True}
_MACHINE = {"identity": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How the hand model is fitted to landmarks: the losses' weights, the prior, the iterations, and how tracks are tied."""

    bone_weight: float = field(default=10.0, metadata=_NOT_NEGATIVE)
    """Of L_BL in eq. 3, shares squared, beside a reprojection loss (eq. 2) in units of the hand's box. Ours."""
    angle_weight: float = field(default=40.0, metadata=_NOT_NEGATIVE)
    """Of L_A in eq. 3, radians squared. Ours."""
    prior_weight: float = field(default=300.0, metadata=_NOT_NEGATIVE)
    """Of eq. 4, square metres summed over the vertices. Ours; the paper does not say. Half and twice as much change
    0.1 mm, at one product with `prior_noise`."""
    prior_noise: float = field(default=2e-5, metadata=_NOT_NEGATIVE)
    """Square metres by which a mesh strays from its components: makes rare poses dearer than common ones (Tipping and
    Bishop 1999); 0 is eq. 4 as printed. Ours: worth 1.2 of 6.4 mm PA-MPJPE under landmark noise of 3 % of the box."""
    shape_weight: float = field(default=0.015, metadata=_NOT_NEGATIVE)
    """Of the squared betas, without which weak perspective cannot tell a small hand from a far one. Ours; half and
    twice as much cost 0.1 mm."""
    robust_scale: float = field(default=0.02, metadata=_POSITIVE)
    """Share of the box at which the reprojection loss turns from squared to the L1 of eq. 2. Ours."""
    num_components: int = field(default=30, metadata={"least": 1, "most": 135})
    """Of the pose PCA, d in eq. 4. Ours: 36 to 64 are as exact, 20 is 0.2 mm worse; the paper does not say."""
    num_iterations: int = field(default=40, metadata={"least": 1, "most": 10_000})
    """Of Levenberg-Marquardt, at most, six of them from both tilts of the palm. Ours."""
    tolerance: float = field(default=1e-4, metadata=_POSITIVE)
    """A hand has converged when a step lowers its total by less than this share. Ours: 0.2 % lower totals than 1e-3, a
    fifth slower."""
    world_weight: float = field(default=2.0, metadata=_NOT_NEGATIVE)
    """Of the detector's 3D landmarks in the choice between the two tilts; 0 leaves it to the losses. Ours."""
    depth_weight: float = field(default=0.03, metadata=_NOT_NEGATIVE)
    """Of the detector's 3D landmarks as depths behind the wrist, box sides. Ours, for MediaPipe's, which lean: of 2,365
    rendered hands the mean PA-MPJPE falls by 0.1 to 6.8 mm and the 95th percentile by 0.5 to 12.9; 0.2 is worse than
    none, 0.1 to 0.3 are right where depths only tremble."""
    hint_deviation: float = field(default=0.06, metadata=_POSITIVE | _LATER)
    """A joint's deviation in a hint, metres, at which its depth weighs as much as one of a detector's own; half of it weighs four
    times as much. Ours, with the share below: of 1,104 looks at hands of rendered albums that nobody trained on the mean PA-MPJPE
    falls from 10.1 to 8.2 mm; half as much changes 0.1 mm."""
    hint_share: float = field(default=0.9, metadata={"least": 0, "most": 1} | _LATER)
    """Share of the way that landmarks are moved to where a hint's joints lie over them. Ours; 0.75 to 1 are alike."""
    depth_scale: float = field(default=0.05, metadata=_POSITIVE | _LATER)
    """Share of the box at which the depth loss turns from squared to linear. Ours."""

    smooth_weight: float = field(default=0.05, metadata=_NOT_NEGATIVE)
    """Of the accelerations of joints, root and size along a track; 0 leaves the frames free. Ours, with what follows, by
    fingers hidden in every third frame of six real clips (875 hands): they are found 4.3 % of the box from where they
    were seen, 10.4 % without this loss, 4.6 % with six times as much."""
    share_shape: bool = True
    """One set of betas a track. Ours; without it hidden fingers are 4.7 % off."""
    jump_weight: float = field(default=0.3, metadata=_NOT_NEGATIVE)
    """Of a jump between two frames, where a track chooses among its frames' tilts. Ours; 0.1 to 1 are alike on studio
    motion."""
    max_gap_s: float = field(default=0.5, metadata=_POSITIVE)
    """A track breaks for the fit where its hand is not seen for longer, seconds, or changes its side. Ours."""
    track_iterations: int = field(default=8, metadata={"least": 0, "most": 10_000} | _LATER)
    """Of Levenberg-Marquardt on whole tracks, at most. Ours."""
    track_tolerance: float = field(default=0.01, metadata=_NOT_NEGATIVE | _LATER)
    """A track has converged when a step lowers its total by less than this share. Ours: a tenth of it takes twice the
    time for 0.05 mm."""
    finger_spread: float = field(default=4.0, metadata=_POSITIVE | _LATER)
    """By how much the velocity of finger joints changes in a second, rad/s. Ours."""
    root_spread: float = field(default=6.0, metadata=_POSITIVE | _LATER)
    """The same of the whole hand's rotation, rad/s. Ours."""
    size_spread: float = field(default=1.5, metadata=_POSITIVE | _LATER)
    """The same of the logarithm of its size in the image, 1/s. Ours."""
    smooth_robust_scale: float = field(default=0.1, metadata=_POSITIVE | _LATER)
    """In such spreads: where the acceleration loss turns from squared to linear, early, so that quick true movement
    stays. Ours."""

    batch_size: int = field(default=2048, metadata={"least": 1, "most": 1 << 20} | _MACHINE)
    """Hands solved at once."""
    backend: Backend = field(default="auto", metadata=_MACHINE)
    """`compiled` (float32 on the CPU), `torch`, or `auto`: compiled where it can be. Both find the same hands, to 0.2 mm."""
    num_threads: int = field(default=1, metadata={"least": 1, "most": 1024} | _MACHINE)
    """Of the compiled fit."""
