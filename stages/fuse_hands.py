"""Fuse hands: all sources' views of a hand become one row (WiLoR, eq. 1); what is taken for no hand is kept beside, with the reason.

The paper gives the average; the rules around it are ours.

Frame of reference as in `tables`: xyxy boxes in pixels of the full frame. Detectors that ran and found nothing count as absent,
detectors that did not run do not count. Bodies are a weaker witness: their wrists say that a hand is there, whose and which.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int16, Int64

from fitting.files import sha256_of
from stages import boxes
from stages.fusion import tracks
from stages.fusion import views as several
from stages.fusion import wrists as bodies
from stages.fusion.association import WRIST, associate, covered, fuse_box, fuse_keypoints, log_odds, looked, without_copies
from stages.fusion.calibration import EMBEDDED, Calibration, WeighedHands, calibrated, calibration_file, load_calibrations, uncalibrated
from stages.fusion.landmark_score import LEARNED, LandmarkScore, judged, load_landmark_score
from stages.stage import Key, Resources, check_settings, setting
from stages.tables import Cameras, Clips, HandDetections, Hands, People, RefusedHands, Table, Text, Videos, Views

Weigh = Callable[[HandDetections], WeighedHands]
"""Detections to the same with boxes and scores as fusion takes them."""


class Refusal(StrEnum):
    """Why what detectors saw is no hand. The first that holds is the one written."""

    WEAK = "weak"
    """Its score is below what is asked for where it lies."""
    LONE = "lone"
    """One of several sources that looked saw it, and it is not sure enough, has no wrist nearby, or only follows arms."""
    COVERED = "covered"
    """It is a surer hand seen again in another size, or fingers of one."""
    OTHER_VIEW = "other_view"
    """Another view of the frame shows the same hand better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseHands:
    """Average the boxes of all detectors, weighted by confidence, and say whose hand it is, which side, and since when."""

    name: ClassVar[str] = "fuse-hands"
    version: ClassVar[int] = 18
    key: ClassVar[Key] = "clip"
    reads: ClassVar[tuple[type, ...]] = (Videos, Clips, People, HandDetections, Views)
    writes: ClassVar[tuple[type[Table], ...]] = (Hands, RefusedHands)
    detector: ClassVar[str] = ""
    resources: ClassVar[Resources] = Resources(cpus=1.0, limit_s=120.0)

    detectors: tuple[str, ...] = ("mediapipe",)
    """Sources that ran, by name: rows of others are refused, and one that found nothing counts against a hand. Ours."""
    arm_detectors: tuple[str, ...] = ("openpose", "vitpose", "alphapose")
    """Those that look only where a body's arm ends, and see a hand at nearly every one: they say nothing where nobody is, and one of
    them alone proves nothing (HaMeR, issue 114). Ours."""
    eye_detectors: tuple[str, ...] = ("mediapipe", "whim")
    """Those that look everywhere for themselves, each blind to hands that the other sees (gripping, small, from behind): one of them that
    saw nothing is no witness against what another of them saw. Ours."""
    mode: str = setting("calibrated", choices=("calibrated", "raw"))
    """calibrated, or raw: the paper's own average, sum P(b|d) b / sum P(b|d), of the detectors' boxes and scores as they are; nobody is
    calibrated or dropped."""
    calibration: str = ""
    """A file that `whim learn calibration` wrote; '' = the one among the weights, else the one that comes with the project. Sources
    that it lacks have the project's own calibration, or none: they are taken at their word."""
    match_iou: float = setting(0.4, least=0, most=1)
    """Boxes of two sources above this overlap are the same hand. Ours; hulls and full boxes overlap by 0.56 at the median."""
    match_distance: float = setting(0.35, above=0)
    """So are boxes of similar area whose centres are nearer than this many box sides. Ours."""
    stranger_iou: float = setting(0.3, least=0, most=1)
    """A member that overlaps the fused box by less is dropped, and the box computed again. Ours."""
    copy_iou: float = setting(0.5, least=0, most=1)
    """One source's boxes above this overlap are one hand seen twice, where there are no landmarks to compare. Ours."""
    copy_distance: float = setting(0.2, above=0)
    """One source's hands whose landmarks are nearer than this many box sides on average are one hand seen twice. MediaPipe's own."""
    cover_share: float = setting(0.5, least=0, most=1)
    """A hand that shares more of the smaller box with a surer one of its side, or whose wrist only the other has, or that would be its
    person's third, is that one again. Ours; worth 1 point of precision."""
    nested_share: float = setting(0.9, least=0, most=1)
    """So is one of two hands whose smaller box lies within the other's by more than this share, unless each has a wrist of its own and
    they are of like size; what two sources saw so is one hand, and its box their mean. Ours; of the labelled pairs none shares more than
    0.66, even clasped."""
    min_score: float = setting(0.08, least=0, most=1)
    """Least score, the calibrated confidences averaged over the sources that looked and raised by a wrist nearby, in [0, 1]. Ours: of 591
    hands on frames, clips and photographs 0.06, 0.08, 0.12 find 536, 536, 534 with 19, 16, 15 false ones, calibrated on other videos."""
    min_agreed_score: float = setting(0.3, least=0, most=1)
    """The same for a hand that two or more sources saw, an arm detector or another among them: what one of those that look for
    themselves proves, two of them prove. Ours."""
    lone_score: float = setting(0.9, least=0, most=1)
    """A hand that one of several sources saw needs this confidence and a wrist nearby, in [0, 1]; so does one that a single arm
    detector saw. Ours."""
    person_score: float = setting(0.65, least=0, most=1)
    """People below this detection score do not count, in [0, 1]. Paper, sec. 3."""
    wrist_reach: float = setting(1.4, above=0)
    """How far, in hand box sides, a body's wrist may lie from the hand's to speak for it. Ours: 1.4, 1.8 find 536,
    535 of those 591 with 16, 19 false ones."""
    wrist_log_odds: float = setting(10.0, least=0)
    """Log-odds of a hand that a confident wrist at the very place adds. Ours: 5, 7.5, 10, 13 find 538, 536, 536, 534 of those
    591 with 27, 21, 16, 14 false ones."""
    stray_log_odds: float = setting(3.0, least=0)
    """Log-odds that a hand at nobody's wrist loses where somebody is in view. Ours: by 1, 2, 3 of the 591 are found 536 each
    with 24, 20, 16 false ones."""
    wrist_side_weight: float = setting(8.0, above=0)
    """Log-odds that such a wrist adds for its side; a detector's vote is at most 3.9. Ours: 4, 8 tell 0.93, 0.96 of the sides of our
    labelled frames, each alone."""
    max_gap_s: float = setting(0.6, above=0)
    """A track ends when its hand is not seen for longer, seconds. Ours."""
    min_side_log_odds: float = setting(0.4, least=0)
    """A hand for whose side all evidence of the clip together says less is of unknown side. Ours."""

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < len(set(self.detectors)) == len(self.detectors) < 16:
            raise ValueError(f"fuse_hands.detectors must name each detector that ran once, 15 at most, got {self.detectors}")

    @property
    def weights(self) -> Mapping[str, str]:
        """sha256 of the calibrations and of the score of landmarks."""
        if self.mode == "raw":
            return {}
        calibrations = {f"calibration{i or ''}": sha256_of(path) for i, path in enumerate(self._calibrations[::-1])}
        return calibrations | {"landmark_score": sha256_of(LEARNED)}

    @property
    def _calibrations(self) -> tuple[Path, ...]:
        """Files of calibrations, what a later one says of a source counts."""
        own = Path(self.calibration) if self.calibration else calibration_file()
        return (own,) if own == EMBEDDED else (EMBEDDED, own)

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """Detectors that nobody calibrated: their own boxes and scores count as if they were."""
        return () if self.mode == "raw" else tuple(name for name in self.detectors if name not in self.calibrations())

    def calibrations(self) -> dict[str, Calibration]:
        """Calibrations of the detectors that somebody calibrated."""
        return {name: one for path in self._calibrations for name, one in load_calibrations(path).items()}

    def build(self) -> Callable[..., tuple[Hands, RefusedHands]]:
        """Load the calibration and the score of landmarks."""
        return self.fusion(self.calibrations() if self.mode == "calibrated" else {}, min_score=self.min_score)

    def weigher(self, calibrations: Mapping[str, Calibration]) -> Weigh:
        """What calibrates detections, or with mode raw takes them as the paper does."""
        return uncalibrated if self.mode == "raw" else partial(calibrated, calibrations=calibrations)

    def fusion(self, calibrations: Mapping[str, Calibration], *, min_score: float) -> Callable[..., tuple[Hands, RefusedHands]]:
        """Fusion by these calibrations and this threshold instead of the project's own."""
        landmarks = None if self.mode == "raw" else load_landmark_score()
        settings = replace(self, min_score=min_score)
        return partial(fuse_hands, settings=settings, weigh=self.weigher(calibrations), landmarks=landmarks)


