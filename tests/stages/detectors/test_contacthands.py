"""ContactHands' member: official layout, its looks and resizing, suppression and ROIAlign, and the stage around them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from stages.detect_hands_contacthands import DetectHandsContactHands
from stages.detectors.contacthands.boxes import contact_hands, cut_look, find_hands, looks_of, to_frame
from stages.detectors.contacthands.network import anchor_boxes
from stages.detectors.networks import computes_bfloat16, ready
from stages.detectors.pictures import rgb
from stages.detectors.roi import moved, roi_align, suppress
from stages.detectors.weights import BadWeights, MissingWeights
from stages.tables import People
from tests.labelled_pictures import frames_of, labelled
from tests.stages.detectors import rcnn_reference as reference
from tests.stages.detectors.checkpoints import save


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return reference.tame_weights()


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the trainer left it: the other heads and the trainer's own numbers beside the hands' part."""
    folder = tmp_path_factory.mktemp("weights")
    others = {
        "roi_heads.mask_head.predictor.weight": torch.zeros(1, 256, 1, 1),
        "roi_heads.contact_head.hand_fc.weight": torch.zeros(2, 2),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    save({**state, **others}, folder / "contacthands" / "combined_data_model.pth", iteration=300_000, optimizer={"momentum": 0.9})
    return folder


def people(*boxes: tuple[float, ...], scores: tuple[float, ...] = ()) -> People:
    count = len(boxes)
    return People(
        video=np.full(count, "v", object),
        frame=np.zeros(count, np.int64),
        time_s=np.zeros(count),
        person=np.arange(count, dtype=np.int16) + 5,
        box=np.array(boxes, np.float32).reshape(-1, 4),
        score=np.array(scores or (0.9,) * count, np.float32),
        keypoints=np.zeros((count, 17, 3), np.float32),
        sources=np.fromiter([["a"]] * count, object),
        source_persons=np.fromiter([[0]] * count, object),
    )


def test_the_official_layout_gives_the_boxes_of_a_plain_faster_rcnn(state: dict[str, Tensor]) -> None:
    network = contact_hands(state, Path("model.pth"), min_score=0.05, max_iou=0.3).eval()
    assert sum(p.numel() for p in network.parameters()) > 60e6
    generator = torch.Generator().manual_seed(3)
    pictures, sizes = torch.zeros(2, 3, 64, 96), torch.tensor([[60, 90], [64, 70]])
    for picture, (height, width) in zip(pictures, sizes.tolist(), strict=True):
        picture[:, :height, :width] = torch.randn(3, height, width, generator=generator) * 60
    with torch.no_grad():
        ours = network(pictures, sizes)
        for found, picture, (height, width) in zip(ours, pictures, sizes.tolist(), strict=True):
            plain = reference.detect(state, picture[None], height, width, min_score=0.05, max_iou=0.3)
            found = found[found[:, 4] > 0]
            assert len(plain) >= 5
            assert 0.05 < plain[:, 4].min() < plain[:, 4].max() < 1
            torch.testing.assert_close(found, plain, rtol=1e-3, atol=2e-2)


def test_foreign_and_incomplete_checkpoints_are_refused_by_name(state: dict[str, Tensor]) -> None:
    lacking = {name: value for name, value in state.items() if "fc2" not in name}
    with pytest.raises(BadWeights, match=r"model\.pth.*2 missing: roi_heads\.box_head\.fc2"):
        contact_hands(lacking, Path("model.pth"), min_score=0.05, max_iou=0.3)
    coco = {**state, "roi_heads.box_predictor.cls_score.weight": torch.zeros(81, 1024)}
    with pytest.raises(BadWeights, match=r"another shape: roi_heads\.box_predictor\.cls_score"):
        contact_hands(coco, Path("model.pth"), min_score=0.05, max_iou=0.3)


def test_suppression_is_the_greedy_one() -> None:
    rng = np.random.default_rng(0)
    for max_iou in (0.1, 0.3, 0.7):
        corner = rng.uniform(0, 60, (300, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (300, 2))], 1)
        scores = rng.random(300).round(2)  # with ties: the first comes first
        kept = suppress(torch.from_numpy(boxes), torch.from_numpy(scores), max_iou)
        assert kept.tolist() == reference.greedy(boxes.tolist(), scores.tolist(), max_iou)
    assert suppress(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def _bilinear(x: np.ndarray, at_y: float, at_x: float) -> np.ndarray:
    height, width = x.shape[1:]
    if not (-1 <= at_y <= height and -1 <= at_x <= width):
        return np.zeros(x.shape[0])
    at_y, at_x = min(max(at_y, 0), height - 1), min(max(at_x, 0), width - 1)
    top, left = int(at_y), int(at_x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = at_y - top, at_x - left
    upper = x[:, top, left] * (1 - across) + x[:, top, right] * across
    return upper * (1 - down) + (x[:, bottom, left] * (1 - across) + x[:, bottom, right] * across) * down


def test_roi_align_is_the_mean_of_its_samples() -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(2, 3, 9, 12)).astype(np.float32)
    corner = rng.uniform(-30, 90, (30, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 120, (30, 2))], 1)
    boxes[0], boxes[1], boxes[2] = [0, 0, 96, 72], [-500, -500, 600, 600], [95.9, 71.9, 96, 72]
    picture = rng.integers(0, 2, 30)
    ours = roi_align(
        torch.from_numpy(maps), torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(picture), stride=8, size=7
    ).numpy()
    for row, box, of in zip(ours, boxes, picture, strict=True):
        x0, y0, x1, y1 = box / 8 - 0.5
        step_x, step_y = (x1 - x0) / 7, (y1 - y0) / 7
        count_x, count_y = int(np.ceil(step_x)), int(np.ceil(step_y))
        for i in range(7):
            for j in range(7):
                samples = [
                    _bilinear(maps[of], y0 + (i + (a + 0.5) / count_y) * step_y, x0 + (j + (b + 0.5) / count_x) * step_x)
                    for a in range(count_y)
                    for b in range(count_x)
                ]
                np.testing.assert_allclose(row[:, i, j], np.mean(samples, 0), atol=2e-4)


