"""Figures of hands beside slow ones written from the official scripts' formulas, one hand, point and threshold at a time; and by hand."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation

from hands.metrics.hands import THRESHOLDS_M, Hands3D, auc, distances, evaluate_hands3d, f_scores, pck, scale_translation_aligned


def hands(num: int = 4, noise: float = 0.004, seed: int = 0) -> tuple[Hands3D, Hands3D]:
    """Estimated and true hands of random points; the estimates turned, scaled, moved and noisy."""
    rng = np.random.default_rng(seed)
    target, prediction = [], []
    turn, scale, shift = Rotation.random(num, rng=rng).as_matrix(), rng.uniform(0.8, 1.3, (num, 1, 1)), rng.normal(size=(num, 1, 3)) / 50
    for count in (21, 778):
        points = rng.normal(size=(num, count, 3)) * [0.03, 0.05, 0.02] + [0, 0, 0.6]
        target.append(points)
        prediction.append(scale * (points + rng.normal(size=points.shape) * noise) @ turn + shift)
    return Hands3D(*prediction), Hands3D(*target)


def slow_aligned(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """One hand, as both official scripts align it, the guard against hands of no size included."""
    a, b = target - target.mean(0), prediction - prediction.mean(0)
    size = np.linalg.norm(a) + 1e-8
    a, b = a / size, b / (np.linalg.norm(b) + 1e-8)
    turn, scale = orthogonal_procrustes(a, b)
    return b @ turn.T * scale * size + target.mean(0)


def slow_metrics(prediction: Hands3D, target: Hands3D) -> dict[str, float]:
    """Mean error, area under the curve and F-scores after alignment, as their EvalUtil loops have it."""
    metrics = {}
    for kind, estimates, truths in (("j", prediction.joints, target.joints), ("v", prediction.vertices, target.vertices)):
        brought = [slow_aligned(b, a) for a, b in zip(estimates, truths, strict=True)]
        errors = np.array(
            [[np.sqrt(np.sum((p - q) ** 2)) for p, q in zip(a, b, strict=True)] for a, b in zip(brought, truths, strict=True)]
        )
        metrics[f"pa_mp{kind}pe_mm"] = 1000 * np.mean([errors[:, point].mean() for point in range(errors.shape[1])])
        areas = []
        for point in range(errors.shape[1]):
            curve = [np.mean(errors[:, point] <= threshold) for threshold in np.linspace(0, 0.05, 100)]
            areas.append(sum((curve[k] + curve[k + 1]) / 2 / 99 for k in range(99)))
        metrics[f"pa_auc_{kind}"] = float(np.mean(areas))
    for threshold in (5, 15):
        scores = []
        for a, b in zip(brought, truths, strict=True):
            apart = np.linalg.norm(a[:, None] - b[None], axis=2)
            recall, precision = (apart.min(1) < threshold / 1000).mean(), (apart.min(0) < threshold / 1000).mean()
            scores.append(2 * recall * precision / (recall + precision) if recall + precision else 0.0)
        metrics[f"pa_f{threshold}"] = float(np.mean(scores))
    return metrics


def test_the_official_metrics_are_those_of_their_formulas() -> None:
    prediction, target = hands(2)
    metrics = evaluate_hands3d(prediction, target, in_camera=True).metrics
    for name, value in slow_metrics(prediction, target).items():
        assert metrics[name] == pytest.approx(value, rel=1e-6), name


def test_a_mirrored_hand_is_perfect_to_the_official_scripts_and_not_to_us() -> None:
    _, target = hands()
    mirror = Hands3D(*(points * [-1, 1, 1] for points in target))
    metrics = evaluate_hands3d(mirror, target, in_camera=False).metrics
    assert metrics["pa_mpjpe_mm"] < 1e-6
    assert metrics["pa_f5"] == pytest.approx(1)
    assert metrics["proper_pa_mpjpe_mm"] > 5
    assert metrics["proper_pa_f5"] < 0.999
    assert metrics["root_mpjpe_mm"] > 5
    assert "camera_mpjpe_mm" not in metrics, "nothing is said of places that are not known"


def test_every_alignment_forgives_what_it_should() -> None:
    _, target = hands()
    moved = Hands3D(*(points + np.array([0.1, 0, 0]) for points in target))
    metrics = evaluate_hands3d(moved, target, in_camera=True).metrics
    assert metrics["camera_mpjpe_mm"] == pytest.approx(100)
    assert metrics["camera_auc_j"] == 0
    for name in ("root_mpjpe_mm", "root_mpvpe_mm", "scaled_mpjpe_mm", "proper_pa_mpvpe_mm"):
        assert metrics[name] == pytest.approx(0, abs=1e-6), name
    grown = Hands3D(*(1.5 * points for points in target))
    metrics = evaluate_hands3d(grown, target, in_camera=True).metrics
    assert metrics["root_mpjpe_mm"] > 10
    assert metrics["scaled_mpjpe_mm"] == pytest.approx(0, abs=1e-6)
    turned = Hands3D(*(points @ Rotation.from_euler("x", 40, degrees=True).as_matrix() for points in target))
    metrics = evaluate_hands3d(turned, target, in_camera=True).metrics
    assert metrics["scaled_mpjpe_mm"] > 10
    assert metrics["proper_pa_mpjpe_mm"] == pytest.approx(0, abs=1e-6)


def test_scale_is_that_of_one_bone() -> None:
    target = np.zeros((1, 21, 3))
    target[0, 9], target[0, 12] = [0, 0.1, 0], [0, 0.2, 0]
    prediction = 0.5 * target + 3
    prediction[0, 12] += [0.01, 0, 0]
    brought = scale_translation_aligned(prediction, target)
    np.testing.assert_allclose(brought[0, 12], [0.02, 0.2, 0], atol=1e-12)
    np.testing.assert_allclose(scale_translation_aligned(0 * prediction, target), 0 * target, atol=1e-12)


def test_curve_and_area_by_hand() -> None:
    distance = np.array([[0.0, 0.05], [0.025, 0.06]])
    curve = pck(distance)
    assert curve[0] == pytest.approx(0.25), "a distance of zero is within zero"
    assert curve[-1] == pytest.approx(0.75), "the last threshold counts what lies on it"
    assert curve[THRESHOLDS_M < 0.025].max() == pytest.approx(0.25)
    assert auc(np.ones(100)) == pytest.approx(1)
    assert auc(np.linspace(0, 1, 100)) == pytest.approx(0.5)


def test_f_scores_by_hand() -> None:
    target = np.zeros((1, 4, 3))
    target[0, :, 0] = [0, 1, 2, 3]
    prediction = target + np.array([0, 0.004, 0])
    prediction[0, 3] = [9, 9, 9]
    recall, precision = 3 / 4, 3 / 4
    np.testing.assert_allclose(f_scores(prediction, target), [[2 * recall * precision / (recall + precision)] * 2])
    assert (f_scores(target + np.array([0, 0.005, 0]), target)[:, 0] == 0).all(), "nearer than 5 mm, not as near"
    assert (f_scores(prediction + 50, target) == 0).all()
    here, beside = np.zeros((1, 2, 3)), np.array([[[0, 0, 0], [0.005, 0, 0.0]]])
    for one, other in ((here, beside), (beside, here)):
        np.testing.assert_allclose(f_scores(one, other), [[2 * 0.5 / 1.5, 1]])


def test_errors_by_joint_and_by_hand() -> None:
    _, target = hands(3, noise=0)
    joints = target.joints.copy()
    joints[1, 8] += [0.03, 0, 0]
    evaluation = evaluate_hands3d(Hands3D(joints, target.vertices), target, in_camera=True)
    assert evaluation.joint_mm["camera"].argmax() == 8
    assert evaluation.joint_mm["camera"][8] == pytest.approx(10)
    assert evaluation.hand_mm.argmax() == 1
    assert evaluation.hand_mm[0] == pytest.approx(0, abs=1e-6)
    assert evaluation.hand_mm.mean() == pytest.approx(evaluation.metrics["proper_pa_mpjpe_mm"])
    np.testing.assert_allclose(evaluation.joint_mm["scaled"], np.where(np.arange(21) == 8, 10, 0), atol=1e-6)
    assert evaluation.metrics["scaled_mpjpe_mm"] == pytest.approx(10 / 21)
    np.testing.assert_allclose(evaluation.curves["scaled_auc_j"][[1, -1]], [62 / 63, 1])
    np.testing.assert_allclose(distances(joints, target.joints)[1, 8], 0.03)


def test_no_hands_are_an_error_that_says_so() -> None:
    none = Hands3D(np.zeros((0, 21, 3)), np.zeros((0, 778, 3)))
    with pytest.raises(ValueError, match="no hand to evaluate"):
        evaluate_hands3d(none, none, in_camera=True)
