"""A run is scored against what the studio knows: nothing found is free, nothing hidden is blamed."""

import numpy as np
import pytest

from pipeline.evaluate.studio_truth import Truth, annotated, pa_mpjpe_mm, score_run
from stages.tables import Clips, Fits, Hands, Reviews
from tests.small_tables import columns

RATE = 25.0


def make_truth(num_frames: int = 10, video: str = "v") -> dict[str, np.ndarray]:
    """A left and a right hand in every frame, of different shape, far apart."""
    rng = np.random.default_rng(0)
    count = 2 * num_frames
    joints = rng.normal(0, 0.05, (count, 21, 3)).astype(np.float32)
    joints -= joints[:, :1]
    frame = np.repeat(np.arange(num_frames), 2)
    side = np.tile([0, 1], num_frames)
    wrist = np.stack([200.0 + 250 * side, np.full(count, 240.0)], 1)
    keypoints = (wrist[:, None] + 700 * joints[..., :2]).astype(np.float32)
    box = np.concatenate([keypoints.min(1) - 3, keypoints.max(1) + 3], 1).astype(np.float32)
    return {
        "video": np.full(count, video, object), "frame": frame.astype(np.int64), "time_s": frame / RATE, "side": side.astype(np.int8),
        "width": np.full(count, 640, np.int32), "height": np.full(count, 480, np.int32), "box": box,
        "inside": np.ones(count, np.float32), "visible": np.ones(count, np.float32), "keypoints": keypoints, "joints_3d": joints,
    }  # fmt: skip


def make_run(truth: Truth) -> tuple[Clips, Hands, Fits, Reviews]:
    """The run that finds every hand exactly."""
    count = len(truth["frame"])
    keypoints = np.concatenate([truth["keypoints"], np.ones((count, 21, 1), np.float32)], 2)
    hand = np.tile([0, 1], count // 2).astype(np.int16)
    same = {"video": truth["video"], "frame": truth["frame"], "time_s": truth["time_s"], "hand": hand}
    hands = columns(
        Hands, count, **same, box=truth["box"], score=0.9, side=truth["side"], keypoints=keypoints, world=truth["joints_3d"],
        sources=[["mediapipe"]] * count, source_scores=[[0.9]] * count, source_boxes=[[list(b)] for b in truth["box"]],
    )  # fmt: skip
    fits = columns(Fits, count, **same, side=truth["side"], joints_3d=truth["joints_3d"], joints_2d=truth["keypoints"], error_px=2.0)
    reviews = columns(Reviews, count, **same, quality=1.0, keep=True)
    clips = columns(Clips, 1, clip="v-0000", video="v", start_s=0.0, end_s=count / 2 / RATE, num_frames=count // 2, frames_per_second=0.0)
    assert isinstance(clips, Clips)
    assert isinstance(hands, Hands)
    assert isinstance(fits, Fits)
    assert isinstance(reviews, Reviews)
    return clips, hands, fits, reviews


def test_a_perfect_run_scores_perfectly() -> None:
    truth = make_truth()
    score = score_run(truth, *make_run(truth))
    for figures in score.values():
        assert figures["num_true"] == figures["num_matched"] == 20
        for name in ("recall", "precision", "side_accuracy", "box_iou"):
            assert figures[name] == pytest.approx(1.0), name
        for name in ("keypoint_error_px", "keypoint_error", "fit_error_px", "pa_mpjpe_mm", "world_pa_mpjpe_mm"):
            assert figures[name] == pytest.approx(0.0, abs=1e-3), name
        assert figures["error_px"] == 2.0


def test_lost_false_double_and_wrong_sided_hands_are_counted() -> None:
    truth = make_truth()
    clips, hands, fits, reviews = make_run(truth)
    hands.side[3] = 1 - hands.side[3]
    hands.box[5] += 2000  # a hand where there is none, and one that is lost
    hands.box[7] = hands.box[6]  # the second box on one hand
    figures = score_run(truth, clips, hands, fits, reviews)["all"]
    assert figures["recall"] == pytest.approx(18 / 20)
    assert figures["precision"] == pytest.approx(18 / 20)
    assert figures["side_accuracy"] == pytest.approx(17 / 18)


def test_only_kept_hands_count_for_the_kept_figures() -> None:
    truth = make_truth()
    clips, hands, fits, reviews = make_run(truth)
    hands.keypoints[0, :, 0] += 10
    reviews.keep[0] = False
    score = score_run(truth, clips, hands, fits, reviews)
    assert score["all"]["keypoint_error_px"] == pytest.approx(0.5, abs=1e-4)
    assert score["kept"]["keypoint_error_px"] == pytest.approx(0, abs=1e-4)
    assert score["kept"]["recall"] == pytest.approx(19 / 20)


def test_a_hidden_hand_may_be_missed_or_found() -> None:
    truth = make_truth()
    truth["visible"][4] = 0.3
    truth["visible"][6] = truth["inside"][6] = 0.0
    clips, hands, fits, reviews = make_run(truth)
    rows = np.arange(20) != 6
    figures = score_run(truth, clips, hands.take(rows), fits.take(rows), reviews.take(rows))["all"]
    assert figures["num_true"] == 18
    assert figures["recall"] == figures["precision"] == 1.0
    assert figures["num_matched"] == 18, "the half-hidden hand is found, but tells nothing"


def test_only_frames_that_were_looked_at_can_be_missed() -> None:
    truth = make_truth(num_frames=20)
    clips, hands, fits, reviews = make_run(truth)
    clips.frames_per_second[:] = 5.0
    sampled = np.unique(truth["frame"][annotated(truth, clips)])
    assert sampled.tolist() == [0, 5, 10, 15]
    rows = np.isin(hands.frame, sampled)
    assert score_run(truth, clips, hands.take(rows), fits.take(rows), reviews.take(rows))["all"]["recall"] == 1.0


def test_rows_of_other_videos_never_match() -> None:
    truth = make_truth()
    clips, hands, fits, reviews = make_run(truth)
    hands.video[:] = "another"
    figures = score_run(truth, clips, hands, fits, reviews)["all"]
    assert figures["recall"] == figures["precision"] == 0.0
    assert np.isnan(figures["pa_mpjpe_mm"])


def test_tables_that_do_not_belong_together_are_refused() -> None:
    truth = make_truth()
    clips, hands, fits, reviews = make_run(truth)
    with pytest.raises(ValueError, match="Fits must hold one row a hand"):
        score_run(truth, clips, hands, fits.take(slice(1, None)), reviews)


def test_pa_mpjpe_ignores_place_turn_and_size_but_not_mirrors() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(0, 0.05, (3, 21, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    np.testing.assert_allclose(pa_mpjpe_mm(1.7 * true @ turn + [0.1, 2, -3], true), 0, atol=1e-9)
    assert (pa_mpjpe_mm(true * [-1, 1, 1], true) > 10).all(), "the other hand is not this one"
    square = np.array([[[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]]) * 0.1
    bent = square * [1, 1, 1] + np.array([0, 0, 0.001]) * np.array([1, 1, -1, -1])[:, None]
    assert pa_mpjpe_mm(bent, square)[0] == pytest.approx(1.0, rel=1e-3), "each corner is a millimetre off the plane"
    true[1, 4] = np.nan
    assert np.isnan(pa_mpjpe_mm(true, true)).tolist() == [False, True, False]
