"""Person boxes: the hub's checkpoints load whole, pictures are squeezed as in training, only people over the gate come out."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stages.detect_person_boxes import DetectPersonBoxes
from stages.detectors.person_boxes import ARCHITECTURES, PersonDetector, person_detector, person_finder, squeezed
from stages.detectors.weights import BadWeights, MissingWeights, find_weights
from tests.detr_layouts import dfine_large, rtdetr_r50
from tests.labelled_pictures import frames_of, labelled
from tests.stages.detectors.checkpoints import random_state

TABLES = {"rtdetr_r50": rtdetr_r50, "dfine_large": dfine_large}
FEED_FORWARD = {"rtdetr_r50": ("mlp.fc1", "mlp.fc2"), "dfine_large": ("mlp.layers.0", "mlp.layers.1")}
"""What transformers 5 calls the layers that the hub's files call fc1 and fc2."""


@cache
def hub_weights(name: str) -> dict[str, torch.Tensor]:
    state = random_state(TABLES[name]())
    return state | (
        {"model.decoder.up": torch.tensor([0.5]), "model.decoder.reg_scale": torch.tensor([4.0])} if name == "dfine_large" else {}
    )


def transformers_own(name: str, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network filled by names renamed here, not by transformers' loader."""
    import transformers

    prefix, options = ARCHITECTURES[name]
    network = getattr(transformers, f"{prefix}ForObjectDetection")(getattr(transformers, f"{prefix}Config")(num_labels=80, **options))
    renamed = {}
    for key, tensor in state.items():
        new = key.replace("out_proj", "o_proj").replace("encoder.encoder.0.layers", "encoder.aifi.0.layers")
        for old, called in zip((".fc1.", ".fc2."), FEED_FORWARD[name], strict=True):
            new = new.replace(old, f".{called}.")
        renamed[new] = tensor
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(key.startswith(("class_embed.", "bbox_embed.")) for key in missing)  # the same layers under a second name
    return network.eval()


@pytest.fixture(scope="module")
def rtdetr() -> PersonDetector:
    return person_detector("rtdetr_r50", hub_weights("rtdetr_r50"), Path("a.safetensors")).eval()


@pytest.mark.parametrize("name", TABLES)
def test_hub_checkpoint_loads_whole_and_gives_transformers_boxes(name: str) -> None:
    state = hub_weights(name)
    ours, theirs = person_detector(name, state, Path("a.safetensors")).eval(), transformers_own(name, state)
    picture = torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        found, wanted = ours(picture), theirs(picture)
    assert torch.allclose(found[..., 4], wanted.logits[..., 0].sigmoid(), atol=1e-6)
    assert torch.allclose((found[..., :2] + found[..., 2:4]) / 2, wanted.pred_boxes[..., :2], atol=1e-6)
    assert torch.allclose(found[..., 2:4] - found[..., :2], wanted.pred_boxes[..., 2:], atol=1e-6)
    assert found[..., 4].std() > 1e-3, "the weights must reach the scores"


def test_another_networks_checkpoint_is_told() -> None:
    state = dict(hub_weights("rtdetr_r50"))
    with pytest.raises(BadWeights, match=r"not dfine_large's: \d+ missing: .*unexpected: "):
        person_detector("dfine_large", state, Path("a.safetensors"))
    del state["model.enc_score_head.bias"]
    with pytest.raises(BadWeights, match=r"1 missing: model\.enc_score_head\.bias$"):
        person_detector("rtdetr_r50", state, Path("a.safetensors"))
    state["model.enc_score_head.bias"] = torch.zeros(91)
    with pytest.raises(BadWeights, match=r"not rtdetr_r50's: 1 of another shape: model\.enc_score_head\.bias"):
        person_detector("rtdetr_r50", state, Path("a.safetensors"))


def test_real_picture_is_squeezed_as_pillow_would(media: Path) -> None:
    image, _ = labelled(media, "A027")
    assert min(image.shape[:2]) > 640
    wanted = np.asarray(Image.fromarray(image).resize((640, 640), Image.Resampling.BILINEAR), np.float32)
    ours = squeezed(image).permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - wanted).max() <= 1.01
    assert np.abs(ours - wanted).mean() < 0.1
    assert np.abs(cv2.resize(image, (640, 640)).astype(np.float32) - wanted).mean() > 0.5, "without antialiasing it differs"