def test_roi_align_of_a_slope_is_the_slope_at_the_cells_centres() -> None:
    maps = torch.arange(40.0).repeat(1, 1, 30, 1)  # value = column
    pooled = roi_align(maps, torch.tensor([[32.0, 16.0, 88.0, 72.0]]), torch.tensor([0]), stride=4, size=7)
    torch.testing.assert_close(pooled[0, 0], (8 + 2 * (torch.arange(7) + 0.5) - 0.5).repeat(7, 1))


def test_deltas_move_and_scale_within_a_limit() -> None:
    box = torch.tensor([[10.0, 20, 50, 40]])
    torch.testing.assert_close(moved(box, torch.tensor([[1.0, -5, 0, 0]]), (10, 10, 5, 5)), torch.tensor([[14.0, 10, 54, 30]]))
    grown = moved(box, torch.tensor([[0.0, 0, 99, 5 * float(np.log(2))]], dtype=torch.float32), (10, 10, 5, 5))
    torch.testing.assert_close(grown[0, 2:] - grown[0, :2], torch.tensor([40 * 62.5, 40]))


def test_anchors_lie_about_cell_corners_in_three_shapes() -> None:
    boxes = anchor_boxes(2, 3, 16, 128)
    assert boxes.shape == (18, 4)
    torch.testing.assert_close(boxes[1], torch.tensor([-64.0, -64, 64, 64]))
    torch.testing.assert_close(boxes[3 * 4 + 1], torch.tensor([16.0 - 64, 16 - 64, 16 + 64, 16 + 64]))
    size = boxes[:3, 2:] - boxes[:3, :2]
    torch.testing.assert_close(size.prod(1), torch.full((3,), 128.0**2))
    torch.testing.assert_close(size[:, 1] / size[:, 0], torch.tensor([0.5, 1, 2]))


