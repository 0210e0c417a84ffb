"""Second engines as far as they need no environment of their own: settings, what Ray is asked for, checkpoints in mmpose's names."""

from pathlib import Path

import pytest
import torch

from stages.detect_hands_contacthands import DetectHandsContactHands
from stages.detectors.vitpose.checkpoint import POSITIONS, plain
from stages.detectors.vitpose.mmpose import in_mmposes_names
from stages.estimate_poses_vitpose import EstimatePoses
from tests.stages.detectors.checkpoints import random_state
from tests.vitpose_layouts import official


def mmposes_names(depth: int) -> list[str]:
    """Names of td-hm_ViTPose-*_8xb64-210e_coco-256x192's checkpoints."""
    layers = ("ln1", "attn.qkv", "attn.proj", "ln2", "ffn.layers.0.0", "ffn.layers.1")
    blocks = [f"backbone.layers.{i}.{layer}" for i in range(depth) for layer in layers]
    norms = [f"head.deconv_layers.{i}.{name}" for i in (1, 4) for name in ("weight", "bias", "running_mean", "running_var")]
    parts = ["backbone.patch_embed.projection", *blocks, "backbone.ln1", "head.final_layer"]
    both = [f"{part}.{name}" for part in parts for name in ("weight", "bias")]
    return ["backbone.pos_embed", *both, *norms, "head.deconv_layers.0.weight", "head.deconv_layers.3.weight"]


def test_an_official_checkpoint_survives_mmposes_names() -> None:
    ours = plain(random_state(official(384, 2, 17, plus=True)), 133, Path("a.pth"))
    names = mmposes_names(depth=2)
    theirs = in_mmposes_names(ours, names)
    assert {name for name in theirs if "num_batches_tracked" not in name} == set(names)
    assert theirs["backbone.pos_embed"].shape == (1, 192, 384)
    back = plain(theirs, 133, Path("a.pth"))
    for name, tensor in ours.items():
        if name == POSITIONS:
            assert torch.equal(back[name][:, 1:] + back[name][:, :1], tensor[:, 1:] + tensor[:, :1])
        else:
            assert torch.equal(back[name], tensor), name


def test_a_missing_tensor_is_missed_and_a_foreign_one_kept() -> None:
    ours = plain(random_state(official(384, 1, 17)), 17, Path("a.pth")) | {"foreign": torch.ones(1)}
    del ours["backbone.encoder.layer.0.attention.attention.key.weight"]
    theirs = in_mmposes_names(ours, mmposes_names(depth=1))
    assert "backbone.layers.0.attn.qkv.weight" not in theirs
    assert "foreign" in theirs


@pytest.mark.parametrize(("stage", "second"), [(EstimatePoses, "mmpose"), (DetectHandsContactHands, "detectron2")])
def test_a_second_engine_works_in_its_environment(stage: type, second: str) -> None:
    assert stage().resources.environment == ""
    assert stage(engine=second).resources.environment == second
    settings = stage()
    object.__setattr__(settings, "engine", "caffe")  # as nothing checks types outside of tests
    with pytest.raises(ValueError, match=r"engine must be one of \w+, \w+, got 'caffe'"):
        settings.__post_init__()
