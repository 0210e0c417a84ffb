"""What other videos teach of whole clips: calibration, trust, and the rate that tracks are followed at."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hands.metrics.clip_labels import LabelledClip, Stretch
from pipeline.evaluate.clips_by_others import Watched, _kept, _trust_weights, at_half_the_rate, by_others
from stages.fuse_hands import FuseHands
from stages.review import TRUST, Review, trust
from stages.tables import RIGHT, Clips, Fits, HandDetections, Hands
from tests.small_tables import columns
from tests.stages.fused_hands import SIZE, clip_of, detection
from tests.stages.test_review import good

HERE, ELSEWHERE = (100.0, 100.0, 180.0, 180.0), (400.0, 300.0, 480.0, 380.0)
ONE = FuseHands(detectors=("a",))


def labelled(video: str, *hands: tuple[str, int, tuple[float, ...]], end_s: float = 60.0) -> LabelledClip:
    """A clip whose hands stand still."""
    stretches = tuple(
        Stretch(hand=name, person="p", side=side, start_s=0.0, end_s=end_s, time_s=np.zeros(1), box=np.array([box]))
        for name, side, box in hands
    )
    return LabelledClip(video=video, sha256="", width=SIZE[0], height=SIZE[1], duration_s=end_s, persons=("p",), hands=stretches, ignore=())


def watched(label: LabelledClip, *found: HandDetections, frames: int) -> Watched:
    videos, clips, people, detections = clip_of(*found)
    looked = np.arange(frames), np.arange(frames) / 5
    return Watched(label=label, looked=looked, videos=videos, parts=((clips, people, detections),))


def still(frames: int, box: tuple[float, ...] = HERE, score: float = 0.6, p_right: float = 0.95) -> list[HandDetections]:
    return [detection(box, score, frame=f, p_right=p_right) for f in range(frames)]


def test_a_clip_is_judged_by_what_other_videos_teach() -> None:
    """Detections of a score are hands in one video and false in the other: each is fused as the other one says."""
    true = watched(labelled("true.mp4", ("r", RIGHT, HERE)), *still(180), frames=180)
    false = watched(labelled("false.mp4", ("r", RIGHT, ELSEWHERE)), *still(180), frames=180)
    score = by_others([true, false], ONE, None, None)
    assert set(score) == {"found"}
    assert score["found"].by_video["true.mp4"].num_found == 0
    assert score["found"].by_video["false.mp4"].num_false == 180
    again = by_others([true, replace(true, label=replace(true.label, video="again.mp4"))], ONE, None, None)
    assert again["found"].total.num_found == 360


def test_others_that_show_nothing_teach_nothing() -> None:
    """No detection on a teaching frame, and no false hand: detectors are taken at their word, the review's own trust stands."""
    true = watched(labelled("true.mp4", ("r", RIGHT, HERE)), *still(60), frames=60)
    empty = watched(labelled("empty.mp4", ("r", RIGHT, HERE)), detection(HERE, 0.6, frame=1), frames=60)
    assert by_others([true, empty], ONE, None, None)["found"].by_video["true.mp4"].num_found == 60
    (_, hands), *_ = true.fused(ONE.build())
    assert _trust_weights([hands], [np.ones(len(hands), np.int64)]).tolist() == TRUST.tolist()


def test_a_video_alone_is_taught_by_none() -> None:
    one = watched(labelled("v.mp4", ("r", RIGHT, HERE)), *still(60), frames=60)
    assert by_others([one, one], ONE, None, None) == {}