def test_boxes_are_transformers_postprocessed_people(rtdetr: PersonDetector) -> None:
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    image = np.random.default_rng(0).integers(0, 255, (300, 500, 3), np.uint8)
    with torch.no_grad():
        outputs = rtdetr.network(squeezed(image)[None])
    gate = float(outputs.logits[..., 0].sigmoid().quantile(0.9))
    outputs.logits[..., 1:] = -20  # the processor keeps 300 of all (query, class) pairs; leave it the people
    theirs = RTDetrImageProcessorPil().post_process_object_detection(outputs, threshold=gate, target_sizes=[(300, 500)])[0]
    ours = person_finder(rtdetr, device="cpu", bf16=False, batch_size=2)([image], gate)[0]
    area = (theirs["boxes"][:, 2:] - theirs["boxes"][:, :2]).prod(-1)
    theirs = {name: column[area >= 1] for name, column in theirs.items()}
    assert len(ours) == len(theirs["scores"]) > 10
    assert np.allclose(ours[:, 4], theirs["scores"].sort(descending=True).values, atol=1e-5)
    assert np.abs(ours[:, None, :4] - theirs["boxes"].numpy()).max(-1).min(1).max() < 0.05  # close scores may change places


def test_batches_grey_and_transparent_pictures_change_nothing(rtdetr: PersonDetector) -> None:
    grey = np.random.default_rng(1).integers(0, 255, (120, 90), np.uint8)
    colour = np.repeat(grey[..., None], 3, 2)
    pictures = [grey, colour, np.dstack([colour, np.full_like(grey, 7)])]
    finder = person_finder(rtdetr, device="cpu", bf16=False, batch_size=3)
    alone = person_finder(rtdetr, device="cpu", bf16=False, batch_size=1)(pictures[1:2], 0.02)[0]
    for found in finder(pictures, 0.02):
        assert len(found) == len(alone) > 0
        assert np.abs(found[:, None] - alone).max(-1).min(1).max() < 0.01  # close scores may change places
    assert finder([], 0.02) == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    return tmp_path


def test_stage_writes_one_table_a_network_and_gates_by_the_detectors_score(folder: Path, media: Path) -> None:
    path = find_weights("rtdetr_r50").path
    path.parent.mkdir(parents=True)
    save_file(hub_weights("rtdetr_r50"), path)
    image, _ = labelled(media, "A052")
    frames = frames_of(image, np.zeros_like(image))
    low = DetectPersonBoxes(min_score=0.01).build()(frames)
    gate = float(np.median(low.score))
    stage = DetectPersonBoxes(min_score=gate)
    assert stage.detector == "rtdetr_r50"
    assert set(stage.weights) == {"rtdetr_r50"}
    high = stage.build()(frames)
    assert 0 < len(high) < len(low)
    assert high.to_arrow().equals(low.take(low.score >= gate).to_arrow())
    assert set(high.source) == {"rtdetr_r50"}
    assert np.all(np.diff(high.frame) >= 0)
    assert (high.box[:, 2:] > high.box[:, :2]).all()
    assert high.box[:, 2].max() > 1.0, "pixels, not shares"


def test_without_its_file_the_stage_says_what_to_fetch(folder: Path) -> None:
    with pytest.raises(MissingWeights, match=r"rtdetr_r50.*huggingface\.co.*Apache-2\.0.*whim weights get rtdetr_r50"):
        _ = DetectPersonBoxes().weights


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"detect_person_boxes\.network must be one of rtdetr_r50, dfine_large"):
        DetectPersonBoxes(network="yolo")
    with pytest.raises(ValueError, match=r"detect_person_boxes\.min_score"):
        DetectPersonBoxes(min_score=65)
    with pytest.raises(ValueError, match=r"detect_person_boxes\.batch_size"):
        DetectPersonBoxes(batch_size=-1)
    with pytest.raises(ValueError, match=r"detect_person_boxes\.device"):
        DetectPersonBoxes(device="tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_boxes_on_a_gpu_are_those_of_the_cpu() -> None:
    pictures = list(np.random.default_rng(0).integers(0, 255, (3, 300, 500, 3), np.uint8))
    cpu, gpu = (
        person_finder(person_detector("rtdetr_r50", dict(hub_weights("rtdetr_r50")), Path("a")), device=device, bf16=False, batch_size=2)(
            pictures, 0.02
        )
        for device in ("cpu", "cuda")
    )
    for one, other in zip(cpu, gpu, strict=True):
        near = np.abs(one[:, None, :4] - other[None, :, :4]).max(-1).min(1)
        assert np.quantile(near, 0.9) < 1.0, "pixels; the choice of queries hangs on close scores"