def fuse_hands(
    videos: Videos,
    clips: Clips,
    people: People,
    detections: HandDetections,
    views: Cameras | None = None,
    *,
    settings: FuseHands,
    weigh: Weigh,
    landmarks: LandmarkScore | None = None,
) -> tuple[Hands, RefusedHands]:
    """The hands of one clip and what was refused, both by frame, surest first within it. A hand in several views is one.

    Raises ValueError for rows of a detector that `detectors` does not name.
    """
    strangers = set(detections.source) - set(settings.detectors)
    if strangers:
        raise ValueError(f"fuse_hands.detectors is {settings.detectors}, but there are hands of {sorted(strangers)}: name them")
    if views is not None and len(views) > 1:
        seen = _without_thirds(_seen_in_views(weigh(detections), people, views, settings, landmarks), settings)
        around = float(views.width[0]) if views.projection[0] == "equirectangular" else 0.0
        hands = _followed(several.swapped(accepted(seen)), settings, around)
        hands = replace(several.swapped(hands), person=several.as_numbered(hands.person))
        seen = replace(seen, person=several.as_numbered(seen.person))
    else:
        size = (int(videos.width[0]), int(videos.height[0]))
        seen = _without_thirds(_seen(weigh(detections), people, size, settings, landmarks), settings)
        hands = _followed(accepted(seen), settings)
    refused = seen.take(seen.reason != "")
    return hands, refused.take(np.lexsort((-refused.score, refused.frame)))


