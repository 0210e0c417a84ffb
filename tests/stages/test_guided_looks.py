"""Looks that are left out: tiles where nobody proposes a hand, second looks at a hand that is known. What they would find is found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import boxes, detect_hands_mediapipe
from stages.detect_hands_mediapipe import DetectHands, unfinished, views_of
from stages.detect_hands_whim import DetectHandsWhim
from stages.detectors.mediapipe import hand_landmarks
from stages.detectors.mediapipe.box_looks import look_at_boxes
from stages.detectors.mediapipe.crops import Look
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, Landmarks, load_hand_landmarks
from stages.detectors.mediapipe.hand_search import SURE_SCORE, Hand, Start, confirm, holding, unexplained
from stages.detectors.mediapipe.palm import FindPalms, load_palm_detector
from stages.detectors.mediapipe.ssd import Candidates
from stages.propose_hands_whim import ProposeHands
from stages.tables import BODY_KEYPOINTS, HandDetections, HandProposals, People
from tests.labelled_pictures import frames_of, labelled
from tests.small_tables import columns
from tests.stages.detectors.test_mediapipe_parts import somebody

SMALL = "A034"  # its two hands are too small for the whole frame


@pytest.fixture
def palm_looks(monkeypatch: pytest.MonkeyPatch) -> list[Look]:
    """Every look for palms from now on."""
    looked: list[Look] = []
    find_palms: FindPalms = load_palm_detector()

    def find(looks: Sequence[Look], min_score: float) -> list[Candidates]:
        looked.extend(looks)
        return find_palms(looks, min_score)

    monkeypatch.setattr(detect_hands_mediapipe, "load_palm_detector", lambda *_, **__: find)
    return looked


def proposals(*named: list[float]) -> HandProposals:
    """Boxes of the first frame as somebody proposes them."""
    count = len(named)
    return HandProposals(
        video=np.full(count, "v", object),
        frame=np.zeros(count, np.int64),
        time_s=np.zeros(count),
        source=np.full(count, "whim", object),
        box=np.array(named, np.float32).reshape(-1, 4),
        score=np.full(count, 0.5, np.float32),
        p_right=np.full(count, 0.5, np.float32),
        keypoints=np.full((count, 21, 3), np.nan, np.float32),
    )


def test_a_hand_that_a_tile_alone_shows_is_found_where_it_is_proposed_and_no_tile_without(media: Path, palm_looks: list[Look]) -> None:
    image, label = labelled(media, SMALL)
    frames, nobody = frames_of(image), People.empty()
    (box, *_) = (hand["box"] for hand in label["hands"])
    counts, sure = [], []
    for settings, guides in ((DetectHands(guided=True), [proposals(box)]), (DetectHands(guided=True), [proposals()]), (DetectHands(), [])):
        found = settings.build()(frames, nobody, *guides)
        counts.append(len(palm_looks))
        palm_looks.clear()
        sure.append(found.take(found.score > 0.4))
    assert counts[1] == 1, "the whole frame alone"
    assert 1 < counts[0] < 0.6 * counts[2]
    assert not (boxes.iou(np.array([box]), sure[1].box) > 0.3).any()
    here, before = (one.take(boxes.iou(np.array([box]), one.box)[0] > 0.3) for one in (sure[0], sure[2]))
    assert len(here) == 1
    assert here.to_arrow().equals(before.to_arrow()), "the same look, the same hand"


def test_a_new_hand_within_a_tile_is_found_in_the_frame_where_it_comes(media: Path, palm_looks: list[Look]) -> None:
    image, label = labelled(media, SMALL)
    boxed = np.array([hand["box"] for hand in label["hands"]])
    empty = np.full_like(image, 114)
    frames = frames_of(empty, image, empty)
    found = DetectHands(guided=True).build()(frames, People.empty(), ProposeHands().build()(frames))
    assert set(found.frame[found.score > 0.4]) == {1}
    assert (boxes.iou(boxed, found.box[found.score > 0.4]).max(1) > 0.3).any()


def test_no_tile_is_looked_at_for_a_proposal_that_a_sure_hand_of_the_whole_frame_explains(media: Path, palm_looks: list[Look]) -> None:
    image, _ = labelled(media, "A000")
    frames, detect = frames_of(image), DetectHands(guided=True).build()
    seen = detect(frames, People.empty(), proposals())
    sure = seen.box[seen.score >= SURE_SCORE][0]
    beside = sure + 0.6 * (sure[2] - sure[0]) * np.array([1, 0, 1, 0])
    counts = []
    for named in ([sure], [beside], [sure, sure]):
        palm_looks.clear()
        detect(frames, People.empty(), proposals(*(box.tolist() for box in named)))
        counts.append(len(palm_looks))
    assert counts[0] == 1, "the whole frame alone"
    assert counts[1] > 1, "another hand may lie there"
    assert counts[2] > 1, "one hand explains one proposal"


def test_a_faint_wrist_is_no_reason_to_look(palm_looks: list[Look]) -> None:
    frames, person = frames_of(np.full((500, 600, 3), 114, np.uint8)), somebody(left_wrist=(400, 300), right_wrist=(200, 300))
    sure = person.score[0] * person.keypoints[0, BODY_KEYPOINTS.index("left_wrist"), 2]
    counts = []
    for least in (sure - 0.01, sure + 0.01):
        DetectHands(guided=True, min_wrist_score=float(least)).build()(frames, person, proposals())
        counts.append(len(palm_looks))
        palm_looks.clear()
    assert counts == [4, 1], "the frame, the person and both wrists, or the frame alone"


@pytest.mark.parametrize(("presence", "looks"), [(0.019, 1), (0.021, 9), (0.9, 2)])
def test_a_box_is_turned_where_its_keypoints_leave_it_doubtful(presence: float, looks: int) -> None:
    seen = Landmarks(presence=presence, p_right=1.0, points=np.random.default_rng(0).uniform(0, 99, (21, 2)), world=np.zeros((21, 3)))
    asked: list[Look] = []

    def find(some: Sequence[Look]) -> list[Landmarks]:
        asked.extend(some)
        return [replace(seen, presence=presence if len(asked) == 1 else 0.9)] * len(some)

    named = np.random.default_rng(1).uniform(10, 90, (1, 21, 3))
    look_at_boxes(np.zeros((100, 100, 3), np.uint8), np.array([[10.0, 10, 90, 90]]), find, keypoints=named)
    assert len(asked) == looks


@pytest.mark.parametrize(("score", "left"), [(SURE_SCORE + 0.01, 0), (SURE_SCORE - 0.01, 1)])
def test_a_hand_that_is_not_sure_explains_no_proposal(score: float, left: int) -> None:
    seen = Landmarks(presence=1.0, p_right=1.0, points=np.random.default_rng(0).uniform(100, 200, (21, 2)), world=np.zeros((21, 3)))
    start = Start(route="frame", person=-1, crop=np.zeros(4), region=np.array([150.0, 150, 200, 0]), score=score)
    hand = Hand(start=start, landmarks=seen)
    assert len(unexplained(hand.hull[None], [hand], np.ones(2))) == left


def test_views_are_those_that_hold_the_middle_of_a_proposal() -> None:
    everywhere = views_of(np.zeros((720, 1280, 3), np.uint8), DetectHands())
    middle = np.array([120.0, 125])
    some = holding(everywhere, middle[None])
    held = [view for view in everywhere if (middle >= view[2][:2]).all() and (middle <= view[2][2:]).all()]
    assert [view[0] for view in some] == [view[0] for view in held]
    assert {view[0] for view in some} == {"frame", "tile"}
    assert len(some) < 9 < len(everywhere) == 20
    assert holding(everywhere, np.zeros((0, 2))) == []


def hand_of(*wrist: float, score: float = 0.9) -> Hand:
    """A hand that begins at a wrist and points up, 80 pixels long."""
    points = np.array(wrist) + np.stack([np.linspace(0, 40, 21), -np.linspace(0, 80, 21)], 1)
    seen = Landmarks(presence=1.0, p_right=1.0, points=points, world=np.zeros((21, 3)))
    return Hand(start=Start(route="frame", person=-1, crop=np.zeros(4), region=np.zeros(4), score=score), landmarks=seen)


def test_people_and_arms_are_looked_at_where_no_sure_hand_explains_them() -> None:
    image, settings = np.zeros((500, 600, 3), np.uint8), DetectHands(guided=True)
    ends = {"left_elbow": (400, 200), "left_wrist": (400, 300), "right_elbow": (200, 200), "right_wrist": (200, 300)}
    person, left, right = somebody(**ends), hand_of(400, 300), hand_of(200, 300)

    def left_over(*hands: Hand, guides: list[list[float]] | None = None, people: People = person) -> tuple[int, int]:
        views, arms = unfinished(image, people, np.array(guides or [], np.float64).reshape(-1, 4), hands, settings)
        return len(views), len(arms)

    assert left_over() == (1, 2)
    assert left_over(left) == (1, 1), "a hand is still to be found"
    assert left_over(left, right) == (0, 0)
    assert left_over(left, hand_of(200, 300, score=SURE_SCORE - 0.01)) == (1, 1), "one that is not sure"
    assert left_over(left, right, guides=[[250, 300, 290, 350]]) == (1, 0), "a proposal that is neither"
    assert left_over(left, right, guides=[left.hull.tolist()]) == (0, 0)
    clasped = somebody(**ends | {"right_wrist": (390, 310)})
    assert left_over(left, people=clasped) == (1, 2), "either's"
    assert len(unfinished(image, person, None, [left, right], settings)[1]) == 2, "without guides nothing is left out"


def test_a_proposal_upon_a_hand_that_lies_by_itself_is_not_looked_at() -> None:
    image = np.full((300, 600, 3), 114, np.uint8)
    hand, beside, far = [100.0, 100, 200, 200], [190.0, 100, 290, 200], [400.0, 100, 500, 200]
    landmarks = np.random.default_rng(0).uniform(110, 190, (1, 21, 3)).astype(np.float32)

    def found(named: list[list[float]], seen: list[list[float]], presence: float = 0.95, **settings: float) -> HandDetections:
        told = {"presence": np.float32(presence), "keypoints": np.repeat(landmarks, len(seen), 0), "box": np.array(seen, np.float32)}
        known: Any = columns(HandDetections, len(seen), **told)
        return DetectHandsWhim(**settings).build()(frames_of(image), proposals(*named), known)  # type: ignore[arg-type]

    (taken,) = found([hand, far], [hand]).keypoints[:, :, :2]
    np.testing.assert_array_equal(taken, landmarks[0, :, :2])
    assert len(found([hand, beside], [hand])) == 0, "grey: nothing is seen where another hand may lie"
    assert len(found([hand], [hand, beside])) == 0
    assert len(found([hand], [hand], presence=0.89)) == 0
    assert len(found([hand], [hand], known_iou=1.0)) == 0
    assert len(found([hand], [beside])) == 0


def test_a_known_hand_is_looked_at_for_its_side_but_not_judged_again(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = labelled(media, "A000")
    frames, real = frames_of(image), load_hand_landmarks()
    proposed = ProposeHands().build()(frames)
    known = DetectHands().build()(frames, People.empty())
    known = replace(known, presence=np.minimum(known.presence, np.float32(0.8)))  # else what lies by itself is not looked at
    count = [0]

    def counted(looks: Sequence[Look]) -> list[hand_landmarks.Landmarks]:
        count[0] += len(looks)
        return real(looks)

    loader: Callable[..., FindLandmarks] = lambda *_, **__: counted  # noqa: E731
    monkeypatch.setattr(hand_landmarks, "load_hand_landmarks", loader)
    made, counts = [], []
    for known_iou in (0.5, 1.0):
        count[0] = 0
        made.append(DetectHandsWhim(known_iou=known_iou).build()(frames, proposed, known))
        counts.append(count[0])
    taken, asked = made
    assert len(taken) == len(asked) == 2
    assert counts[1] - counts[0] >= 3 * len(taken), "two for the spread, one for the hint"
    for name in ("box", "score", "presence", "p_right", "keypoints", "world"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(asked, name))
    nearest = boxes.iou(taken.box, known.box).argmax(1)
    np.testing.assert_array_equal(taken.spread, known.spread[nearest])
    np.testing.assert_array_equal(taken.hint, known.hint[nearest])
    assert not np.array_equal(asked.spread, taken.spread)
    without = DetectHandsWhim().build()(frames, proposed, HandDetections.empty())
    np.testing.assert_array_equal(without.spread, asked.spread)
    unjudged, mirrored = replace(known, spread=np.full_like(known.spread, np.nan)), replace(known, p_right=1 - known.p_right)
    for other in (unjudged, mirrored):
        np.testing.assert_array_equal(DetectHandsWhim().build()(frames, proposed, other).spread, asked.spread)
    assert np.isnan(DetectHandsWhim(second_looks=0).build()(frames, proposed, known).spread).all()


@pytest.mark.parametrize(("other_score", "looks"), [(0.9, 2), (0.85, 4)])
def test_an_arm_that_ends_in_a_sure_hand_is_not_looked_at_more_closely(other_score: float, looks: int) -> None:
    points = np.random.default_rng(0).uniform(100, 200, (21, 2))
    sure = Landmarks(presence=0.95, p_right=1.0, points=points, world=np.zeros((21, 3)))
    far = replace(sure, points=points + 300)

    def start(score: float, side: float) -> Start:
        return Start(route="wrist", person=0, crop=np.zeros(4), region=np.array([150.0, 150, side, 0]), score=score)

    answers = iter([sure, sure, far, far])
    starts = [start(0.9, 400), start(other_score, 20)]
    found = confirm(np.zeros((600, 600, 3), np.uint8), starts, lambda looks: [next(answers) for _ in looks], min_presence=0.2)
    assert len(found) == looks / 2
    assert len(list(answers)) == 4 - looks, "left over"


@pytest.mark.parametrize(("later", "looks"), [(0.51, 3), (0.54, 4)])
def test_a_hand_that_is_shown_again_is_looked_at_once_more_where_it_may_be_surer(later: float, looks: int) -> None:
    points = np.random.default_rng(0).uniform(100, 200, (21, 2))
    seen = Landmarks(presence=0.95, p_right=1.0, points=points, world=np.zeros((21, 3)))
    asked: list[Look] = []

    def find(some: Sequence[Look]) -> list[Landmarks]:
        asked.extend(some)
        return [seen] * len(some)

    starts = [
        Start(route="frame", person=-1, crop=np.zeros(4), region=np.array([150.0, 150, side, 0]), score=score)
        for score, side in ((0.55, 400), (later, 20))
    ]
    confirm(np.zeros((600, 600, 3), np.uint8), starts, find, min_presence=0.2)
    assert len(asked) == looks, "the first hand's score is 0.52"
