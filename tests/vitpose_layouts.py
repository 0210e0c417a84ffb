"""ViTPose's checkpoints as they are published: tables of names and shapes, and a plain forward pass.

Nothing here comes from our classes: names and shapes are those of github.com/ViTAE-Transformer/ViTPose and of its model_split.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PART = {384: 96, 768: 192, 1024: 256, 1280: 320}
ASSOCIATES = (14, 16, 17, 17, 133)  # aic, mpii, ap10k, apt36k, wholebody


def head(prefix: str, width: int, num_keypoints: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.deconv_layers.0.weight": (width, 256, 4, 4),
        f"{prefix}.deconv_layers.3.weight": (256, 256, 4, 4),
    }
    for norm in (1, 4):
        shapes |= {f"{prefix}.deconv_layers.{norm}.{name}": (256,) for name in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{prefix}.deconv_layers.{norm}.num_batches_tracked"] = ()
    return shapes | {f"{prefix}.final_layer.weight": (num_keypoints, 256, 1, 1), f"{prefix}.final_layer.bias": (num_keypoints,)}


def official(width: int, depth: int, num_keypoints: int, *, plus: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes; `plus` is ViTPose+ unsplit, six experts and heads in one file."""
    part = PART[width] if plus else 0
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.pos_embed": (1, 193, width),
        "backbone.patch_embed.proj.weight": (width, 3, 16, 16),
        "backbone.patch_embed.proj.bias": (width,),
        "backbone.last_norm.weight": (width,),
        "backbone.last_norm.bias": (width,),
    }
    for i in range(depth):
        block = f"backbone.blocks.{i}"
        layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        for name, (rows, columns) in ((name, (a * width, b * width)) for name, (a, b) in layers.items()):
            rows -= part if name == "mlp.fc2" else 0
            shapes |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (rows,)}
        shapes |= {f"{block}.{norm}.{name}": (width,) for norm in ("norm1", "norm2") for name in ("weight", "bias")}
        for j in range(6 if plus else 0):
            shapes |= {f"{block}.mlp.experts.{j}.weight": (part, 4 * width), f"{block}.mlp.experts.{j}.bias": (part,)}
    shapes |= head("keypoint_head", width, num_keypoints)
    for j, count in enumerate(ASSOCIATES if plus else ()):
        shapes |= head(f"associate_keypoint_heads.{j}", width, count)
    return shapes


def split(state: dict[str, Tensor], expert: int) -> dict[str, Tensor]:
    """One data set's network out of ViTPose+, as model_split.py writes it, dead experts left in."""
    out = {name: tensor for name, tensor in state.items() if not name.startswith("associate_")}
    for name, tensor in state.items():
        if ".mlp.fc2." in name:
            out[name] = torch.cat([tensor, state[name.replace("fc2.", f"experts.{expert}.")]])
        if expert and name.startswith(f"associate_keypoint_heads.{expert - 1}."):
            out[name.replace(f"associate_keypoint_heads.{expert - 1}", "keypoint_head")] = tensor
    return out


def features(state: dict[str, Tensor], crops: Tensor, *, heads: int, expert: int = 0) -> Tensor:
    """The transformer's last map by the official names, ViTPose+ unsplit included: experts widen the last layer of each block."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    patches = F.conv2d(crops, state["backbone.patch_embed.proj.weight"], state["backbone.patch_embed.proj.bias"], stride=16, padding=2)
    count, width, rows, columns = patches.shape
    x = patches.flatten(2).transpose(1, 2) + state["backbone.pos_embed"][:, 1:] + state["backbone.pos_embed"][:, :1]
    depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("backbone.blocks."))
    for i in range(depth):
        block = f"backbone.blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").view(count, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weight = ((q @ k.transpose(-1, -2)) * (width // heads) ** -0.5).softmax(-1)
        x = x + linear((weight @ v).transpose(1, 2).reshape(count, -1, width), f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        out = linear(hidden, f"{block}.mlp.fc2")
        x = x + (out if out.shape[-1] == width else torch.cat([out, linear(hidden, f"{block}.mlp.experts.{expert}")], -1))
    return norm(x, "backbone.last_norm").transpose(1, 2).reshape(count, width, rows, columns)


def forward(state: dict[str, Tensor], crops: Tensor, *, heads: int, expert: int = 0) -> Tensor:
    """Heatmaps, in the same way."""
    x = features(state, crops, heads=heads, expert=expert)
    name = (
        f"associate_keypoint_heads.{expert - 1}"
        if expert and f"associate_keypoint_heads.{expert - 1}.final_layer.bias" in state
        else "keypoint_head"
    )
    for conv, batch in ((0, 1), (3, 4)):
        x = F.conv_transpose2d(x, state[f"{name}.deconv_layers.{conv}.weight"], stride=2, padding=1)
        mean, var, scale, shift = (
            state[f"{name}.deconv_layers.{batch}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.relu(F.batch_norm(x, mean, var, scale, shift))
    return F.conv2d(x, state[f"{name}.final_layer.weight"], state[f"{name}.final_layer.bias"])
