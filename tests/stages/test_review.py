"""Review drops what cannot be trusted, says why, and grades the rest."""

from typing import Any

import numpy as np
import pytest

from stages.review import Drop, Review
from stages.tables import UNKNOWN_SIDE, Clips, Fits, Hands, Reviews, Verdicts
from stages.verdicts import What

NO_HANDS, NO_FITS = Hands.empty(), Fits.empty()


def filled(empty: Any, known: dict, n: int) -> Any:
    """A table of `n` rows: known columns as given, the rest blank."""
    columns = {}
    for name, column in vars(empty).items():
        value = known.get(name, "" if column.dtype == object else 0)
        columns[name] = np.broadcast_to(np.array(value, column.dtype), (n, *column.shape[1:])).copy()
    return type(empty)(**columns)


def good(n: int = 1, **changes: Any) -> tuple[Clips, Hands, Fits]:
    """`n` frames of one well-seen hand, but for the changes."""
    hands = {"video": "v", "frame": np.arange(n), "time_s": np.arange(n) / 5, "width": 640, "height": 480, "box": (100, 100, 200, 200)}
    hands |= {"score": 0.9, "landmark_score": 0.95, "track_length": n, "num_agree": 1, "num_run": 1}
    fits = {"video": "v", "frame": np.arange(n), "outcome": "converged", "error_share": 0.02, "violation_deg": 1.0, "inlier_ratio": 1.0}
    clip = {"clip": "v-0000", "video": "v", "end_s": n / 5, "num_frames": n * 6, "frames_per_second": 5.0}
    changed = [known | {k: v for k, v in changes.items() if k in vars(empty)} for known, empty in ((hands, NO_HANDS), (fits, NO_FITS))]
    return filled(Clips.empty(), clip, 1), filled(NO_HANDS, changed[0], n), filled(NO_FITS, changed[1], n)


def review(*tables: Any, **settings: Any) -> Reviews:
    return Review(**settings).build()(*tables)


def test_a_well_seen_hand_is_kept_without_a_reason() -> None:
    found = review(*good(5))
    assert found.keep.all()
    assert set(found.reason) == {""}
    assert np.all((found.quality > 0.7) & (found.quality <= 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outcome": "too_few_points"}, Drop.FIT_FAILED),
        ({"error_share": np.nan}, Drop.FIT_FAILED),
        ({"violation_deg": np.nan}, Drop.FIT_FAILED),
        ({"box": (100, 100, 110, 112)}, Drop.TOO_SMALL),
        ({"box": (-90, 100, 10, 200)}, Drop.OUT_OF_FRAME),
        ({"violation_deg": 60.0}, Drop.JOINT_LIMITS),
        ({"score": 0.1}, Drop.WEAK_SOURCE),
    ],
)
def test_each_defect_drops_a_hand_for_its_own_reason_and_lowers_the_quality(change: Any, reason: str) -> None:
    found = review(*good(5, **change))
    assert not found.keep.any()
    assert set(found.reason) == {str(reason)}
    assert np.all(found.quality < review(*good(5)).quality)


def test_a_hand_whose_fit_misses_its_landmarks_is_kept_for_its_box_and_side_alone() -> None:
    """A cup hides half of it: where it is and which it is are seen well enough."""
    found = review(*good(5, error_share=[0.3, 0.01, 0.01, 0.01, 0.3]))
    assert found.keep.all()
    assert found.box_only.tolist() == [True, False, False, False, True]
    assert found.quality[0] < found.quality[1]


def test_who_keeps_a_hand_keeps_its_pose_whatever_its_fit_misses() -> None:
    clips, hands, fits = good(2, error_share=0.3)
    found = review(clips, hands, fits, said(hands, 1, What.KEEP))
    assert found.box_only.tolist() == [True, False]


def test_a_hand_of_unknown_side_is_dropped_and_says_so() -> None:
    assert set(review(*good(5, side=UNKNOWN_SIDE)).reason) == {Drop.SIDE_UNKNOWN}


def test_a_weak_hand_that_two_sources_saw_is_kept() -> None:
    assert review(*good(5, score=0.3, num_agree=2, num_run=2)).keep.all()


