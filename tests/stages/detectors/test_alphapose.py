"""AlphaPose: official layouts, its crops and swapped means, both ways from a map to a point, and the stage around them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d, pixel_shuffle, relu

from stages.detectors.alphapose.keypoints import cut_person, mean_points, peak_points, to_frame, views_of
from stages.detectors.alphapose.network import fastpose
from stages.detectors.weights import BadWeights, MissingWeights, load_checkpoint
from stages.estimate_poses_alphapose import EstimatePosesAlphaPose
from stages.tables import PersonBoxes, Poses
from tests.labelled_pictures import frames_of, labelled
from tests.stages.detectors.checkpoints import Layout, random_state, save


def _convolution(name: str, outputs: int, inputs: int, kernel: int, norm: str) -> Layout:
    vectors = {f"{norm}.{v}": (outputs,) for v in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), **vectors, f"{norm}.num_batches_tracked": ()}


def official_layout(num_keypoints: int, width: int = 128) -> Layout:
    """FastPose on SE-ResNet-50, as the checkpoints of the model zoo name it."""
    layout = dict(_convolution("preact.conv1", 64, 3, 7, "preact.bn1"))
    inputs = 64
    for layer, (blocks, narrow) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(blocks):
            at, wide = f"preact.layer{layer}.{block}", 4 * narrow
            for i, (o, n, k) in enumerate(((narrow, inputs, 1), (narrow, narrow, 3), (wide, narrow, 1)), 1):
                layout |= _convolution(f"{at}.conv{i}", o, n, k, f"{at}.bn{i}")
            if block == 0:
                layout |= _convolution(f"{at}.downsample.0", wide, inputs, 1, f"{at}.downsample.1")
                layout |= {f"{at}.se.fc.{i}.weight": (wide, wide) for i in (0, 2)} | {f"{at}.se.fc.{i}.bias": (wide,) for i in (0, 2)}
            inputs = wide
    layout |= _convolution("duc1.conv", 1024, 512, 3, "duc1.bn")
    layout |= _convolution("duc2.conv", 4 * width, 256, 3, "duc2.bn")
    return layout | {"conv_out.weight": (num_keypoints, width, 3, 3), "conv_out.bias": (num_keypoints,)}


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The architecture, line by line."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        y = conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return batch_norm(y, state[f"{norm}.running_mean"], state[f"{norm}.running_var"], state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = max_pool2d(relu(conv(x, "preact.conv1", "preact.bn1", 2)), 3, 2, 1)
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            at = f"preact.layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = relu(conv(x, f"{at}.conv1", f"{at}.bn1"))
            y = relu(conv(y, f"{at}.conv2", f"{at}.bn2", stride))
            y = conv(y, f"{at}.conv3", f"{at}.bn3")
            if block == 0:
                squeeze = relu(linear(y.mean((2, 3)), state[f"{at}.se.fc.0.weight"], state[f"{at}.se.fc.0.bias"]))
                y = y * torch.sigmoid(linear(squeeze, state[f"{at}.se.fc.2.weight"], state[f"{at}.se.fc.2.bias"]))[..., None, None]
                x = conv(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = relu(x + y)
    x = pixel_shuffle(x, 2)
    for name in ("duc1", "duc2"):
        x = pixel_shuffle(relu(conv(x, f"{name}.conv", f"{name}.bn")), 2)
    return conv2d(x, state["conv_out.weight"], state["conv_out.bias"], padding=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for keypoints, name in ((136, "multi_domain_fast50_regression_256x192.pth"), (26, "halpe26_fast_res50_256x192.pth")):
        save(random_state(official_layout(keypoints), seed=keypoints), folder / "alphapose" / name)
    return folder


def persons(*boxes: tuple[float, ...], scores: tuple[float, ...], frames: tuple[int, ...]) -> PersonBoxes:
    return PersonBoxes(
        video=np.full(len(boxes), "v", object),
        frame=np.array(frames, np.int64),
        time_s=np.array(frames) / 5,
        source=np.array([f"detector_{i}" for i in range(len(boxes))], object),
        box=np.array(boxes, np.float32).reshape(-1, 4),
        score=np.array(scores, np.float32),
    )


def estimate(weights: Path, monkeypatch: pytest.MonkeyPatch, image: np.ndarray, boxes: PersonBoxes, **settings: Any) -> Poses:
    monkeypatch.setenv("WHIM_WEIGHTS", str(weights))
    return EstimatePosesAlphaPose(**settings).build()(frames_of(image, image), boxes)


@pytest.mark.parametrize(("keypoints", "width"), [(136, 128), (26, 256)])
def test_the_official_layout_loads_whole_and_gives_the_architectures_maps(keypoints: int, width: int) -> None:
    layout = official_layout(keypoints, width)
    assert len(layout) == 348
    state = random_state(layout)
    network = fastpose(state, Path("fast50.pth")).eval()
    crops = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.no_grad():
        maps = network(crops)
        assert maps.shape == (2, keypoints, 16, 24)
        torch.testing.assert_close(maps, reference(state, crops), rtol=1e-3, atol=1e-3)


def test_deformable_and_foreign_checkpoints_are_refused_by_name() -> None:
    state = random_state({"preact.layer2.0.conv2_offset.weight": (18, 128, 3, 3)})
    with pytest.raises(BadWeights, match=r"dcn\.pth.*deformable.*alphapose_136"):
        fastpose(state, Path("dcn.pth"))
    with pytest.raises(BadWeights, match=r"openpose\.pth.*missing"):
        fastpose(random_state({"conv1_1.weight": (64, 3, 3, 3)}), Path("openpose.pth"))


def test_a_view_has_the_crops_aspect_and_a_margin() -> None:
    views = views_of(np.array([[10, 20, 40, 120], [0, 0, 200, 100]]).astype(np.float32))
    np.testing.assert_allclose(views[0], [25, 70, 75 * 1.25, 100 * 1.25])  # tall: the width grows to 3/4 of the height
    np.testing.assert_allclose(views[1], [100, 50, 200 * 1.25, 200 * 1.25 / 0.75])


def test_a_crop_shows_what_its_coordinates_say_in_rgb_less_the_swapped_means() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    image[130, 90] = 255, 102, 51
    view = np.array([100.0, 120.0, 192.0, 256.0])
    crop = cut_person(image, view)
    np.testing.assert_allclose(crop[:, 138, 86], [1 - 0.406, 0.4 - 0.457, 0.2 - 0.480], atol=1e-6)
    np.testing.assert_allclose(crop[:, 0, 0], [-0.406, -0.457, -0.480])  # outside the frame: black
    np.testing.assert_allclose(to_frame(np.array([[86, 138]]) / 4, view), [[90, 130]])
    half = np.array([100.0, 120.0, 96.0, 128.0])
    np.testing.assert_allclose(to_frame(np.array([[24.0, 32.0], [0, 0], [47, 63]]), half), [[100, 120], [52, 56], [146, 182]])


@pytest.mark.parametrize(("x", "y"), [(20.0, 31.0), (20.25, 31.5), (3.7, 60.9)])
def test_the_mean_of_a_map_finds_a_peak_between_cells(x: float, y: float) -> None:
    left, top = int(x), int(y)
    maps = torch.full((1, 2, 64, 48), -1e4)
    share = torch.tensor(
        [[(1 - (x - left)) * (1 - (y - top)), (x - left) * (1 - (y - top))], [(1 - (x - left)) * (y - top), (x - left) * (y - top)]]
    )
    maps[0, 1, top : top + 2, left : left + 2] = torch.logit(share * 0.9)
    found = mean_points(maps)[0, 1]
    torch.testing.assert_close(found, torch.tensor([x, y, float(share.max() * 0.9)]), rtol=1e-4, atol=1e-3)


def test_the_mean_of_a_flat_map_is_its_middle() -> None:
    torch.testing.assert_close(mean_points(torch.zeros(1, 1, 64, 48))[0, 0], torch.tensor([23.5, 31.5, 0.5]))


def test_the_peak_of_a_map_leans_a_quarter_cell_to_its_higher_neighbour() -> None:
    maps = torch.zeros(1, 4, 64, 48)
    maps[0, 0, 30, 20], maps[0, 0, 30, 21], maps[0, 0, 29, 20] = 0.9, 0.5, 0.4
    maps[0, 1, 0, 47], maps[0, 1, 1, 47] = 0.8, 0.7  # on the border: where it is
    maps[0, 2, 10, 10] = 0.6
    maps[0, 3, 63, 0] = 1.4
    found = peak_points(maps)[0]
    torch.testing.assert_close(found[:, :2], torch.tensor([[20.25, 29.75], [47.0, 0.0], [10.0, 10.0], [0.0, 63.0]]))
    torch.testing.assert_close(found[:, 2], torch.tensor([0.9, 0.8, 0.6, 1.4]))


def test_the_stage_gives_bodies_and_hands_of_everybody_boxed_once(weights: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = labelled(media, "A000")
    tall, wide = (100.0, 50.0, 300.0, 450.0), (300.0, 100.0, 620.0, 200.0)
    empty, endless = (50.0, 50.0, 50.0, 90.0), (0.0, 0.0, 10.0, float("inf"))
    boxes = persons(tall, wide, tall, empty, endless, wide, scores=(0.8, 0.9, 0.7, 0.9, 0.9, 0.66), frames=(0, 0, 0, 0, 0, 1))
    poses = estimate(weights, monkeypatch, image, boxes)
    assert (poses.frame.tolist(), poses.person.tolist()) == ([0, 0, 1], [0, 1, 0])
    np.testing.assert_allclose(poses.box, np.array([wide, tall, wide], np.float32), rtol=1e-6)
    np.testing.assert_allclose(poses.score, [0.9, 0.8, 0.66], rtol=1e-6)
    assert set(poses.source) == {"alphapose"}
    state = load_checkpoint(weights / "alphapose" / "multi_domain_fast50_regression_256x192.pth")
    view = views_of(np.array([tall], np.float32))[0]
    with torch.no_grad():
        points = mean_points(reference(state, torch.from_numpy(cut_person(image, view))[None]))[0].numpy()
    places = np.column_stack([to_frame(points[:, :2], view), points[:, 2]])
    for columns, keypoints in ((poses.body, slice(0, 17)), (poses.left_hand, slice(94, 115)), (poses.right_hand, slice(115, 136))):
        np.testing.assert_allclose(columns[1], places[keypoints], atol=0.02)
    assert ((poses.body[..., 2] >= 0) & (poses.body[..., 2] <= 1)).all()
    np.testing.assert_allclose(poses.body[0], poses.body[2], atol=1e-3)  # the same box in the same picture, in another batch place
    assert poses.to_arrow().num_rows == 3


def test_26_keypoints_have_no_hands(weights: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = labelled(media, "A000")
    boxes = persons((100, 50, 300, 450), scores=(0.8,), frames=(1,))
    poses = estimate(weights, monkeypatch, image, boxes, network="alphapose_26", batch_size=1)
    assert np.isfinite(poses.body).all()
    assert np.isnan(poses.left_hand).all()
    assert np.isnan(poses.right_hand).all()


def test_nobody_gives_no_rows_and_a_crowd_one_each(weights: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = labelled(media, "A000")
    assert len(estimate(weights, monkeypatch, image, PersonBoxes.empty())) == 0
    rng = np.random.default_rng(0)
    corner = rng.uniform(-50, 600, (12, 2))  # some half outside the frame
    crowd = persons(*np.column_stack([corner, corner + 20]).tolist(), scores=(0.9,) * 12, frames=(0,) * 12)
    poses = estimate(weights, monkeypatch, image, crowd, network="alphapose_26", batch_size=5, person_iou=1.0)
    assert poses.person.tolist() == list(range(12))


def test_missing_weights_say_which_where_from_and_which_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"alphapose_136.*multi_domain.*non-commercial"):
        _ = EstimatePosesAlphaPose().weights


def test_bad_settings_are_named() -> None:
    for settings, name in (({"network": "dcn"}, "network"), ({"person_iou": 2.0}, "person_iou"), ({"batch_size": 0}, "batch_size")):
        with pytest.raises(ValueError, match=rf"estimate_poses_alphapose\.{name}"):
            EstimatePosesAlphaPose(**settings)
