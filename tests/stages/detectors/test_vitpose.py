"""ViTPose: its checkpoints in every published layout, its crops, its mirror, its peaks between the cells."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.detectors.vitpose.checkpoint import plain, vitpose
from stages.detectors.vitpose.keypoints import (
    CELLS_X,
    CELLS_Y,
    HANDS,
    HeatmapNetwork,
    cut_person,
    keypoint_reader,
    mirrored_order,
    peaks,
    to_frame,
    views_of,
)
from stages.detectors.weights import BadWeights, load_checkpoint
from stages.tables import BODY_KEYPOINTS, LEFT, RIGHT
from tests.labelled_pictures import labelled
from tests.stages.detectors.checkpoints import random_state
from tests.vitpose_layouts import forward, official, split

CROPS = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(1))
WHOLE_BODY = 5


def saved(tmp_path: Path, state: dict) -> Path:
    torch.save({"state_dict": state, "meta": {"epoch": 210}}, tmp_path / "vitpose.pth")
    return tmp_path / "vitpose.pth"


def heatmaps(path: Path, num_keypoints: int) -> torch.Tensor:
    network = vitpose(load_checkpoint(path), num_keypoints, path).eval()
    with torch.inference_mode():
        return network(CROPS).heatmaps


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() < 1e-5 * theirs.abs().max())


@pytest.mark.parametrize(("width", "depth", "heads", "num_keypoints"), [(384, 12, 12, 133), (768, 2, 12, 17), (1024, 1, 16, 133)])
def test_official_checkpoint_gives_the_official_heatmaps(tmp_path: Path, width: int, depth: int, heads: int, num_keypoints: int) -> None:
    state = random_state(official(width, depth, num_keypoints))
    assert close(heatmaps(saved(tmp_path, state), num_keypoints), forward(state, CROPS, heads=heads))


@pytest.mark.parametrize(("num_keypoints", "expert"), [(17, 0), (133, WHOLE_BODY)])
def test_vitpose_plus_gives_each_data_set_its_expert_and_head(tmp_path: Path, num_keypoints: int, expert: int) -> None:
    state = random_state(official(384, 2, 17, plus=True))
    theirs = forward(state, CROPS, heads=12, expert=expert)
    assert theirs.shape[1] == num_keypoints
    assert close(heatmaps(saved(tmp_path, state), num_keypoints), theirs)
    assert close(heatmaps(saved(tmp_path, split(state, expert)), num_keypoints), theirs)


def test_hub_checkpoint_of_vitpose_plus_gives_transformers_heatmaps(tmp_path: Path) -> None:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    torch.manual_seed(0)
    size = {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 12, "out_indices": [2]}
    backbone = VitPoseBackboneConfig(**size, num_experts=6, part_features=96, layer_norm_eps=1e-6)
    theirs = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=False)).eval()
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape) if name.endswith("var") else tensor + 0.05 * torch.randn(tensor.shape))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    with torch.inference_mode():
        wanted = theirs(CROPS, dataset_index=torch.zeros(2, dtype=torch.long)).heatmaps
    assert close(heatmaps(tmp_path / "model.safetensors", 17), wanted)


def test_simple_decoder_loads(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in official(384, 1, 17).items() if not name.startswith("keypoint_head")}
    state = random_state(shapes | {"keypoint_head.final_layer.weight": (17, 384, 3, 3), "keypoint_head.final_layer.bias": (17,)})
    assert heatmaps(saved(tmp_path, state), 17).shape == (2, 17, 64, 48)


def test_wrong_checkpoints_say_what_is_wrong(tmp_path: Path) -> None:
    state = random_state(official(384, 1, 17))
    path = Path("a.pth")
    with pytest.raises(BadWeights, match="a head of 17 keypoints, not of 133"):
        vitpose(state, 133, path)
    with pytest.raises(BadWeights, match="no ViTPose checkpoint: it begins with conv1"):
        vitpose({"conv1.weight": torch.ones(2)}, 17, path)
    del state["backbone.blocks.0.attn.proj.bias"]
    with pytest.raises(BadWeights, match=r"1 missing: backbone\.encoder\.layer\.0\.attention\.output\.dense\.bias"):
        vitpose(state, 17, path)
    odd = random_state({name: tuple(300 if n == 384 else n for n in shape) for name, shape in official(384, 1, 17).items()})
    with pytest.raises(BadWeights, match="width 300"):
        vitpose(odd, 17, path)


def test_split_file_asked_for_another_data_set_takes_that_ones_expert() -> None:
    whole = random_state(official(384, 1, 17, plus=True))
    coco = whole | {n: t for n, t in split(whole, 0).items() if ".mlp.fc2." in n}  # model_split.py leaves the rest in coco.pth
    ours, wanted = (plain(state, 133, Path("a.pth")) for state in (coco, whole))
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_class_token_of_older_files_is_left_over() -> None:
    state = random_state(official(384, 1, 17) | {"backbone.cls_token": (1, 1, 384)})
    vitpose(state, 17, Path("a.pth"))


def test_flip_test_knows_left_from_right() -> None:
    network = vitpose(random_state(official(384, 1, 133)), 133, Path("a.pth")).eval()
    both = HeatmapNetwork(network, flip=True)
    order = mirrored_order(133)
    with torch.inference_mode():
        assert torch.allclose(both(CROPS.flip(-1)), both(CROPS).flip(-1)[:, order], atol=1e-4)


def test_mirrored_order_swaps_sides_by_name() -> None:
    names = list(BODY_KEYPOINTS)
    for i, j in enumerate(mirrored_order(17)):
        swapped = names[i].replace("left", "?").replace("right", "left").replace("?", "right")
        assert names[j] == swapped
    order = mirrored_order(133)
    assert [order[i] for i in order] == list(range(133))
    assert order[HANDS[LEFT]] == list(range(133))[HANDS[RIGHT]]
    assert order[:17] == mirrored_order(17)
    unmoved = [i for i in range(133) if order[i] == i]
    assert unmoved == [0, *(23 + i for i in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66))]  # nose, and the middle of the face


def gaussian(x: np.ndarray, y: np.ndarray, sigma: float = 2.0) -> torch.Tensor:
    """Maps [1, k, 64, 48] with peaks of height 0.9 at given cells."""
    columns, rows = np.meshgrid(np.arange(CELLS_X), np.arange(CELLS_Y))
    square = (columns - x[:, None, None]) ** 2 + (rows - y[:, None, None]) ** 2
    return torch.from_numpy(0.9 * np.exp(-square / (2 * sigma**2))).float()[None]


def test_peaks_are_found_between_the_cells() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(8, 39, 500), rng.uniform(8, 55, 500)
    found = peaks(gaussian(x, y)).numpy()[0]
    assert np.abs(found[:, :2] - np.column_stack([x, y])).max() < 0.02
    assert np.abs(found[:, 2] - 0.9).max() < 0.06  # the highest cell, not the peak between
    rounded = peaks(gaussian(x, y).bfloat16()).numpy()[0]
    assert np.abs(rounded[:, :2] - found[:, :2]).max() < 0.1, "what bf16 takes"


def test_peaks_at_borders_and_on_flat_maps_stay_on_the_map() -> None:
    x, y = np.array([0.0, 47.0, 0.3, 46.8]), np.array([0.0, 63.0, 30.0, 63.0])
    found = peaks(torch.cat([gaussian(x, y)[0], torch.zeros(1, 64, 48), torch.full((1, 64, 48), 0.5)])[None]).numpy()[0]
    assert np.isfinite(found).all()
    assert np.abs(found[:4, :2] - np.column_stack([x, y])).max() < 0.5
    assert (found[4:, :2] == 0).all()


def reference_peak(heatmap: np.ndarray) -> np.ndarray:
    """DARK by UDP's formulas, one map at a time, with OpenCV's blur (mmpose's `refine_keypoints_dark_udp`, re-told)."""
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    log = np.log(np.clip(cv2.GaussianBlur(heatmap, (11, 11), 0, borderType=cv2.BORDER_CONSTANT), 1e-3, 50))
    log = np.pad(log, 1, mode="edge").astype(np.float64)
    r, c = row + 1, column + 1
    slope = np.array([log[r, c + 1] - log[r, c - 1], log[r + 1, c] - log[r - 1, c]]) / 2
    xx, yy = log[r, c + 1] - 2 * log[r, c] + log[r, c - 1], log[r + 1, c] - 2 * log[r, c] + log[r - 1, c]
    xy = (log[r + 1, c + 1] - log[r, c + 1] - log[r + 1, c] + 2 * log[r, c] - log[r, c - 1] - log[r - 1, c] + log[r - 1, c - 1]) / 2
    return np.array([column, row]) - np.linalg.inv(np.array([[xx, xy], [xy, yy]]) + np.finfo(np.float32).eps * np.eye(2)) @ slope


def test_peaks_agree_with_a_plain_reference_at_the_border_too() -> None:
    rng = np.random.default_rng(1)
    noise = np.stack([cv2.GaussianBlur(rng.normal(size=(64, 48)).astype(np.float32), (9, 9), 0) for _ in range(200)])
    maps = gaussian(rng.uniform(1, 46, 200), rng.uniform(1, 62, 200), sigma=2.5)[0].numpy() + 0.2 * noise
    found = peaks(torch.from_numpy(maps)[None]).numpy()[0, :, :2]
    wanted = np.array([reference_peak(heatmap) for heatmap in maps])
    tame = np.abs(wanted - found.round()).max(1) < 1.5  # elsewhere the reference leaps off its peak
    assert tame.mean() > 0.97
    assert np.abs(found - wanted)[tame].max() < 1e-3


def test_views_keep_the_aspect_and_the_centre() -> None:
    view = views_of(np.array([[10, 20, 70, 100], [0, 0, 400, 100], [5, 5, 5, 5]], np.float32))
    assert np.allclose(view[0], [40, 60, 75, 100])  # 60 wide is the aspect of 80 high; times 1.25
    assert np.allclose(view[1], [200, 50, 500, 500 / 0.75])
    assert np.allclose(view[:, 2] / view[:, 3], 0.75)
    assert (view[2, 2:] > 0).all()


def test_points_of_a_crop_are_found_where_they_were_in_the_frame() -> None:
    """A smooth blob in the frame is cut, its peak read from the crop, and mapped back: the two halves of the UDP convention agree."""
    rng = np.random.default_rng(2)
    view = views_of(np.array([[100, 60, 220, 300]], np.float32))
    for x, y in rng.uniform([110, 80], [210, 280], (20, 2)):
        columns, rows = np.meshgrid(np.arange(400), np.arange(360))
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 12**2))
        crop = cut_person(np.repeat((255 * blob).round().astype(np.uint8)[..., None], 3, 2), view[0])
        crop = crop[0] * 0.229 + 0.485
        across, down = np.meshgrid(np.linspace(0, 191, 48), np.linspace(0, 255, 64))
        small = cv2.remap(crop, across.astype(np.float32), down.astype(np.float32), cv2.INTER_LINEAR)
        found = to_frame(peaks(torch.from_numpy(small)[None, None])[..., :2].numpy(), view)[0, 0]
        assert np.abs(found - [x, y]).max() < 0.25