def _seen(
    weighed: WeighedHands, people: People, size: tuple[int, int], settings: FuseHands, landmarks: LandmarkScore | None
) -> RefusedHands:
    """All that the detections of images of one size make, frame by frame."""
    if landmarks is not None:
        weighed = judged(weighed, landmarks, *size)
    of_frames = [
        candidates(settings, weighed.take(weighed.frame == frame), people.take(people.frame == frame), *size)
        for frame in np.unique(weighed.frame)
    ]
    return RefusedHands.concat(of_frames)


def _seen_in_views(
    weighed: WeighedHands, people: People, views: Cameras, settings: FuseHands, landmarks: LandmarkScore | None
) -> RefusedHands:
    """All that the detections of every view make, each hand once, placed in the video's own pixels; people are numbered by view."""
    parts = []
    for row in np.flatnonzero(views.view >= 0).tolist():
        view, size = views.view[row], (int(views.width[row]), int(views.height[row]))
        part = _seen(weighed.take(weighed.view == view), people.take(people.view == view), size, settings, landmarks)
        parts.append(replace(part, view=np.full(len(part), view, np.int16)))
    seen = several.placed(RefusedHands.concat(parts), views)
    seen = replace(seen, person=several.told_apart(seen.person, seen.view))
    standing = np.flatnonzero(seen.reason == "")
    seen.reason[standing[several.seen_before(seen.take(standing), views)]] = Refusal.OTHER_VIEW
    return seen


def _without_thirds(seen: RefusedHands, settings: FuseHands) -> RefusedHands:
    """All with one reason more: a person's third hand is another's double."""
    standing = np.flatnonzero(seen.reason == "")
    again = tracks.third_hands(accepted(seen), share=settings.cover_share)
    seen.reason[standing[again]] = Refusal.COVERED
    return seen


