"""ViTPose's checkpoints in every layout that is about, as one: transformers' names, one expert, one head.

Layouts: the official repository's (`backbone.blocks`), its ViTPose+ with six experts and heads in one file, split or not, the hub's, and
mmpose 1.x's (`backbone.layers`). ViTPose+ shares the rows of `mlp.fc2` but the last ones, which each data set has of its own
(arXiv:2212.04246): here they are put back together, so that a plain ViT remains.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.detectors.weights import BadWeights, State, fill

EXPERTS: Mapping[int, int] = {17: 0, 133: 5}
"""Of ViTPose+'s data sets (coco, aic, mpii, ap10k, apt36k, wholebody), which one has so many keypoints; its head is `EXPERTS - 1` of the
associates, the first is `keypoint_head`."""
HEADS: Mapping[int, int] = {384: 12, 768: 12, 1024: 16, 1280: 16}
"""Attention heads by width: ViT-S, B, L, H."""
POSITIONS = "backbone.embeddings.position_embeddings"
"""The class token's position, then the patches': ViTPose has no such token, and adds its position to every patch's."""
QKV = ("query", "key", "value")
UNUSED = (r"backbone\.cls_token$",)

Renaming = tuple[tuple[str, str], ...]
HEAD: Renaming = (
    (r"^(keypoint_)?head\.final_layer\.", "head.conv."),
    (r"^(keypoint_)?head\.deconv_layers\.0\.", "head.deconv1."),
    (r"^(keypoint_)?head\.deconv_layers\.1\.", "head.batchnorm1."),
    (r"^(keypoint_)?head\.deconv_layers\.3\.", "head.deconv2."),
    (r"^(keypoint_)?head\.deconv_layers\.4\.", "head.batchnorm2."),
)
OFFICIAL: Renaming = (
    *HEAD,
    (r"\.patch_embed\.proj\.", ".embeddings.patch_embeddings.projection."),
    (r"\.pos_embed$", ".embeddings.position_embeddings"),
    (r"\.blocks\.", ".encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.qkv\.", ".attention.attention.qkv."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.last_norm\.", ".layernorm."),
)
MMPOSE: Renaming = (
    *HEAD,
    (r"\.patch_embed\.projection\.", ".embeddings.patch_embeddings.projection."),
    (r"\.pos_embed$", ".embeddings.position_embeddings"),
    (r"^backbone\.ln1\.", "backbone.layernorm."),
    (r"\.layers\.(\d+)\.ln1\.", r".encoder.layer.\1.layernorm_before."),
    (r"\.layers\.(\d+)\.ln2\.", r".encoder.layer.\1.layernorm_after."),
    (r"\.layers\.(\d+)\.attn\.proj\.", r".encoder.layer.\1.attention.output.dense."),
    (r"\.layers\.(\d+)\.attn\.qkv\.", r".encoder.layer.\1.attention.attention.qkv."),
    (r"\.layers\.(\d+)\.ffn\.layers\.0\.0\.", r".encoder.layer.\1.mlp.fc1."),
    (r"\.layers\.(\d+)\.ffn\.layers\.1\.", r".encoder.layer.\1.mlp.fc2."),
)
LAYOUTS: Mapping[str, Renaming] = {
    "backbone.patch_embed.proj.weight": OFFICIAL,
    "backbone.patch_embed.projection.weight": MMPOSE,
    "backbone.embeddings.patch_embeddings.projection.weight": (),
}
"""By the name of the first convolution."""


def vitpose(state: State, num_keypoints: int, source: Path) -> nn.Module:
    """transformers' VitPoseForPoseEstimation with these weights; its size is read from them.

    Raises BadWeights when they are another network's, or without a head of so many keypoints.
    """
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    state = plain(state, num_keypoints, source)
    width, depth = size_of(state, source)
    backbone = VitPoseBackboneConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=HEADS[width], out_indices=[depth], layer_norm_eps=1e-6
    )
    config = VitPoseConfig(backbone_config=backbone, num_labels=num_keypoints, use_simple_decoder="head.deconv1.weight" not in state)
    with torch.device("meta"):
        network = VitPoseForPoseEstimation(config)
    network = network.to_empty(device="cpu")
    fill(network, state, source, ignore=UNUSED)
    return network


def size_of(state: State, source: Path) -> tuple[int, int]:
    """Width and number of layers of a plain checkpoint. Raises BadWeights for a width that no ViTPose has."""
    width = state[POSITIONS].shape[-1]
    depth = len({name.split(".")[3] for name in state if name.startswith("backbone.encoder.layer.")})
    if width not in HEADS or not depth:
        raise BadWeights(f"{source} holds a ViT of width {width} and {depth} layers: known are the widths {', '.join(map(str, HEADS))}")
    return width, depth


def plain(state: State, num_keypoints: int, source: Path) -> State:
    """The checkpoint as one network of so many keypoints, in transformers' names. Raises as `vitpose`."""
    layout = next((LAYOUTS[name] for name in LAYOUTS if name in state), None)
    if layout is None:
        raise BadWeights(f"{source} is no ViTPose checkpoint: it begins with {', '.join(sorted(state)[:3])}")
    state = _one_expert(_one_head(state, num_keypoints, source), EXPERTS[num_keypoints])
    renamed: dict[str, Any] = {}
    for name, tensor in state.items():
        name = renamed_by(layout, name)
        if ".attention.qkv." in name:
            renamed |= {name.replace("qkv", part): rows for part, rows in zip(QKV, tensor.chunk(3), strict=True)}
        else:
            renamed[name] = tensor
    positions = renamed[POSITIONS]
    if positions.shape[1] == 192:  # mmpose 1.x adds the class token's position, which the others keep apart, to all
        renamed[POSITIONS] = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
    return renamed


def renamed_by(layout: Renaming, name: str) -> str:
    """A tensor's name after every rule of a layout, in order."""
    for pattern, new in layout:
        name = re.sub(pattern, new, name)
    return name


def _one_head(state: State, num_keypoints: int, source: Path) -> State:
    """The head of so many keypoints as the only one."""
    associate = f"associate_keypoint_heads.{EXPERTS[num_keypoints] - 1}."
    if f"{associate}final_layer.weight" in state:
        own = {name.replace(associate, "keypoint_head."): tensor for name, tensor in state.items() if name.startswith(associate)}
        state = state | own | {name: own[name][:num_keypoints] for name in own if ".final_layer." in name}
    last = next(
        (state[f"{head}.weight"] for head in ("keypoint_head.final_layer", "head.final_layer", "head.conv") if f"{head}.weight" in state),
        None,
    )
    if last is None or len(last) != num_keypoints:
        raise BadWeights(
            f"{source} has a head of {0 if last is None else len(last)} keypoints, not of {num_keypoints}: take the file of that data set"
        )
    return {name: tensor for name, tensor in state.items() if not name.startswith("associate_")}


def _one_expert(state: State, expert: int) -> State:
    """`mlp.fc2` with the last rows of one expert. A split file has some expert's there already, and may keep the others beside it."""
    joined = {name: tensor for name, tensor in state.items() if ".experts." not in name}
    for name, tensor in joined.items():
        own = state.get(name.replace(".mlp.fc2.", f".mlp.experts.{expert}."))
        if ".mlp.fc2." in name and own is not None:
            width = len(state[name.replace("fc2.weight", "fc1.weight").replace("fc2.bias", "fc1.weight")][0])
            joined[name] = torch.cat([tensor[: width - len(own)], own])
    return joined
