"""Cross-validation over whole clips: of each clip, calibration and trust are what the labels of the other videos teach."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from hands.metrics.clip_labels import LabelledClip
from hands.metrics.labelled_clips import ClipScore, score_clips
from hands.metrics.labels import LabelledFrame, match_hands
from pipeline.evaluate.calibrate import learn
from stages.fuse_hands import FuseHands
from stages.fusion.calibration import Calibration, calibration_of
from stages.review import TRUST, Review, trust, trust_terms
from stages.tables import Clips, Fits, HandDetections, Hands, People, Videos

TEACHING = 3
"""Every so many-th frame of a clip teaches: its neighbours say the same."""

Looked = tuple[Int64[np.ndarray, "n"], Float64[np.ndarray, "n"]]
"""Indices and times of the frames that the chain looked at."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Watched:
    """A labelled clip as a chain saw it: what its detectors found, before anything was fused, stretch by stretch without a cut."""

    label: LabelledClip
    looked: Looked
    videos: Videos
    parts: tuple[tuple[Clips, People, HandDetections], ...]

    def thinned(self, step: int, first: int) -> "Watched":
        """A clip of which only every `step`-th frame was looked at."""
        frame, time_s = (column[first::step] for column in self.looked)
        parts = [(clips, p.take(np.isin(p.frame, frame)), d.take(np.isin(d.frame, frame))) for clips, p, d in self.parts]
        return replace(self, looked=(frame, time_s), parts=tuple(parts))

    def fused(self, fuse: Callable[..., tuple[Hands, object]]) -> list[tuple[Clips, Hands]]:
        """The hands of each stretch, tracks numbered through."""
        found, first = [], 0
        for clips, people, detections in self.parts:
            hands, _ = fuse(self.videos, clips, people, detections)
            found.append((clips, replace(hands, track=(hands.track + first).astype(np.int32))))
            first += int(hands.track.max(initial=-1)) + 1
        return found

    def frames(self) -> Iterator[tuple[LabelledFrame, People, HandDetections]]:
        """The labelled frames that teach, with what was found there under the video's own name."""
        for number, time_s in zip(*(column[::TEACHING].tolist() for column in self.looked), strict=True):
            label, _ = self.label.at(number, time_s)
            if any((region == self.label.everywhere).all() for region in label.ignore):
                continue
            for _, people, detections in self.parts:
                here, bodies = detections.take(detections.frame == number), people.take(people.frame == number)
                if len(here):
                    names = (np.full(len(table), label.video, object) for table in (bodies, here))
                    yield label, replace(bodies, video=next(names)), replace(here, video=next(names))


def at_half_the_rate(watched: Sequence[Watched], fuse: FuseHands) -> ClipScore:
    """Scores of what every second frame alone gives, of both halves together; what detectors saw is that of the full rate."""
    halves = [one.thinned(2, first) for one in watched for first in (0, 1)]
    build = fuse.build()
    found = [Hands.concat([hands for _, hands in half.fused(build)]) for half in halves]
    return score_clips([half.label for half in halves], [half.looked for half in halves], found)


def by_others(
    watched: Sequence[Watched], fuse: FuseHands, fit: Callable[[Clips, Hands], Fits] | None, review: Review | None
) -> dict[str, ClipScore]:
    """Scores of hands whose calibration was learned on the clips of other videos, `found` and, where there is a review, `kept` by a trust
    learned there too. A detector of which the others show too little is taken at its word, and where they hold no false hand the review's
    own trust stands. Without a second video there are no scores."""
    videos = {one.label.video for one in watched}
    if len(videos) < 2:
        return {}
    learned = {video: _calibrations([one for one in watched if one.label.video != video]) for video in videos}
    fused = [one.fused(fuse.fusion(learned[one.label.video], min_score=fuse.min_score)) for one in watched]
    found = [Hands.concat([hands for _, hands in stretches]) for stretches in fused]
    labels, looked = [one.label for one in watched], [one.looked for one in watched]
    scores = {"found": score_clips(labels, looked, found)}
    if fit is None or review is None:
        return scores
    truth = [_is_hand(one, hands) for one, hands in zip(watched, found, strict=True)]
    kept = []
    for one, stretches in zip(watched, fused, strict=True):
        others = [i for i, other in enumerate(watched) if other.label.video != one.label.video]
        weights = _trust_weights([found[i] for i in others], [truth[i] for i in others])
        kept.append(Hands.concat([_kept(clips, hands, fit(clips, hands), review, weights) for clips, hands in stretches]))
    return scores | {"kept": score_clips(labels, looked, kept)}


def _calibrations(teachers: Sequence[Watched]) -> dict[str, Calibration]:
    frames = [frame for one in teachers for frame in one.frames()]
    if not frames:
        return {}
    labels, people, detections = zip(*frames, strict=True)
    told = learn(labels, HandDetections.concat(detections), People.concat(people))
    return {name: calibration_of(one) for name, one in told.items()}


def _is_hand(one: Watched, hands: Hands) -> Int64[np.ndarray, "n"]:
    """1 for each hand that is a labelled one, 0 for a false one, -1 where nobody says."""
    told = np.full(len(hands), -1, np.int64)
    for number, time_s in zip(*(column.tolist() for column in one.looked), strict=True):
        label, _ = one.label.at(number, time_s)
        rows = np.flatnonzero(hands.frame == number)
        match = match_hands(label, hands.box[rows], hands.score[rows])
        told[rows[match.false]] = 0
        told[rows[match.found[match.found >= 0]]] = 1
    return told


def _trust_weights(hands: Sequence[Hands], truth: Sequence[Int64[np.ndarray, "n"]]) -> Float64[np.ndarray, "3"]:
    """Weights of `trust_terms` by logistic regression on hands of which it is known whether they are one."""
    from sklearn.linear_model import LogisticRegression

    terms, is_hand = np.concatenate([trust_terms(one) for one in hands]), np.concatenate(truth)
    known = is_hand >= 0
    if len(np.unique(is_hand[known])) < 2:
        return TRUST
    model = LogisticRegression(C=10.0).fit(terms[known, :2], is_hand[known])
    return np.append(model.coef_[0], model.intercept_[0])


def _kept(clips: Clips, hands: Hands, fits: Fits, review: Review, weights: Float64[np.ndarray, "3"]) -> Hands:
    """Hands that the review keeps with these weights of its trust instead of its own."""
    keep = replace(review, min_trust=0.0).build()(clips, hands, fits).keep
    return hands.take(keep & ((hands.num_agree > 1) | (trust(hands, weights) >= review.min_trust)))
