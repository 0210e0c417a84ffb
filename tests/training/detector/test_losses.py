"""The terms of the detector's loss by hand, their gradients, and the assigner beside a slow one that reads like the paper."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.multiprocessing.spawn import spawn

from training.detector.assignment import Hands, assign
from training.detector.losses import SIGMAS, complete_iou, distance_loss, keypoint_distance_loss, keypoint_loss, side_loss, visibility_loss
from training.detector.network import Detections, Raw, anchors, decode
from training.detector.objective import DetectorLossWeights, Terms, detector_loss, targets_of


def boxes(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_complete_iou_by_hand() -> None:
    same = boxes([0, 0, 4, 2])
    assert complete_iou(same, same).item() == pytest.approx(1, abs=1e-6)
    moved = boxes([2, 0, 6, 2])  # shares 4 of 12; centres 2 apart in a hull of 6 x 2
    assert complete_iou(same, moved).item() == pytest.approx(4 / 12 - 4 / 40, abs=1e-6)
    turned = boxes([1, -1, 3, 3])  # centre shared; shares 2 x 2 of 12
    shape = 4 / math.pi**2 * (math.atan(0.5) - math.atan(2)) ** 2
    wanted = 1 / 3 - shape / (1 - 1 / 3 + shape) * shape
    assert complete_iou(same, turned).item() == pytest.approx(wanted, abs=1e-6)
    far = boxes([100, 100, 101, 101])
    assert -2 <= complete_iou(same, far).item() < -0.9


def test_overlap_does_not_feel_place_and_scale() -> None:
    rng = np.random.default_rng(0)
    corner = torch.as_tensor(rng.uniform(0, 50, (2, 20, 2)))
    a, b = torch.cat([corner, corner + torch.as_tensor(rng.uniform(5, 40, (2, 20, 2)))], -1)
    torch.testing.assert_close(complete_iou(3 * a + 7, 3 * b + 7), complete_iou(a, b), atol=1e-6, rtol=0)


def test_distance_by_hand() -> None:
    logits = torch.zeros(1, 4 * 16, dtype=torch.float64)
    distance = torch.tensor([[0.0, 3.25, 7.5, 99.0]], dtype=torch.float64)
    assert distance_loss(logits, distance).item() == pytest.approx(math.log(16))
    peak = torch.full((1, 4, 16), -30.0, dtype=torch.float64)
    for side, (low, share) in enumerate([(0, 0.0), (3, 0.25), (7, 0.5), (14, 0.99)]):
        peak[0, side, low] = math.log(max(1 - share, 1e-9))
        peak[0, side, low + 1] = math.log(max(share, 1e-9))
    entropy = sum(-(1 - s) * math.log(1 - s) - (s * math.log(s) if s else 0) for s in (0.0, 0.25, 0.5, 0.99)) / 4
    assert distance_loss(peak.flatten(1), distance).item() == pytest.approx(entropy, abs=1e-6)


def test_keypoints_by_hand() -> None:
    truth = torch.zeros(1, 21, 2, dtype=torch.float64)
    said = truth.clone()
    said[0, 0] = torch.tensor([3.0, 4.0])
    weight = torch.zeros(1, 21, dtype=torch.float64)
    weight[0, :2] = torch.tensor([1.0, 0.5])
    area = torch.tensor([10_000.0], dtype=torch.float64)
    wrong = 1 - math.exp(-25 / (8 * SIGMAS[0] ** 2 * 10_000))
    assert keypoint_loss(said, truth, weight, area).item() == pytest.approx(wrong / 1.5)
    assert keypoint_distance_loss(said, truth, weight, area).item() == pytest.approx(25 / 10_000 / 1.5)
    assert keypoint_loss(said, truth, 0 * weight, area).item() == 0


def test_a_side_behind_the_anchor_aims_at_the_first_bin() -> None:
    logits = torch.randn(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    behind, at = (distance_loss(logits, torch.tensor([[x, 2.0, 3.0, 4.0]], dtype=torch.float64)) for x in (-2.5, 0.0))
    assert behind.item() == pytest.approx(at.item())


def test_keypoints_do_not_feel_the_unit_and_a_box_of_no_size_is_finite() -> None:
    """In shares of a large image as in pixels; and weights that sum to less than one divide by their sum."""
    generator = torch.Generator().manual_seed(0)
    said, truth, weight = (torch.rand(1, 21, k, dtype=torch.float64, generator=generator) for k in (2, 2, 1))
    said, weight, area = truth + (said - truth) / 20, weight[..., 0] / 50, torch.ones(1, dtype=torch.float64)
    for loss in (keypoint_loss, keypoint_distance_loss):
        in_pixels = loss(100 * said, 100 * truth, weight, 1e4 * area)
        assert 1e-4 < in_pixels.item() < 1
        torch.testing.assert_close(loss(0.1 * said, 0.1 * truth, weight, 0.01 * area), in_pixels)
        torch.testing.assert_close(loss(said, truth, 100 * weight, area), in_pixels)
        assert loss(said, truth, weight, 0 * area).isfinite().all()
        assert loss(truth, truth, weight, 0 * area).item() == 0


def test_sigmas_are_those_of_coco_wholebody() -> None:
    assert len(SIGMAS) == 21
    assert SIGMAS[0] == 0.029
    assert [min(SIGMAS), max(SIGMAS)] == [0.017, 0.047]
    assert sum(SIGMAS) == pytest.approx(0.553)


def test_gradients() -> None:
    rng = np.random.default_rng(1)
    draw = lambda *shape: torch.as_tensor(rng.normal(size=shape))  # noqa: E731
    logits, distance = draw(3, 32).requires_grad_(), torch.as_tensor(rng.uniform(0, 6, (3, 4)))
    assert gradcheck(lambda x: distance_loss(x, distance), logits)
    points, truth, weight = draw(2, 21, 2).requires_grad_(), draw(2, 21, 2), torch.rand(2, 21, dtype=torch.float64)
    area = torch.tensor([400.0, 900.0], dtype=torch.float64)
    assert gradcheck(lambda x: keypoint_loss(x, truth, weight, area), points)
    assert gradcheck(lambda x: keypoint_distance_loss(x, truth, weight, area), points)
    assert gradcheck(lambda x: visibility_loss(x, (weight > 0.5).double()), draw(2, 21).requires_grad_())
    quality, ignored = (
        torch.rand(1, 5, 2, dtype=torch.float64),
        torch.tensor([[False, True, False, False, True]])[..., None].repeat(1, 1, 2),
    )
    logits = draw(1, 5, 2).requires_grad_()
    assert gradcheck(lambda x: side_loss(x, quality, ignored), logits)
    assert not side_loss(logits, quality, torch.ones_like(ignored)).any(), "nothing is said of what is ignored"
    side_loss(logits, quality, ignored).sum().backward()
    assert (logits.grad[ignored] == 0).all()  # type: ignore[index]
    flat = boxes([0, 0, 0, 0], [5, 5, 5, 9]).requires_grad_()
    complete_iou(flat, boxes([1, 1, 3, 3], [5, 5, 5, 5])).sum().backward()
    assert flat.grad.isfinite().all()  # type: ignore[union-attr]


def test_anchors_stand_in_the_middle_of_their_cells_and_decode_gives_back_the_truth() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    points, strides = anchors(64, 96, like)
    assert len(points) == 96 + 24 + 6
    assert points[0].tolist() == [4, 4]
    assert points[13].tolist() == [12, 12]
    assert points[96].tolist() == [8, 8]
    assert strides[[0, 95, 96, 119, 120]].tolist() == [8, 8, 16, 16, 32]
    raw = Raw(torch.full((1, 126, 64), -1e4, dtype=torch.float64), torch.zeros(1, 126, 2), torch.zeros(1, 126, 63, dtype=torch.float64))
    raw.box.reshape(1, 126, 4, 16)[0, 13, range(4), [1, 0, 2, 3]] = 0
    raw.keypoints[0, 13, 3:5] = torch.tensor([0.5, -1.0])
    said = decode(raw, points, strides)
    assert said.box[0, 13].tolist() == [4, 12, 28, 36]
    assert said.keypoints[0, 13, 1].tolist() == [12 + 8, 12 - 16, 0.5]


def random_case(seed: int) -> tuple[Detections, torch.Tensor, Hands]:
    """A batch whose hands overlap and differ in number, one of them smaller than a cell."""
    rng = np.random.default_rng(seed)
    points, _ = anchors(96, 96, torch.zeros(1, dtype=torch.float64))
    n = len(points)
    low = torch.as_tensor(rng.uniform(0, 60, (2, 4, 2)))
    truth = torch.cat([low, low + torch.as_tensor(rng.uniform(10, 36, (2, 4, 2)))], -1)
    truth[0, 1, 2:] = truth[0, 1, :2] + 3
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    hands = Hands(truth * real[..., None], torch.as_tensor(rng.integers(0, 2, (2, 4))), torch.zeros(2, 4, 21, 3), real)
    nearest = truth[:, rng.integers(0, 4, n)].clone()
    said = nearest + torch.as_tensor(rng.normal(0, 4, (2, n, 4)))
    score = torch.as_tensor(rng.uniform(0.01, 0.9, (2, n, 2)))
    return Detections(said, score, torch.zeros(2, n, 21, 3)), points, hands


def slow_assign(said: Detections, points: torch.Tensor, hands: Hands, num_anchors: int) -> Any:
    """TOOD, section 3.2, one hand at a time."""
    b, n = said.box.shape[:2]
    owner, quality = -np.ones((b, n), int), np.zeros((b, n))
    for i in range(b):
        wanted: dict[int, list[int]] = {}
        t_of: dict[tuple[int, int], float] = {}
        iou_of: dict[tuple[int, int], float] = {}
        for j in range(hands.box.shape[1]):
            if not hands.real[i, j]:
                continue
            x0, y0, x1, y1 = hands.box[i, j].tolist()
            half_w, half_h = max((x1 - x0) / 2, 8), max((y1 - y0) / 2, 8)
            t = []
            for a in range(n):
                x, y = points[a].tolist()
                within = abs(x - (x0 + x1) / 2) < half_w and abs(y - (y0 + y1) / 2) < half_h
                iou = max(complete_iou(said.box[i, a], hands.box[i, j]).item(), 0) if within else 0.0
                iou_of[j, a] = iou
                t_of[j, a] = said.score[i, a, hands.side[i, j]].item() ** 0.5 * iou**6
                t.append(t_of[j, a])
            for a in np.argsort(t)[::-1][:num_anchors]:
                if t[a] > 0:
                    wanted.setdefault(int(a), []).append(j)
        for a, claims in wanted.items():
            owner[i, a] = max(claims, key=lambda j: iou_of[j, a])
        for j in range(hands.box.shape[1]):
            mine = np.flatnonzero(owner[i] == j).tolist()
            if mine:
                top_t, top_iou = max(t_of[j, a] for a in mine), max(iou_of[j, a] for a in mine)
                quality[i, mine] = [t_of[j, a] / top_t * top_iou for a in mine]
    return owner, quality


@pytest.mark.parametrize("num_anchors", [1, 10])
@pytest.mark.parametrize("seed", range(3))
def test_assignment_is_that_of_the_paper(seed: int, num_anchors: int) -> None:
    said, points, hands = random_case(seed)
    given = assign(said, points, hands, num_anchors=num_anchors)
    owner, quality = slow_assign(said, points, hands, num_anchors)
    assert np.array_equal(given.taken.numpy(), owner >= 0)
    assert np.array_equal(given.hand.numpy()[owner >= 0], owner[owner >= 0])
    np.testing.assert_allclose(given.quality.numpy(), quality, atol=1e-9)
    assert (owner >= 0).sum() > num_anchors


def labels(**change: Any) -> dict[str, torch.Tensor]:
    """Two hands on the first of two images, none on the second."""
    columns = {
        "image": torch.tensor([0, 0]),
        "box": torch.tensor([[8.0, 8, 40, 40], [50, 50, 90, 80]]),
        "side": torch.tensor([0, 1]),
        "keypoints": torch.cat([torch.rand(2, 21, 2) * 30 + 10, torch.ones(2, 21, 1)], -1),
        "ignore_image": torch.zeros(0, dtype=torch.int64),
        "ignore": torch.zeros(0, 4),
    }
    return columns | change


def raw_of(images: int = 2, seed: int = 0) -> Raw:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda width: torch.randn(images, 189, width, generator=generator).requires_grad_()  # noqa: E731
    return Raw(draw(64), draw(2), draw(63))


def test_a_batch_without_hands_teaches_that_there_are_none() -> None:
    nothing = labels(
        image=torch.zeros(0, dtype=torch.int64),
        box=torch.zeros(0, 4),
        side=torch.zeros(0, dtype=torch.int64),
        keypoints=torch.zeros(0, 21, 3),
    )
    raw = raw_of()
    terms = detector_loss(raw, targets_of(nothing, 2), (96, 96), DetectorLossWeights())
    terms.total().backward()
    assert terms.side > 0
    assert terms.box == terms.distance == terms.keypoints == terms.visibility == 0
    assert (raw.side.grad > 0).all()  # type: ignore[operator, union-attr]


def test_ignored_boxes_are_neither_hand_nor_background() -> None:
    ignored = labels(ignore_image=torch.tensor([1]), ignore=torch.tensor([[0.0, 0, 96, 96]]))
    raw = raw_of()
    detector_loss(raw, targets_of(ignored, 2), (96, 96), DetectorLossWeights()).total().backward()
    assert (raw.side.grad[1] == 0).all()  # type: ignore[index]
    assert (raw.side.grad[0] != 0).all()  # type: ignore[index]


def test_each_term_of_eq_5_counts_by_its_own_weight() -> None:
    """The defaults are the usual ones of the YOLO family; none of the terms is 0, and each moves with its weight alone."""
    assert list(vars_of(DetectorLossWeights()).values()) == [0.5, 7.5, 1.5, 12.0, 1.0]
    raw, truth = raw_of(), targets_of(labels(), 2)
    plain = detector_loss(raw, truth, (96, 96), DetectorLossWeights(side=1, box=1, distance=1, keypoints=1, visibility=1))
    for kind in ("similarity", "distance"):
        terms = detector_loss(raw, truth, (96, 96), DetectorLossWeights(keypoint_loss=kind))
        assert all(term > 0 for term in terms)
        assert terms.total().item() == pytest.approx(sum(term.item() for term in terms))
    terms = detector_loss(raw, truth, (96, 96), DetectorLossWeights())
    for name, weight in vars_of(DetectorLossWeights()).items():
        assert getattr(terms, name).item() == pytest.approx(weight * getattr(plain, name).item(), rel=1e-5), name
    terms.distance.backward(retain_graph=True)
    assert raw.box.grad.abs().max() > 0  # type: ignore[union-attr]
    assert raw.keypoints.grad is None or not raw.keypoints.grad.any()
    terms.keypoints.backward()
    assert raw.keypoints.grad.abs().max() > 0  # type: ignore[union-attr]


def mixed_labels() -> dict[str, torch.Tensor]:
    """Hands of both sides, of no known side and without keypoints, over two of three images; and boxes to ignore on the last two."""
    generator = torch.Generator().manual_seed(3)
    keypoints = torch.cat([torch.rand(4, 21, 2, generator=generator) * 60 + 10, torch.rand(4, 21, 1, generator=generator)], -1)
    keypoints[0, 3:, 2], keypoints[1, :, 2] = 0, 0
    return {
        "image": torch.tensor([1, 0, 0, 1]),
        "box": torch.tensor([[8.0, 8, 40, 44], [50, 50, 90, 80], [4, 30, 30, 70], [30, 20, 80, 90]]),
        "side": torch.tensor([0, 1, -1, 1]),
        "keypoints": keypoints,
        "ignore_image": torch.tensor([2, 1, 2]),
        "ignore": torch.tensor([[4.0, 4, 44, 28], [0, 0, 96, 96], [60, 60, 90, 92]]),
    }


def slow_detector_loss(raw: Raw, labels: dict[str, torch.Tensor], weights: DetectorLossWeights, num_anchors: int, widened: float) -> Any:
    """Equation 5 one anchor at a time, by the terms that are worked by hand above."""
    points, strides = anchors(96, 96, raw.box)
    said = decode(raw, points, strides)
    given = assign(said, points, targets_of(labels, 3).hands, num_anchors=num_anchors)
    terms = dict.fromkeys(Terms._fields, torch.zeros(()))
    num_with_points = 0
    for i, a in np.ndindex(*given.taken.shape):
        ignored = [box for image, box in zip(labels["ignore_image"], labels["ignore"], strict=True) if image == i]
        blind = torch.tensor([any((box[:2] < points[a]).all() and (points[a] < box[2:]).all() for box in ignored)] * 2)
        aim = torch.zeros(2)
        if given.taken[i, a]:
            k = int(torch.nonzero(labels["image"] == i)[given.hand[i, a]])
            box, side, keypoints = (labels[name][k] for name in ("box", "side", "keypoints"))
            blind = torch.tensor([False, False])
            if side < 0:
                side = raw.side[i, a].argmax()
                blind[1 - side] = True
            aim[side] = given.quality[i, a]
            terms["box"] = terms["box"] + given.quality[i, a] * (1 - complete_iou(said.box[i, a], box))
            corners = torch.cat([points[a] - box[:2], box[2:] - points[a]]) / strides[a]
            terms["distance"] = terms["distance"] + given.quality[i, a] * distance_loss(raw.box[i, a][None], corners[None])[0]
            if (keypoints[:, 2] > 0).any():
                num_with_points += 1
                one = (said.keypoints[i, a, None, :, :2], keypoints[None, :, :2], keypoints[None, :, 2])
                area = (box[2:] - box[:2]).prod()[None]
                similar = weights.keypoint_loss == "similarity"
                spread = keypoint_loss(*one, area, widened) if similar else keypoint_distance_loss(*one, area)
                seen = visibility_loss(raw.keypoints[i, a].reshape(1, 21, 3)[..., 2], (keypoints[None, :, 2] > 0).float())
                terms["keypoints"], terms["visibility"] = terms["keypoints"] + spread[0], terms["visibility"] + seen[0]
        terms["side"] = terms["side"] + side_loss(raw.side[None, i, a, None], aim[None, None], blind[None, None])[0, 0]
    norms = {name: num_with_points if name in ("keypoints", "visibility") else given.quality.sum() for name in terms}
    return {name: getattr(weights, name) * value / max(norms[name], 1) for name, value in terms.items()}


@pytest.mark.parametrize(("kind", "num_anchors"), [("similarity", 10), ("distance", 1)])
def test_the_loss_of_a_batch_is_that_of_its_anchors_one_by_one(kind: Any, num_anchors: int) -> None:
    raw = Raw(*(values.detach() for values in raw_of(3)))
    weights = DetectorLossWeights(keypoint_loss=kind, narrow_from=0.8)
    terms = detector_loss(raw, targets_of(mixed_labels(), 3), (96, 96), weights, num_anchors, share_done=0.2)
    wanted = slow_detector_loss(raw, mixed_labels(), weights, num_anchors, widened=8.0**0.75)
    for name, value in wanted.items():
        assert getattr(terms, name).item() == pytest.approx(value.item(), rel=1e-4), name


def test_a_loss_that_is_told_nothing_is_that_of_ten_anchors_at_the_end_of_a_run() -> None:
    raw, truth = Raw(*(values.detach() for values in raw_of(3))), targets_of(mixed_labels(), 3)
    plain = detector_loss(raw, truth, (96, 96), DetectorLossWeights())
    assert plain == detector_loss(raw, truth, (96, 96), DetectorLossWeights(widest=1), num_anchors=10, share_done=1.0)
    assert plain != detector_loss(raw, truth, (96, 96), DetectorLossWeights(), num_anchors=9)


def test_the_sigmas_narrow_evenly_in_the_logarithm_and_then_stay() -> None:
    weights = DetectorLossWeights()
    assert [weights.widened(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([8, 8**0.5, 1, 1, 1])
    assert DetectorLossWeights(narrow_from=0).widened(0.0) == 1
    assert DetectorLossWeights(narrow_from=1).widened(0.5) == pytest.approx(8**0.5)


def test_anchors_on_the_border_of_an_ignored_box_are_background() -> None:
    """Those of the finest grid stand at 4, 12, 20 ... pixels."""
    nothing = {name: values[:0] for name, values in labels().items()} | {"ignore_image": torch.tensor([0])}
    raw = raw_of(1)
    detector_loss(
        raw, targets_of(nothing | {"ignore": torch.tensor([[4.0, 12, 28, 36]])}, 1), (96, 96), DetectorLossWeights()
    ).total().backward()
    assert raw.side.grad is not None
    silent = (raw.side.grad[0, :144] == 0).all(-1).reshape(12, 12)
    assert torch.nonzero(silent).tolist() == [[2, 1], [2, 2], [3, 1], [3, 2]]


def vars_of(weights: DetectorLossWeights) -> dict[str, float]:
    return {name: getattr(weights, name) for name in ("side", "box", "distance", "keypoints", "visibility")}


def test_hands_without_keypoints_teach_box_and_side_only() -> None:
    blind = labels()
    blind["keypoints"] = blind["keypoints"] * 0
    raw = raw_of()
    terms = detector_loss(raw, targets_of(blind, 2), (96, 96), DetectorLossWeights())
    assert terms.keypoints == 0
    assert terms.box > 0


def test_a_box_outside_the_image_does_no_harm() -> None:
    outside = labels(box=torch.tensor([[-500.0, -500, -400, -400], [50, 50, 90, 80]]))
    raw = raw_of()
    terms = detector_loss(raw, targets_of(outside, 2), (96, 96), DetectorLossWeights())
    terms.total().backward()
    assert all(term.isfinite() for term in terms)
    assert all(each.grad.isfinite().all() for each in raw)  # type: ignore[union-attr]


def test_padding_keeps_every_hand_with_its_image() -> None:
    shuffled = labels(
        image=torch.tensor([1, 0, 1]),
        box=torch.tensor([[1.0, 1, 2, 2], [2, 2, 3, 3], [3, 3, 4, 4]]),
        side=torch.tensor([1, 0, 0]),
        keypoints=torch.zeros(3, 21, 3),
    )
    hands = targets_of(shuffled, 2).hands
    assert hands.real.tolist() == [[True, False], [True, True]]
    assert hands.box[1, :, 0].tolist() == [1, 3]
    assert hands.box[0, 0, 0] == 2
    assert hands.side[1].tolist() == [1, 0]


def gradient_of(images: list[int]) -> torch.Tensor:
    """Gradient of what is said of some of two images: the first shows three hands, the other none."""
    torch.manual_seed(0)
    whole = Raw(*(torch.randn(2, 84, width) for width in (64, 2, 63)))
    raw = Raw(*(values[images].requires_grad_() for values in whole))
    hands = torch.tensor([[4.0, 4, 24, 24], [30.0, 30, 60, 60], [4.0, 36, 24, 56]]) if 0 in images else torch.zeros(0, 4)
    labels = {
        "image": torch.zeros(len(hands), dtype=torch.long),
        "box": hands,
        "side": torch.zeros(len(hands), dtype=torch.long),
        "keypoints": torch.full((len(hands), 21, 3), 20.0),
        "ignore_image": torch.zeros(0, dtype=torch.long),
        "ignore": torch.zeros(0, 4),
    }
    weights = DetectorLossWeights(keypoint_loss="distance")
    detector_loss(raw, targets_of(labels, len(images)), (64, 64), weights).total().backward()
    return torch.cat([values.grad.flatten(1) for values in raw if values.grad is not None], 1)


def rank(number: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    torch.save(gradient_of([number]), f"{folder}/{number}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_share_one_loss_however_the_hands_are_dealt(tmp_path: Path) -> None:
    spawn(rank, (str(tmp_path),), nprocs=2)
    dealt = torch.cat([torch.load(tmp_path / f"{number}.pt") for number in range(2)]) / 2  # the mean that DistributedDataParallel takes
    torch.testing.assert_close(dealt, gradient_of([0, 1]))