def test_half_the_rate_is_both_halves_of_the_frames() -> None:
    """A hand that crosses the frame, 1.6 of its sizes from frame to frame: at half the rate it is linked over 3.2, in either half."""
    box = np.array([[10.0 + 130 * f, 100, 90.0 + 130 * f, 180] for f in range(4)])
    label = labelled("v.mp4", ("r", RIGHT, HERE))
    label = replace(label, hands=(replace(label.hands[0], time_s=np.arange(4) / 5, box=box),))
    moving = [detection(box[f], 0.9, frame=f, p_right=0.95) for f in range(4)]
    score = at_half_the_rate([watched(label, *moving, frames=4)], ONE)
    assert (score.total.num_frames, score.total.num_hands, score.total.num_found) == (4, 4, 4)
    assert score.total.identity_switches == 0
    assert score.total.num_wrong_side == 0


def test_frames_of_a_thinned_clip_and_all_that_was_found_there() -> None:
    one = watched(labelled("v.mp4", ("r", RIGHT, HERE)), *still(7), frames=7)
    odd = one.thinned(2, 1)
    assert odd.looked[0].tolist() == [1, 3, 5]
    assert odd.looked[1].tolist() == pytest.approx([0.2, 0.6, 1.0])
    assert odd.parts[0][2].frame.tolist() == [1, 3, 5]


def test_tracks_of_stretches_are_numbered_through() -> None:
    one = watched(labelled("v.mp4", ("r", RIGHT, HERE)), *still(3), frames=3)
    twice = replace(one, parts=one.parts * 2)
    assert [hands.track.tolist() for _, hands in twice.fused(ONE.build())] == [[0, 0, 0], [1, 1, 1]]


def test_teaching_frames_carry_the_videos_own_name_and_none_that_is_wholly_ignored() -> None:
    one = watched(labelled("v.mp4", ("r", RIGHT, HERE)), *still(7), frames=7)
    told = list(one.frames())
    assert [label.frame for label, _, _ in told] == [0, 3, 6]
    assert {str(name) for _, _, found in told for name in found.video} == {"v.mp4"}
    blind = Stretch(hand="", person="", side=-1, start_s=0.5, end_s=0.7, time_s=np.zeros(0), box=np.zeros((0, 4)))
    some = replace(one, label=replace(one.label, ignore=(blind,)))
    assert [label.frame for label, _, _ in some.frames()] == [0, 6]


def hands(score: list[float], track: list[int]) -> Hands:
    found = columns(Hands, len(score), score=score, track=track, num_agree=1)
    assert isinstance(found, Hands)
    return found


def test_trust_is_learned_of_hands_of_which_it_is_known_whether_they_are_one() -> None:
    scores = np.linspace(0.05, 0.95, 40)
    is_hand = (scores > 0.5).astype(np.int64)
    is_hand[::7] = -1
    weights = _trust_weights([hands(scores.tolist(), list(range(40)))], [is_hand])
    told = trust(hands(scores.tolist(), list(range(40))), weights)
    assert (told > 0.5).tolist() == (scores > 0.5).tolist()
    assert _trust_weights([hands(scores.tolist(), list(range(40)))], [1 - np.maximum(is_hand, 0)])[:2].sum() < 0


def test_a_review_keeps_by_the_trust_that_it_is_given() -> None:
    clips, found, fits = good(4, score=[0.3, 0.3, 0.9, 0.9], track=[0, 1, 2, 3], violation_deg=[1.0, 1.0, 1.0, 60.0])
    assert isinstance(fits, Fits)
    assert isinstance(clips, Clips)
    kept: Any = _kept(clips, found, fits, Review(), TRUST)
    assert kept.frame.tolist() == found.frame[Review().build()(clips, found, fits).keep].tolist() == [2]
    assert _kept(clips, found, fits, Review(), np.array([0.0, 0.0, 5.0])).frame.tolist() == [0, 1, 2], "other reasons stand"
    assert _kept(clips, found, fits, Review(), np.array([0.0, 0.0, -5.0])).frame.tolist() == []
    both = replace(found, num_agree=np.full(4, 2, np.int16))
    assert _kept(clips, both, fits, Review(), np.array([0.0, 0.0, -5.0])).frame.tolist() == [0, 1, 2], "what two sources saw needs none"