def test_a_picture_is_made_720_wide_in_bgr_less_the_means_and_padded_with_zeros(media: Path) -> None:
    image, _ = labelled(media, "A000")
    (look,) = looks_of([image], [People.empty()], margin=0.1, gain=1.5, max_zoom=4.0)
    height, width = image.shape[:2]
    resized = cv2.resize(image, (720, int(720 * height / width))).astype(np.float32)
    pixels = cut_look(image, look)
    assert look.input_size == resized.shape[:2]
    assert pixels.shape == (3, -(-resized.shape[0] // 32) * 32, 736)
    for channel, (source, mean) in enumerate(((2, 103.53), (1, 116.28), (0, 123.675))):
        np.testing.assert_allclose(pixels[channel, : resized.shape[0], :720], resized[..., source] - np.float32(mean), atol=1e-4)
    assert (pixels[:, resized.shape[0] :] == 0).all()
    assert (pixels[:, :, 720:] == 0).all()
    corners = np.array([[0, 0, 720, resized.shape[0]]], np.float32)
    np.testing.assert_allclose(to_frame(corners, look), [[0, 0, width, height]])


def test_small_people_are_looked_at_by_themselves() -> None:
    image = np.zeros((400, 1000, 3), np.uint8)
    crowd = people((100, 100, 200, 300), (0, 0, 900, 400), (-300, -300, -200, -100), (980, 100, 1080, 200), (50, 50, 50, 90))
    whole, small, border = looks_of([image], [crowd], margin=0.1, gain=1.5, max_zoom=4.0)
    assert (whole.person, whole.scale, whole.input_size) == (-1, 0.72, (288, 720))
    assert (small.person, small.left, small.top, small.width, small.height, small.scale) == (5, 90, 80, 120, 240, 4.0)
    assert (border.person, border.left, border.width) == (8, 970, 30)
    np.testing.assert_allclose(to_frame(np.array([[40, 80, 80, 160]], np.float32), small), [[100, 100, 110, 120]])
    tall = looks_of([np.zeros((4000, 1000, 3), np.uint8)], [People.empty()], margin=0.1, gain=1.5, max_zoom=4.0)[0]
    assert tall.input_size == (1333, 333)
    dot = looks_of([np.zeros((2, 2, 3), np.uint8)], [People.empty()], margin=0.1, gain=1.5, max_zoom=4.0)[0]
    assert (dot.input_size, dot.padded) == ((8, 8), (32, 32))


def test_the_stage_fills_its_table_with_boxes_of_frames_and_people(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(weights))
    image = np.random.default_rng(0).integers(0, 255, (100, 200, 3), np.uint8)
    stage = DetectHandsContactHands(max_zoom=1.0, person_gain=1.0)
    hands = stage.build()(frames_of(image, image), people((120.0, 20.0, 180.0, 90.0)))
    assert set(stage.weights) == {"contacthands"}
    assert set(hands.source) == {"contacthands"}
    assert {(int(f), r, int(p)) for f, r, p in zip(hands.frame, hands.route, hands.person, strict=True)} == {
        (0, "frame", -1),
        (0, "person", 5),
        (1, "frame", -1),
    }
    assert np.isnan(hands.keypoints).all()
    assert np.isnan(hands.p_right).all()
    assert ((hands.score > 0.05) & (hands.score <= 1)).all()
    assert (hands.box[:, :2] >= hands.crop[:, :2] - 0.01).all()
    assert (hands.box[:, 2:] <= hands.crop[:, 2:] + 0.01).all()
    assert hands.to_arrow().num_rows == len(hands)


def test_grey_transparent_and_odd_pictures_share_a_call_and_give_what_they_give_alone(state: dict[str, Tensor]) -> None:
    network = contact_hands(state, Path("model.pth"), min_score=0.05, max_iou=0.3)
    find = find_hands(network, device="cpu", bf16=False, batch_size=4, margin=0.1, gain=1.5, max_zoom=1.0)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, shape, np.uint8) for shape in ((60, 90), (64, 70, 4), (60, 90, 3), (1, 3, 3))]
    together = find(pictures, [People.empty()] * 4)
    for number, picture in enumerate(pictures):
        alone = find([rgb(picture)], [People.empty()])
        np.testing.assert_allclose(together.take(together.picture == number).box, alone.box, atol=0.02)
    assert {0, 1, 2} <= set(together.picture.tolist())


def test_missing_weights_say_which_where_from_and_which_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"contacthands.*combined_data_model\.pth.*MIT"):
        _ = DetectHandsContactHands().weights


def test_bad_settings_are_named() -> None:
    for settings, name in (({"min_score": -0.1}, "min_score"), ({"max_zoom": 0.0}, "max_zoom"), ({"device": "tpu"}, "device")):
        with pytest.raises(ValueError, match=rf"detect_hands_contacthands\.{name}"):
            DetectHandsContactHands(**settings)


def test_bfloat16_moves_the_best_boxes_by_less_than_half_a_pixel(state: dict[str, Tensor]) -> None:
    network = contact_hands(state, Path("model.pth"), min_score=0.05, max_iou=0.3)
    picture, size = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 60, torch.tensor([[64, 96]])
    plain, short = (ready(network, device="cpu", bf16=bf16)(picture, size)[0, :3] for bf16 in (False, True))
    assert short.dtype == torch.float32
    assert torch.equal(plain, short) is not computes_bfloat16(torch.device("cpu"))
    torch.testing.assert_close(short[:, :4], plain[:, :4], rtol=0, atol=0.5)
    torch.testing.assert_close(short[:, 4], plain[:, 4], rtol=0, atol=0.01)