def _followed(hands: Hands, settings: FuseHands, around: float = 0.0) -> Hands:
    """Hands with tracks and sides."""
    if not len(hands):
        return hands
    return tracks.follow(hands, max_gap_s=settings.max_gap_s, min_side_log_odds=settings.min_side_log_odds, around=around)


def accepted(seen: RefusedHands) -> Hands:
    """Those candidates that are hands, untracked: track -1, sides by their frame's votes alone."""
    hands = seen.take(seen.reason == "")
    return Hands(**{field.name: getattr(hands, field.name) for field in fields(Hands)})


def candidates(settings: FuseHands, detections: WeighedHands, people: People, width: int, height: int) -> RefusedHands:
    """All that the detections of one frame (at least one) make, with the reason why it is no hand, or '' where it is one."""
    people = people.take(people.score >= settings.person_score)
    detections = without_copies(detections, width, height, copy_iou=settings.copy_iou, copy_distance=settings.copy_distance)
    clusters, box, keypoints, joined = _fused(settings, detections)
    size = boxes.long_side(box)
    wrist = np.where(np.isfinite(keypoints[:, WRIST, :2]), keypoints[:, WRIST, :2], boxes.centre(box))
    witness = bodies.wrist_witness(wrist, size, people, reach=settings.wrist_reach)
    member = np.array([np.isin(settings.detectors, detections.source[c]) for c in clusters])
    follow, look = (np.isin(settings.detectors, names) for names in (settings.arm_detectors, settings.eye_detectors))
    run = looked(box, member, follow, people.box, by_eye=look)
    seen = np.array([detections.score[c].sum() for c in clusters], np.float64) / run.sum(1)
    votes = np.array([log_odds(detections.p_right[c]).sum() for c in clusters], np.float64)
    person, side = bodies.share_out(witness, votes, seen, side_weight=settings.wrist_side_weight)
    support = np.where(person >= 0, witness[np.arange(len(box)), person, side] if len(people) else 0, 0.0)
    score = raised(seen, body_log_odds(settings, support, somebody=len(people) > 0))
    top = np.array([detections.score[c].max() for c in clusters])
    reason = _refusals(settings, score, member, run, top, support)
    standing = np.flatnonzero(reason == "")
    again = covered(
        box[standing],
        score[standing],
        side[standing],
        person[standing] >= 0,
        votes[standing],
        wrist[standing].astype(np.float64),
        share=settings.cover_share,
        nested_share=settings.nested_share,
    )
    reason[standing[again]] = Refusal.COVERED
    owner = np.where(reason == "", person, -1)  # what was refused has no say in whose hand another is
    n = len(clusters)
    return RefusedHands(
        video=np.full(n, detections.video[0], object),
        frame=np.full(n, detections.frame[0]),
        time_s=np.full(n, detections.time_s[0]),
        hand=np.arange(n, dtype=np.int16),
        width=np.full(n, width, np.int32),
        height=np.full(n, height, np.int32),
        box=box.astype(np.float32),
        score=score.astype(np.float32),
        side=side.astype(np.int8),
        side_log_odds=bodies.side_log_odds(witness, votes, owner, side_weight=settings.wrist_side_weight).astype(np.float32),
        keypoints=keypoints.astype(np.float32),
        landmark_score=_landmark_score(detections, clusters),
        **_in_space(detections, clusters),
        person=np.append(people.person, -1)[person].astype(np.int16),
        track=np.full(n, -1, np.int32),
        track_length=np.zeros(n, np.int32),
        num_agree=member.sum(1).astype(np.int16),
        num_run=run.sum(1).astype(np.int16),
        keypoint_sources=joined,
        sources=_ragged([detections.source[c] for c in clusters]),
        source_scores_raw=_ragged([detections.score_raw[c] for c in clusters]),
        source_scores=_ragged([detections.score[c] for c in clusters]),
        source_boxes=_ragged([detections.box[c] for c in clusters]),
        reason=reason,
    )


