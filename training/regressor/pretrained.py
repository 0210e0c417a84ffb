"""The weights that training starts from, ViTPose's in the layouts that are about, and how fast each layer may leave them.

Layouts: the official repository's (`backbone.blocks`), its ViTPose+ of six experts, split or not, the hub's (`backbone.encoder.layer`) and
mmpose 1.x's (`backbone.layers`). The heads for keypoints are left out; tokens, heads and refinement of ours start from nothing.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.detectors.weights import refuse_bomb
from training.regressor.vit import ViT

WHOLE_BODY = 5
"""Number, among ViTPose+'s six experts (coco, aic, mpii, ap10k, apt36k, wholebody) the one that saw keypoints of hands."""

HUB = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "last_norm."),
)
MMPOSE = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.", "blocks."),
    (r"\.ln1\.", ".norm1."),
    (r"\.ln2\.", ".norm2."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^ln1\.", "last_norm."),
)


def load_vitpose(backbone: ViT, path: Path) -> None:
    """Fill the transformer. Raises ValueError that says what the file holds when it is no ViTPose of this size."""
    state = vitpose_weights(path)
    own = backbone.state_dict()
    positions = state.get("pos_embed")
    if positions is None or positions.shape != own["pos_embed"].shape or set(state) != set(own):
        held = "no ViTPose" if positions is None else f"a ViT of width {positions.shape[-1]} and {_depth(state)} layers"
        raise ValueError(
            f"{path} holds {held}, the network has width {backbone.width} and {len(backbone.blocks)} layers: take another size"
        )
    backbone.load_state_dict(state)


def vitpose_weights(path: Path) -> dict[str, Tensor]:
    """The transformer of a checkpoint, in the official names."""
    state = {name.removeprefix("backbone."): values for name, values in _read(path).items() if name.startswith("backbone.")}
    for pattern, name in HUB if "embeddings.position_embeddings" in state else MMPOSE if "patch_embed.projection.weight" in state else ():
        state = {re.sub(pattern, name, old): values for old, values in state.items()}
    state = _one_expert(state)
    for name in [name for name in state if ".attn.query." in name]:
        parts = [state.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        state[name.replace("query", "qkv")] = torch.cat(parts)
    positions = state.get("pos_embed")
    if positions is not None and positions.shape[1] == 192:  # mmpose has added the class token's position to all
        state["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
    return {name: values for name, values in state.items() if name != "cls_token"}


def layer_decay_groups(network: nn.Module, decay: float = 0.75, weight_decay: float = 1e-4) -> list[dict[str, Any]]:
    """Parameters for an optimizer, with the share of the learning rate that each group takes, `share` (BEiT; Bao et al., ICLR 2022).

    Block k of n takes decay^(n + 1 - k), patches and positions decay^(n + 1), what is not the backbone 1. `weight_decay` is not for norms
    and biases. The matrices of the blocks are `inner`.
    """
    backbone = getattr(network, "backbone", None)
    depth = len(backbone.blocks) if isinstance(backbone, ViT) else 0
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        layer = _layer(name, depth) if depth else depth + 1
        heavy = parameter.ndim > 1
        made = {"params": [], "share": decay ** (depth + 1 - layer), "weight_decay": weight_decay if heavy else 0.0}
        made["inner"] = heavy and 0 < layer <= depth
        groups.setdefault((layer, heavy), made)["params"].append(parameter)
    return list(groups.values())


def _layer(name: str, depth: int) -> int:
    """0 for patches and positions, 1 to `depth` for the blocks, one more for what comes after."""
    block = re.match(r"backbone\.blocks\.(\d+)\.", name)
    if block:
        return 1 + int(block[1])
    return 0 if name.startswith(("backbone.patch_embed", "backbone.pos_embed")) else depth + 1


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, of safetensors or torch, running no code of its."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            refuse_bomb(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # both raise half a dozen types for damaged files
        raise ValueError(f"{path} cannot be read as a checkpoint ({error!s:.200}): is it cut short?") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {name: values for name, values in content.items() if isinstance(values, Tensor)}


def _one_expert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`mlp.fc2` whole: ViTPose+ keeps its last rows apart, one set for each expert."""
    joined = {name: values for name, values in state.items() if ".experts." not in name}
    for name in [name for name in joined if ".mlp.fc2." in name]:
        width = state[re.sub(r"fc2\.\w+$", "fc1.weight", name)].shape[1]
        own = state.get(name.replace(".fc2.", f".experts.{WHOLE_BODY}."))
        if own is not None:
            joined[name] = torch.cat([joined[name][: width - len(own)], own])
    return joined


def _depth(state: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})
