"""Training starts from ViTPose's weights in any layout, and refuses other files by name; deeper layers learn more slowly."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

from tests.stages.detectors.checkpoints import random_state
from tests.vitpose_layouts import features, official, split
from training.regressor.network import Regressor, RegressorSettings
from training.regressor.pretrained import WHOLE_BODY, layer_decay_groups, load_vitpose
from training.regressor.vit import SHAPES, ViT

SMALL = SHAPES["s"]._replace(depth=2)
CROPS = torch.randn(1, 3, 256, 192, generator=torch.Generator().manual_seed(1))


def loaded(path: Path) -> torch.Tensor:
    """The map of a transformer with these weights and no tokens."""
    network = ViT(SMALL).eval()
    load_vitpose(network, path)
    with torch.no_grad():
        return network(CROPS, torch.zeros(1, 0, 384))[1]


def saved(state: Any, path: Path) -> Path:
    torch.save({"state_dict": state, "meta": {"epoch": 210}}, path)
    return path


def close(mine: Any, theirs: Any) -> None:
    torch.testing.assert_close(mine, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


def test_official_weights_give_the_official_features(tmp_path: Path) -> None:
    state = random_state(official(384, 2, 17) | {"backbone.cls_token": (1, 1, 384)})
    close(loaded(saved(state, tmp_path / "vitpose.pth")), features(state, CROPS, heads=12))


def test_vitpose_plus_gives_the_expert_of_hands(tmp_path: Path) -> None:
    state = random_state(official(384, 2, 17, plus=True))
    theirs = features(state, CROPS, heads=12, expert=WHOLE_BODY)
    close(loaded(saved(state, tmp_path / "plus.pth")), theirs)
    close(loaded(saved(split(state, WHOLE_BODY), tmp_path / "wholebody.pth")), theirs)
    close(loaded(saved(split(state, 0), tmp_path / "coco.pth")), theirs)


@pytest.mark.parametrize("num_experts", [1, 6])
def test_hub_weights_give_transformers_features(tmp_path: Path, num_experts: int) -> None:
    torch.manual_seed(0)
    config = VitPoseBackboneConfig(
        hidden_size=384,
        num_hidden_layers=2,
        num_attention_heads=12,
        out_indices=[2],
        num_experts=num_experts,
        part_features=96,
        layer_norm_eps=1e-6,
    )
    theirs = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=config, num_labels=17)).eval()
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.randn(tensor.shape))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    with torch.no_grad():
        expert = torch.full((1,), WHOLE_BODY) if num_experts > 1 else None
        wanted = theirs.backbone(CROPS, dataset_index=expert).feature_maps[-1].mT.reshape(1, 384, 16, 12)
    close(loaded(tmp_path / "model.safetensors"), wanted)


def test_mmpose_weights_give_the_official_features(tmp_path: Path) -> None:
    """mmpose 1.x has other names and adds the class token's position to the others for good."""
    state = random_state(official(384, 2, 17))
    names = {"patch_embed.proj.": "patch_embed.projection.", "last_norm": "ln1", ".norm1": ".ln1", ".norm2": ".ln2"}
    names |= {".mlp.fc1": ".ffn.layers.0.0", ".mlp.fc2": ".ffn.layers.1", ".blocks.": ".layers."}
    renamed = {}
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    positions = renamed["backbone.pos_embed"]
    renamed["backbone.pos_embed"] = positions[:, 1:] + positions[:, :1]
    close(loaded(saved(renamed, tmp_path / "mmpose.pth")), features(state, CROPS, heads=12))


def test_other_files_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    wide = saved(random_state(official(768, 1, 17)), tmp_path / "base.pth")
    with pytest.raises(ValueError, match=r"base\.pth holds a ViT of width 768 and 1 layers, the network has width 384 and 2 layers"):
        load_vitpose(ViT(SMALL), wide)
    deep = saved(random_state(official(384, 3, 17)), tmp_path / "deep.pth")
    with pytest.raises(ValueError, match="width 384 and 3 layers"):
        load_vitpose(ViT(SMALL), deep)
    strange = saved({"backbone.conv1.weight": torch.ones(2)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"resnet\.pth holds no ViTPose"):
        load_vitpose(ViT(SMALL), strange)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(wide.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.pth cannot be read as a checkpoint"):
        load_vitpose(ViT(SMALL), cut)
    with pytest.raises(FileNotFoundError):
        load_vitpose(ViT(SMALL), tmp_path / "none.pth")


def test_every_parameter_learns_at_the_share_of_its_depth() -> None:
    network = Regressor(RegressorSettings(size="xs"))
    groups = layer_decay_groups(network, 0.5, weight_decay=0.1)
    of = {id(p): group for group in groups for p in group["params"]}
    assert len(of) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        block = re.match(r"backbone\.blocks\.(\d)\.", name)
        first = name.startswith(("backbone.pos", "backbone.patch"))
        assert of[id(parameter)]["share"] == 0.5 ** (6 - int(block[1]) if block else 7 if first else 0), name
        assert of[id(parameter)]["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_without_a_transformer_all_layers_learn_alike() -> None:
    assert {group["share"] for group in layer_decay_groups(Regressor(RegressorSettings(backbone="fastvit")))} == {1.0}