def test_a_doubtful_hand_is_kept_by_its_track_and_a_sure_one_dropped_by_none() -> None:
    beside_sure, beside_doubtful = ([0.3, *[other] * 4] for other in (0.95, 0.2))
    assert review(*good(5, score=beside_sure)).keep.all()
    assert review(*good(5, score=beside_doubtful)).reason[0] == Drop.WEAK_SOURCE
    assert review(*good(5, score=beside_sure, track=-1)).keep.tolist() == [False, True, True, True, True]


def test_a_hand_at_a_limit_has_half_in_that_term() -> None:
    at_limit, perfect = (review(*good(5, error_share=e)).quality[0] for e in (Review().max_error_share, 0.0))
    assert at_limit / perfect == pytest.approx(0.5 ** (1 / 7), rel=1e-5)


def test_landmarks_that_the_fit_does_not_meet_lower_the_quality_alone() -> None:
    half, perfect = (review(*good(5, inlier_ratio=share)) for share in (0.5, 1.0))
    assert half.keep.all()
    assert half.quality[0] / perfect.quality[0] == pytest.approx(0.5 ** (1 / 7), rel=1e-5)


def test_a_failed_fit_has_no_quality() -> None:
    assert review(*good(3, outcome="diverged")).quality.tolist() == [0, 0, 0]


def test_one_row_a_hand_in_order_also_when_there_is_none() -> None:
    clips, hands, fits = good(4)
    assert review(clips, hands, fits).frame.tolist() == [0, 1, 2, 3]
    assert len(review(clips, NO_HANDS, NO_FITS)) == 0


def test_fits_of_other_hands_are_refused() -> None:
    clips, hands, fits = good(4)
    with pytest.raises(ValueError, match="3 fits are not those of the 4 hands"):
        review(clips, hands, fits.take(slice(3)))


def test_a_bad_limit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="max_error_share"):
        Review(max_error_share=0.0)
    with pytest.raises(ValueError, match="min_inside"):
        Review(min_inside=1.5)


def test_of_doubtful_landmarks_the_box_is_kept_and_what_nobody_looked_at_twice_passes() -> None:
    scores = np.array([0.95, 0.5, np.nan, 0.05])
    found = review(*good(4, landmark_score=scores))
    assert found.keep.all()
    assert found.box_only.tolist() == [False, True, False, True]
    assert review(*good(4, landmark_score=scores), min_landmark_score=0.3).box_only.tolist() == [False, False, False, True]
    assert not review(*good(4, landmark_score=scores), min_landmark_score=0.0).box_only.any()


def said(hands: Hands, row: int, what: What, to_side: int = -1) -> Verdicts:
    """What a person says of a hand."""
    known = {name: getattr(hands, name)[row] for name in ("video", "frame", "time_s", "hand", "box", "side")}
    return filled(Verdicts.empty(), known | {"decision": f"{what}{row}", "what": str(what), "to_side": to_side}, 1)


def test_a_person_stands_above_every_reason_but_no_hand_is_kept_without_a_side() -> None:
    clips, hands, fits = good(4)
    hands.box[1], hands.side[2], fits.outcome[3] = (0, 0, 5, 5), UNKNOWN_SIDE, "too_few_points"
    assert review(clips, hands, fits).reason.tolist() == ["", "too_small", "side_unknown", "fit_failed"]
    verdicts = Verdicts.concat([said(hands, 0, What.REJECT), *(said(hands, row, What.KEEP) for row in (1, 2, 3))])
    found = review(clips, hands, fits, verdicts)
    assert found.reason.tolist() == ["rejected", "", "side_unknown", ""]
    assert found.keep.tolist() == [False, True, False, True]
    assert found.box_only.tolist() == [False, False, False, True]  # nothing was fitted: box and side are what there is
    assert np.array_equal(found.quality, review(clips, hands, fits).quality)  # how good it is, is not how welcome
    found = review(clips, hands, fits, Verdicts.concat([verdicts, said(hands, 2, What.SIDE, 0), said(hands, 0, What.KEEP)]))
    assert found.reason.tolist() == ["", "", "", ""]  # a side is known now, and the last word counts