def test_crop_is_rgb_and_black_outside() -> None:
    red = np.zeros((100, 100, 3), np.uint8)
    red[..., 0] = 255
    crop = cut_person(red, np.array([100.0, 50, 60, 80]))  # its right half lies outside
    assert np.allclose(crop[:, 128, 20], (np.array([1, 0, 0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], atol=1e-5)
    assert np.allclose(crop[:, 128, 180], -np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], atol=1e-5)


def test_crop_of_a_real_picture_is_transformers_own(media: Path) -> None:
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    image, _ = labelled(media, "A000")
    height, width = image.shape[:2]
    box = np.array([0.3 * width, 0.1 * height, 0.8 * width, 0.9 * height], np.float32)
    theirs = VitPoseImageProcessorPil()(image, boxes=[[[*box[:2], *(box[2:] - box[:2])]]], return_tensors="np").pixel_values[0]
    ours = cut_person(image, views_of(box[None])[0])
    inside = np.zeros((256, 192), bool)
    inside[4:-4, 4:-4] = True
    difference = np.abs(ours - theirs)[:, inside] * 0.226 * 255
    assert np.median(difference) < 1.5  # grey levels
    assert np.mean(difference) < 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("bf16", [False, True])
def test_points_on_a_gpu_are_those_of_the_cpu(bf16: bool) -> None:
    rng = np.random.default_rng(0)
    looks = [
        (rng.integers(0, 255, (200, 300, 3), np.uint8), view) for view in views_of(rng.uniform(0, 60, (40, 4)) + np.array([0, 0, 100, 100]))
    ]
    state = random_state(official(384, 4, 133))
    read = [
        keypoint_reader(vitpose(state, 133, Path("a.pth")), flip=True, device=device, bf16=bf16 and device == "cuda", batch_size=16)
        for device in ("cpu", "cuda")
    ]
    cpu, gpu = (reader(looks) for reader in read)
    apart = np.linalg.norm(gpu[..., :2] - cpu[..., :2], axis=-1)
    assert np.median(apart) < (1.0 if bf16 else 0.05)  # pixels; a random network's maps have rivals to the peak, so some leap
    assert np.abs(gpu[..., 2] - cpu[..., 2]).max() < (0.05 if bf16 else 1e-2) * np.abs(cpu[..., 2]).max()
