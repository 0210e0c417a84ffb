"""Fit the hand model to the landmarks of every hand of a clip (WiLoR, section 3, eq. 2-4)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float64

from fitting.compiled import machine_code
from fitting.files import model_file, prior_file, sha256_of
from fitting.landmarks.offsets import Offsets, load_offsets, offsets_file
from fitting.settings import FitSettings
from stages.cameras.path import in_world
from stages.cameras.sight import Sight
from stages.fitted import Asked, as_table, on_joints
from stages.fusion.pairs import contradiction_m
from stages.fusion.together import together
from stages.stage import DEVICES, Key, Resources, check_settings, setting
from stages.tables import LEFT, RIGHT, UNKNOWN_SIDE, CameraPoses, Cameras, Clips, Fits, Hands, Table, Verdicts
from stages.verdicts import ON_SIDES, with_sides

if TYPE_CHECKING:
    from fitting.fit import Fitter


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


def _with_both_sides(hands: Hands, sight: Sight | None) -> tuple[Hands, Sight | None]:
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


def _total(fits: Fits, settings: FitSettings) -> Float64[np.ndarray, "n"]:
    """What the fit of each hand costs: the losses that know a hand from its mirror image."""
    total = fits.loss_reprojection.astype(np.float64)
    for name in ("bone", "angle", "prior", "shape", "depth"):
        total += getattr(settings, f"{name}_weight") * getattr(fits, f"loss_{name}").astype(np.float64)
    return total


def _fit_sided(fitter: "Fitter", clips: Sequence[tuple[Hands, Sight | None]], focal_share: float, weak: bool) -> list[Fits]:
    """Fits of hands whose sides are known, of clips that known cameras see, or of clips that none does."""
    if not clips:
        return []
    asked = [Asked.of(hands, sight, weak) for hands, sight in clips]
    ends = np.cumsum([len(hands) for hands, _ in clips])
    fitted = Asked.concat(asked).fit(fitter)
    of_clips = [fitted.take(slice(end - len(hands), end)) for end, (hands, _) in zip(ends.tolist(), clips, strict=True)]
    return [as_table(*one, focal_share, weak) for one in zip(of_clips, clips, strict=True)]
