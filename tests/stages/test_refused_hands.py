"""What fusion did not take for a hand is kept beside it, with the reason: nothing that a detector saw is lost."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.fuse_hands import Refusal
from stages.tables import HandDetections, Hands, PersonDetections, RefusedHands
from tests.stages.fused_hands import body, clip_of, detection, fuse, fusion, quick


def refuse(*detections: HandDetections, people: PersonDetections | None = None, **changes: Any) -> RefusedHands:
    _, refused = fusion(*detections, **changes).build()(*clip_of(*detections, people=people))
    return refused


def test_a_hand_that_one_of_several_sources_saw_unsurely_is_lone() -> None:
    seen, detectors = detection([100, 100, 200, 200], 0.6), ("a", "b")
    assert len(fuse(seen, detectors=detectors)) == 0
    refused = refuse(seen, detectors=detectors)
    assert refused.reason.tolist() == [Refusal.LONE]
    assert (refused.num_agree[0], refused.num_run[0], refused.sources[0]) == (1, 2, ["a"])
    assert refused.box[0].tolist() == [100, 100, 200, 200]


def test_a_score_too_low_for_where_the_hand_lies_is_weak() -> None:
    seen, people = detection([100, 100, 200, 200], 0.7), body((500, 400), (600, 400))
    assert refuse(seen, people=people, min_score=0.11).reason.tolist() == [Refusal.WEAK]
    assert len(refuse(seen, people=people, min_score=0.1)) == 0


def test_fingers_of_a_surer_hand_are_covered() -> None:
    refused = refuse(detection([100, 100, 200, 200], 0.9), detection([120, 110, 170, 160], 0.6))
    assert refused.reason.tolist() == [Refusal.COVERED]
    assert refused.box[0].tolist() == [120, 110, 170, 160]


def test_of_two_equally_sure_the_part_is_covered_by_the_whole() -> None:
    whole, part = [100, 100, 200, 250], [105, 120, 165, 190]
    for seen in ([whole, part], [part, whole]):
        refused = refuse(*(detection(box, 0.9) for box in seen))
        assert (refused.reason.tolist(), refused.box[0].tolist()) == ([Refusal.COVERED], part)


@quick
@given(st.integers(0, 10_000))
def test_hands_and_refused_hands_are_together_all_that_was_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(8):
        x, y = rng.uniform(0, 500), rng.uniform(0, 350)
        box = [x, y, x + rng.uniform(30, 120), y + rng.uniform(30, 120)]
        found.append(detection(box, rng.uniform(0.05, 1), source="ab"[rng.integers(2)], frame=int(rng.integers(2)), p_right=rng.uniform()))
    changes: dict[str, Any] = {"detectors": ("a", "b"), "people": body((150, 200), (400, 200)), "copy_distance": 1e-3, "stranger_iou": 0.0}
    hands, refused = fuse(*found, **changes), refuse(*found, **changes)
    scores = [score for table in (hands, refused) for row in table.source_scores_raw for score in row]
    np.testing.assert_allclose(sorted(scores), sorted(d.score[0] for d in found), rtol=1e-6)
    assert set(refused.reason) <= set(Refusal)
    assert not set(map(tuple, hands.box.tolist())) & set(map(tuple, refused.box.tolist()))


def test_refused_hands_have_no_say_in_the_sides_of_hands() -> None:
    people = body(left=(300, 200), right=(200, 200))
    hand, doubtful = detection([250, 100, 350, 200], 0.9, p_right=0.4), detection([150, 100, 250, 200], 1e-6, p_right=0.02)
    alone, beside = (fuse(*seen, people=people, min_score=0.3) for seen in ((hand,), (hand, doubtful)))
    assert len(beside) == 1
    np.testing.assert_array_equal(alone.side_log_odds, beside.side_log_odds)


def test_the_table_has_the_columns_of_hands_and_the_reason() -> None:
    names = [field.name for field in fields(RefusedHands)]
    assert names == [*(field.name for field in fields(Hands)), "reason"]
    refused = refuse(detection([100, 100, 200, 200], 0.6), detectors=("a", "b"))
    again = RefusedHands.from_arrow(refused.to_arrow())
    assert again.reason.tolist() == refused.reason.tolist()
    assert refuse().to_arrow().schema == RefusedHands.schema()


def test_detections_of_an_unnamed_source_are_refused_by_name_as_fusion_does() -> None:
    with pytest.raises(ValueError, match="'b'"):
        refuse(replace(detection([0, 0, 9, 9], 0.5), source=np.array(["b"], object)), detectors=("a",))