def body_log_odds(settings: FuseHands, support: Float64[np.ndarray, "n"], *, somebody: bool) -> Float64[np.ndarray, "n"]:
    """What the bodies in view say of hands that a wrist supports so much, in [0, 1]."""
    return settings.wrist_log_odds * support - settings.stray_log_odds * (somebody & (support <= 0))


def raised(share: Float64[np.ndarray, "n"], log_odds: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Shares in [0, 1] with something added to their log-odds; what is certain stays so."""
    return share / (share + (1 - share) * np.exp(-log_odds))


def _fused(
    settings: FuseHands, detections: HandDetections
) -> tuple[list[Int64[np.ndarray, "_"]], Float64[np.ndarray, "n 4"], Float64[np.ndarray, "n 21 3"], Int16[np.ndarray, "n 21"]]:
    """Rows of each hand's members, its box (eq. 1), its landmarks and the members that each was joined from."""
    nested = {} if settings.mode == "raw" else {"nested_share": settings.nested_share}
    clusters = associate(detections, match_iou=settings.match_iou, match_distance=settings.match_distance, **nested)
    stranger_iou = 0.0 if settings.mode == "raw" else settings.stranger_iou
    fused = [fuse_box(detections.box[c], detections.score[c], stranger_iou=stranger_iou) for c in clusters]
    clusters = [c[stays] for c, (_, stays) in zip(clusters, fused, strict=True)]
    box = np.stack([b for b, _ in fused]).astype(np.float64)
    sides_px = boxes.long_side(box).tolist()
    joined = [fuse_keypoints(detections.keypoints[c], detections.score[c], px) for c, px in zip(clusters, sides_px, strict=True)]
    return clusters, box, np.stack([points for points, _ in joined]).astype(np.float64), np.stack([mask for _, mask in joined])


def _refusals(
    settings: FuseHands,
    score: Float64[np.ndarray, "n"],
    member: Bool[np.ndarray, "n sources"],
    run: Bool[np.ndarray, "n sources"],
    top: Float[np.ndarray, "n"],
    support: Float64[np.ndarray, "n"],
) -> Text:
    """'' where two sources agree, the only one that looked is sure enough, or one of several is very sure by a wrist; else why not."""
    follows_arms, looks = (np.isin(settings.detectors, names) for names in (settings.arm_detectors, settings.eye_detectors))
    num_agree, num_run = member.sum(1), run.sum(1)
    least = np.where(member[:, ~looks].any(1), settings.min_agreed_score, min(settings.min_agreed_score, settings.min_score))
    agreed = (num_agree >= 2) & (score >= least)
    only = (num_run == 1) & (score >= settings.min_score)
    sure = member[:, ~follows_arms].any(1) & (top >= settings.lone_score) & (support > 0)
    lone = (num_agree == 1) & (num_run > 1)
    return np.select([agreed | only | sure, lone], ["", Refusal.LONE.value], Refusal.WEAK.value).astype(object)


def _landmark_score(detections: WeighedHands, clusters: list[Int64[np.ndarray, "_"]]) -> Float32[np.ndarray, "n"]:
    """Score of the landmarks of the surest source that has one; NaN where none has."""
    known = [c[np.isfinite(detections.landmark_score[c])] for c in clusters]
    best = [detections.landmark_score[c[detections.score[c].argmax()]] if len(c) else np.nan for c in known]
    return np.array(best, np.float32)


def _in_space(detections: HandDetections, clusters: list[Int64[np.ndarray, "_"]]) -> dict[str, np.ndarray]:
    """World landmarks of the surest source that has them, and its hint."""
    found = {name: np.full((len(clusters), *getattr(detections, name).shape[1:]), np.nan, np.float32) for name in ("world", "hint")}
    for i, rows in enumerate(clusters):
        have = rows[np.isfinite(detections.world[rows]).all((1, 2))]
        if len(have):
            for name, values in found.items():
                values[i] = getattr(detections, name)[have[detections.score[have].argmax()]]
    return found


def _ragged(items: list[np.ndarray]) -> np.ndarray:
    column = np.empty(len(items), object)
    column[:] = [item.tolist() for item in items]
    return column
